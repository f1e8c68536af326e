//! How answers are shown: drawn on a terminal, as plain text elsewhere, or as lines of JSON.

use std::io::{self, IsTerminal, Write};

use console::Term;
use esolm::stop::Finish;
use esolm::{Answer, ChatEvent};
use serde_json::json;

use super::paint::{Look, Painter};
use crate::failure::Failure;
use crate::output;

enum Way {
    Json,
    Text,
    Painted(Box<Painter>, Term),
}

pub struct Show {
    way: Way,
    quiet: bool,
    /// Whether part of an answer has been printed without the end of its line.
    is_open: bool,
    /// Number of left-out messages that have been reported.
    dropped: usize,
}

impl Show {
    pub fn new(json: bool, quiet: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        let way = match (json, io::stdout().is_terminal() && !is_dumb) {
            (true, _) => Way::Json,
            (_, true) => Way::Painted(Box::default(), Term::stdout()),
            (_, false) => Way::Text,
        };
        Self {
            way,
            quiet,
            is_open: false,
            dropped: 0,
        }
    }

    pub fn is_json(&self) -> bool {
        matches!(self.way, Way::Json)
    }

    pub fn event(&mut self, event: &ChatEvent) -> Result<(), Failure> {
        if let ChatEvent::Prompt(prompt) = event {
            if prompt.dropped > self.dropped {
                self.note(&format!(
                    "the oldest {} messages no longer fit the context and are left out",
                    prompt.dropped
                ))?;
            }
            self.dropped = prompt.dropped;
        }
        match (&mut self.way, event) {
            (Way::Text, ChatEvent::Prompt(_)) => {
                // Even an empty answer has a line of its own.
                self.is_open = true;
                Ok(())
            }
            (Way::Json, event) => output::json_line(event),
            (Way::Text, ChatEvent::Step(step)) => output::text(&step.text),
            (Way::Painted(painter, terminal), ChatEvent::Step(step)) => {
                let (rows, columns) = terminal.size();
                let look = Look {
                    rows: rows.into(),
                    columns: columns.into(),
                    colours: terminal.features().colors_supported(),
                };
                let drawn = painter.step(&step.text, &step.open, look);
                let hidden = if self.is_open { "" } else { "\x1b[?25l" };
                self.is_open = true;
                output::text(&format!("{hidden}{drawn}"))
            }
            (_, ChatEvent::Answer(answer)) => {
                let answer = answer.clone();
                self.end()?;
                self.summary(&answer)
            }
            _ => Ok(()),
        }
    }

    fn summary(&self, answer: &Answer) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        let cached = match answer.cached {
            0 => String::new(),
            cached => format!(", {cached} of {} prompt tokens kept", answer.prompt_tokens),
        };
        let end = match answer.finish {
            Finish::Length => ", cut at --max-tokens",
            Finish::Interrupted => ", stopped",
            _ => "",
        };
        output::note(&format!(
            "[{} tokens in {:.1} s, {:.1} tokens/s, {} passes{cached}{end}]",
            answer.tokens.len(),
            answer.seconds,
            answer.rate(),
            answer.passes
        ));
        Ok(())
    }

    /// Ends the display of an answer, whatever its outcome.
    pub fn end(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.is_open) {
            return Ok(());
        }
        match &mut self.way {
            Way::Json => Ok(()),
            Way::Text => output::text("\n"),
            Way::Painted(painter, _) => {
                let end = painter.end();
                output::text(&format!("{end}\x1b[?25h"))
            }
        }
    }

    /// Prints a note.
    pub fn note(&mut self, text: &str) -> Result<(), Failure> {
        match self.way {
            Way::Json => output::json_line(&json!({"event": "note", "text": text})),
            _ if self.quiet => Ok(()),
            _ => {
                output::note(text);
                Ok(())
            }
        }
    }

    /// Reports an error.
    pub fn error(&mut self, text: &str) -> Result<(), Failure> {
        output::json_line(&json!({"event": "error", "text": text}))
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if self.is_open && matches!(self.way, Way::Painted(..)) {
            // Restores the cursor after an error; a failure here is ignored.
            let _ = write!(io::stdout(), "\x1b[?25h");
        }
    }
}
