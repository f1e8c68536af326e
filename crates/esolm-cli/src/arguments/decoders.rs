//! Options of texts in which confidence chooses, and of those that decoders write in blocks.

use std::convert::Infallible;

use clap::{Args, ValueEnum};
use esolm::plan::PromptTail;
use esolm::request::TokenName;
use esolm::reveal::Confidence;

/// How confidence chooses, and where blocks begin.
#[derive(Clone, Debug, Args)]
pub struct Choosing {
    /// With the schedule confidence: what tokens are compared by.
    ///
    /// Default: model; of a SetDLM drawn, and of SDAR tempered.
    #[arg(long, value_enum, value_name = "KIND")]
    pub confidence: Option<ConfidenceName>,
    /// Of a decoder that is a BD3-LM: where its blocks begin, and what the prompt sees of the first one.
    ///
    /// Default: own, and of SDAR shared.
    #[arg(long, value_enum, value_name = "KIND")]
    pub prompt_tail: Option<TailName>,
    /// Tokens that are never drawn, by their names or numbers, several divided by commas.
    #[arg(
        long,
        value_name = "TOKEN,...",
        value_delimiter = ',',
        value_parser = token,
        allow_hyphen_values = true
    )]
    pub suppress_tokens: Vec<TokenName>,
    /// With the schedule confidence: tokens that may be drawn, but with confidence 0, so that they become known last.
    ///
    /// Of an end-of-text token this puts off the end of a text. Names or numbers, several divided by commas.
    #[arg(
        long,
        value_name = "TOKEN,...",
        value_delimiter = ',',
        value_parser = token,
        allow_hyphen_values = true
    )]
    pub begin_suppress_tokens: Vec<TokenName>,
}

fn token(text: &str) -> Result<TokenName, String> {
    match text.is_empty() {
        true => Err("it is empty; give the name or the number of a token".into()),
        false => text.parse().map_err(|never: Infallible| match never {}),
    }
}

/// [`Confidence`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConfidenceName {
    /// A token's probability at temperature 1, among all.
    Model,
    /// Its probability after the temperature, among all.
    Tempered,
    /// Its probability after the temperature, among those that top-k, top-p and min-p leave.
    Drawn,
    /// A random number.
    Random,
    /// None: the leftmost tokens first.
    Leftmost,
}

impl From<ConfidenceName> for Confidence {
    fn from(name: ConfidenceName) -> Self {
        match name {
            ConfidenceName::Model => Self::Model,
            ConfidenceName::Tempered => Self::Tempered,
            ConfidenceName::Drawn => Self::Drawn,
            ConfidenceName::Random => Self::Random,
            ConfidenceName::Leftmost => Self::Leftmost,
        }
    }
}

/// [`PromptTail`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TailName {
    /// From the beginning of the text; the end of the prompt and the tokens after it see each other (SDAR).
    Shared,
    /// From the end of the prompt (dllm).
    Own,
    /// From the beginning of the text; the end of the prompt does not see the tokens after it until their block is whole.
    Blind,
}

impl From<TailName> for PromptTail {
    fn from(name: TailName) -> Self {
        match name {
            TailName::Shared => Self::Shared,
            TailName::Own => Self::Own,
            TailName::Blind => Self::Blind,
        }
    }
}
