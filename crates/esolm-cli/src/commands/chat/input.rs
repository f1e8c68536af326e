//! Where lines come from: a person at a terminal, who edits them, or anything else.

use std::io::{self, BufRead, IsTerminal, Read, StdinLock};

use super::line::Editor;
use crate::failure::Failure;

/// Bytes of a line; more than any context takes.
const MOST: u64 = 16 << 20;

/// What was said.
pub enum Said {
    /// A line, or several that were joined.
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// There is no more.
    End,
}

pub enum Input {
    Typed(Box<Editor>),
    Piped(StdinLock<'static>),
}

impl Input {
    /// `edits` tells whether a person's lines may be edited where they are shown.
    pub fn new(edits: bool) -> Self {
        let can_edit = edits && io::stdin().is_terminal() && io::stdout().is_terminal();
        match can_edit {
            true => Self::Typed(Box::default()),
            false => Self::Piped(io::stdin().lock()),
        }
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Typed(_))
    }

    /// The next line, with those that it goes on in.
    pub fn next(&mut self) -> Result<Said, Failure> {
        let mut whole = String::new();
        loop {
            let said = match self {
                Self::Typed(editor) => {
                    let prompt = if whole.is_empty() { "> " } else { ". " };
                    editor.line(prompt)
                }
                Self::Piped(lines) => read(lines),
            };
            let line = match said.map_err(|error| cannot_read(&error))? {
                Said::Line(line) => line,
                Said::End if !whole.is_empty() => return Ok(Said::Line(whole)),
                other => return Ok(other),
            };
            match line.strip_suffix('\\') {
                Some(begun) => {
                    whole.push_str(begun);
                    whole.push('\n');
                }
                None => return Ok(Said::Line(whole + &line)),
            }
        }
    }
}

fn read(lines: &mut StdinLock<'static>) -> io::Result<Said> {
    let mut bytes = Vec::new();
    lines.take(MOST).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(Said::End);
    }
    if bytes.len() as u64 == MOST {
        return Err(io::Error::other("a line is too long"));
    }
    let line = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(Said::Line(line.strip_suffix('\r').unwrap_or(line).into()))
}

fn cannot_read(error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot read the standard input: {error}; give one message a line, in UTF-8"
    ))
}
