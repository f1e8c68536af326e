//! A line that a person edits at a terminal.

use std::io::{self, Write};

use console::{Key, Term, measure_text_width};

use super::input::Said;

/// Lines that are remembered.
const REMEMBERED: usize = 500;

/// Edits lines, and remembers those before.
pub struct Editor {
    terminal: Term,
    history: Vec<String>,
}

impl Default for Editor {
    fn default() -> Self {
        Self {
            terminal: Term::stdout(),
            history: Vec::new(),
        }
    }
}

impl Editor {
    /// Reads a line behind a prompt.
    pub fn line(&mut self, prompt: &str) -> io::Result<Said> {
        let _raw = raw::hold();
        let mut line = Line::default();
        let mut row = 0;
        // Where in the history the line is, and what was written before.
        let (mut place, mut own) = (self.history.len(), String::new());
        loop {
            row = self.draw(prompt, &line, row)?;
            let key = match self.terminal.read_key_raw() {
                Ok(key) => key,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.leave(prompt, &mut line, row, Said::End);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Key::CtrlC,
                Err(error) => return Err(error),
            };
            match key {
                Key::Enter => {
                    let text = line.text();
                    if !text.trim().is_empty() && self.history.last() != Some(&text) {
                        self.history.push(text.clone());
                        let most = self.history.len().saturating_sub(REMEMBERED);
                        self.history.drain(..most);
                    }
                    return self.leave(prompt, &mut line, row, Said::Line(text));
                }
                Key::CtrlC => return self.leave(prompt, &mut line, row, Said::Interrupt),
                Key::Char('\u{4}') if line.chars.is_empty() => {
                    return self.leave(prompt, &mut line, row, Said::End);
                }
                Key::ArrowUp | Key::ArrowDown => {
                    let to = match key {
                        Key::ArrowUp => place.checked_sub(1),
                        _ => Some(place + 1).filter(|&to| to <= self.history.len()),
                    };
                    if let Some(to) = to {
                        if place == self.history.len() {
                            own = line.text();
                        }
                        place = to;
                        line = Line::of(self.history.get(to).unwrap_or(&own));
                    }
                }
                key => line.press(&key),
            }
        }
    }

    /// Ends a line, below all of it.
    fn leave(&self, prompt: &str, line: &mut Line, row: usize, said: Said) -> io::Result<Said> {
        line.cursor = line.chars.len();
        self.draw(prompt, line, row)?;
        let mut out = io::stdout().lock();
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(said)
    }

    /// Draws the line anew, when the cursor stands in row `before` of it; gives the row in which it stands afterwards.
    fn draw(&self, prompt: &str, line: &Line, before: usize) -> io::Result<usize> {
        let columns = usize::from(self.terminal.size().1).max(2);
        let (text, end, at) = line.laid_out(prompt, columns);
        let mut out = String::new();
        if before > 0 {
            out.push_str(&format!("\x1b[{before}A"));
        }
        out.push_str("\r\x1b[J");
        out.push_str(&text);
        if end.0 > at.0 {
            out.push_str(&format!("\x1b[{}A", end.0 - at.0));
        }
        out.push_str(&format!("\x1b[{}G", at.1 + 1));
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()?;
        Ok(at.0)
    }
}

/// What is being written.
#[derive(Default)]
struct Line {
    chars: Vec<char>,
    cursor: usize,
}

/// Row and column, from 0.
type Place = (usize, usize);

