//! Errors of requests.

use thiserror::Error;

use super::MAX_BATCH;
use crate::plan::PlanError;
use crate::sampler::SamplerError;
use crate::text::TextError;

/// Why a request cannot be fulfilled. Options are named after [`Request`](super::Request)'s fields.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The length exceeds the model's context.
    #[error(
        "the length {length} is more than the model's context of {context} tokens; give at most that"
    )]
    Length {
        /// Tokens requested.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Too many texts at once.
    #[error("a batch of {batch} is too many texts; give at most {MAX_BATCH} at once")]
    Batch {
        /// Texts requested.
        batch: usize,
    },
    /// A number is out of range.
    #[error("{option} is {value}; it must be {range}")]
    Range {
        /// Name of the field.
        option: &'static str,
        /// Its value.
        value: u64,
        /// The allowed range.
        range: String,
    },
    /// The number of prompts does not divide the batch.
    #[error(
        "{prompts} prompts do not divide a batch of {batch}; give a batch that is a multiple of their number, or leave it out"
    )]
    Prompts {
        /// Number of prompts.
        prompts: usize,
        /// Texts requested.
        batch: usize,
    },
    /// The prompt fills the whole text.
    #[error(
        "the prompt has {tokens} tokens{opening}, which leaves nothing to write in a length of {length}; shorten it, or raise the length if the model's context is longer"
    )]
    PromptTooLong {
        /// Tokens of the prompt, including the opening one.
        tokens: usize,
        /// " with the opening one", or empty.
        opening: &'static str,
        /// Tokens of the text.
        length: usize,
    },
    /// Both a prompt and a template were given.
    #[error("a prompt and an infill template exclude each other; give one of them")]
    PromptAndInfill,
    /// Text was given for a model without a tokenizer.
    #[error("{what} needs a tokenizer; give the tokenizer.json of the model")]
    NoTokenizer {
        /// "a prompt", "an infill template", "a stop string" or "the name of a token".
        what: &'static str,
    },
    /// A stop string is empty.
    #[error("a stop string is empty; give at least one character")]
    EmptyStopString,
    /// A name does not denote a single token.
    #[error(
        "{token} in {option} is not one token of the model; give a token's name, or its number below {vocab_size}"
    )]
    NoToken {
        /// Name of the field.
        option: &'static str,
        /// The name given.
        token: String,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// No token is left to draw.
    #[error("{option} leaves no token to draw; leave some of them out")]
    NothingLeft {
        /// Name of the field.
        option: &'static str,
    },
    /// The option does not apply to this family.
    #[error("{option} does not apply to {why}; leave it out")]
    NotApplicable {
        /// Name of the field.
        option: &'static str,
        /// The family, and what it does instead.
        why: &'static str,
    },
    /// The prompt or template is unusable.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Temperature, top-k, top-p or min-p are out of range.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// No plan can be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
}
