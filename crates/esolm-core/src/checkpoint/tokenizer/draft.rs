//! The parts of a `tokenizer.json` being written.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::TokenizerError;

/// The parts of a `tokenizer.json`, each as the tokenizers library serializes it.
pub(super) struct Draft {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub model: Value,
    pub decoder: Value,
    /// Tokens that are matched by name before anything else.
    pub added: Vec<Added>,
}

/// An added token.
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    /// Omitted from plain text.
    pub special: bool,
}

impl Draft {
    /// The text of the `tokenizer.json`.
    pub fn text(mut self) -> String {
        self.added.sort_by_key(|token| token.id);
        self.added.dedup_by_key(|token| token.id);
        let added: Vec<Value> = self
            .added
            .iter()
            .map(|token| {
                json!({
                    "id": token.id, "content": token.content, "special": token.special,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
            .collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": null,
            "decoder": self.decoder,
            "model": self.model,
        })
        .to_string()
    }
}

/// A table from names to indices that includes the added tokens, so that these keep the indices given for them.
pub(super) fn vocabulary(
    tokens: impl IntoIterator<Item = (String, u32)>,
    added: &[Added],
) -> Result<Value, TokenizerError> {
    let named = added.iter().map(|token| (token.content.clone(), token.id));
    let mut by_id = HashMap::new();
    let mut table = Map::new();
    for (name, id) in tokens.into_iter().chain(named) {
        if let Some(other) = by_id.insert(id, name.clone())
            && other != name
        {
            let text = format!("in which two tokens have the index {id}");
            return Err(TokenizerError::Vocabulary(text));
        }
        if let Some(other) = table.insert(name, id.into())
            && other != id
        {
            let text = format!("in which one token has the indices {other} and {id}");
            return Err(TokenizerError::Vocabulary(text));
        }
    }
    Ok(Value::Object(table))
}
