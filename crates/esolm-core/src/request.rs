//! Turning a request into a plan: options are filled in from the model, prompts and templates become given tokens. All
//! front ends go through here, so the same request always gives the same plan.

mod decoder;
mod error;
mod given;
mod left_out;
mod resolved;
mod sets;
mod tokens;

use serde::{Deserialize, Deserializer, Serialize};

use crate::config::{AttentionKind, Family, ModelConfig, Prepend};
use crate::plan::{PlanOptions, PromptTail, Schedule};
use crate::recommended::Recommended;
use crate::reveal::{Confidence, Rule};
use crate::sampler::{Crossing, Sampler};
use crate::stop::{StopRule, StopRules};
use crate::text::{Ends, TextCodec};
use crate::trace;
pub use error::RequestError;
pub use given::Given;
use left_out::NOT_BY_CONFIDENCE;
pub use left_out::TokenName;
pub use resolved::Resolved;
pub use sets::InfillContext;
pub use tokens::{NO_BOS, opens};

/// Upper limit on texts per run, far beyond any real use; larger numbers would overflow.
pub const MAX_BATCH: usize = 1 << 16;
/// How often a text is redrawn at most because the model extended a given word.
pub const MAX_REDRAWS: u32 = 32;

/// A way of running a network other than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeAs {
    /// As a masked diffusion model: every step computes every position, all attend to all, and nothing is cached.
    Mdlm,
    /// As a block diffusion model with blocks of [`Request::block_size`]: blocks are written in order, each attending
    /// to itself in both directions and to earlier blocks, whose keys and values are cached.
    Bd3lm,
}

/// A request for texts. Options left out are filled in from the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Prompts to continue, one or several.
    #[serde(deserialize_with = "one_or_several")]
    pub prompt: Vec<String>,
    /// A template with gaps, instead of prompts ([`Template`](crate::text::Template)).
    pub infill: Option<String>,
    /// Tokens per text, including given ones. Default: the context, or the length of the template; for a decoder, 128
    /// more than are given. A BD3-LM writes whole blocks. It can write more than its context, in which case each block
    /// sees only the last tokens that fit into it.
    pub length: Option<usize>,
    /// Fraction of the tokens that an Eso-LM writes by diffusion, in [0, 1]. Default: the [recommended](Recommended)
    /// value, otherwise the model's own, otherwise 1.
    pub alpha_0: Option<f64>,
    /// T, the number of diffusion steps. For a BD3-LM these are steps per block, available only with the schedules
    /// binomial and confidence. With the schedules block and block-autoregressive it is the block size. Default: the
    /// length.
    pub steps: Option<usize>,
    /// How the steps are laid out. Default: binomial; AR models go from left to right; a BD3-LM uses first-hitting
    /// unless `steps` is given; decoders that write by diffusion use confidence.
    pub schedule: Option<Schedule>,
    /// Number of regions that the schedule block-autoregressive writes one after another. Default: 1.
    pub sar_steps: Option<usize>,
    /// With the schedule confidence: tokens of at least this confidence, in [0, 1], are revealed immediately, however
    /// many a step would take, so that a text may need fewer passes. Default: none.
    pub confidence_threshold: Option<f32>,
    /// With the schedule confidence: how tokens are compared. Default: by the model's probability; for a SetDLM by the
    /// probability with which the token was drawn, for SDAR by the probability after the temperature.
    pub confidence: Option<Confidence>,
    /// Tokens per block of a BD3-LM, overriding its own; required if another network is run [as one](DecodeAs::Bd3lm).
    /// For an MDLM with the schedule confidence: the number of tokens that it completes before moving on. Default: all
    /// at once; 32 for a decoder that continues a prompt.
    pub block_size: Option<usize>,
    /// Where the blocks of a decoder that is a BD3-LM begin, and what the prompt sees of the first one. Default: as in
    /// its published sampler; in a template, blocks are counted from the beginning of the text.
    pub prompt_tail: Option<PromptTail>,
    /// Number of masked positions at which a SetDLM draws in a step, starting with the first. Default: the largest set
    /// size that it was trained with.
    pub window: Option<usize>,
    /// Let a SetDLM write its text in an order drawn from its noise, as in training.
    pub train_order: bool,
    /// How much of a template a SetDLM sees. Default: everything that is given.
    pub infill_context: Option<InfillContext>,
    /// Draw only from this many most likely tokens, at least 1. Default: the recommended value, otherwise all.
    pub top_k: Option<u32>,
    /// Draw only from the smallest set of most likely tokens, among those left by top-k, whose total probability
    /// reaches this, in (0, 1]. Default: the recommended value, otherwise all.
    pub top_p: Option<f32>,
    /// Whether the token at which the total reaches `top_p` is included. Default: yes.
    pub top_p_crossing: Option<Crossing>,
    /// Draw only from tokens at least this fraction as likely as the most likely one, in [0, 1]. Default: the
    /// recommended value, otherwise all.
    pub min_p: Option<f32>,
    /// Tokens that are never drawn; their probability goes to the other tokens. Default: none.
    pub suppress_tokens: Vec<TokenName>,
    /// With the schedule confidence: tokens that may be drawn, but with confidence 0, so that they are revealed last.
    /// They do not count in the confidence of other tokens. Default: none.
    pub begin_suppress_tokens: Vec<TokenName>,
    /// Divides the logits; 0 takes the most likely token. Default: the recommended value, otherwise 1.
    pub temperature: Option<f32>,
    /// Keys all random numbers. In JSON, a number or a string of digits. Default: random.
    #[serde(with = "trace::optional_seed")]
    pub seed: Option<u64>,
    /// Number of texts. Default: the number of prompts.
    pub batch: Option<usize>,
    /// Absolute index of the first text.
    pub first: u32,
    /// Rules that may end a BD3-LM's text early after any block, or a SetDLM's after any token. Default: none; for a
    /// decoder that is a BD3-LM or an AR model, its end-of-text tokens.
    pub stop: Vec<StopRule>,
    /// A text ends before the first of these strings that the model writes, or at its first end-of-text token if that
    /// comes first. Only strings that begin in generated text count. Needs a tokenizer; no string may be empty.
    /// Default: none.
    #[serde(deserialize_with = "one_or_several")]
    pub stop_strings: Vec<String>,
    /// Report each token's log-probability according to the model in the step that drew it. Costs an additional product
    /// with the output matrix per step, and a readback on a GPU. Default: no.
    pub logprobs: bool,
    /// Whether texts open with the beginning-of-text token, if the model has one. Default: yes; for decoders, only if
    /// the tokenizer adds that token to every text. An AR model whose text would otherwise be empty reads the token in
    /// any case.
    pub bos: Option<bool>,
    /// Run the network of an Eso-LM or an MDLM in a way that it was not trained for. This shows what a way of decoding
    /// costs, not how well it writes.
    pub decode_as: Option<DecodeAs>,
}

/// A list of texts, which in JSON may also be a single text.
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

impl Request {
    /// Fills in recommended values for whatever the request leaves unset. The recommended alpha_0 applies only to an
    /// Eso-LM that runs as one, with a schedule that has two phases.
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

    /// Fills in defaults, and turns text into tokens. The default seed is 0; callers that want a random one must set
    /// it.
    ///
    /// # Errors
    /// If an option is out of range or does not apply to the family, or a text does not fit.
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
                why: "a draw without nucleus sampling",
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
            // The whole text is written in blocks.
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

    /// The configuration with which the text is written.
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
}

#[cfg(test)]
mod tests;
