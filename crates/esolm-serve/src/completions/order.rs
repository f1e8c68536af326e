//! From what is asked for to texts of the running batch.

use esolm::config::Family;
use esolm::text::TextCodec;
use esolm::{Echo, Request, Serving, TextRequest};

use super::ask::{Ask, Prompt};
use crate::error::ApiError;

/// Tokens that a text is given where nobody says how many, as OpenAI has it.
const USUAL_TOKENS: usize = 16;

/// A prompt that was turned into tokens.
pub struct Placed {
    /// The client's own tokens.
    pub tokens: Vec<u32>,
    /// The opening token in front of them, of which no client hears.
    pub opening: Vec<u32>,
    /// Tokens to write.
    pub max_tokens: usize,
}

impl Placed {
    /// Where the first token is written.
    pub fn start(&self) -> usize {
        self.opening.len() + self.tokens.len()
    }

    /// All tokens that stand before what is written.
    pub fn given(&self) -> Vec<u32> {
        self.opening.iter().chain(&self.tokens).copied().collect()
    }
}

/// What the batch is asked for.
pub struct Order {
    /// One for each prompt.
    pub placed: Vec<Placed>,
    /// The choices, prompt by prompt.
    pub texts: Vec<TextRequest>,
    /// The prompts whose log-probabilities are told, all of them or none.
    pub echoes: Vec<Echo>,
}

impl Order {
    /// Makes tokens of the prompts, and checks that they fit the model.
    ///
    /// # Errors
    /// Naming the field that is not usable.
    pub fn new(ask: &Ask, serving: &Serving, codec: &TextCodec) -> Result<Self, ApiError> {
        let scored = match (ask.echo, ask.logprobs) {
            (true, Some(_)) => ask.prompts.len(),
            _ => 0,
        };
        let all = ask
            .n
            .saturating_mul(ask.prompts.len())
            .saturating_add(scored);
        let most = serving.options().queue;
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

    /// A prompt, and what comes after it.
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
        // A client that opens its text by itself needs no second opening.
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
        if placed.max_tokens > room || room == 0 && ask.max_tokens != Some(0) {
            let opened = match placed.opening.is_empty() {
                true => "",
                false => " and one that opens it",
            };
            let message = format!(
                "the prompt has {} tokens{opened}, which leaves {room} of the {most} of a text to write; max_tokens may be at most that",
                placed.tokens.len(),
            );
            return Err(ApiError::field("max_tokens", message));
        }
        if placed.max_tokens == 0 {
            return Ok(placed);
        }
        let own = ask.request.block_size.or(config.block_size);
        let block = match config.family {
            // The last block of a decoder may be short.
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
            });
        }
        Ok(placed)
    }

    /// What comes between a prompt and a suffix: the infill that `esolm sample` makes of them.
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
            // The plan's to check.
            max_tokens,
        })
    }

    /// What every text is asked for; its number is its index among the choices.
    fn next(&self, ask: &Ask) -> Request {
        Request {
            first: self.texts.len() as u32,
            ..ask.request.clone()
        }
    }
}

/// Text in which no sign of a template means anything.
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
