//! Turns requests into texts for the running batch.

use esolm::config::Family;
use esolm::text::TextCodec;
use esolm::{Echo, Request, Serving, TextRequest};

use super::ask::{Ask, Prompt};
use crate::error::{ApiError, too_long};

/// Default number of tokens to generate, as in OpenAI's API.
const USUAL_TOKENS: usize = 16;

/// Roughly the bytes of a token in an answer, and of a log-probability.
const TOKEN_BYTES: usize = 8;

/// A tokenized prompt.
pub struct Placed {
    /// The client's own tokens.
    pub tokens: Vec<u32>,
    /// The opening token before them, which clients never see.
    pub opening: Vec<u32>,
    /// Number of tokens to generate.
    pub max_tokens: usize,
}

impl Placed {
    /// Position of the first generated token.
    pub fn start(&self) -> usize {
        self.opening.len() + self.tokens.len()
    }

    /// All tokens before the generated ones.
    pub fn given(&self) -> Vec<u32> {
        self.opening.iter().chain(&self.tokens).copied().collect()
    }
}

/// What the batch is asked to do.
pub struct Order {
    /// One per prompt.
    pub placed: Vec<Placed>,
    /// The choices, prompt by prompt.
    pub texts: Vec<TextRequest>,
    /// The prompts whose log-probabilities are requested: all or none.
    pub echoes: Vec<Echo>,
}

impl Order {
    /// Tokenizes the prompts, and checks that they fit the model.
    ///
    /// # Errors
    /// Naming the unusable field.
    pub fn new(ask: &Ask, serving: &Serving, codec: &TextCodec) -> Result<Self, ApiError> {
        let scored = match (ask.echo, ask.logprobs) {
            (true, Some(_)) => ask.prompts.len(),
            _ => 0,
        };
        let choices = ask.n.saturating_mul(ask.prompts.len());
        let written = match ask.max_tokens {
            Some(0) => 0,
            _ => choices,
        };
        let most = serving.options().queue;
        // Choices that are not written have an answer nonetheless.
        let all = written.saturating_add(scored).max(choices);
        if all > most {
            let param = if ask.n > 1 { "n" } else { "prompt" };
            let message = format!(
                "{all} texts are to be written or scored, but one request takes at most {most}, the places of the queue; ask for fewer"
            );
            return Err(ApiError::field(param, message));
        }
        let mut order = Self {
            placed: Vec::with_capacity(ask.prompts.len()),
            texts: Vec::new(),
            echoes: Vec::new(),
        };
        for prompt in &ask.prompts {
            let placed = match (prompt, &ask.suffix) {
                (Prompt::Text(prefix), Some(suffix)) => {
                    order.infill(ask, [prefix, suffix], serving, codec)?
                }
                _ => order.continuation(ask, prompt, serving, codec)?,
            };
            if ask.echo
                && let Some(top) = ask.logprobs
            {
                order.echoes.push(Echo {
                    tokens: placed.given(),
                    given: placed.opening.len(),
                    alpha_0: ask.request.alpha_0,
                    seed: ask.request.seed.unwrap_or(0),
                    top,
                });
            }
            order.placed.push(placed);
        }
        Ok(order)
    }

    /// Roughly the bytes of what the answer echoes, and of all of it.
    pub fn sizes(&self, ask: &Ask) -> [usize; 2] {
        let most_likely = ask.logprobs.map_or(0, |top| top + 1);
        let echoed = |placed: &Placed| if ask.echo { placed.tokens.len() } else { 0 };
        let echoed: usize = self.placed.iter().map(echoed).sum();
        let written: usize = self.placed.iter().map(|placed| placed.max_tokens).sum();
        [echoed, echoed + written].map(|tokens| {
            tokens
                .saturating_mul(ask.n)
                .saturating_mul(TOKEN_BYTES * (1 + most_likely))
        })
    }

    /// Adds a continuation of a prompt.
    fn continuation(
        &mut self,
        ask: &Ask,
        prompt: &Prompt,
        serving: &Serving,
        codec: &TextCodec,
    ) -> Result<Placed, ApiError> {
        let config = serving.config();
        let tokens = match prompt {
            Prompt::Text(text) => (codec.encode(text))
                .map_err(|error| ApiError::field("prompt", error.to_string()))?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        // If the client's text already starts with the opening token, do not add another one.
        let opening = (ask.request).opening(config, Some(codec));
        let opening = opening.filter(|opening| tokens.first() != Some(opening));
        let mut placed = Placed {
            opening: opening.into_iter().collect(),
            tokens,
            max_tokens: 0,
        };
        let (start, most) = (placed.start(), serving.length());
        let room = most.saturating_sub(start);
        placed.max_tokens = ask.max_tokens.unwrap_or(USUAL_TOKENS.min(room));
        let is_full = start > most || room == 0 && ask.max_tokens != Some(0);
        if placed.max_tokens > room || is_full {
            let (given, opening) = (placed.tokens.len(), placed.opening.len());
            return Err(too_long("the prompt has", given, opening, most));
        }
        if placed.max_tokens == 0 {
            return Ok(placed);
        }
        let own = ask.request.block_size.or(config.block_size);
        let block = match config.family {
            // A decoder's last block may be shorter.
            Family::Bd3Lm if config.decoder.is_none() => own.map_or(1, |block| block.max(1)),
            _ => 1,
        };
        for _ in 0..ask.n {
            let request = Request {
                // Blocks are written whole.
                length: Some((start + placed.max_tokens).next_multiple_of(block)),
                bos: Some(!placed.opening.is_empty()),
                ..self.next(ask)
            };
            let tokens = Some(placed.tokens.clone());
            self.texts.push(TextRequest {
                request,
                tokens,
                is_watched: ask.stream,
                ends_at_eos: true,
                top: ask.logprobs,
                ends: ask.ends.clone(),
            });
        }
        Ok(placed)
    }

    /// Adds the text between a prompt and a suffix, using the same infill as `esolm sample`.
    fn infill(
        &mut self,
        ask: &Ask,
        [prefix, suffix]: [&str; 2],
        serving: &Serving,
        codec: &TextCodec,
    ) -> Result<Placed, ApiError> {
        if serving.config().family == Family::Ar {
            let message = "suffix does not apply to an AR model, which only goes on from what it is given; leave it out";
            return Err(ApiError::field("suffix", message));
        }
        let max_tokens = ask.max_tokens.unwrap_or(USUAL_TOKENS);
        let template = format!("{}____{{{max_tokens}}}{}", escaped(prefix), escaped(suffix));
        // One space right before a gap belongs to the gap.
        let before = prefix.strip_suffix(' ').unwrap_or(prefix);
        let tokens =
            (codec.encode(before)).map_err(|error| ApiError::field("prompt", error.to_string()))?;
        for _ in 0..ask.n {
            let request = Request {
                infill: Some(template.clone()),
                ..self.next(ask)
            };
            self.texts.push(TextRequest {
                request,
                is_watched: ask.stream,
                top: ask.logprobs,
                ..TextRequest::default()
            });
        }
        let opening = ask.request.opening(serving.config(), Some(codec));
        Ok(Placed {
            tokens,
            opening: opening.into_iter().collect(),
            // Checked by the plan.
            max_tokens,
        })
    }

    /// The part common to all texts; a text's number is its index among the choices.
    fn next(&self, ask: &Ask) -> Request {
        Request {
            first: self.texts.len() as u32,
            ..ask.request.clone()
        }
    }
}

/// Escapes all special characters of a template.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '_' | '{' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
