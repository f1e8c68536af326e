//! From what somebody asks for to a plan: options are filled in from the model, prompts and templates become given tokens. Every
//! front end comes this way, so the same words give the same plan.

mod decoder;
mod left_out;
mod sets;
mod tokens;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::config::{AttentionKind, Family, ModelConfig, Prepend};
use crate::ending::{Ending, Watch};
use crate::plan::{Plan, PlanError, PlanOptions, PromptTail, Schedule};
use crate::recommended::Recommended;
use crate::reveal::{Confidence, Rule};
use crate::rng::redraw_seed;
use crate::sampler::{Crossing, Sampler, SamplerError};
use crate::stop::{StopRule, StopRules};
use crate::text::{Altered, Ends, Template, TextCodec, TextError};
use crate::trace::{self, Header};
use left_out::NOT_BY_CONFIDENCE;
pub use left_out::TokenName;
pub use sets::InfillContext;
pub use tokens::{NO_BOS, opens};

/// Texts of one run may not be more than any real use needs; beyond it, numbers would overflow first.
pub const MAX_BATCH: usize = 1 << 16;
/// So often a text is drawn again in which the model ran on at a given word.
pub const MAX_REDRAWS: u32 = 32;

/// Another way to run a network than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeAs {
    /// As a masked diffusion model: every position in every step, all attending to all, nothing kept.
    Mdlm,
    /// As a block diffusion model, in blocks of [`Request::block_size`]: one after the other, each attending to itself both ways and to those
    /// before it, whose keys and values are kept.
    Bd3lm,
}

/// What is asked for. What is left out comes from the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Texts to go on from, one or several.
    #[serde(deserialize_with = "one_or_several")]
    pub prompt: Vec<String>,
    /// A template with gaps, instead of prompts ([`Template`]).
    pub infill: Option<String>,
    /// Tokens of a text. Default: the context, or what the template says; of a decoder 128 more than are given. A BD3-LM writes whole blocks, and can write more than its
    /// context: then each block sees the last so many tokens.
    pub length: Option<usize>,
    /// Share of the tokens that diffusion writes, in [0, 1], of an Eso-LM. Default: what is [recommended](Recommended), else the model's own, else 1.
    pub alpha_0: Option<f64>,
    /// T, diffusion steps; of a BD3-LM those of each block, which the schedules binomial and confidence alone have; with the schedules
    /// block and block-autoregressive the tokens of a block. Default: the length.
    pub steps: Option<usize>,
    /// How the steps are laid out. Default: binomial; AR goes from left to right; a BD3-LM draws by first-hitting unless `steps` are given; of
    /// a decoder that writes by diffusion, confidence.
    pub schedule: Option<Schedule>,
    /// Stretches that the schedule block-autoregressive writes one after the other. Default: 1.
    pub sar_steps: Option<usize>,
    /// Of the schedule confidence: tokens of at least this confidence, in [0, 1], become known at once, however many a step takes, so that a
    /// text may take fewer passes. Default: none do.
    pub confidence_threshold: Option<f32>,
    /// Of the schedule confidence: what tokens are compared by. Default: the model's probability; of a SetDLM that with which a token was
    /// drawn, and of SDAR that after the temperature.
    pub confidence: Option<Confidence>,
    /// Tokens of a block of a BD3-LM, in the place of its own; a network that is run [as one](DecodeAs::Bd3lm) has none of its own. An MDLM by confidence writes so many before any behind them; default: all
    /// at once, of a decoder that goes on from a prompt 32.
    pub block_size: Option<usize>,
    /// Where the blocks of a decoder that is a BD3-LM begin, and what a prompt sees of the first one. Default: as its published sampler has
    /// it, and in a template counted from the beginning of the text.
    pub prompt_tail: Option<PromptTail>,
    /// Masked places that a SetDLM draws at in a step, counted from the first one on. Default: the most tokens of a set that it was trained
    /// for.
    pub window: Option<usize>,
    /// Let a SetDLM go through its text in an order that its noise draws, as in training.
    pub train_order: bool,
    /// What a SetDLM sees of a template. Default: all that is given.
    pub infill_context: Option<InfillContext>,
    /// Draw from the so many most likely tokens, at least 1. Default: what is recommended, else from all.
    pub top_k: Option<u32>,
    /// Draw from the smallest set of most likely tokens whose mass reaches it, in (0, 1], of what top-k leaves. Default: what is recommended, else from
    /// all.
    pub top_p: Option<f32>,
    /// Whether the token at which the mass reaches `top_p` is drawn from too. Default: it is.
    pub top_p_crossing: Option<Crossing>,
    /// Draw from the tokens that are at least this fraction as likely as the most likely one, in [0, 1]. Default: what is recommended, else from
    /// all.
    pub min_p: Option<f32>,
    /// Tokens that are never drawn. Their probabilities are the other tokens'. Default: none.
    pub suppress_tokens: Vec<TokenName>,
    /// Of the schedule confidence: tokens that may be drawn, but with confidence 0, so that they become known last. They take
    /// no part in the confidence of others. Default: none.
    pub begin_suppress_tokens: Vec<TokenName>,
    /// Divides the logits; 0 takes the most likely token. Default: what is recommended, else 1.
    pub temperature: Option<f32>,
    /// Keys all random numbers; a number or, in JSON, also its digits as a string. Default: a random one.
    #[serde(with = "trace::optional_seed")]
    pub seed: Option<u64>,
    /// Number of texts. Default: as many as prompts.
    pub batch: Option<usize>,
    /// Absolute index of the first text.
    pub first: u32,
    /// What ends a text of a BD3-LM before its length, after any block, or one of a SetDLM after any token. Default: nothing; of a decoder that
    /// is a BD3-LM or an AR model its end-of-text tokens.
    pub stop: Vec<StopRule>,
    /// A text ends before the first of these that the model writes, or at its first end-of-text token where that comes before; only
    /// what begins in a written token counts. Needs a tokenizer; none may be empty. Default: none.
    #[serde(deserialize_with = "one_or_several")]
    pub stop_strings: Vec<String>,
    /// Tell with each token the log-probability that the model gave it in the step that drew it. Costs another product with the output
    /// matrix each step, and on a GPU a reading. Default: not.
    pub logprobs: bool,
    /// Whether texts open with the beginning-of-text token, where the model has one. Default: they do; those of a decoder where its tokenizer
    /// puts the token before every text. An AR model whose text has nothing else to begin with reads that token in any case.
    pub bos: Option<bool>,
    /// Run the network of an Eso-LM or an MDLM in another way than its own, which it was not trained for: texts show what a way of writing
    /// costs, not how well it writes.
    pub decode_as: Option<DecodeAs>,
}

