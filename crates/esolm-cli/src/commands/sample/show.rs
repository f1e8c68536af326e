//! What is shown while the model writes: the text itself, a line a step, a progress bar, or nothing.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use console::Term;
use esolm::StepEvent;
use esolm::plan::{Phase, Plan};
use esolm::text::TextCodec;
use indicatif::{ProgressBar, ProgressStyle};

use super::watch::{Canvas, Look};
use esolm::request::Given;

use crate::arguments::Sample;
use crate::failure::Failure;
use crate::output;

/// Progress of a run.
pub struct Show<'a> {
    form: Form<'a>,
    /// Tokens that each step draws.
    draws: Vec<usize>,
    drawn: usize,
    all: usize,
}

enum Form<'a> {
    Text(Box<Painter<'a>>),
    Lines,
    Bar(ProgressBar),
    Nothing,
}

impl<'a> Show<'a> {
    pub fn new(
        arguments: &Sample,
        plan: &Plan,
        given: &Given,
        codec: Option<&'a TextCodec>,
    ) -> Self {
        let draws: Vec<usize> = (0..plan.nfe())
            .map(|step| {
                let steps = plan
                    .sequences
                    .iter()
                    .filter_map(|sequence| sequence.steps.get(step));
                steps.map(|step| (step.end - step.start) as usize).sum()
            })
            .collect();
        let all = draws.iter().sum();
        let form = if arguments.watch && can_redraw() {
            Form::Text(Box::new(Painter {
                canvas: Canvas::new(given.length, &given.known),
                codec,
                terminal: Term::stdout(),
                height: 0,
                delay: Duration::from_millis(arguments.watch_delay),
                last: None,
            }))
        } else if arguments.quiet {
            Form::Nothing
        } else if arguments.watch {
            Form::Lines
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new(all as u64);
            let style = "{bar:32.cyan} {pos}/{len} tokens  {per_sec}  {msg}";
            let style = ProgressStyle::with_template(style)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .with_key(
                    "per_sec",
                    |state: &indicatif::ProgressState, f: &mut dyn std::fmt::Write| {
                        // Only fails when the terminal's own buffer does.
                        let _ = write!(f, "{:.1} tokens/s", state.per_sec());
                    },
                );
            bar.set_style(style);
            Form::Bar(bar)
        } else {
            Form::Nothing
        };
        Self {
            form,
            draws,
            drawn: 0,
            all,
        }
    }

    /// Shows a step.
    pub fn step(&mut self, event: &StepEvent) -> Result<(), Failure> {
        self.drawn += self.draws.get(event.step).copied().unwrap_or(0);
        match &mut self.form {
            Form::Nothing => Ok(()),
            Form::Bar(bar) => {
                // Each of the two draws the bar.
                if bar.message() != phase_name(event.phase) {
                    bar.set_message(phase_name(event.phase));
                }
                bar.set_position(self.drawn as u64);
                Ok(())
            }
            Form::Lines => {
                output::note(&status(event, self.drawn, self.all));
                Ok(())
            }
            Form::Text(painter) => painter.step(event, &status(event, self.drawn, self.all)),
        }
    }

    /// Clears the screen of what was only shown meanwhile.
    pub fn end(mut self) -> Result<(), Failure> {
        match &mut self.form {
            Form::Bar(bar) => bar.finish_and_clear(),
            Form::Text(painter) => painter.clear()?,
            Form::Lines | Form::Nothing => {}
        }
        Ok(())
    }
}

/// Whether stdout is a terminal that can move its cursor.
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

/// One line about a step.
fn status(event: &StepEvent, drawn: usize, all: usize) -> String {
    format!(
        "step {}/{}  {}  {drawn}/{all} tokens  {} rows  {} cached  {:.2} s",
        event.step + 1,
        event.steps,
        phase_name(event.phase),
        event.rows,
        event.cache_length,
        event.seconds
    )
}

/// Redraws the text in place.
struct Painter<'a> {
    canvas: Canvas,
    codec: Option<&'a TextCodec>,
    terminal: Term,
    /// Lines of the last frame.
    height: usize,
    delay: Duration,
    last: Option<Instant>,
}

impl Painter<'_> {
    fn step(&mut self, event: &StepEvent, status: &str) -> Result<(), Failure> {
        if let Some(last) = self.last {
            sleep(self.delay.saturating_sub(last.elapsed()));
        }
        self.last = Some(Instant::now());
        self.canvas.apply(event);
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
        let frame = self.canvas.frame(&decode, &look, status);
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
            // After an error the terminal gets its cursor back; a failure here changes nothing any more.
            let _ = write!(io::stdout(), "\x1b[?25h");
        }
    }
}

/// Goes back to the first of `lines` lines and erases to the end of the screen.
fn erase(lines: usize) -> String {
    match lines {
        0 => String::new(),
        n => format!("\x1b[{n}A\r\x1b[J"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line() {
        let event = StepEvent {
            step: 2,
            steps: 85,
            phase: Phase::Diffusion,
            revealed: Vec::new(),
            rows: 31,
            cache_length: 8,
            seconds: 0.25,
        };
        assert_eq!(
            status(&event, 12, 127),
            "step 3/85  diffusion  12/127 tokens  31 rows  8 cached  0.25 s"
        );
    }

    #[test]
    fn frames_are_erased_whole() {
        assert_eq!(erase(0), "");
        assert_eq!(erase(3), "\x1b[3A\r\x1b[J");
    }
}
