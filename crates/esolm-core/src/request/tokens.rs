//! Requests whose prompt is already tokenized.

use super::given::{check_size, placed_prompt};
use super::{Request, RequestError, Resolved};
use crate::config::{Family, ModelConfig, Prepend};
use crate::text::TextCodec;

/// What an error says about a model without a known beginning-of-text token.
pub const NO_BOS: &str = "a model that does not say which token begins a text";

/// Whether texts open with the beginning-of-text token by default. Networks of this family were trained on such texts.
/// For a decoder the tokenizer decides: what it adds to every text was there in training.
pub fn opens(config: &ModelConfig, codec: Option<&TextCodec>) -> bool {
    match (&config.decoder, codec) {
        (Some(_), codec) => codec.is_some_and(TextCodec::puts_bos),
        (None, _) => true,
    }
}

impl Request {
    /// The token that opens the request's texts: the beginning-of-text token, if there is one and the request asks for
    /// it or, by default, the model's texts [open with it](opens). An AR model that prepends a token already has it in
    /// its plan.
    pub fn opening(&self, config: &ModelConfig, codec: Option<&TextCodec>) -> Option<u32> {
        let bos = codec.map_or(config.bos, |codec| codec.ends().bos);
        let has_none = config.family != Family::Ar || config.prepend == Prepend::None;
        bos.filter(|_| has_none && self.bos.unwrap_or_else(|| opens(config, codec)))
    }

    /// Like [`Request::resolve`], with every text continuing `tokens`, after the opening token if there is one. The
    /// request's prompts or template are ignored.
    ///
    /// # Errors
    /// See [`Request::resolve`].
    pub fn resolve_tokens(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
        tokens: &[u32],
    ) -> Result<Resolved, RequestError> {
        let bare = Self {
            prompt: Vec::new(),
            infill: None,
            ..self.clone()
        };
        bare.resolve_with(config, codec, |config| {
            let mut given = bare.given(config, codec)?;
            let opening = bare.opening(config, codec);
            let opening: Vec<u32> = opening.into_iter().collect();
            let longest = opening.len() + tokens.len();
            if let Some(length) = bare.own_length(config, longest) {
                given.length = length;
            }
            check_size(given.known.len(), given.length)?;
            let known = placed_prompt(&opening, tokens.to_vec(), given.length)?;
            given.until.fill(known.len());
            given.known.fill(known);
            Ok(given)
        })
    }
}