/// A list of texts, which JSON may also give as a single one.
fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        None(()),
        One(String),
        Several(Vec<String>),
    }
    Ok(match Texts::deserialize(from)? {
        Texts::None(()) => Vec::new(),
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    })
}

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
    /// Positions right after given words, at which no text may run on with them.
    pub word_ends: Vec<usize>,
    /// What the tokenizer made of the first prompt that it changed.
    pub altered: Option<Altered>,
}

/// A request that a model can meet: everything that decides what is written.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the plan is drawn from.
    pub options: PlanOptions,
    /// How tokens are drawn.
    pub sampler: Sampler,
    /// Tokens that are never drawn, ascending.
    pub suppressed: Vec<u32>,
    /// Tokens whose confidence is 0, ascending.
    pub unsure: Vec<u32>,
    /// What is known before the model writes.
    pub given: Given,
    /// What ends a text early.
    pub stop: StopRules,
    /// Whether log-probabilities are told.
    pub logprobs: bool,
}

impl Request {
    /// The request with what `recommended` says wherever it says nothing itself. An alpha_0 is only for an Eso-LM
    /// that runs as one, by a schedule with two phases.
    #[must_use]
    pub fn or(&self, recommended: &Recommended, config: &ModelConfig) -> Self {
        let has_phases = config.family == Family::EsoLm
            && self.decode_as.is_none()
            && !self.schedule.is_some_and(Schedule::is_all_in_blocks);
        let Recommended {
            alpha_0,
            temperature,
            top_k,
            top_p,
            min_p,
        } = *recommended;
        Self {
            alpha_0: self.alpha_0.or(alpha_0.filter(|_| has_phases)),
            temperature: self.temperature.or(temperature),
            top_k: self.top_k.or(top_k),
            top_p: self.top_p.or(top_p),
            min_p: self.min_p.or(min_p),
            ..self.clone()
        }
    }

    /// Fills in what was not asked for, and turns words into tokens. Without a seed it is 0: whoever wants a random one gives one.
    ///
    /// # Errors
    /// When an option is out of range or foreign to the family, or a text does not fit.
    pub fn resolve(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
    ) -> Result<Resolved, RequestError> {
        self.resolve_with(config, codec, |config| self.given(config, codec))
    }

