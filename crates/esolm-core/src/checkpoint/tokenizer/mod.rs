//! Tokenizers in the forms in which they come with checkpoints: what they say of special tokens, and the `tokenizer.json` that stands for
//! each, which is the one form that text is encoded with.
//!
//! | form | where it is found | becomes |
//! |---|---|---|
//! | fast tokenizer | pickled: the bytes of its `tokenizer.json` | itself |
//! | SentencePiece | pickled, or `tokenizer.model`, `spiece.model` | unigram, or BPE over characters |
//! | tiktoken | pickled: ranks, pattern, special tokens | BPE over bytes |
//! | GPT-2, slow | pickled, or `vocab.json` with `merges.txt` | BPE over bytes |
//! | BERT, slow | pickled, or `vocab.txt` | WordPiece |
//! | single characters | pickled, as the published tokenizer of text8 | one word a character |
//!
//! Nothing of a pickle is executed: its classes are names, and what counts are the fields.

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
pub(crate) use sentencepiece::MAX_PIECE_BYTES;

/// The form in which a tokenizer came that was no `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerForm {
    /// The library's own, pickled.
    Fast,
    /// A SentencePiece model.
    SentencePiece,
    /// Ranks of tiktoken.
    Tiktoken,
    /// Vocabulary and merges of GPT-2.
    Gpt2,
    /// A vocabulary of BERT.
    Bert,
    /// A token for each character.
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

/// Why no text can be encoded with a tokenizer. Each message goes on after the tokenizer's name, as "the tokenizer in the checkpoint".
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TokenizerError {
    /// An object of a class whose fields are none of a known form.
    #[error("is {0}, whose text cannot be read from its fields")]
    Unknown(String),
    /// The text of a `tokenizer.json` that is none.
    #[error("holds a tokenizer.json that is not one of the tokenizers library")]
    Json,
    /// The object refers to a SentencePiece model that it does not hold.
    #[error("refers to a SentencePiece model that is not in it")]
    ModelElsewhere,
    /// The bytes of a SentencePiece model are not one.
    #[error("has a SentencePiece model that cannot be read ({0})")]
    SentencePiece(String),
    /// A sound SentencePiece model of a kind that is not run.
    #[error("has a SentencePiece model {0}, which cannot be run")]
    SentencePieceKind(&'static str),
    /// A tiktoken encoding of which only the name is there.
    #[error("is tiktoken's \"{0}\", of which the name alone is there")]
    NamedEncoding(String),
    /// A vocabulary of tokens, with what keeps it from being one.
    #[error("has a vocabulary {0}")]
    Vocabulary(String),
    /// A file without another one that belongs to it.
    #[error("comes without its {0}")]
    Part(&'static str),
    /// A file of no known form.
    #[error(
        "is neither a tokenizer.json, a SentencePiece model, a vocab.txt nor a vocab.json with merges.txt"
    )]
    File,
    /// A file of tiktoken ranks, which leaves open how text is split.
    #[error("holds ranks of tokens, but not the pattern by which text is split before")]
    NoPattern,
}
