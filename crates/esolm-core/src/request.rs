//! From what somebody asks for to a plan: options are filled in from the model, prompts and templates become given tokens. The command
//! line and the browser both come this way, so the same words give the same plan.

use serde::Serialize;
use thiserror::Error;

use crate::config::{Family, ModelConfig, Prepend};
use crate::plan::{Plan, PlanError, PlanOptions, Schedule};
use crate::sampler::{Sampler, SamplerError};
use crate::text::{Ends, Template, TextCodec, TextError};

/// Texts of one run may not be more than any real use needs; beyond it, numbers would overflow first.
pub const MAX_BATCH: usize = 1 << 16;
/// So often a text is drawn again in which the model went on with a given word.
pub const MOST_REDRAWS: u32 = 32;

/// What is asked for. What is left out comes from the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Texts to go on with, one or several.
    pub prompts: Vec<String>,
    /// A template with gaps, instead of prompts ([`Template`]).
    pub infill: Option<String>,
    /// Tokens of a text. Default: the context, or what the template says.
    pub length: Option<usize>,
    /// Share of the tokens that diffusion writes, in [0, 1], of an Eso-LM. Default: the model's own, else 1.
    pub alpha_0: Option<f64>,
    /// T, diffusion steps. Default: the length.
    pub steps: Option<usize>,
    /// How the steps are laid out. Default: binomial; AR goes from left to right.
    pub schedule: Option<Schedule>,
    /// How tokens are drawn.
    pub sampler: Sampler,
    /// Keys all random numbers.
    pub seed: u64,
    /// Number of texts. Default: as many as prompts.
    pub batch: Option<usize>,
    /// Absolute index of the first text.
    pub first: u32,
    /// Do not open the texts with the beginning-of-text token.
    pub no_bos: bool,
}

/// Why a request cannot be met. Each message names the option and the remedy.
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
        /// "a prompt" or "an infill template".
        what: &'static str,
    },
    /// An option that this family does not know.
    #[error("{option} has no meaning for {why}; leave it out")]
    Meaningless {
        /// Name of the option.
        option: &'static str,
        /// The family, and what it does instead.
        why: &'static str,
    },
    /// The prompt or the template is not usable.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Temperature or top-p are out of range.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// No plan comes of it.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Everything that decides what is written, as it was resolved from a request and the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Family that the text is written as.
    pub family: Family,
    /// Tokens of a text.
    pub length: usize,
    /// Share of the tokens that diffusion writes.
    pub alpha_0: f64,
    /// T.
    pub steps: usize,
    /// How the steps are laid out.
    pub schedule: Schedule,
    /// Nucleus, if not all tokens.
    pub top_p: Option<f32>,
    /// Temperature.
    pub temperature: f32,
    /// Keys all random numbers.
    pub seed: u64,
    /// Absolute index of the first text.
    pub first: u32,
    /// Number of texts.
    pub batch: usize,
}

impl Settings {
    /// How tokens are drawn.
    pub fn sampler(&self) -> Sampler {
        Sampler {
            temperature: self.temperature,
            top_p: self.top_p,
        }
    }
}

/// Known tokens and what follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// Known (position, token) pairs, a list for each text.
    pub known: Vec<Vec<(u32, u32)>>,
    /// Tokens of each text.
    pub length: usize,
    /// For each text, the positions up to its last known token: no end-of-text token cuts it there.
    pub until: Vec<usize>,
    /// The beginning-of-text token, if there is one.
    pub bos: Option<u32>,
    /// Positions at which no text may go on with the given word before it.
    pub apart: Vec<usize>,
}

/// A request that a model can meet.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What decides the text.
    pub settings: Settings,
    /// What is known before the model writes.
    pub given: Given,
    options: PlanOptions,
}