impl Line {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        Self {
            cursor: chars.len(),
            chars,
        }
    }

    fn text(&self) -> String {
        self.chars.iter().collect()
    }

    /// The beginning of the word before the cursor.
    fn word(&self) -> usize {
        let before = &self.chars[..self.cursor];
        let is_space = |c: &char| c.is_whitespace();
        let end = before.iter().rposition(|c| !is_space(c));
        let start = end.and_then(|end| before[..end].iter().rposition(is_space));
        match end {
            None => 0,
            Some(_) => start.map_or(0, |start| start + 1),
        }
    }

    fn press(&mut self, key: &Key) {
        match key {
            Key::ArrowLeft => self.cursor = self.cursor.saturating_sub(1),
            Key::ArrowRight => self.cursor = (self.cursor + 1).min(self.chars.len()),
            Key::Home | Key::Char('\u{1}') => self.cursor = 0,
            Key::End | Key::Char('\u{5}') => self.cursor = self.chars.len(),
            Key::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.chars.remove(self.cursor);
            }
            Key::Del | Key::Char('\u{4}') if self.cursor < self.chars.len() => {
                self.chars.remove(self.cursor);
            }
            // Ctrl-U, Ctrl-K and Ctrl-W take away what is before, what is behind, and the word before.
            Key::Char('\u{15}') => {
                self.chars.drain(..self.cursor);
                self.cursor = 0;
            }
            Key::Char('\u{b}') => self.chars.truncate(self.cursor),
            Key::Char('\u{17}') => {
                let start = self.word();
                self.chars.drain(start..self.cursor);
                self.cursor = start;
            }
            Key::Tab => self.insert(' '),
            Key::Char(c) if !c.is_control() => self.insert(*c),
            _ => {}
        }
    }

    fn insert(&mut self, c: char) {
        self.chars.insert(self.cursor, c);
        self.cursor += 1;
    }

    /// The line behind its prompt in rows of `columns`, with where it ends and where the cursor stands.
    fn laid_out(&self, prompt: &str, columns: usize) -> (String, Place, Place) {
        let mut text = String::from(prompt);
        let mut place = (0, measure_text_width(prompt));
        let mut cursor = place;
        for (index, &c) in self.chars.iter().enumerate() {
            let width = measure_text_width(c.encode_utf8(&mut [0; 4]));
            if place.1 + width > columns {
                text.push_str("\r\n");
                place = (place.0 + 1, 0);
            }
            if index == self.cursor {
                cursor = place;
            }
            text.push(c);
            place.1 += width;
        }
        if place.1 >= columns {
            text.push_str("\r\n");
            place = (place.0 + 1, 0);
        }
        if self.cursor == self.chars.len() {
            cursor = place;
        }
        (text, place, cursor)
    }
}

/// A terminal that hands on each key. Between two keys too, or what is typed then would be shown twice and Ctrl-C end the program.
#[cfg(unix)]
mod raw {
    use std::io;
    use std::os::fd::AsFd;

    use nix::sys::termios::{InputFlags, LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

    /// As it was, for the time after.
    pub struct Held(Option<Termios>);

    pub fn hold() -> Held {
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(stdin.as_fd()) else {
            return Held(None);
        };
        let mut raw = before.clone();
        raw.local_flags &=
            !(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
        raw.input_flags &= !(InputFlags::ICRNL | InputFlags::IXON);
        let is_set = tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw).is_ok();
        Held(is_set.then_some(before))
    }

    impl Drop for Held {
        fn drop(&mut self) {
            if let Some(before) = &self.0 {
                // There is nobody to tell.
                let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, before);
            }
        }
    }
}

#[cfg(not(unix))]
mod raw {
    pub fn hold() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(keys: &[Key]) -> Line {
        let mut line = Line::default();
        keys.iter().for_each(|key| line.press(key));
        line
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    #[test]
    fn lines_are_edited() {
        let mut keys = typed("one tow");
        keys.extend([
            Key::Backspace,
            Key::Backspace,
            Key::Char('w'),
            Key::Char('o'),
        ]);
        assert_eq!(pressed(&keys).text(), "one two");
        keys.extend([
            Key::Home,
            Key::Del,
            Key::Char('O'),
            Key::End,
            Key::Char('\u{17}'),
        ]);
        assert_eq!(pressed(&keys).text(), "One ");
        keys.extend([Key::ArrowLeft, Key::Char('\u{b}'), Key::Char('!')]);
        assert_eq!(pressed(&keys).text(), "One!");
        keys.extend([
            Key::ArrowLeft,
            Key::Char('\u{15}'),
            Key::ArrowRight,
            Key::ArrowRight,
        ]);
        assert_eq!(pressed(&keys).text(), "!");
        let before = [
            Key::Backspace,
            Key::ArrowLeft,
            Key::Del,
            Key::Char('\u{17}'),
        ];
        assert_eq!(pressed(&before).text(), "");
    }

    #[test]
    fn long_lines_take_several_rows() {
        let line = Line::of("abcdefgh");
        assert_eq!(
            line.laid_out("> ", 5),
            ("> abc\r\ndefgh\r\n".into(), (2, 0), (2, 0))
        );
        let wide = Line {
            cursor: 1,
            ..Line::of("漢漢")
        };
        assert_eq!(
            wide.laid_out("> ", 5),
            ("> 漢\r\n漢".into(), (1, 2), (1, 0))
        );
    }
}
