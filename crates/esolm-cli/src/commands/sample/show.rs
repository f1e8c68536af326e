//! What is shown while the model writes: the text itself, a line per step, a progress bar, or nothing.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use console::Term;
use esolm::plan::Phase;
use esolm::text::TextCodec;
use esolm::trace::{Header, Step};
use esolm_checkpoint::message::count;
use indicatif::ProgressBar;

use super::watch::{Canvas, Look};
use crate::arguments::Sample;
use crate::failure::Failure;
use crate::output;

/// Progress of a generation.
pub enum Show<'a> {
    Text(Box<Painter<'a>>),
    Lines,
    Bar(ProgressBar),
}

impl<'a> Show<'a> {
    pub fn new(arguments: &Sample, codec: Option<&'a TextCodec>) -> Self {
        if arguments.watch && can_redraw() {
            Self::Text(Box::new(Painter {
                canvas: Canvas::default(),
                codec,
                terminal: Term::stdout(),
                height: 0,
                delay: Duration::from_millis(arguments.watch_delay),
                last: None,
            }))
        } else if arguments.watch && !arguments.quiet {
            Self::Lines
        } else {
            Self::Bar(output::passes(arguments.quiet))
        }
    }

    /// Starts an attempt.
    pub fn begin(&mut self, header: &Header) {
        match self {
            Self::Text(painter) => painter.canvas.begin(header),
            Self::Lines => {}
            Self::Bar(bar) => bar.set_length(header.nfe as u64),
        }
    }

    /// Prints a note in addition to what is shown.
    pub fn note(&mut self, line: &str) -> Result<(), Failure> {
        match self {
            Self::Text(painter) => {
                painter.clear()?;
                output::note(line);
            }
            Self::Lines => output::note(line),
            Self::Bar(bar) => bar.suspend(|| output::note(line)),
        }
        Ok(())
    }

    /// Shows a step.
    pub fn step(&mut self, step: &Step) -> Result<(), Failure> {
        match self {
            Self::Text(painter) => painter.step(step)?,
            Self::Lines => output::note(&status(step)),
            Self::Bar(bar) => {
                // Each of these two calls draws the bar.
                if bar.message() != phase_name(step.phase) {
                    bar.set_message(phase_name(step.phase));
                }
                bar.set_position(step.step as u64 + 1);
            }
        }
        Ok(())
    }

    /// Clears what was shown only temporarily.
    pub fn end(&mut self) -> Result<(), Failure> {
        match self {
            Self::Text(painter) => painter.clear()?,
            Self::Lines => {}
            Self::Bar(bar) => bar.finish_and_clear(),
        }
        Ok(())
    }
}

/// Whether stdout is a terminal with a movable cursor.
fn can_redraw() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Prompt => "prompt",
        Phase::Diffusion => "diffusion",
        Phase::Sequential => "left to right",
    }
}

/// A line about a step.
fn status(step: &Step) -> String {
    format!(
        "step {}/{}  {}  {} new  {}  {} cached  {:.2} s",
        step.step + 1,
        step.steps,
        phase_name(step.phase),
        step.revealed.len(),
        count(step.rows, "row"),
        step.cache_length,
        step.seconds
    )
}

/// Redraws the text in place.
pub struct Painter<'a> {
    canvas: Canvas,
    codec: Option<&'a TextCodec>,
    terminal: Term,
    /// Number of lines in the last frame.
    height: usize,
    delay: Duration,
    last: Option<Instant>,
}

impl Painter<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        if let Some(last) = self.last {
            sleep(self.delay.saturating_sub(last.elapsed()));
        }
        self.last = Some(Instant::now());
        self.canvas.apply(step);
        let (rows, columns) = self.terminal.size();
        let look = Look {
            columns: usize::from(columns),
            rows: usize::from(rows),
            colours: self.terminal.features().colors_supported(),
        };
        let codec = self.codec;
        let decode = |tokens: &[u32]| match codec {
            Some(codec) => output::printable(&codec.decode_plain(tokens)),
            None => tokens.iter().map(|token| format!(" {token}")).collect(),
        };
        let frame = self.canvas.frame(&decode, &look, &status(step));
        let mut out = erase(self.height);
        out.push_str("\x1b[?25l");
        out.push_str(&frame.text);
        self.height = frame.lines;
        self.write(&out)
    }

    fn clear(&mut self) -> Result<(), Failure> {
        let out = erase(std::mem::take(&mut self.height)) + "\x1b[?25h";
        self.write(&out)
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::output(&error))
    }
}

impl Drop for Painter<'_> {
    fn drop(&mut self) {
        if self.height > 0 {
            // Restores the cursor after an error; a failure here is ignored.
            let _ = write!(io::stdout(), "\x1b[?25h");
        }
    }
}

/// Moves to the first of `lines` lines and erases to the end of the screen.
fn erase(lines: usize) -> String {
    match lines {
        0 => String::new(),
        n => format!("\x1b[{n}A\r\x1b[J"),
    }
}

#[cfg(test)]
mod tests {
    use esolm::trace::Revealed;

    use super::*;

    #[test]
    fn a_step_is_one_line() {
        let revealed = Revealed {
            sequence: 0,
            position: 0,
            token: 1,
            text: String::new(),
            logprob: None,
        };
        let step = Step {
            step: 2,
            steps: 85,
            phase: Phase::Diffusion,
            revealed: vec![revealed; 12],
            rows: 31,
            window: Vec::new(),
            cache_length: 8,
            seconds: 0.25,
            attempt: 0,
        };
        assert_eq!(
            status(&step),
            "step 3/85  diffusion  12 new  31 rows  8 cached  0.25 s"
        );
    }

    #[test]
    fn frames_are_erased_whole() {
        assert_eq!(erase(0), "");
        assert_eq!(erase(3), "\x1b[3A\r\x1b[J");
    }
}