impl Request {
    /// Fills in what was not asked for, and turns words into tokens.
    ///
    /// # Errors
    /// When an option is out of range or foreign to the family, or a text does not fit.
    pub fn resolve(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Result<Resolved, RequestError> {
        self.sampler.validate()?;
        self.check_family(config.family)?;
        let given = self.given(config, codec)?;
        let settings = Settings {
            family: config.family,
            length: given.length,
            alpha_0: match config.family {
                Family::EsoLm => self.alpha_0.or(config.alpha_0).unwrap_or(1.0),
                Family::Mdlm => 1.0,
                Family::Ar => 0.0,
            },
            steps: self.steps.unwrap_or(given.length),
            schedule: match self.schedule {
                Some(schedule) => schedule,
                None if config.family == Family::Ar => Schedule::LeftToRight,
                None => Schedule::Binomial,
            },
            top_p: self.sampler.top_p,
            temperature: self.sampler.temperature,
            seed: self.seed,
            first: self.first,
            batch: given.known.len(),
        };
        let options = PlanOptions {
            family: config.family,
            attention: config.attention,
            length: settings.length,
            alpha_0: settings.alpha_0,
            steps: settings.steps,
            schedule: settings.schedule,
            seed: settings.seed,
            first_sequence: settings.first,
            known: given.known.clone(),
            prepend: config.prepend,
            bos: given.bos,
            mask_index: config.mask_index,
            vocab_size: config.vocab_size,
        };
        Ok(Resolved {
            settings,
            given,
            options,
        })
    }

    fn check_family(&self, family: Family) -> Result<(), RequestError> {
        let foreign = match family {
            Family::EsoLm => None,
            Family::Mdlm => self
                .alpha_0
                .filter(|&alpha_0| alpha_0 != 1.0)
                .map(|_| ("alpha_0", "an MDLM, which writes all by diffusion")),
            Family::Ar => {
                let left_to_right = [None, Some(Schedule::LeftToRight)].contains(&self.schedule);
                let foreign = [
                    ("alpha_0", self.alpha_0.is_some()),
                    ("steps", self.steps.is_some()),
                    ("schedule", !left_to_right),
                ];
                (foreign.iter().find(|(_, is_given)| *is_given))
                    .map(|&(option, _)| (option, "an AR model, which writes from left to right"))
            }
        };
        match foreign {
            Some((option, why)) => Err(RequestError::Meaningless { option, why }),
            None => Ok(()),
        }
    }

    fn given(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Result<Given, RequestError> {
        let ends = codec.map_or(
            Ends {
                bos: config.bos,
                eos: config.eos,
            },
            TextCodec::ends,
        );
        let context = config.length;
        if let Some(length) = self.length.filter(|&length| length > context) {
            return Err(RequestError::Length { length, context });
        }
        let most = self.length.unwrap_or(context);
        // An AR model that prepends a token has it in its plan already.
        let opens =
            !self.no_bos && (config.family != Family::Ar || config.prepend == Prepend::None);
        let opening: Vec<u32> = ends.bos.filter(|_| opens).into_iter().collect();

        let mut apart = Vec::new();
        let (lists, length) = if let Some(template) = &self.infill {
            if !self.prompts.is_empty() {
                return Err(RequestError::PromptAndInfill);
            }
            let template = Template::parse(template).map_err(TextError::from)?;
            let codec = codec.ok_or(RequestError::NoTokenizer {
                what: "an infill template",
            })?;
            let placed = template.place(codec, &opening, most)?;
            // A template says how long its text is, unless more is asked for.
            let length = self.length.unwrap_or(placed.length);
            apart = placed.apart;
            (vec![placed.known], length)
        } else if self.prompts.is_empty() {
            // Nothing but the opening token leaves nothing to write in a text of one token.
            let opens = most > opening.len();
            let known = (0..).zip(opening).filter(|_| opens).collect();
            (vec![known], most)
        } else {
            let codec = codec.ok_or(RequestError::NoTokenizer { what: "a prompt" })?;
            let prompt = |prompt: &String| prompt_tokens(codec, &opening, prompt, most);
            let lists: Result<Vec<_>, _> = self.prompts.iter().map(prompt).collect();
            (lists?, most)
        };
        let batch = self.batch.unwrap_or(lists.len());
        if batch > MAX_BATCH {
            return Err(RequestError::Batch { batch });
        }
        if !batch.is_multiple_of(lists.len()) {
            return Err(RequestError::Prompts {
                prompts: lists.len(),
                batch,
            });
        }
        let known: Vec<_> = lists.iter().cycle().take(batch).cloned().collect();
        let until = |list: &Vec<(u32, u32)>| list.last().map_or(0, |&(at, _)| at as usize + 1);
        Ok(Given {
            until: known.iter().map(until).collect(),
            known,
            length,
            bos: ends.bos,
            apart,
        })
    }
}

fn prompt_tokens(
    codec: &TextCodec,
    opening: &[u32],
    prompt: &str,
    length: usize,
) -> Result<Vec<(u32, u32)>, RequestError> {
    let mut tokens = opening.to_vec();
    tokens.extend(codec.encode(prompt)?);
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

impl Resolved {
    /// The plan.
    ///
    /// # Errors
    /// When an option is out of its range.
    pub fn plan(&self) -> Result<Plan, RequestError> {
        Ok(Plan::new(&self.options)?)
    }

    /// Gives the texts `broken` of a plan other random numbers: those of a number that no batch reaches, so that a text comes out the same
    /// alone and in a batch. `attempt` counts from 1.
    ///
    /// # Errors
    /// As [`Resolved::plan`].
    pub fn redraw(
        &self,
        plan: &mut Plan,
        broken: &[usize],
        attempt: u32,
    ) -> Result<(), RequestError> {
        for &index in broken {
            let number = self.options.first_sequence.wrapping_add(index as u32);
            let one = PlanOptions {
                first_sequence: number.wrapping_add(attempt.wrapping_mul(MAX_BATCH as u32)),
                known: vec![self.options.known[index].clone()],
                ..self.options.clone()
            };
            plan.sequences[index] = Plan::new(&one)?.sequences.swap_remove(0);
        }
        Ok(())
    }

    /// Indices of the texts in which the model went on with a given word, such as "cats" for "cat ____".
    pub fn broken(&self, texts: &[Vec<u32>], codec: Option<&TextCodec>) -> Vec<usize> {
        let Some(codec) = codec else {
            return Vec::new();
        };
        (0..texts.len())
            .filter(|&index| !codec.keeps_words(&texts[index], &self.given.apart))
            .collect()
    }

    /// The texts that tokens in natural order make. Where a run was stopped, unknown stretches show as underscores; without a tokenizer
    /// texts are the numbers of their tokens. `raw` writes all tokens, special ones too.
    pub fn texts(&self, tokens: &[Vec<u32>], codec: Option<&TextCodec>, raw: bool) -> Vec<String> {
        let mask = self.options.mask_index;
        let one = |(tokens, &until): (&Vec<u32>, &usize)| match codec {
            None => {
                let numbers: Vec<String> = tokens.iter().map(u32::to_string).collect();
                numbers.join(" ")
            }
            Some(codec) if tokens.contains(&mask) => tokens
                .chunk_by(|a, b| (*a == mask) == (*b == mask))
                .map(|stretch| match stretch[0] == mask {
                    true => " ____ ".into(),
                    false => codec.decode_plain(stretch),
                })
                .collect(),
            Some(codec) if raw => codec.decode(tokens),
            Some(codec) => codec.text(tokens, until),
        };
        tokens.iter().zip(&self.given.until).map(one).collect()
    }
}

#[cfg(test)]
mod tests;
