//! What `score` reads, as windows with given and scored tokens.

use std::ops::Range;
use std::path::PathBuf;

use esolm::config::{Family, ModelConfig, Prepend};
use esolm::documents::{self, BetweenError};
use esolm::scoring::Window;
use esolm::text::TextCodec;
use serde::Deserialize;

use crate::arguments::Score;
use crate::failure::Failure;
use crate::texts;

/// One text to score.
pub struct Piece {
    /// Its windows.
    pub windows: Range<usize>,
    /// Bytes of the text.
    pub bytes: usize,
}

/// All texts: for each line of the input one, or one for each choice.
#[derive(Default)]
pub struct Items {
    pub windows: Vec<Window>,
    pub pieces: Vec<Vec<Piece>>,
    /// Lines longer than the context, cut into windows.
    cut: usize,
    /// Texts of which not everything that is given fits the context.
    shortened: usize,
    /// Files of JSON lines that were read as plain lines.
    json: Vec<String>,
}

/// A line of `--choices`.
#[derive(Deserialize)]
struct Choices {
    context: String,
    choices: Vec<String>,
}

/// A line of `--infill`.
#[derive(Deserialize)]
struct Infill {
    prefix: String,
    middle: String,
    suffix: String,
}

/// What turns texts into windows.
struct Reader<'a> {
    codec: &'a TextCodec,
    opening: Option<u32>,
    length: usize,
    /// Later windows of a text begin with the token before them.
    overlap: bool,
    items: Items,
}

impl Items {
    pub fn read(
        arguments: &Score,
        config: &ModelConfig,
        codec: &TextCodec,
    ) -> Result<Self, Failure> {
        let ends = codec.ends();
        let opens = !arguments.no_bos && config.prepend == Prepend::None;
        let mut reader = Reader {
            codec,
            opening: ends.bos.or(ends.eos).filter(|_| opens),
            length: config.length,
            overlap: config.family == Family::Ar && config.prepend == Prepend::None,
            items: Items::default(),
        };
        let stdin = [PathBuf::from("-")];
        let files = match &arguments.files[..] {
            [] => &stdin[..],
            files => files,
        };
        for text in texts::read(files)? {
            let name = |number: usize| format!("line {number} of {}", text.name);
            if arguments.choices {
                let expected = "an object with a context and a list of choices";
                let lines: Vec<(usize, Choices)> = texts::json_lines(&text, expected)?;
                for (number, line) in &lines {
                    reader.choices(&name(*number), line)?;
                }
            } else if arguments.infill {
                let expected = "an object with a prefix, a middle and a suffix";
                let lines: Vec<(usize, Infill)> = texts::json_lines(&text, expected)?;
                for (number, line) in &lines {
                    reader.infill(&name(*number), line)?;
                }
            } else {
                if text.is_jsonl {
                    reader.items.json.push(text.name.clone());
                }
                for (number, line) in (1..).zip(texts::lines(&text)) {
                    reader.line(&name(number), line)?;
                }
            }
        }
        if reader.items.pieces.is_empty() {
            return Err(Failure::failed(
                "there is no line to score; give lines of text",
            ));
        }
        Ok(reader.items)
    }

    /// What the user should know about how texts were cut.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let context = "the model's context";
        let windows = "scored in windows that know nothing of each other";
        match self.cut {
            0 => {}
            1 => notes.push(format!("a line is longer than {context}: it is {windows}")),
            n => notes.push(format!(
                "{n} lines are longer than {context}: they are {windows}"
            )),
        }
        if self.shortened > 0 {
            notes.push(format!(
                "what is given does not fit {context} in {} of {} texts: its farthest tokens are left out",
                self.shortened,
                self.windows.len()
            ));
        }
        for name in &self.json {
            notes.push(format!(
                "{name} is scored as lines of plain text; --choices and --infill read JSON"
            ));
        }
        notes
    }
}

impl Reader<'_> {
    fn encode(&self, name: &str, text: &str) -> Result<Vec<u32>, Failure> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        self.codec
            .encode(text)
            .map_err(|error| Failure::failed(format!("{name}: {error}")))
    }

    fn number(&self) -> u32 {
        self.items.windows.len() as u32
    }

    fn line(&mut self, name: &str, line: &str) -> Result<(), Failure> {
        let tokens = self.encode(name, line)?;
        let windows = documents::alone(
            &tokens,
            self.opening,
            self.length,
            self.overlap,
            self.number(),
        );
        self.items.cut += usize::from(windows.len() > 1);
        let first = self.items.windows.len();
        self.items.windows.extend(windows);
        self.items.pieces.push(vec![Piece {
            windows: first..self.items.windows.len(),
            bytes: line.len(),
        }]);
        Ok(())
    }

    /// Adds `scored` tokens between given ones. What is given is cut at its far ends where it does not fit.
    fn window(
        &mut self,
        name: &str,
        before: &[u32],
        scored: &[u32],
        after: &[u32],
        bytes: usize,
    ) -> Result<Piece, Failure> {
        let before: Vec<u32> = self
            .opening
            .into_iter()
            .chain(before.iter().copied())
            .collect();
        let at = self.items.windows.len();
        let (window, cut) = documents::between(
            &before,
            scored,
            after,
            self.length,
            self.overlap,
            at as u32,
        )
        .map_err(|error| match error {
            BetweenError::NothingBefore => Failure::failed(format!(
                "{name} has nothing before the text to score, and an AR model predicts no first token; give a context, or leave out --no-bos"
            )),
            error => Failure::failed(format!("{name} {error}")),
        })?;
        self.items.shortened += usize::from(cut);
        self.items.windows.push(window);
        Ok(Piece {
            windows: at..at + 1,
            bytes,
        })
    }

    /// The choices of a line given its context. Both are tokenized as one text, as the model would read it; what the tokens of the
    /// context alone share with it is the context.
    fn choices(&mut self, name: &str, line: &Choices) -> Result<(), Failure> {
        if line.choices.is_empty() {
            return Err(Failure::failed(format!(
                "{name} has no choices; give at least one"
            )));
        }
        // Tokenizers write a word together with the space before it.
        let context = line.context.trim_end();
        let space = &line.context[context.len()..];
        let alone = self.encode(name, context)?;
        let mut pieces = Vec::new();
        for choice in &line.choices {
            if choice.is_empty() {
                return Err(Failure::failed(format!(
                    "{name} has an empty choice; give it at least one character"
                )));
            }
            let whole = self.encode(name, &format!("{context}{space}{choice}"))?;
            let shared = (alone.iter().zip(&whole))
                .take_while(|(a, b)| a == b)
                .count();
            let (before, scored) = whole.split_at(shared);
            pieces.push(self.window(name, before, scored, &[], choice.len())?);
        }
        self.items.pieces.push(pieces);
        Ok(())
    }

    /// The middle of a line given both sides, each tokenized by itself, as `sample --infill` does.
    fn infill(&mut self, name: &str, line: &Infill) -> Result<(), Failure> {
        let [prefix, middle, suffix] =
            documents::spaces_after(&line.prefix, &line.middle, &line.suffix);
        let before = self.encode(name, &prefix)?;
        let scored = self.encode(name, &middle)?;
        let after = self.encode(name, &suffix)?;
        let piece = self.window(name, &before, &scored, &after, middle.len())?;
        self.items.pieces.push(vec![piece]);
        Ok(())
    }
}
