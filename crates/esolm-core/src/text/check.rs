//! Checks a `tokenizer.json` before the library reads it. The library trusts these files: some make it panic, overflow
//! the stack or read out of bounds, and others turn a short text into one that fills the memory.

mod tree;

use std::collections::{HashMap, HashSet};
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use self::tree::Tree;
use super::one_line;
use crate::checkpoint::{MAX_PIECE_BYTES, check_charsmap};
use crate::message::shorten;

/// Maximum factor by which the steps before or after the model may lengthen a text, in bytes. That of published
/// tokenizers, reckoned as below, is up to 1500.
const MAX_GROWTH: usize = 4096;
/// Maximum number of these steps. Published tokenizers have up to ten, but more if they were saved several times, since
/// the programs that save them may add the same steps each time.
const MAX_STEPS: usize = 256;

/// Steps that replace characters by similar ones, and the factor by which they lengthen one at most: U+FDFA, of 3 bytes,
/// is decomposed into 33. Repeating them does not lengthen the text again.
const SIMILAR: [(&str, usize); 5] = [
    ("Lowercase", 2),
    ("NFC", 3),
    ("NFD", 3),
    ("NFKC", 11),
    ("NFKD", 11),
];

/// Steps that add characters only as their fields say, if at all, or spaces.
const KNOWN: [&str; 26] = [
    "BPEDecoder",
    "BertNormalizer",
    "BertPreTokenizer",
    "BertProcessing",
    "ByteFallback",
    "CTC",
    "CharDelimiterSplit",
    "Digits",
    "FixedLength",
    "Fuse",
    "Metaspace",
    "Nmt",
    "Precompiled",
    "Prepend",
    "Punctuation",
    "Replace",
    "RobertaProcessing",
    "Sequence",
    "Split",
    "Strip",
    "StripAccents",
    "TemplateProcessing",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
    "WordPiece",
];

/// Fields with texts that a step adds.
const ADDING: [&str; 6] = [
    "content",
    "precompiled_charsmap",
    "prepend",
    "replacement",
    "suffix",
    "word_delimiter_token",
];

/// Why a `tokenizer.json` is not given to the library.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not JSON, or not that of a tokenizer.
    #[error("{0}")]
    Json(String),
    /// A token of a unigram model would overflow the stack.
    #[error("it has a token of {0} bytes, and the longest that is read has {MAX_PIECE_BYTES}")]
    LongToken(usize),
    /// A merge does not result in a token.
    #[error("it merges \"{0}\" and \"{1}\", which do not make a token")]
    Merge(String, String),
    /// A table of characters could be left.
    #[error("its table of characters is damaged")]
    Characters,
    /// A step has values with which the library fails.
    #[error("its step \"{step}\" has a \"{field}\" with which it cannot be run")]
    Step {
        /// Its type.
        step: String,
        /// The name of the value.
        field: &'static str,
    },
    /// A step is neither an object nor a name.
    #[error("one of its steps is a list")]
    List,
    /// More than [`MAX_STEPS`].
    #[error("it takes more than {MAX_STEPS} steps")]
    Steps,
    /// More than [`MAX_GROWTH`].
    #[error("it can make a text more than {MAX_GROWTH} times as long")]
    Growth,
}

/// Rejects a file with which the library would fail otherwise than by an error.
pub(super) fn check(json: &[u8]) -> Result<(), Fault> {
    let file: File =
        serde_json::from_slice(json).map_err(|error| Fault::Json(one_line(&error.to_string())))?;
    file.model.check()?;
    for places in [
        &[file.normalizer, file.pre_tokenizer][..],
        &[file.post_processor],
        &[file.decoder],
    ] {
        let mut chain = Chain::new();
        let mut steps = places.iter().flatten();
        steps.try_for_each(|steps| chain.add(steps))?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct File {
    normalizer: Option<Tree>,
    pre_tokenizer: Option<Tree>,
    post_processor: Option<Tree>,
    decoder: Option<Tree>,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default)]
    vocab: Vocabulary,
    #[serde(default)]
    merges: Merges,
    continuing_subword_prefix: Option<String>,
}

