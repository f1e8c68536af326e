//! Draws an answer on a terminal: final text stays, and the current block is redrawn in each step, with unknown
//! positions shaded.

use console::measure_text_width;

use crate::output;

/// A position whose token is not known.
const MASKED: &str = "░░";

/// The properties of the terminal.
#[derive(Clone, Copy)]
pub struct Look {
    pub columns: usize,
    pub rows: usize,
    pub colours: bool,
}

/// Where the final text ends, and how much is drawn after it.
#[derive(Default)]
pub struct Painter {
    /// Column after the final text.
    column: usize,
    /// Number of further rows drawn after it; `None` if nothing is drawn.
    open: Option<usize>,
}

impl Painter {
    /// The output for a step: text that is added to the final text, and the positions of the block after it.
    pub fn step(&mut self, text: &str, places: &[Option<String>], look: Look) -> String {
        let columns = look.columns.max(2);
        let mut out = self.erase();
        for c in output::printable(text).chars() {
            let width = match c {
                '\n' => {
                    self.column = 0;
                    out.push('\n');
                    continue;
                }
                '\t' => {
                    out.push(' ');
                    1
                }
                c => {
                    out.push(c);
                    measure_text_width(c.encode_utf8(&mut [0; 4]))
                }
            };
            let fits = self.column + width <= columns;
            self.column = if fits { self.column + width } else { width };
        }
        if places.is_empty() {
            return out;
        }
        if self.column >= columns {
            // After the last column, terminals disagree on where the cursor is.
            out.push_str("\r\n");
            self.column = 0;
        }
        let mut drawn = Region {
            out,
            column: self.column,
            columns,
            rows: 0,
            most: look.rows.saturating_sub(2),
        };
        for place in places {
            let (code, text) = match place {
                None => ("\x1b[2m", MASKED.to_string()),
                Some(text) => (
                    "\x1b[96m",
                    output::printable(text).replace(['\n', '\t'], "↵"),
                ),
            };
            drawn.push(if look.colours { code } else { "" }, &text);
        }
        self.open = Some(drawn.rows);
        drawn.out
    }

    /// Erases what is drawn after the final text.
    pub fn erase(&mut self) -> String {
        let Some(rows) = self.open.take() else {
            return String::new();
        };
        let up = match rows {
            0 => String::new(),
            rows => format!("\x1b[{rows}A"),
        };
        format!("{up}\x1b[{}G\x1b[J", self.column + 1)
    }

    /// Ends an answer.
    pub fn end(&mut self) -> String {
        let mut out = self.erase();
        if self.column > 0 {
            out.push('\n');
        }
        self.column = 0;
        out
    }
}

struct Region {
    out: String,
    column: usize,
    columns: usize,
    rows: usize,
    /// Maximum number of rows, so that the terminal does not scroll what will be redrawn.
    most: usize,
}

impl Region {
    fn push(&mut self, code: &str, text: &str) {
        self.out.push_str(code);
        for c in text.chars() {
            let width = measure_text_width(c.encode_utf8(&mut [0; 4]));
            if self.column + width > self.columns {
                if self.rows >= self.most {
                    break;
                }
                self.out.push_str("\r\n");
                self.rows += 1;
                self.column = 0;
            }
            self.out.push(c);
            self.column += width;
        }
        if !code.is_empty() {
            self.out.push_str("\x1b[0m");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look {
        columns: 8,
        rows: 24,
        colours: false,
    };

    fn known(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn the_open_block_is_drawn_anew() {
        let mut painter = Painter::default();
        assert_eq!(painter.step("", &[None, known("b"), None], LOOK), "░░b░░");
        assert_eq!(painter.step("ab", &[None], LOOK), "\x1b[1G\x1b[Jab░░");
        assert_eq!(painter.step("cd", &[], LOOK), "\x1b[3G\x1b[Jcd");
        assert_eq!(painter.end(), "\n");
        assert_eq!(painter.end(), "");
    }

    #[test]
    fn it_takes_several_rows_and_no_more_than_there_are() {
        let mut painter = Painter::default();
        painter.step("abcdef", &[], LOOK);
        let places = vec![None; 4];
        assert_eq!(painter.step("", &places, LOOK), "░░\r\n░░░░░░");
        assert_eq!(painter.erase(), "\x1b[1A\x1b[7G\x1b[J");
        let low = Look { rows: 3, ..LOOK };
        assert_eq!(painter.step("", &vec![None; 40], low), "░░\r\n░░░░░░░░");
    }

    #[test]
    fn a_full_row_ends_before_the_block() {
        let mut painter = Painter::default();
        assert_eq!(painter.step("abcdefgh", &[None], LOOK), "abcdefgh\r\n░░");
        assert_eq!(painter.erase(), "\x1b[1G\x1b[J");
        let coloured = Look {
            colours: true,
            ..LOOK
        };
        assert_eq!(
            painter.step("x\x1b[2J\ty", &[known("\n")], coloured),
            "x\u{fffd}[2J y\x1b[96m↵\x1b[0m"
        );
    }
}
