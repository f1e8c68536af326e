//! How answers are shown: drawn at a terminal, as text that only grows elsewhere, or as lines of JSON.

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
    /// Whether something of an answer was printed and its line not ended.
    is_open: bool,
    /// Messages that were left out, as far as that was said.
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
                // An answer has a line of its own, and be it empty.
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
                // What only showed itself at the end, such as half a character.
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

    /// Ends what is shown of an answer, however that ended.
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

    /// Says something beside the answers.
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

    /// Tells of what could not be done.
    pub fn error(&mut self, text: &str) -> Result<(), Failure> {
        output::json_line(&json!({"event": "error", "text": text}))
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if self.is_open && matches!(self.way, Way::Painted(..)) {
            // After an error the terminal gets its cursor back; a failure here changes nothing any more.
            let _ = write!(io::stdout(), "\x1b[?25h");
        }
    }
}
