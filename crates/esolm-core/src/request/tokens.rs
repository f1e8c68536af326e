//! Requests whose prompt is tokens already.

use super::{Request, RequestError, Resolved, placed_prompt};
use crate::config::{Family, ModelConfig, Prepend};
use crate::text::TextCodec;

/// Of what does not know the beginning-of-text token.
pub const NO_BOS: &str = "a model that does not say which token begins a text";

/// Whether texts open with the beginning-of-text token unless somebody says otherwise. Networks of this family were trained on texts that
/// do. Of a decoder its tokenizer knows: what it puts before every text was there in training.
pub fn opens(config: &ModelConfig, codec: Option<&TextCodec>) -> bool {
    match (&config.decoder, codec) {
        (Some(_), codec) => codec.is_some_and(TextCodec::puts_bos),
        (None, _) => true,
    }
}

impl Request {
    /// The token that opens the request's texts: the beginning-of-text token, where there is one and the request says so, or says nothing and
    /// the model's texts [open with it](opens). An AR model that prepends a token has it in its plan already.
    pub fn opening(&self, config: &ModelConfig, codec: Option<&TextCodec>) -> Option<u32> {
        let bos = codec.map_or(config.bos, |codec| codec.ends().bos);
        let has_none = config.family != Family::Ar || config.prepend == Prepend::None;
        bos.filter(|_| has_none && self.bos.unwrap_or_else(|| opens(config, codec)))
    }

    /// As [`Request::resolve`], every text going on from `tokens`, after the opening one if there is one. They stand in the place of the
    /// request's prompts or its template, which are not read.
    ///
    /// # Errors
    /// As [`Request::resolve`].
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
            let known = placed_prompt(&opening, tokens.to_vec(), given.length)?;
            given.until.fill(known.len());
            given.known.fill(known);
            Ok(given)
        })
    }
}
