//! What is known before the model writes: tokens of prompts and templates, and the resulting length.

use super::tokens::NO_BOS;
use super::{MAX_BATCH, Request, RequestError};
use crate::config::{Family, ModelConfig};
use crate::plan::{MAX_LENGTH, PlanError};
use crate::rows::MAX_TOKENS;
use crate::text::{Altered, Ends, Template, TextCodec, TextError};

/// Known tokens, and what follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// Known (position, token) pairs of each text.
    pub known: Vec<Vec<(u32, u32)>>,
    /// Tokens per text.
    pub length: usize,
    /// For each text, the length up to its last known token; an end-of-text token within does not cut it.
    pub until: Vec<usize>,
    /// The beginning-of-text token, if there is one.
    pub bos: Option<u32>,
    /// Positions right after given words, where a text must not extend them.
    pub word_ends: Vec<usize>,
    /// What the tokenizer made of the first prompt that it altered.
    pub altered: Option<Altered>,
}

impl Request {
    /// The known tokens of all texts in the batch.
    pub(super) fn given(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Result<Given, RequestError> {
        let ends = codec.map_or_else(|| Ends::of(config), TextCodec::ends);
        let context = config.length;
        let is_bounded = !self.goes_beyond(config);
        if let Some(length) = (self.length).filter(|&length| is_bounded && length > context) {
            return Err(RequestError::Length { length, context });
        }
        if self.length == Some(0) {
            return Err(RequestError::Range {
                option: "length",
                value: 0,
                range: format!("from 1 to the model's context of {context}"),
            });
        }
        if let Some(length) = self.length {
            check_size(1, length)?;
        }
        let most = self.length.unwrap_or(context);
        // A requested block size is reported under its own name.
        let whole = (config.block_size)
            .filter(|_| config.family == Family::Bd3Lm && config.decoder.is_none());
        if let (None, Some(size)) = (self.block_size, whole)
            && !most.is_multiple_of(size.max(1))
        {
            return Err(RequestError::Range {
                option: "length",
                value: most as u64,
                range: format!("a multiple of the model's block size, which is {size}"),
            });
        }
        if self.bos == Some(true) && ends.bos.is_none() {
            let (option, why) = ("bos", NO_BOS);
            return Err(RequestError::NotApplicable { option, why });
        }
        let opening = self.opening(config, codec);
        let opening: Vec<u32> = opening.into_iter().collect();

        let (mut word_ends, mut altered) = (Vec::new(), None);
        let (lists, length) = if let Some(template) = &self.infill {
            if !self.prompt.is_empty() {
                return Err(RequestError::PromptAndInfill);
            }
            let template = Template::parse(template).map_err(TextError::from)?;
            let codec = codec.ok_or(RequestError::NoTokenizer {
                what: "an infill template",
            })?;
            let placed = template.place(codec, &opening, most)?;
            // The template determines the length unless one is requested; blocks are written whole.
            let own = placed.length.next_multiple_of(whole.unwrap_or(1).max(1));
            let length = self.length.unwrap_or(own);
            word_ends = placed.word_ends;
            (vec![placed.known], length)
        } else if self.prompt.is_empty() {
            // In a text of one token, the opening token alone would leave nothing to write.
            let opens = most > opening.len();
            let opening_length = opening.len();
            let known = (0..).zip(opening).filter(|_| opens).collect();
            let length = self.own_length(config, opening_length).unwrap_or(most);
            (vec![known], length)
        } else {
            let codec = codec.ok_or(RequestError::NoTokenizer { what: "a prompt" })?;
            let prompt = |prompt: &String| {
                let tokens = codec.encode(prompt)?;
                if altered.is_none() {
                    altered = codec.altered(prompt, &tokens);
                }
                placed_prompt(&opening, tokens, most)
            };
            let lists: Result<Vec<_>, RequestError> = self.prompt.iter().map(prompt).collect();
            let lists = lists?;
            let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
            (lists, self.own_length(config, longest).unwrap_or(most))
        };
        let batch = self.batch.unwrap_or(lists.len());
        if batch == 0 {
            let range = format!("from 1 to {MAX_BATCH}");
            return Err(RequestError::Range {
                option: "batch",
                value: 0,
                range,
            });
        }
        if batch > MAX_BATCH {
            return Err(RequestError::Batch { batch });
        }
        if self.first.checked_add(batch as u32).is_none() {
            return Err(RequestError::Range {
                option: "first",
                value: self.first.into(),
                range: format!("from 0 to {} for this batch", u32::MAX - batch as u32),
            });
        }
        if !batch.is_multiple_of(lists.len()) {
            return Err(RequestError::Prompts {
                prompts: lists.len(),
                batch,
            });
        }
        check_size(batch, length)?;
        let known: Vec<_> = lists.iter().cycle().take(batch).cloned().collect();
        let until = |list: &Vec<(u32, u32)>| list.last().map_or(0, |&(at, _)| at as usize + 1);
        Ok(Given {
            until: known.iter().map(until).collect(),
            known,
            length,
            bos: ends.bos,
            word_ends,
            altered,
        })
    }
}

/// Checks that `batch` texts of `length` tokens can be planned, before anything of that size is allocated.
pub(super) fn check_size(batch: usize, length: usize) -> Result<(), PlanError> {
    if length > MAX_LENGTH {
        return Err(PlanError::Range {
            name: "length",
            value: length.to_string(),
            range: format!("from 1 to {MAX_LENGTH}"),
        });
    }
    // One more for a prepended token.
    let length = length + 1;
    match batch > MAX_TOKENS / length {
        true => Err(PlanError::TooManyTokens {
            sequences: batch,
            length,
            max: MAX_TOKENS,
        }),
        false => Ok(()),
    }
}

/// Places the opening token and the prompt at the beginning of a text of `length` tokens.
pub(super) fn placed_prompt(
    opening: &[u32],
    prompt: Vec<u32>,
    length: usize,
) -> Result<Vec<(u32, u32)>, RequestError> {
    let mut tokens = opening.to_vec();
    tokens.extend(prompt);
    if tokens.len() >= length {
        return Err(RequestError::PromptTooLong {
            tokens: tokens.len(),
            opening: if opening.is_empty() {
                ""
            } else {
                " with the opening one"
            },
            length,
        });
    }
    Ok((0..).zip(tokens).collect())
}
