//! What `ppl` scores: documents as packed windows or by themselves, or given tokens.

use std::ops::Range;
use std::path::Path;

use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, ModelConfig, Prepend};
use esolm::documents;
use esolm::likelihood::LikelihoodOptions;
use esolm::scoring::Window;
use esolm::text::TextCodec;
use serde::Deserialize;

use crate::arguments::Ppl;
use crate::failure::Failure;
use crate::{setup, tensors, texts};

/// A document that was read.
pub struct Document {
    /// Its number in the input, counted from 0, left out ones included.
    pub index: usize,
    /// Bytes of its text, of the part that is scored.
    pub bytes: usize,
    /// Its windows, where it is scored by itself.
    pub windows: Range<usize>,
}

/// Windows and what is known of them.
pub struct Input {
    /// What is scored.
    pub windows: Vec<Window>,
    /// Given orders.
    pub orders: Option<Vec<Vec<u32>>>,
    /// Documents whose text is in the windows; none for given tokens.
    pub documents: Vec<Document>,
    /// Documents that were left out for their characters.
    pub dropped: usize,
    /// Bytes of the documents' text in the windows; nothing for given tokens.
    pub bytes: Option<usize>,
    /// Tokens of a full window.
    pub length: usize,
    /// How the text was cut, in words.
    pub cut: String,
}

/// A JSON line.
#[derive(Deserialize)]
struct JsonText {
    text: String,
}

impl Input {
    pub fn read(
        arguments: &Ppl,
        checkpoint: &Checkpoint,
        options: &LikelihoodOptions,
    ) -> Result<Self, Failure> {
        let config = checkpoint.config();
        let input = match &arguments.tokens {
            Some(path) => from_tokens(path, arguments, config, options)?,
            None => from_text(arguments, checkpoint)?,
        };
        let first = usize::from(config.family == Family::Ar && config.prepend == Prepend::None);
        if input
            .windows
            .iter()
            .all(|window| window.tokens.len() <= first)
        {
            return Err(Failure::failed(
                "there is no token to score; give longer windows or more text",
            ));
        }
        Ok(input)
    }

    /// Tokens of the text in the windows, whether something predicts them or not.
    pub fn text_tokens(&self) -> usize {
        self.windows.iter().map(Window::scored).sum()
    }
}

fn from_tokens(
    path: &Path,
    arguments: &Ppl,
    config: &ModelConfig,
    options: &LikelihoodOptions,
) -> Result<Input, Failure> {
    let file = tensors::Input::read(path)?;
    let mut tokens = file.rows("tokens", ["N", "L"])?;
    let length = tokens.first().map_or(0, Vec::len);
    if length == 0 {
        return Err(Failure::failed(format!(
            "tokens in {} is empty; give at least one sequence of at least one token",
            path.display()
        )));
    }
    if length > config.length {
        return Err(Failure::failed(format!(
            "tokens has sequences of {length} tokens, but the model's context is {}; give shorter ones",
            config.length
        )));
    }
    let mut orders = match file.has("sort_idx") {
        true => Some(file.rows("sort_idx", ["N", "L"])?),
        false => None,
    };
    if let Some(orders) = &orders {
        if orders.len() != tokens.len() {
            return Err(Failure::failed(format!(
                "sort_idx has {} rows where tokens has {}; give arrays of the same shape [N, L]",
                orders.len(),
                tokens.len()
            )));
        }
        if arguments.orders.is_some_and(|n| n > 1) {
            return Err(Failure::usage(
                "--orders draws orders, but sort_idx gives one for each sequence; leave one of them out",
            ));
        }
        if config.family != Family::EsoLm || options.orders == 0 {
            return Err(Failure::usage(format!(
                "sort_idx gives orders, which mean nothing here: the model is of the family {} and its exact likelihood {}; leave it out",
                config.family,
                if options.orders == 0 {
                    "is not computed"
                } else {
                    "has one order"
                },
            )));
        }
    }
    if let Some(most) = arguments.max_windows {
        tokens.truncate(most);
        if let Some(orders) = &mut orders {
            orders.truncate(most);
        }
    }
    let cut = format!(
        "{} sequences of {length} tokens{}",
        tokens.len(),
        if orders.is_some() {
            ", each with its order"
        } else {
            ""
        }
    );
    let windows = (0..)
        .zip(tokens)
        .map(|(n, tokens)| Window::whole(tokens, n));
    Ok(Input {
        windows: windows.collect(),
        orders,
        documents: Vec::new(),
        dropped: 0,
        bytes: None,
        length,
        cut,
    })
}

