//! Requests whose prompt is tokens already.

use super::{Request, RequestError, Resolved, placed_prompt};
use crate::config::{Family, ModelConfig, Prepend};
use crate::text::TextCodec;

impl Request {
    /// The token that opens the request's texts: the beginning-of-text token, unless there is none or the request does without. An AR model that
    /// prepends a token has it in its plan already. Of a decoder its tokenizer knows, and where nothing else begins a text, which
    /// `is_prompted` tells, that token must.
    pub fn opening(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
        is_prompted: bool,
    ) -> Option<u32> {
        let bos = codec.map_or(config.bos, |codec| codec.ends().bos);
        let opens = match config.decoder {
            Some(_) if self.bos.is_none() && is_prompted => codec.is_some_and(TextCodec::puts_bos),
            _ => {
                self.bos != Some(false)
                    && (config.family != Family::Ar || config.prepend == Prepend::None)
            }
        };
        bos.filter(|_| opens)
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
            let opening = bare.opening(config, codec, !tokens.is_empty());
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
