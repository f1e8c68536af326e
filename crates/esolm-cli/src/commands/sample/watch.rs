//! `--watch`: a partially known text, drawn for a terminal. Everything here is a pure function of the tokens known so
//! far.

use console::measure_text_width;
use esolm::plan::Phase;
use esolm::trace::{Header, Step};

/// A position whose token is not known.
const MASKED: &str = "░░";
/// Separates the texts of a batch.
const SEPARATOR: &str = "────";

/// The state of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Masked,
    Given(u32),
    Drawn { token: u32, phase: Phase, new: bool },
}

/// The style of a stretch of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Masked,
    Given,
    NewDiffusion,
    NewSequential,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Masked => "\x1b[2m",
            Self::Given => "\x1b[1m",
            Self::NewDiffusion => "\x1b[1;96m",
            Self::NewSequential => "\x1b[1;93m",
        }
    }

    fn of(cell: Cell) -> Self {
        match cell {
            Cell::Masked => Self::Masked,
            Cell::Given(_) => Self::Given,
            Cell::Drawn { new: false, .. } => Self::Plain,
            Cell::Drawn {
                phase: Phase::Sequential,
                ..
            } => Self::NewSequential,
            Cell::Drawn { .. } => Self::NewDiffusion,
        }
    }
}

/// The properties of the terminal.
pub struct Look {
    pub columns: usize,
    pub rows: usize,
    pub colours: bool,
}

/// A drawn text, and the number of terminal lines it takes.
pub struct Frame {
    pub text: String,
    pub lines: usize,
}

/// A line: stretches with one style each.
type Line = Vec<(Style, String)>;

/// The texts of a batch, as far as they are known.
#[derive(Default)]
pub struct Canvas {
    sequences: Vec<Vec<Cell>>,
}

impl Canvas {
    /// Resets the texts that an attempt writes to their given tokens; the others stay.
    pub fn begin(&mut self, header: &Header) {
        self.sequences.resize(header.batch, Vec::new());
        for &text in &header.texts {
            let cells = &mut self.sequences[text];
            *cells = vec![Cell::Masked; header.length];
            for &(position, token) in &header.known[text] {
                if let Some(cell) = cells.get_mut(position as usize) {
                    *cell = Cell::Given(token);
                }
            }
        }
    }

    /// Adds the tokens of a step; those of earlier steps are no longer marked as new.
    pub fn apply(&mut self, step: &Step) {
        for cell in self.sequences.iter_mut().flatten() {
            if let Cell::Drawn { new, .. } = cell {
                *new = false;
            }
        }
        for revealed in &step.revealed {
            let sequence = self.sequences.get_mut(revealed.sequence as usize);
            if let Some(cell) = sequence.and_then(|cells| cells.get_mut(revealed.position as usize))
            {
                *cell = Cell::Drawn {
                    token: revealed.token,
                    phase: step.phase,
                    new: true,
                };
            }
        }
    }

    /// Draws the texts, wrapped to the terminal, above a status line. If they are taller than the terminal, only the
    /// part around the first new token is drawn.
    pub fn frame(&self, decode: &dyn Fn(&[u32]) -> String, look: &Look, status: &str) -> Frame {
        let mut page = Page::new(look.columns.max(8));
        for (index, cells) in self.sequences.iter().enumerate() {
            if index > 0 {
                page.end_line();
                page.add(Style::Masked, SEPARATOR);
                page.end_line();
            }
            for run in cells.chunk_by(|a, b| Style::of(*a) == Style::of(*b)) {
                let style = Style::of(run[0]);
                let tokens: Vec<u32> = run
                    .iter()
                    .filter_map(|cell| match *cell {
                        Cell::Masked => None,
                        Cell::Given(token) | Cell::Drawn { token, .. } => Some(token),
                    })
                    .collect();
                match style {
                    Style::Masked => page.add(style, &MASKED.repeat(run.len())),
                    _ => page.add(style, &decode(&tokens)),
                }
            }
        }
        page.end_line();
        let lines = window(page.lines, look.rows.saturating_sub(2).max(1));
        let mut text = String::new();
        for line in &lines {
            for (style, stretch) in line {
                match look.colours && *style != Style::Plain {
                    true => text.extend([style.code(), stretch, "\x1b[0m"]),
                    false => text.push_str(stretch),
                }
            }
            text.push('\n');
        }
        text.extend(status.chars().take(look.columns.max(8) - 1));
        text.push('\n');
        Frame {
            text,
            lines: lines.len() + 1,
        }
    }
}

