//! Tokenizer files, next to weights or named by the user.

use std::path::Path;

use serde_json::Value;

use super::draft::{Added, Draft};
use super::words::Bert;
use super::{TokenizerError, TokenizerForm, byte_level, sentencepiece, words};
use crate::checkpoint::open::read_text;
use crate::documents::normalize;

/// Names of tokenizer files other than `tokenizer.json`, the preferred one first.
pub(in super::super) const OTHER_FORMS: [&str; 4] =
    ["tokenizer.model", "spiece.model", "vocab.txt", "vocab.json"];
const MERGES: &str = "merges.txt";
/// Special tokens of the published vocabularies, which do not mark them.
const SPECIAL: [&str; 12] = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[BOS]",
    "[EOS]",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<pad>",
    "<mask>",
];
const CONFIG: &str = "tokenizer_config.json";

/// The `tokenizer.json` that the file `path` contains or can be converted to, and its form. Related files next to it
/// are read as well.
///
/// # Errors
/// [`TokenizerError`] if the file is damaged or in no known form.
pub fn read_tokenizer(
    path: &Path,
    bytes: Vec<u8>,
) -> Result<(Vec<u8>, TokenizerForm), TokenizerError> {
    let is = |kind: &str| path.extension().is_some_and(|extension| extension == kind);
    let text = std::str::from_utf8(&bytes).ok().map(normalize);
    match &text {
        Some(text) if text.trim_start().starts_with('{') => return json(path, text, &bytes),
        Some(text) if is_ranks(text) => return Err(TokenizerError::NoPattern),
        _ => {}
    }
    match sentencepiece::read(&bytes, Vec::new()) {
        Ok(draft) => return Ok((draft.text().into(), TokenizerForm::SentencePiece)),
        // It is something else, unless its name says otherwise.
        Err(TokenizerError::SentencePiece(_)) if !is("model") => {}
        Err(error) => return Err(error),
    }
    let text = text.filter(|_| is("txt")).ok_or(TokenizerError::File)?;
    let tokens = (0u32..).zip(text.lines());
    let tokens = tokens
        .map(|(index, line)| (line.to_string(), index))
        .collect();
    let draft = words::bert(tokens, &bert(path), Vec::new())?;
    Ok((with_special(draft).text().into(), TokenizerForm::Bert))
}

/// A `tokenizer.json`, or GPT-2's `vocab.json`.
fn json(path: &Path, text: &str, bytes: &[u8]) -> Result<(Vec<u8>, TokenizerForm), TokenizerError> {
    let table: Option<Vec<(String, u32)>> = match serde_json::from_str(text) {
        // "model" may be a token, which it is in that of GPT-2.
        Ok(Value::Object(map)) if !map.get("model").is_some_and(Value::is_object) => map
            .into_iter()
            .map(|(name, id)| Some((name, u32::try_from(id.as_u64()?).ok()?)))
            .collect(),
        _ => None,
    };
    let Some(table) = table.filter(|table| !table.is_empty()) else {
        // Whatever it is, the tokenizers library will report what is wrong with it.
        return Ok((bytes.to_vec(), TokenizerForm::Fast));
    };
    let merges = beside(path, MERGES).ok_or(TokenizerError::Part(MERGES))?;
    let lines = merges.lines().filter(|line| !line.is_empty());
    let pairs: Option<Vec<[String; 2]>> = lines
        .enumerate()
        .filter(|(number, line)| *number > 0 || !line.starts_with("#version"))
        .map(|(_, line)| {
            let (left, right) = line.split_once(' ')?;
            Some([left.to_string(), right.to_string()])
        })
        .collect();
    let pairs = pairs.ok_or_else(|| {
        TokenizerError::Vocabulary(format!("whose {MERGES} has a line that is not a pair"))
    })?;
    let space = option(path, "add_prefix_space").unwrap_or(false);
    let draft = byte_level::gpt2(table, pairs, space, Vec::new())?;
    Ok((with_special(draft).text().into(), TokenizerForm::Gpt2))
}

/// Marks tokens with the names of special tokens as special.
fn with_special(mut draft: Draft) -> Draft {
    let vocabulary = draft.model["vocab"].as_object();
    let tokens = vocabulary.into_iter().flatten();
    for (name, id) in tokens {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        if let (true, Some(id)) = (SPECIAL.contains(&name.as_str()), id) {
            draft.added.push(Added {
                id,
                content: name.clone(),
                special: true,
            });
        }
    }
    draft
}

/// Whether this is tiktoken's format: lines of a base64 token and its rank.
fn is_ranks(text: &str) -> bool {
    let mut lines = text
        .lines()
        .filter(|line| !line.is_empty())
        .take(100)
        .peekable();
    let base64 = |token: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        token.len().is_multiple_of(4) && token.bytes().all(plain)
    };
    let is_rank = |line: &str| {
        let pair = line.split_once(' ');
        pair.is_some_and(|(token, rank)| base64(token) && rank.parse::<u32>().is_ok())
    };
    lines.peek().is_some() && lines.all(is_rank)
}

/// Options from the configuration next to a `vocab.txt`.
fn bert(path: &Path) -> Bert {
    let own = Bert::default();
    Bert {
        lower_case: option(path, "do_lower_case").unwrap_or(own.lower_case),
        strip_accents: option(path, "strip_accents"),
        chinese_characters: option(path, "tokenize_chinese_chars")
            .unwrap_or(own.chinese_characters),
        ..own
    }
}

fn option(path: &Path, name: &str) -> Option<bool> {
    let text = beside(path, CONFIG)?;
    let config: Value = serde_json::from_str(&normalize(&text)).ok()?;
    config.get(name)?.as_bool()
}

/// The text of a related file, if there is one that can be read.
fn beside(path: &Path, name: &str) -> Option<String> {
    let path = path.with_file_name(name);
    path.is_file().then(|| read_text(&path).ok())?
}
