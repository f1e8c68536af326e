//! Tokens that are not to be drawn, or only with confidence 0.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Request, RequestError};
use crate::config::ModelConfig;
use crate::plan::{PlanOptions, Schedule};
use crate::text::TextCodec;

/// Of what asks for a confidence where there is none.
pub(super) const NOT_BY_CONFIDENCE: &str = "an order that does not go by the network's confidence";

/// A token of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a token is its number or its name")]
pub enum TokenName {
    /// By its number.
    Number(u32),
    /// By its name, or a text that is one token.
    Name(String),
}

impl FromStr for TokenName {
    type Err = Infallible;

    /// Digits alone are a number.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.parse() {
            Ok(number) => Self::Number(number),
            Err(_) => Self::Name(text.into()),
        })
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

impl TokenName {
    fn find(
        &self,
        option: &'static str,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Result<u32, RequestError> {
        let vocab_size = config.vocab_size;
        let token = match (self, codec) {
            (Self::Number(number), _) => Some(*number),
            (Self::Name(name), Some(codec)) => codec.token(name),
            (Self::Name(_), None) => {
                let what = "the name of a token";
                return Err(RequestError::NoTokenizer { what });
            }
        };
        let token = token.filter(|&token| (token as usize) < vocab_size);
        token.ok_or_else(|| RequestError::NoToken {
            option,
            token: self.to_string(),
            vocab_size,
        })
    }
}

/// The tokens of a list, ascending, each once.
fn tokens(
    list: &[TokenName],
    option: &'static str,
    config: &ModelConfig,
    codec: Option<&TextCodec>,
) -> Result<Vec<u32>, RequestError> {
    let found = list.iter().map(|token| token.find(option, config, codec));
    let mut tokens = found.collect::<Result<Vec<u32>, _>>()?;
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}

impl Request {
    /// The tokens that are never drawn.
    pub(super) fn suppressed(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Result<Vec<u32>, RequestError> {
        let option = "suppress_tokens";
        let tokens = tokens(&self.suppress_tokens, option, config, codec)?;
        let unused = codec.map_or(&[][..], TextCodec::unused_tokens);
        let mut never: Vec<u32> = tokens.iter().chain(unused).copied().collect();
        never.extend(config.mask());
        never.sort_unstable();
        never.dedup();
        match never.len() < config.vocab_size || tokens.is_empty() {
            true => Ok(tokens),
            false => Err(RequestError::NothingLeft { option }),
        }
    }

    /// The tokens whose confidence is 0.
    pub(super) fn unsure(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
        options: &PlanOptions,
    ) -> Result<Vec<u32>, RequestError> {
        let option = "begin_suppress_tokens";
        let why = if self.begin_suppress_tokens.is_empty() {
            None
        } else if options.schedule != Schedule::Confidence {
            Some("a schedule other than confidence")
        } else {
            (!options.reveal.by.is_networks()).then_some(NOT_BY_CONFIDENCE)
        };
        match why {
            Some(why) => Err(RequestError::NotApplicable { option, why }),
            None => tokens(&self.begin_suppress_tokens, option, config, codec),
        }
    }
}