/// At most `height` lines, around the first one with a new token.
fn window(mut lines: Vec<Line>, height: usize) -> Vec<Line> {
    if lines.len() <= height {
        return lines;
    }
    let new = lines
        .iter()
        .position(|line| {
            line.iter()
                .any(|(style, _)| matches!(style, Style::NewDiffusion | Style::NewSequential))
        })
        .unwrap_or(0);
    let start = new.saturating_sub(height / 2).min(lines.len() - height);
    lines.drain(..start);
    lines.truncate(height);
    lines
}

/// Lines under construction.
struct Page {
    columns: usize,
    lines: Vec<Line>,
    line: Line,
    used: usize,
}

impl Page {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            lines: Vec::new(),
            line: Line::new(),
            used: 0,
        }
    }

    fn end_line(&mut self) {
        self.lines.push(std::mem::take(&mut self.line));
        self.used = 0;
    }

    fn add(&mut self, style: Style, text: &str) {
        for c in text.chars() {
            if c == '\n' {
                self.end_line();
                continue;
            }
            let c = if c == '\t' { ' ' } else { c };
            let mut buffer = [0; 4];
            let shown = c.encode_utf8(&mut buffer);
            let width = measure_text_width(shown);
            if self.used + width > self.columns {
                self.end_line();
            }
            self.used += width;
            match self.line.last_mut() {
                Some((last, stretch)) if *last == style => stretch.push(c),
                _ => self.line.push((style, c.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use esolm::trace::Revealed;
    use serde_json::json;

    use super::*;

    const LOOK: Look = Look {
        columns: 20,
        rows: 24,
        colours: true,
    };

    /// Token n is the n-th letter; 26 is a line break.
    fn letters(tokens: &[u32]) -> String {
        let letter = |&token: &u32| match token {
            26 => '\n',
            n => char::from(b'a' + n as u8),
        };
        tokens.iter().map(letter).collect()
    }

    /// The header of an attempt at `texts`.
    fn header(length: usize, known: &[Vec<(u32, u32)>], texts: &[usize]) -> Header {
        let header = json!({
            "esolm_trace": 1, "esolm": "", "model": "", "family": "esolm", "length": length, "alpha_0": 1.0, "steps": 1,
            "schedule": "binomial", "top_p": null, "temperature": 1.0, "seed": 0, "first": 0, "batch": known.len(),
            "vocab_size": 97, "mask_index": 96, "nfe": 1, "attempt": 0, "texts": texts, "known": known,
        });
        serde_json::from_value(header).expect("a header")
    }

    fn canvas(length: usize, known: &[Vec<(u32, u32)>]) -> Canvas {
        let mut canvas = Canvas::default();
        let all: Vec<usize> = (0..known.len()).collect();
        canvas.begin(&header(length, known, &all));
        canvas
    }

    fn step(phase: Phase, revealed: &[(u32, u32, u32)]) -> Step {
        let revealed = revealed
            .iter()
            .map(|&(sequence, position, token)| Revealed {
                sequence,
                position,
                token,
                text: String::new(),
                logprob: None,
            });
        Step {
            step: 0,
            steps: 1,
            phase,
            revealed: revealed.collect(),
            rows: 1,
            window: Vec::new(),
            cache_length: 0,
            seconds: 0.0,
            attempt: 0,
        }
    }

    #[test]
    fn masks_are_dim_given_words_bold_new_tokens_coloured() {
        let mut canvas = canvas(5, &[vec![(0, 7)]]);
        canvas.apply(&step(Phase::Diffusion, &[(0, 2, 1)]));
        let frame = canvas.frame(&letters, &LOOK, "status");
        assert_eq!(
            frame.text,
            "\x1b[1mh\x1b[0m\x1b[2m░░\x1b[0m\x1b[1;96mb\x1b[0m\x1b[2m░░░░\x1b[0m\nstatus\n"
        );
        assert_eq!(frame.lines, 2);
        canvas.apply(&step(Phase::Sequential, &[(0, 1, 2)]));
        let frame = canvas.frame(&letters, &LOOK, "s");
        assert_eq!(
            frame.text,
            "\x1b[1mh\x1b[0m\x1b[1;93mc\x1b[0mb\x1b[2m░░░░\x1b[0m\ns\n"
        );
        let plain = Look {
            colours: false,
            ..LOOK
        };
        assert_eq!(canvas.frame(&letters, &plain, "s").text, "hcb░░░░\ns\n");
    }

    #[test]
    fn lines_wrap_at_the_terminals_width() {
        let given: Vec<(u32, u32)> = (0..25).map(|i| (i, i)).collect();
        let canvas = canvas(25, &[given]);
        let plain = Look {
            colours: false,
            columns: 10,
            rows: 24,
        };
        let frame = canvas.frame(&letters, &plain, "a status that is too long");
        assert_eq!(frame.text, "abcdefghij\nklmnopqrst\nuvwxy\na status \n");
        assert_eq!(frame.lines, frame.text.matches('\n').count());
        // Wide characters never straddle the edge.
        let wide = |tokens: &[u32]| "漢".repeat(tokens.len());
        let narrow = Look {
            columns: 9,
            ..plain
        };
        let frame = canvas.frame(&wide, &narrow, "");
        assert!(frame.text.lines().all(|line| measure_text_width(line) <= 9));
        assert_eq!(frame.text.lines().next(), Some("漢漢漢漢"));
    }

    #[test]
    fn texts_of_a_batch_are_set_apart() {
        let canvas = canvas(2, &[vec![(0, 0), (1, 26)], vec![(0, 1)]]);
        let plain = Look {
            colours: false,
            ..LOOK
        };
        let frame = canvas.frame(&letters, &plain, "s");
        assert_eq!(frame.text, "a\n\n────\nb░░\ns\n");
    }

    #[test]
    fn what_is_drawn_again_is_unknown_again() {
        let known = [vec![(0, 0)], vec![(0, 1)]];
        let mut canvas = canvas(2, &known);
        canvas.apply(&step(Phase::Diffusion, &[(0, 1, 2), (1, 1, 3)]));
        canvas.begin(&header(2, &known, &[1]));
        let plain = Look {
            colours: false,
            ..LOOK
        };
        assert_eq!(
            canvas.frame(&letters, &plain, "s").text,
            "ac\n────\nb░░\ns\n"
        );
    }

    #[test]
    fn a_text_higher_than_the_terminal_shows_where_it_grows() {
        let given: Vec<(u32, u32)> = (0..60)
            .map(|i| (i, if i % 2 == 0 { i % 26 } else { 26 }))
            .collect();
        let mut canvas = canvas(60, &[given]);
        canvas.apply(&step(Phase::Diffusion, &[(0, 40, 25)]));
        let small = Look {
            colours: false,
            columns: 10,
            rows: 8,
        };
        let frame = canvas.frame(&letters, &small, "s");
        assert_eq!(frame.lines, 7);
        assert!(frame.text.contains('z'), "{}", frame.text);
    }

    #[test]
    fn events_out_of_range_are_ignored() {
        let mut canvas = canvas(1, &[vec![(9, 1)]]);
        canvas.apply(&step(Phase::Diffusion, &[(0, 7, 1), (3, 0, 1)]));
        let plain = Look {
            colours: false,
            ..LOOK
        };
        assert_eq!(canvas.frame(&letters, &plain, "s").text, "░░\ns\n");
    }
}
