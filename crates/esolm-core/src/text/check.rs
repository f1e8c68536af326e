//! Checks a `tokenizer.json` before the library reads it, which could otherwise overflow the stack.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::checkpoint::MAX_PIECE_BYTES;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default)]
    vocab: Longest,
}

/// Bytes of the longest token in a unigram vocabulary, a list of token-score pairs; 0 for a vocabulary in any other
/// form.
#[derive(Default)]
struct Longest(usize);

impl<'de> Deserialize<'de> for Longest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Vocabulary;
        impl<'de> Visitor<'de> for Vocabulary {
            type Value = Longest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Longest, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Longest(0))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Longest, A::Error> {
                let mut longest = 0;
                while let Some((token, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    longest = longest.max(token.len());
                }
                Ok(Longest(longest))
            }
        }
        from.deserialize_any(Vocabulary)
    }
}

/// Rejects a unigram model whose longest token would overflow the stack. Other errors are left to the library.
pub(super) fn check(json: &[u8]) -> Result<(), String> {
    match serde_json::from_slice::<File>(json) {
        Ok(file) if file.model.vocab.0 > MAX_PIECE_BYTES => Err(format!(
            "it has a token of {} bytes, and the longest that is read has {MAX_PIECE_BYTES}",
            file.model.vocab.0
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_tokens_of_unigram_models_are_refused() {
        let unigram = |length: usize| {
            let token = "a".repeat(length);
            format!(
                r#"{{"version": "1.0", "model": {{"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["{token}", -1.0]]}}}}"#
            )
        };
        assert!(check(unigram(MAX_PIECE_BYTES).as_bytes()).is_ok());
        let error = check(unigram(200_000).as_bytes()).unwrap_err();
        assert!(error.contains("200000 bytes"), "{error}");
        let other = format!(r#"{{"model": {{"vocab": {{"{}": 1}}}}}}"#, "a".repeat(9000));
        assert!(check(other.as_bytes()).is_ok());
        assert!(check(b"not JSON").is_ok());
    }
}
