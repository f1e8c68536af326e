//! Tokenizers in the forms in which they come with checkpoints: their special tokens, and their conversion to
//! `tokenizer.json`, the only form used to encode text.
//!
//! | form | where it is found | becomes |
//! |---|---|---|
//! | fast tokenizer | pickled: the bytes of its `tokenizer.json` | itself |
//! | SentencePiece | pickled, or `tokenizer.model`, `spiece.model` | unigram, or BPE over characters |
//! | tiktoken | pickled: ranks, pattern, special tokens | BPE over bytes |
//! | GPT-2, slow | pickled, or `vocab.json` with `merges.txt` | BPE over bytes |
//! | BERT, slow | pickled, or `vocab.txt` | WordPiece |
//! | single characters | pickled, as the published tokenizer of text8 | one word per character |
//!
//! No pickle is ever executed: its classes are only names, and only the fields matter.

mod byte_level;
mod draft;
#[cfg(not(target_family = "wasm"))]
mod file;
mod json;
mod pickled;
mod sentencepiece;
mod words;

use std::fmt;

use thiserror::Error;

#[cfg(not(target_family = "wasm"))]
pub(super) use file::OTHER_FORMS;
#[cfg(not(target_family = "wasm"))]
pub use file::read_tokenizer;
pub(super) use json::TokenizerJson;
pub(super) use pickled::Tokenizer;
#[cfg(feature = "text")]
pub(crate) use sentencepiece::{MAX_PIECE_BYTES, check_charsmap};

/// The original form of a tokenizer that was not a `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerForm {
    /// A fast tokenizer, pickled.
    Fast,
    /// A SentencePiece model.
    SentencePiece,
    /// tiktoken's ranks.
    Tiktoken,
    /// GPT-2's vocabulary and merges.
    Gpt2,
    /// BERT's vocabulary.
    Bert,
    /// One token per character.
    Characters,
}

impl fmt::Display for TokenizerForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fast => "tokenizer.json",
            Self::SentencePiece => "SentencePiece model",
            Self::Tiktoken => "tiktoken ranks",
            Self::Gpt2 => "vocabulary and merges",
            Self::Bert => "BERT vocabulary",
            Self::Characters => "single characters",
        })
    }
}

/// Why a tokenizer cannot encode text. Each message continues a sentence that starts with the tokenizer's name, such as
/// "the tokenizer in the checkpoint".
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TokenizerError {
    /// An object whose fields match no known form.
    #[error("is {0}, whose text cannot be read from its fields")]
    Unknown(String),
    /// The text of a `tokenizer.json` is invalid.
    #[error("holds a tokenizer.json that is not one of the tokenizers library")]
    Json,
    /// The object refers to a SentencePiece model that is not included.
    #[error("refers to a SentencePiece model that is not in it")]
    ModelElsewhere,
    /// The bytes of a SentencePiece model are invalid.
    #[error("has a SentencePiece model that cannot be read ({0})")]
    SentencePiece(String),
    /// A valid SentencePiece model of an unsupported kind.
    #[error("has a SentencePiece model {0}, which cannot be run")]
    SentencePieceKind(&'static str),
    /// A tiktoken encoding that is given only by name.
    #[error("is tiktoken's \"{0}\", of which the name alone is there")]
    NamedEncoding(String),
    /// The vocabulary is invalid, and why.
    #[error("has a vocabulary {0}")]
    Vocabulary(String),
    /// Its tables have more text than any real tokenizer's.
    #[error("has tables of more than {0} bytes, since they say the same text many times")]
    TooLarge(usize),
    /// A file that belongs to it is missing.
    #[error("comes without its {0}")]
    Part(&'static str),
    /// The file is in no known form.
    #[error(
        "is neither a tokenizer.json, a SentencePiece model, a vocab.txt nor a vocab.json with merges.txt"
    )]
    File,
    /// The file contains only tiktoken ranks, not how text is split.
    #[error("holds ranks of tokens, but not the pattern by which text is split before")]
    NoPattern,
}
