//! Editing messages at a terminal.

use std::io;

use rustyline::completion::{Completer, Pair};
use rustyline::config::{BellStyle, CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ConditionalEventHandler, Context, Event, EventContext, EventHandler, Helper, KeyCode,
    KeyEvent, Modifiers, Movement, RepeatCount,
};

use super::input::Said;
use crate::arguments::COMMANDS;

/// Number of messages kept in the history.
const REMEMBERED: usize = 500;

/// A message editor with a history.
pub struct Editor(rustyline::Editor<Commands, MemHistory>);

impl Editor {
    /// An editor on standard input and output, which must be a terminal.
    pub fn new() -> io::Result<Self> {
        let config = Config::builder()
            .max_history_size(REMEMBERED)
            .map_err(io::Error::other)?
            .completion_type(CompletionType::List)
            .bell_style(BellStyle::None)
            .build();
        let history = MemHistory::with_config(&config);
        let editor = rustyline::Editor::with_history(config, history);
        let mut editor = editor.map_err(io::Error::other)?;
        editor.set_helper(Some(Commands));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        let clears = EventHandler::Conditional(Box::new(Clears));
        editor.bind_sequence(KeyEvent::ctrl('C'), clears);
        Ok(Self(editor))
    }

    /// Reads a line, which contains newlines if they were pasted or typed with Alt-Enter. `goes_on` says whether it
    /// continues a message.
    pub fn line(&mut self, goes_on: bool) -> io::Result<Said> {
        match self.0.readline(if goes_on { ". " } else { "> " }) {
            Ok(line) => Ok(Said::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Said::Interrupt),
            Err(ReadlineError::Eof) => Ok(Said::End),
            Err(ReadlineError::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Adds a message to the history.
    pub fn remember(&mut self, message: &str) -> io::Result<()> {
        let added = self.0.add_history_entry(message);
        added.map(drop).map_err(io::Error::other)
    }
}

/// Ctrl-C clears the message; only if it is empty, it interrupts.
struct Clears;

impl ConditionalEventHandler for Clears {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

/// Completes command names.
struct Commands;

impl Completer for Commands {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok((0, completed(&line[..cursor])))
    }
}

impl Helper for Commands {}
impl Highlighter for Commands {}
impl Hinter for Commands {
    type Hint = String;
}
impl Validator for Commands {}

/// The commands that start with the given text, as displayed and as inserted.
fn completed(begun: &str) -> Vec<Pair> {
    let commands = COMMANDS.map(|(command, _)| command).into_iter();
    let begin_so = commands.filter(|command| begun.starts_with('/') && command.starts_with(begun));
    let pair = |command: &str| Pair {
        display: command.into(),
        replacement: match command.split_once(' ') {
            Some((name, _)) => format!("{name} "),
            None => command.into(),
        },
    };
    begin_so.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_completed() {
        let names = |begun| -> Vec<String> {
            let all = completed(begun).into_iter();
            all.map(|pair| pair.replacement).collect()
        };
        assert_eq!(names("/re"), ["/reset"]);
        assert_eq!(names("/s"), ["/system ", "/seed ", "/save "]);
        assert_eq!(names("/").len(), COMMANDS.len());
        for text in ["", "s", "//s", "/nothing", "/seed 1", "Say /s"] {
            assert!(names(text).is_empty(), "{text}");
        }
    }
}