impl Model {
    fn check(&self) -> Result<(), Fault> {
        let names = match &self.vocab {
            Vocabulary::Scores { longest } if *longest > MAX_PIECE_BYTES => {
                return Err(Fault::LongToken(*longest));
            }
            Vocabulary::Scores { .. } => return Ok(()),
            Vocabulary::Names(names) => names,
        };
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or("");
        let mut result = String::new();
        for (left, right) in &self.merges.0 {
            // The library cuts off as many bytes as the prefix has, whatever they are.
            let is_token = right.get(prefix.len()..).is_some_and(|rest| {
                result.clear();
                result.push_str(left);
                result.push_str(rest);
                [left, right, &result]
                    .iter()
                    .all(|name| names.contains(*name))
            });
            if !is_token {
                return Err(Fault::Merge(shorten(left), shorten(right)));
            }
        }
        Ok(())
    }
}

/// The tokens of a model.
enum Vocabulary {
    /// Those of BPE and of words.
    Names(HashSet<String>),
    /// Those of a unigram model, pairs of a token and a score: the bytes of the longest token.
    Scores { longest: usize },
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self::Names(HashSet::new())
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut names = HashSet::new();
                while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                    names.insert(name);
                }
                Ok(Vocabulary::Names(names))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut longest = 0;
                while let Some((token, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    longest = longest.max(token.len());
                }
                Ok(Vocabulary::Scores { longest })
            }
        }
        from.deserialize_any(Either)
    }
}

/// The merges of BPE: pairs, or, in older files, lines.
#[derive(Default)]
struct Merges(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge {
            Pair(String, String),
            Line(String),
        }
        let merges: Vec<Merge> = Vec::deserialize(from)?;
        let pair = |merge| match merge {
            Merge::Pair(left, right) => Some((left, right)),
            Merge::Line(line) => {
                // A line that is not a pair is an error of the library's.
                let (left, right) = line.split_once(' ')?;
                let is_pair = !line.starts_with("#version") && !right.contains(' ');
                is_pair.then(|| (left.into(), right.into()))
            }
        };
        Ok(Self(merges.into_iter().filter_map(pair).collect()))
    }
}

/// The steps that a text goes through, one after the other.
struct Chain {
    steps: usize,
    /// The factor by which they can lengthen it.
    growth: usize,
    /// The factor of those of [`SIMILAR`] that follow the last step which adds other characters.
    similar: usize,
}

impl Chain {
    fn new() -> Self {
        Self {
            steps: 0,
            growth: 1,
            similar: 1,
        }
    }

    /// Adds a step, and those that it consists of.
    fn add(&mut self, step: &Tree) -> Result<(), Fault> {
        let fields = match step {
            Tree::Map(fields) => fields,
            Tree::List(_) => return Err(Fault::List),
            Tree::Text(_) | Tree::Number(_) | Tree::Other => return Ok(()),
        };
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Fault::Steps);
        }
        check_step(fields)?;
        let by_type = match similar_growth(fields) {
            Some(most) => {
                let more = most.div_ceil(self.similar);
                self.similar = self.similar.saturating_mul(more);
                more
            }
            None => {
                if adds_characters(fields) {
                    self.similar = 1;
                }
                growth_by_type(fields)
            }
        };
        let growth = growth_by_fields(fields)?.saturating_mul(by_type);
        self.growth = self.growth.saturating_mul(growth);
        if self.growth > MAX_GROWTH {
            return Err(Fault::Growth);
        }
        for name in ["normalizers", "pretokenizers", "processors", "decoders"] {
            if let Some(Tree::List(steps)) = fields.get(name) {
                steps.iter().try_for_each(|step| self.add(step))?;
            }
        }
        Ok(())
    }
}

fn text<'t>(fields: &'t HashMap<String, Tree>, name: &str) -> Option<&'t str> {
    fields.get(name).and_then(Tree::text)
}

