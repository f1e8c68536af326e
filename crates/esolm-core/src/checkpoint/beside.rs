//! What a tokenizer's smaller files say about the mask token: files that `save_pretrained` writes alongside
//! `tokenizer.json`, and files of tokenizers that have no `tokenizer.json`.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use super::open::read_text;
use super::tokenizer::TokenizerJson;
use crate::config::{Claims, lookup, scalar};
use crate::documents::normalize;
use crate::message::shorten;

/// Files that may name the mask token or its index.
pub(super) const NAMING: [&str; 3] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
];
/// Tables from names to indices.
pub(super) const TABLES: [&str; 3] = ["vocab.txt", "vocab.json", "added_tokens.json"];
/// Those that contain the whole vocabulary.
const VOCABULARIES: [&str; 2] = ["vocab.txt", "vocab.json"];

/// Whether a file is one of the tables, which are always read here.
pub(super) fn is_table(path: &Path) -> bool {
    TABLES.iter().any(|name| path.ends_with(name))
}

/// Contents of the smaller files.
#[derive(Default)]
pub(super) struct Beside {
    /// Claims about the mask.
    pub claims: Claims,
    /// A file that names a mask token whose index is unknown.
    pub unread: Option<String>,
    /// All tokens, if one of the files is a table of the whole vocabulary.
    pub table: TokenizerJson,
}

/// Reads the files in the folder of `weights`. `tokenizer` is their `tokenizer.json`, if there is one.
pub(super) fn read(
    weights: &Path,
    tokenizer: Option<TokenizerJson>,
) -> Result<Beside, CheckpointError> {
    let (mut claims, mut unread) = (Claims::default(), None);
    let text = |name: &str| {
        let path = weights.with_file_name(name);
        path.is_file().then(|| read_text(&path)).transpose()
    };
    let mut table = tokenizer.unwrap_or_default();
    let mut is_whole = false;
    for name in TABLES {
        let Some(text) = text(name)? else { continue };
        let text = normalize(&text);
        let mut own = TokenizerJson::default();
        if name.ends_with(".txt") {
            (0u32..)
                .zip(text.lines())
                .for_each(|(index, line)| own.add(line, index, false));
        } else if let Ok(Value::Object(map)) = serde_json::from_str(&text) {
            let index = |value: &Value| u32::try_from(value.as_u64()?).ok();
            let entries = map
                .iter()
                .filter_map(|(token, value)| Some((token, index(value)?)));
            let special = !VOCABULARIES.contains(&name);
            entries.for_each(|(token, index)| own.add(token, index, special));
        }
        unread = own.tell_masks(name, &mut claims).or(unread);
        is_whole |= VOCABULARIES.contains(&name) && own.count() > 0;
        table.extend(own);
    }
    let mut named = Vec::new();
    for name in NAMING {
        let Some(text) = text(name)? else { continue };
        let Ok(Value::Object(map)) = serde_json::from_str(&normalize(&text)) else {
            unread = Some(name.into());
            continue;
        };
        let content =
            |token: &Value| Some(token.as_str().or(token["content"].as_str())?.to_string());
        let told = Claims::read_mask(name, |path| lookup(&map, path).map(scalar));
        claims.extend(told.map_err(|error| CheckpointError::config(name, error))?);
        let mut own = TokenizerJson::default();
        let decoder = map.get("added_tokens_decoder").and_then(Value::as_object);
        for (index, token) in decoder.into_iter().flatten() {
            if let (Ok(index), Some(name)) = (index.parse(), content(token)) {
                own.add(&name, index, token["special"] == true);
            }
        }
        unread = own.tell_masks(name, &mut claims).or(unread);
        table.extend(own);
        if let Some(token) = map.get("mask_token").filter(|token| !token.is_null()) {
            named.push((name, content(token)));
        }
    }
    for (file, token) in named {
        match token
            .as_deref()
            .and_then(|token| Some((token, table.index(token)?)))
        {
            Some((token, index)) => {
                claims.mask_is(
                    format!("\"{}\" of {file} is {index}", shorten(token)),
                    index,
                );
            }
            None => unread = Some(file.into()),
        }
    }
    Ok(Beside {
        claims,
        unread,
        table: if is_whole {
            table
        } else {
            TokenizerJson::default()
        },
    })
}