    fn resolve_with(
        &self,
        config: &ModelConfig,
        codec: Option<&TextCodec>,
        given: impl FnOnce(&ModelConfig) -> Result<Given, RequestError>,
    ) -> Result<Resolved, RequestError> {
        let sampler = Sampler {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k,
            top_p: self.top_p,
            top_p_crossing: self.top_p_crossing.unwrap_or_default(),
            min_p: self.min_p,
        };
        sampler.validate()?;
        if self.top_p_crossing.is_some() && self.top_p.is_none() {
            return Err(RequestError::NotApplicable {
                option: "top_p_crossing",
                why: "a draw without top-p",
            });
        }
        let config = &self.decoding(config)?;
        self.check_family(config)?;
        self.check_sets(config.family)?;
        let given = given(config)?;
        let seed = self.seed.unwrap_or(0);
        let steps = self.steps.unwrap_or(given.length);
        let own = PlanOptions::new(config, 0, steps, seed);
        let schedule = match config.family {
            Family::Bd3Lm if self.steps.is_some() && config.decoder.is_none() => Schedule::Binomial,
            _ => own.schedule,
        };
        let schedule = self.schedule.unwrap_or(schedule);
        if self.confidence_threshold.is_some() && schedule != Schedule::Confidence {
            return Err(RequestError::NotApplicable {
                option: "confidence_threshold",
                why: "a schedule other than confidence",
            });
        }
        if self.confidence.is_some() && schedule != Schedule::Confidence {
            return Err(RequestError::NotApplicable {
                option: "confidence",
                why: "a schedule other than confidence",
            });
        }
        let alpha_0 = match schedule {
            // All of a text is in their blocks.
            Schedule::Block | Schedule::BlockAutoregressive => 1.0,
            _ => self.alpha_0.unwrap_or(own.alpha_0),
        };
        let options = PlanOptions {
            length: given.length,
            alpha_0,
            schedule,
            sar_steps: self.sar_steps.unwrap_or(1),
            reveal: Rule {
                threshold: self.confidence_threshold,
                by: (self.confidence).unwrap_or(Self::own_rule(config, schedule).by),
            },
            block_rules: self.block_rules(config),
            first_sequence: self.first,
            known: given.known.clone(),
            bos: given.bos,
            set_rules: self.set_rules(&own, given.length),
            ..own
        };
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(RequestError::EmptyStopString);
        }
        if !self.stop_strings.is_empty() && codec.is_none() {
            let what = "a stop string";
            return Err(RequestError::NoTokenizer { what });
        }
        if self.confidence_threshold.is_some() && !options.reveal.by.is_networks() {
            return Err(RequestError::NotApplicable {
                option: "confidence_threshold",
                why: NOT_BY_CONFIDENCE,
            });
        }
        let suppressed = self.suppressed(config, codec)?;
        let unsure = self.unsure(config, codec, &options)?;
        let stop = StopRules {
            rules: self.stop_rules(config, codec),
            strings: self.stop_strings.clone(),
            ends: codec.map_or_else(|| Ends::of(config), TextCodec::ends),
        };
        if stop.rules.contains(&StopRule::Eos) && !stop.ends.has_end() {
            return Err(RequestError::NotApplicable {
                option: "stop",
                why: "a model that does not say which token ends a text",
            });
        }
        Ok(Resolved {
            options,
            sampler,
            suppressed,
            unsure,
            given,
            stop,
            logprobs: self.logprobs,
        })
    }

    /// The configuration that the text is written with.
    fn decoding(&self, own: &ModelConfig) -> Result<ModelConfig, RequestError> {
        let mut config = own.clone();
        if let Some(other) = self.decode_as {
            let why = match (own.family, other) {
                (Family::Ar, _) => Some("an AR model, which writes from left to right"),
                (Family::SetDlm, _) => Some("a SetDLM, whose masked tokens see no later ones"),
                (Family::Bd3Lm, DecodeAs::Mdlm) => Some("a BD3-LM, which goes by its blocks"),
                (Family::Bd3Lm, DecodeAs::Bd3lm) | (Family::EsoLm | Family::Mdlm, _) => None,
            };
            if let Some(why) = why {
                let option = "decode_as";
                return Err(RequestError::NotApplicable { option, why });
            }
            (config.family, config.attention) = match other {
                DecodeAs::Mdlm => (Family::Mdlm, AttentionKind::Bidirectional),
                DecodeAs::Bd3lm => (Family::Bd3Lm, AttentionKind::Block),
            };
            config.prepend = Prepend::None;
        }
        match config.family {
            Family::Bd3Lm => config.block_size = self.block_size.or(config.block_size),
            Family::Mdlm => config.block_size = self.mdlm_block(&config),
            _ => {}
        }
        Ok(config)
    }

    fn check_family(&self, config: &ModelConfig) -> Result<(), RequestError> {
        self.check_decoder(config)?;
        let family = config.family;
        let why = match family {
            Family::EsoLm | Family::Mdlm => Some("a model that writes in any order"),
            Family::Ar if config.decoder.is_some() => None,
            Family::Ar => Some("an AR model, whose texts are cut where they end"),
            Family::Bd3Lm | Family::SetDlm => self
                .infill
                .as_ref()
                .map(|_| "an infill, whose end is given"),
        };
        if let Some(why) = why.filter(|_| !self.stop.is_empty()) {
            let option = "stop";
            return Err(RequestError::NotApplicable { option, why });
        }
        let has_phases = self.alpha_0.is_some_and(|alpha_0| alpha_0 != 1.0);
        let blocks = self.block_size.map(|_| "block_size");
        let all_in_blocks = self.schedule.is_some_and(Schedule::is_all_in_blocks);
        let foreign = match family {
            Family::EsoLm if has_phases && all_in_blocks => {
                Some(("alpha_0", "a schedule that writes all in blocks"))
            }
            Family::EsoLm => blocks.map(|option| (option, "an Eso-LM, which has no blocks")),
            Family::Mdlm if has_phases => {
                Some(("alpha_0", "an MDLM, which writes all by diffusion"))
            }
            Family::Mdlm if self.is_by_confidence(config) => None,
            Family::Mdlm => blocks.map(|option| (option, "an MDLM, which has no blocks")),
            Family::SetDlm if has_phases => {
                Some(("alpha_0", "a SetDLM, which writes all by diffusion"))
            }
            Family::SetDlm if self.schedule == Some(Schedule::LeftToRight) => {
                (self.steps.is_some())
                    .then_some(("steps", "a schedule that draws one token a step"))
            }
            Family::SetDlm => blocks.map(|option| (option, "a SetDLM, which has no blocks")),
            Family::Bd3Lm if has_phases => {
                Some(("alpha_0", "a BD3-LM, which writes all by diffusion"))
            }
            Family::Bd3Lm => {
                let one_by_one = [Some(Schedule::FirstHitting), Some(Schedule::LeftToRight)]
                    .contains(&self.schedule);
                (one_by_one && self.steps.is_some())
                    .then_some(("steps", "a schedule that draws one token a step"))
            }
            Family::Ar => {
                let left_to_right = [None, Some(Schedule::LeftToRight)].contains(&self.schedule);
                let foreign = [
                    ("alpha_0", self.alpha_0.is_some()),
                    ("steps", self.steps.is_some()),
                    ("schedule", !left_to_right),
                    ("block_size", blocks.is_some()),
                ];
                (foreign.iter().find(|(_, is_given)| *is_given))
                    .map(|&(option, _)| (option, "an AR model, which writes from left to right"))
            }
        };
        match foreign {
            Some((option, why)) => Err(RequestError::NotApplicable { option, why }),
            None => Ok(()),
        }
    }

    fn given(
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
        let most = self.length.unwrap_or(context);
        // A block size that was asked for is named by itself.
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
            // A template says how long its text is, unless more is asked for.
            // Blocks are written whole.
            let own = placed.length.next_multiple_of(whole.unwrap_or(1).max(1));
            let length = self.length.unwrap_or(own);
            word_ends = placed.word_ends;
            (vec![placed.known], length)
        } else if self.prompt.is_empty() {
            // Nothing but the opening token leaves nothing to write in a text of one token.
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

fn placed_prompt(
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

impl Resolved {
    /// The plan.
    ///
    /// # Errors
    /// When an option is out of its range.
    pub fn plan(&self) -> Result<Plan, RequestError> {
        Ok(Plan::new(&self.options)?)
    }

    /// The seed of an attempt, from 0. Each has random numbers of its own.
    pub fn seed(&self, attempt: u32) -> u64 {
        match attempt {
            0 => self.options.seed,
            _ => redraw_seed(self.options.seed, attempt),
        }
    }

    /// How an attempt draws. At temperature 0 all attempts would write the same, so those after the first have a temperature that
    /// rises to 1.
    pub fn sampler(&self, attempt: u32) -> Sampler {
        let temperature = match self.sampler.temperature {
            0.0 if attempt > 0 => attempt as f32 / MAX_REDRAWS as f32,
            temperature => temperature,
        };
        Sampler {
            temperature,
            ..self.sampler
        }
    }

    /// The plan of `texts` (indices within the batch) alone, for another attempt at them, counted from 1. A text comes out the same,
    /// whichever others are drawn again with it.
    ///
    /// # Errors
    /// As [`Resolved::plan`].
    pub fn redraw(&self, texts: &[usize], attempt: u32) -> Result<Plan, RequestError> {
        let one = |index: usize, known: Vec<_>| {
            Plan::new(&PlanOptions {
                first_sequence: self.options.first_sequence + index as u32,
                known: vec![known],
                seed: self.seed(attempt),
                ..self.options.clone()
            })
        };
        let mut plan = one(0, self.options.known[0].clone())?;
        plan.sequences.clear();
        for &index in texts {
            let known = self.options.known[index].clone();
            plan.sequences.append(&mut one(index, known)?.sequences);
        }
        Ok(plan)
    }

    /// The first line of a trace of `plan`, which is that of an attempt at `texts`.
    pub fn header(&self, model: &str, plan: &Plan, attempt: u32, texts: Vec<usize>) -> Header {
        let (options, sampler) = (&self.options, self.sampler(attempt));
        Header {
            esolm_trace: trace::VERSION,
            esolm: env!("CARGO_PKG_VERSION").into(),
            model: model.into(),
            family: options.family,
            length: options.length,
            block_size: options.block_size,
            window: plan.window,
            alpha_0: options.alpha_0,
            steps: options.steps,
            schedule: options.schedule,
            sar_steps: (options.schedule == Schedule::BlockAutoregressive)
                .then_some(options.sar_steps),
            confidence: (options.schedule == Schedule::Confidence).then_some(options.reveal.by),
            confidence_threshold: options.reveal.threshold,
            prompt_tail: (options.family == Family::Bd3Lm)
                .then_some(options.block_rules)
                .flatten()
                .map(|rules| rules.tail),
            suppress_tokens: self.suppressed.clone(),
            begin_suppress_tokens: self.unsure.clone(),
            top_k: sampler.top_k,
            top_p: sampler.top_p,
            top_p_crossing: sampler.top_p_crossing,
            min_p: sampler.min_p,
            temperature: sampler.temperature,
            seed: options.seed,
            first: options.first_sequence,
            batch: options.known.len(),
            vocab_size: options.vocab_size,
            mask_index: options.mask_index,
            nfe: plan.nfe(),
            attempt,
            known: self.given.known.clone(),
            altered: self.given.altered.clone(),
            texts,
        }
    }

    /// Watches a text (an index within the batch) of which `tokens` are known, in natural order, the mask where none is.
    pub fn watch<'a>(
        &'a self,
        text: usize,
        tokens: Vec<u32>,
        codec: Option<&'a TextCodec>,
    ) -> Watch<'a> {
        let options = &self.options;
        let known = &self.given.known[text];
        let watch = Watch::new(
            &self.stop,
            codec,
            options.mask_index,
            options.block_size,
            known,
            tokens,
        );
        match options.family {
            Family::SetDlm => watch.of_sets(),
            // Of AR models a decoder's alone may end so.
            Family::Ar if !self.stop.rules.is_empty() => watch.of_tokens(),
            Family::Bd3Lm if options.block_rules.is_some() => watch.of_decoder(self.pad(text)),
            _ => watch,
        }
    }

    /// Indices of the texts in which the model ran on at a given word, such as "cats" for "cat ____".
    pub fn run_on(&self, texts: &[Vec<u32>], codec: Option<&TextCodec>) -> Vec<usize> {
        let Some(codec) = codec else {
            return Vec::new();
        };
        (0..texts.len())
            .filter(|&index| !codec.keeps_words(&texts[index], &self.given.word_ends))
            .collect()
    }

    /// The texts that tokens in natural order make which were kept because of `endings`. Where a run was stopped, unknown stretches show as underscores; without a tokenizer
    /// texts are the numbers of their tokens.
    pub fn texts(
        &self,
        tokens: &[Vec<u32>],
        endings: &[Ending],
        codec: Option<&TextCodec>,
    ) -> Vec<String> {
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
            Some(codec) => codec.text(tokens, until),
        };
        let texts = tokens.iter().zip(&self.given.until).zip(endings);
        texts
            .map(|(text, ending)| ending.text.clone().unwrap_or_else(|| one(text)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