/// The factor by which a step can lengthen a text according to its fields. These alone may tell what a step is: the
/// library also reads steps without a type.
fn growth_by_fields(fields: &HashMap<String, Tree>) -> Result<usize, Fault> {
    let text = |name: &str| text(fields, name);
    let mut growth = 1usize;
    if text("type") == Some("Precompiled") || fields.contains_key("precompiled_charsmap") {
        let table = text("precompiled_charsmap").and_then(|table| STANDARD.decode(table).ok());
        let longest = table.and_then(|table| check_charsmap(&table));
        growth = longest.ok_or(Fault::Characters)?.max(1);
    }
    if let (Some(pattern), Some(content)) = (fields.get("pattern"), text("content")) {
        let pattern = |kind: &str| pattern.get(kind).and_then(Tree::text);
        let replaced = match (pattern("String"), pattern("Regex")) {
            (Some(replaced), None) => replaced.len(),
            (None, Some(regex)) => usize::from(consumes(regex)),
            _ => 0,
        };
        growth = growth.saturating_mul(match replaced {
            // It can be inserted before every character.
            0 => 1 + content.len(),
            _ => content.len().div_ceil(replaced).max(1),
        });
    }
    if let Some(prepended) = text("prepend") {
        // Once for a text, but a chain of them must not become long.
        growth = growth.saturating_mul(1 + prepended.len().div_ceil(64));
    }
    // Before every piece, of which each may be one character.
    let replacement = text("replacement").map_or(0, str::len);
    growth = growth.saturating_mul(1 + replacement);
    for name in ["suffix", "word_delimiter_token"] {
        // For a character, or, if empty, between any two.
        growth = growth.saturating_mul(1 + usize::from(fields.contains_key(name)));
    }
    Ok(growth)
}

/// The factor by which a step can lengthen a text according to its type.
fn growth_by_type(fields: &HashMap<String, Tree>) -> usize {
    match text(fields, "type") {
        // Decomposes characters, and puts spaces around Chinese ones each time.
        Some("BertNormalizer") => 3,
        Some(kind) if KNOWN.contains(&kind) => 1,
        // "ByteLevel", which writes a byte as a character of two, and a space before every piece; or unknown.
        _ => 4,
    }
}

/// The factor of one of [`SIMILAR`] that does nothing else.
fn similar_growth(fields: &HashMap<String, Tree>) -> Option<usize> {
    if ADDING.iter().any(|&name| fields.contains_key(name)) {
        return None;
    }
    let kind = text(fields, "type")?;
    let (_, growth) = SIMILAR.iter().find(|(similar, _)| *similar == kind)?;
    Some(*growth)
}

/// Whether a step adds characters that [`SIMILAR`] may lengthen.
fn adds_characters(fields: &HashMap<String, Tree>) -> bool {
    let is_kept = |character: char| character.is_ascii() || character == '▁';
    match text(fields, "type") {
        Some("Replace") => {
            !text(fields, "content").is_some_and(|content| content.chars().all(is_kept))
        }
        Some(kind) if KNOWN.contains(&kind) => ADDING.iter().any(|&name| fields.contains_key(name)),
        _ => true,
    }
}

/// Whether what a regular expression finds is never empty: it is a row of characters and classes, each once or more.
fn consumes(regex: &str) -> bool {
    let plain = regex.replace("\\s", " ");
    !plain.is_empty()
        && !plain.contains(['|', '(', '?', '*', '^', '$', '\\'])
        && !plain.contains("{0")
        && !plain.contains("{,")
}

/// Checks values with which the library would go beyond a text, or never ends.
fn check_step(fields: &HashMap<String, Tree>) -> Result<(), Fault> {
    let kind = text(fields, "type").unwrap_or("?");
    let unusable = |field| {
        let step = shorten(kind);
        Err(Fault::Step { step, field })
    };
    let number = |name: &str| fields.get(name).and_then(Tree::number);
    // Characters to remove at the end of a token, even if it has fewer.
    if number("stop").is_some_and(|stop| stop != 0.0) {
        return unusable("stop");
    }
    if number("length") == Some(0.0) {
        return unusable("length");
    }
    if fields.contains_key("single") && !is_template(fields) {
        return unusable("single");
    }
    Ok(())
}

/// Whether the template for a single text has this text at most once, and otherwise tokens that are defined.
fn is_template(fields: &HashMap<String, Tree>) -> bool {
    let Some(Tree::List(parts)) = fields.get("single") else {
        return false;
    };
    let tokens = fields.get("special_tokens");
    let mut texts = 0;
    let is_part = |part: &Tree| {
        let named = |kind: &str| part.get(kind)?.get("id")?.text();
        match (named("Sequence"), named("SpecialToken")) {
            (Some(text), None) => {
                texts += 1;
                text == "A" && texts == 1
            }
            (None, Some(name)) => tokens.is_some_and(|tokens| tokens.get(name).is_some()),
            _ => false,
        }
    };
    parts.iter().all(is_part)
}

#[cfg(test)]
mod tests;
