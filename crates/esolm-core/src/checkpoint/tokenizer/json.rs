//! The tokens in a `tokenizer.json`.

use serde::Deserialize;

use crate::config::{Claims, mask_tokens, unused_tokens};
use crate::documents::normalize;
use crate::message::shorten;

/// The parts of a `tokenizer.json` that determine its tokens.
#[derive(Deserialize, Default)]
pub(in super::super) struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize, Default)]
struct Model {
    /// A map from names to indices or, for a Unigram model, pairs of name and score in the order of their indices.
    #[serde(default)]
    vocab: serde_json::Value,
}

impl TokenizerJson {
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(&normalize(text)).ok()
    }

    /// The indices of a vocabulary of `vocab_size` that have no token.
    pub fn unused(&self, vocab_size: usize, mask: u32) -> Vec<u32> {
        unused_tokens(self.tokens().map(|(_, index)| index), vocab_size, mask)
    }

    /// The largest index plus one; 0 if there are no tokens.
    pub fn count(&self) -> usize {
        self.tokens()
            .map(|(_, index)| index as usize + 1)
            .max()
            .unwrap_or(0)
    }

    pub fn index(&self, name: &str) -> Option<u32> {
        self.tokens()
            .find_map(|(token, index)| (token == name).then_some(index))
    }

    pub fn add(&mut self, content: &str, id: u32, special: bool) {
        self.added_tokens.push(AddedToken {
            id,
            content: content.into(),
            special,
        });
    }

    #[cfg(not(target_family = "wasm"))]
    pub fn extend(&mut self, other: Self) {
        self.added_tokens.extend(other.added_tokens);
    }

    /// Adds claims about tokens that are masks according to their names. If the names are ambiguous, returns the
    /// reason, which begins with `file`, the name of the file.
    pub fn tell_masks(&self, file: &str, claims: &mut Claims) -> Option<String> {
        let added = self.added_tokens.iter();
        let special = added.map(|token| (token.content.as_str(), token.id, token.special));
        let tokens = self.tokens().map(|(name, index)| (name, index, false));
        match mask_tokens(special.chain(tokens)) {
            Ok(masks) => {
                for (name, index) in masks {
                    let said = format!("\"{}\" of {file} is {index}", shorten(name));
                    claims.mask_is(said, index);
                }
                None
            }
            Err([first, second]) => Some(format!(
                "{file}, whose special tokens \"{}\" and \"{}\" are both named like one",
                shorten(first),
                shorten(second)
            )),
        }
    }

    fn tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        let added = self
            .added_tokens
            .iter()
            .map(|token| (token.content.as_str(), token.id));
        let named = self.model.vocab.as_object().into_iter().flatten();
        let named =
            named.filter_map(|(name, id)| Some((name.as_str(), u32::try_from(id.as_u64()?).ok()?)));
        let listed = self.model.vocab.as_array().into_iter().flatten();
        let listed = (0u32..)
            .zip(listed)
            .filter_map(|(id, pair)| Some((pair.get(0)?.as_str()?, id)));
        added.chain(named).chain(listed)
    }
}
