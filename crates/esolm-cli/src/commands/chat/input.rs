//! Where messages come from: a user who edits them at a terminal, or anything else that provides lines.

use std::io::{self, BufRead, IsTerminal, Read, StdinLock};

use super::line::Editor;
use crate::failure::Failure;
use crate::output;

/// Maximum bytes of a line; no context holds more.
const MOST: u64 = 16 << 20;

/// What was read.
pub enum Said {
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// A line that is no text.
    Unreadable(&'static str),
    /// End of input.
    End,
}

pub struct Input {
    source: Source,
    /// Number of the last line, from 1.
    number: u64,
}

enum Source {
    Typed(Box<Editor>),
    Piped(StdinLock<'static>),
}

impl Input {
    /// `edits` says whether messages may be edited at the terminal.
    pub fn new(edits: bool) -> Result<Self, Failure> {
        let can_edit = edits && io::stdin().is_terminal() && io::stdout().is_terminal();
        let source = if can_edit {
            output::remember_terminal();
            let editor = Editor::new().map_err(|error| cannot_read(&error))?;
            Source::Typed(Box::new(editor))
        } else {
            Source::Piped(io::stdin().lock())
        };
        Ok(Self { source, number: 0 })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self.source, Source::Typed(_))
    }

    /// The number of the line read last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next message, including lines joined by a backslash, or what is wrong with its line, after which the input
    /// continues; `None` at the end of the conversation.
    pub fn next(&mut self) -> Result<Option<Result<String, Failure>>, Failure> {
        self.message().map_err(|error| cannot_read(&error))
    }

    fn message(&mut self) -> io::Result<Option<Result<String, Failure>>> {
        let mut whole = String::new();
        loop {
            self.number += 1;
            let said = match &mut self.source {
                Source::Typed(editor) => editor.line(!whole.is_empty())?,
                Source::Piped(lines) => read(lines)?,
            };
            match said {
                Said::Line(line) => match line.strip_suffix('\\') {
                    Some(begun) => {
                        whole.push_str(begun);
                        whole.push('\n');
                        continue;
                    }
                    None => whole.push_str(&line),
                },
                Said::Interrupt if !whole.is_empty() => {
                    whole.clear();
                    continue;
                }
                Said::Unreadable(why) => {
                    let why = format!("line {} of the input {why}", self.number);
                    return Ok(Some(Err(Failure::failed(why))));
                }
                Said::End if !whole.is_empty() => {}
                Said::Interrupt | Said::End => return Ok(None),
            }
            if let Source::Typed(editor) = &mut self.source {
                editor.remember(&whole)?;
            }
            return Ok(Some(Ok(whole)));
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
        // The rest of the line is skipped, so that the next one is read as itself.
        while bytes.last() != Some(&b'\n') {
            bytes.clear();
            if lines.take(MOST).read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
        }
        return Ok(Said::Unreadable("is too long; give at most 16 MiB"));
    }
    let Ok(line) = String::from_utf8(bytes) else {
        return Ok(Said::Unreadable("is not UTF-8 text; convert it to UTF-8"));
    };
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(Said::Line(line.strip_suffix('\r').unwrap_or(line).into()))
}

fn cannot_read(error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot read the standard input: {error}; give one message a line"
    ))
}
