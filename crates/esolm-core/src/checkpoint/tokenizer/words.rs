//! Tokenizers that look up words: WordPiece, and single characters.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::TokenizerError;
use super::draft::{Added, Draft, vocabulary};

/// How BERT's tokenizer cleans and splits text before looking up words.
pub(super) struct Bert {
    /// Converts to lower case.
    pub lower_case: bool,
    /// Strips accents; if unset, only when converting to lower case.
    pub strip_accents: Option<bool>,
    /// Treats every Chinese character as a word.
    pub chinese_characters: bool,
    /// Splits at punctuation; if not, only at white space, without cleaning.
    pub basic: bool,
    /// The token of an unknown word.
    pub unknown: String,
    /// Maximum length of a word; longer words are unknown.
    pub longest_word: u32,
}

impl Default for Bert {
    fn default() -> Self {
        Self {
            lower_case: true,
            strip_accents: None,
            chinese_characters: true,
            basic: true,
            unknown: "[UNK]".into(),
            longest_word: 100,
        }
    }
}

/// BERT's tokenizer with its vocabulary.
pub(super) fn bert(
    tokens: Vec<(String, u32)>,
    options: &Bert,
    added: Vec<Added>,
) -> Result<Draft, TokenizerError> {
    needs(&tokens, &added, &options.unknown)?;
    // As in Python, which composes characters first.
    let normalizers = json!([
        {"type": "NFC"},
        {
            "type": "BertNormalizer", "clean_text": true, "lowercase": options.lower_case,
            "handle_chinese_chars": options.chinese_characters, "strip_accents": options.strip_accents,
        },
    ]);
    let (normalizer, splitter) = match options.basic {
        true => (
            json!({"type": "Sequence", "normalizers": normalizers}),
            "BertPreTokenizer",
        ),
        false => (Value::Null, "WhitespaceSplit"),
    };
    Ok(Draft {
        normalizer,
        pre_tokenizer: json!({"type": splitter}),
        model: json!({
            "type": "WordPiece", "unk_token": options.unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": options.longest_word, "vocab": vocabulary(tokens, &added)?,
        }),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        added,
    })
}

/// One token per character, and `unknown` for all other characters.
pub(super) fn characters(
    tokens: Vec<(String, u32)>,
    unknown: &str,
    added: Vec<Added>,
) -> Result<Draft, TokenizerError> {
    needs(&tokens, &added, unknown)?;
    let single = |name: &str| name.chars().nth(1).is_none();
    let added_names: HashSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
    let is_added = |name: &str| added_names.contains(name);
    // Names in brackets are not expected to occur in a text.
    let bracketed = |name: &str| name.starts_with(['[', '<']) && name.ends_with([']', '>']);
    let ordinary = |name: &str| !is_added(name) && !bracketed(name);
    if let Some((name, _)) = tokens
        .iter()
        .find(|(name, _)| ordinary(name) && !single(name))
    {
        let name = crate::message::shorten(name);
        let text = format!("of words such as \"{name}\", but not how text is split into them");
        return Err(TokenizerError::Vocabulary(text));
    }
    // The published tokenizer of text8 is lower-case only, and converts other text.
    let capital = |(name, _): &(String, u32)| single(name) && name.chars().any(char::is_uppercase);
    let normalizer = match tokens.iter().any(capital) {
        true => Value::Null,
        false => json!({"type": "Lowercase"}),
    };
    Ok(Draft {
        normalizer,
        pre_tokenizer: json!({"type": "Split", "pattern": {"Regex": "(?s)."}, "behavior": "Isolated", "invert": false}),
        model: json!({"type": "WordLevel", "unk_token": unknown, "vocab": vocabulary(tokens, &added)?}),
        decoder: json!({"type": "Fuse"}),
        added,
    })
}

/// The unknown token must exist; otherwise an unknown word would be an error.
fn needs(tokens: &[(String, u32)], added: &[Added], unknown: &str) -> Result<(), TokenizerError> {
    let known = tokens.iter().map(|(name, _)| name.as_str());
    let mut known = known.chain(added.iter().map(|token| token.content.as_str()));
    match known.any(|name| name == unknown) {
        true => Ok(()),
        false => {
            let unknown = crate::message::shorten(unknown);
            let text = format!("without its token \"{unknown}\" for what it does not know");
            Err(TokenizerError::Vocabulary(text))
        }
    }
}
