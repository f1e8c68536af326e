//! Why a request cannot be met.

use thiserror::Error;

use super::MAX_BATCH;
use crate::plan::PlanError;
use crate::sampler::SamplerError;
use crate::text::TextError;

/// Why a request cannot be met. Options have the names of [`Request`]'s fields.
#[derive(Debug, Error)]
pub enum RequestError {
    /// More tokens than the model's context.
    #[error(
        "the length {length} is more than the model's context of {context} tokens; give at most that"
    )]
    Length {
        /// Tokens asked for.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// More texts than are written at once.
    #[error("a batch of {batch} is too many texts; give at most {MAX_BATCH} at once")]
    Batch {
        /// Texts asked for.
        batch: usize,
    },
    /// A number out of its range.
    #[error("{option} is {value}; it must be {range}")]
    Range {
        /// Name of the field.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        range: String,
    },
    /// Prompts that do not divide the batch.
    #[error(
        "{prompts} prompts do not divide a batch of {batch}; give a batch that is a multiple of their number, or leave it out"
    )]
    Prompts {
        /// Number of prompts.
        prompts: usize,
        /// Texts asked for.
        batch: usize,
    },
    /// A prompt that fills the text.
    #[error(
        "the prompt has {tokens} tokens{opening}, which leaves nothing to write in a length of {length}; shorten it, or raise the length up to the model's context"
    )]
    PromptTooLong {
        /// Tokens of the prompt, the opening one included.
        tokens: usize,
        /// " with the opening one", or nothing.
        opening: &'static str,
        /// Tokens of the text.
        length: usize,
    },
    /// A prompt and a template at once.
    #[error("a prompt and an infill template exclude each other; give one of them")]
    PromptAndInfill,
    /// Text for a model without a tokenizer.
    #[error("{what} needs a tokenizer; give the tokenizer.json of the model")]
    NoTokenizer {
        /// "a prompt", "an infill template", "a stop string" or "the name of a token".
        what: &'static str,
    },
    /// A stop string without characters.
    #[error("a stop string is empty; give at least one character")]
    EmptyStopString,
    /// What names no single token.
    #[error(
        "{token} in {option} is not one token of the model; give a token's name, or its number below {vocab_size}"
    )]
    NoToken {
        /// Name of the field.
        option: &'static str,
        /// What was given.
        token: String,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// No token is left to draw.
    #[error("{option} leaves no token to draw; leave some of them out")]
    NothingLeft {
        /// Name of the field.
        option: &'static str,
    },
    /// An option that this family does not have.
    #[error("{option} does not apply to {why}; leave it out")]
    NotApplicable {
        /// Name of the field.
        option: &'static str,
        /// The family, and what it does instead.
        why: &'static str,
    },
    /// The prompt or the template is not usable.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Temperature, top-k, top-p or min-p are out of range.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// No plan comes of it.
    #[error(transparent)]
    Plan(#[from] PlanError),
}