fn from_text(arguments: &Ppl, checkpoint: &Checkpoint) -> Result<Input, Failure> {
    let config = checkpoint.config();
    let length = arguments.length.unwrap_or(config.length);
    if length > config.length {
        return Err(Failure::usage(format!(
            "--length {length} is more than the model's context of {} tokens; give at most that",
            config.length
        )));
    }
    let codec = setup::codec(checkpoint, arguments.tokenizer.as_deref())?.ok_or_else(|| {
        Failure::usage("texts need a tokenizer; give one with --tokenizer FILE instead of none")
    })?;
    let separator = match &arguments.separator {
        Some(separator) if separator.is_empty() => {
            return Err(Failure::usage(
                "--separator is empty; give the text that stands between documents, or leave it out",
            ));
        }
        Some(separator) => Some(separator.replace("\\n", "\n")),
        None => codec.ends().eos.map(|eos| codec.decode(&[eos])),
    };
    let texts = texts::read(&arguments.files)?;
    let mut all: Vec<String> = Vec::new();
    for text in &texts {
        if arguments.jsonl || text.is_jsonl {
            let lines: Vec<(usize, JsonText)> =
                texts::json_lines(text, "an object with a field text")?;
            // White space around a document is left out everywhere.
            all.extend(
                lines
                    .into_iter()
                    .map(|(_, line)| line.text.trim().to_string()),
            );
        } else {
            let parts = documents::split(&text.content, separator.as_deref());
            all.extend(parts.into_iter().map(String::from));
        }
    }
    let alone = arguments.per_document.is_some();
    let most = (arguments.max_windows).and_then(|windows| windows.checked_mul(length));
    let read = Reading {
        codec: &codec,
        config,
        ascii_only: arguments.ascii_only,
        length,
    };
    let input = if alone {
        read.alone(&all)?
    } else {
        read.packed(&all, most)?
    };
    if input.windows.is_empty() {
        let names: Vec<&str> = texts.iter().map(|text| &text.name[..]).collect();
        return Err(Failure::failed(format!(
            "there is no document to score in {}{}; give other text",
            names.join(", "),
            match input.dropped {
                0 => String::new(),
                n => format!(" ({n} with characters beyond ASCII left out)"),
            }
        )));
    }
    Ok(input)
}

/// How documents become windows.
struct Reading<'a> {
    codec: &'a TextCodec,
    config: &'a ModelConfig,
    ascii_only: bool,
    length: usize,
}

impl Reading<'_> {
    fn keeps(&self, document: &str) -> bool {
        !self.ascii_only || document.is_ascii()
    }

    fn encode(&self, index: usize, document: &str) -> Result<Vec<u32>, Failure> {
        self.codec
            .encode(document)
            .map_err(|error| Failure::failed(format!("document {index}: {error}")))
    }

    /// The token that opens every document, with its name.
    fn opening(&self) -> (Option<u32>, String) {
        let ends = self.codec.ends();
        let token = ends.bos.or(ends.eos);
        let name = token.map(|token| self.codec.decode(&[token]));
        (token, name.unwrap_or_default())
    }

    /// All documents put together, at most `most` tokens of them.
    fn packed(&self, all: &[String], most: Option<usize>) -> Result<Input, Failure> {
        let (opening, name) = self.opening();
        let mut stream: Vec<u32> = Vec::new();
        let mut documents = Vec::new();
        let mut dropped = 0;
        for (index, document) in all.iter().enumerate() {
            if most.is_some_and(|most| stream.len() >= most) {
                break;
            }
            if !self.keeps(document) {
                dropped += 1;
                continue;
            }
            stream.extend(opening);
            let mut tokens = self.encode(index, document)?;
            let mut bytes = document.len();
            let room = most.map_or(usize::MAX, |most| most.saturating_sub(stream.len()));
            if tokens.len() > room {
                tokens.truncate(room);
                bytes = self.covered(document, &tokens);
            }
            stream.extend(tokens);
            documents.push(Document {
                index,
                bytes,
                windows: 0..0,
            });
        }
        let windows = documents::windows(&stream, self.length);
        let last = windows.last().map_or(0, |window| window.tokens.len());
        let cut = format!(
            "{} windows of {} tokens, packed without gaps{}{}",
            windows.len(),
            self.length,
            match opening {
                Some(_) => format!(", each document opened by {name}"),
                None => String::new(),
            },
            if last < self.length {
                format!("; the last one has {last}")
            } else {
                String::new()
            }
        );
        Ok(Input {
            bytes: Some(documents.iter().map(|document| document.bytes).sum()),
            windows,
            orders: None,
            documents,
            dropped,
            length: self.length,
            cut,
        })
    }

    /// Each document by itself.
    fn alone(&self, all: &[String]) -> Result<Input, Failure> {
        let (opening, name) = self.opening();
        let autoregressive = self.config.family == Family::Ar;
        // A model that prepends a token has its opening already.
        let opening = opening.filter(|_| self.config.prepend == Prepend::None);
        let overlap = autoregressive && self.config.prepend == Prepend::None;
        let mut windows = Vec::new();
        let mut documents = Vec::new();
        let mut dropped = 0;
        for (index, document) in all.iter().enumerate() {
            if !self.keeps(document) {
                dropped += 1;
                continue;
            }
            let tokens = self.encode(index, document)?;
            let first = windows.len();
            windows.extend(documents::alone(
                &tokens,
                opening,
                self.length,
                overlap,
                first as u32,
            ));
            documents.push(Document {
                index,
                bytes: document.len(),
                windows: first..windows.len(),
            });
        }
        let cut = format!(
            "each document by itself{}, in {} windows of at most {} tokens",
            match opening {
                Some(_) => format!(", given {name} before it"),
                None => String::new(),
            },
            windows.len(),
            self.length
        );
        Ok(Input {
            bytes: Some(documents.iter().map(|document| document.bytes).sum()),
            windows,
            orders: None,
            documents,
            dropped,
            length: self.length,
            cut,
        })
    }

    /// Bytes of a document that its first tokens cover, up to a character.
    fn covered(&self, document: &str, tokens: &[u32]) -> usize {
        let text = self.codec.decode(tokens);
        (document.chars().zip(text.chars()))
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum()
    }
}
