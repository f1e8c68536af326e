//! The parts of a plan.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{AttentionKind, Family, ModelConfig, Prepend, Sets};
use crate::reveal::Rule;

use super::error::PlanError;
use super::sets::{Joining, SetRules};
use super::tail::BlockRules;

/// Maximum length of a sequence in a plan.
pub const MAX_LENGTH: usize = 1 << 20;
/// Maximum number of diffusion steps T.
pub const MAX_STEPS: usize = 1 << 20;
/// Maximum given tokens that enter the cache in one step, which bounds the work of a submission. A longer prompt gets
/// steps of its own.
pub const MAX_PROMPT_ROWS: usize = 512;

/// How the steps are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The published sampler: binomial step sizes, uniformly random positions, the rest from left to right.
    #[default]
    Binomial,
    /// T blocks of positions that are far apart: step i takes the positions i, i + T, ...; the last fraction (1 -
    /// alpha_0) of the blocks is written from left to right (the published sub-contexts).
    Blocks,
    /// Like blocks, with the positions within steps and the order of the steps shuffled.
    BlocksShuffled,
    /// One by one from left to right, regardless of alpha_0.
    LeftToRight,
    /// Blocks of S = T adjacent positions; step i takes the same offset, drawn at random for the text, in every block
    /// at once (`block` of scaling-dllms). Everything is written by diffusion, regardless of alpha_0.
    Block,
    /// Blocks as in [`Schedule::Block`], but each from left to right: first the initial positions of the blocks one by
    /// one, then the following positions of all blocks at once. Done for [`PlanOptions::sar_steps`] regions of the
    /// text, one after another (`block_autoregressive` of scaling-dllms).
    #[serde(alias = "block_autoregressive")]
    BlockAutoregressive,
    /// The published sampler of a BD3-LM: one by one in random order within each block. For a SetDLM, in an order drawn
    /// from its noise, in T steps of about the same size.
    FirstHitting,
    /// The network's confidence chooses: each step draws a token at every position of the text, or of a BD3-LM's block,
    /// that is still masked, and reveals those in which it is most confident. The first T steps reveal about the same
    /// number each. For a SetDLM, the masked positions of a window ([`SetRules`]).
    Confidence,
}

impl Schedule {
    /// All schedules.
    pub const ALL: [Schedule; 8] = [
        Schedule::Binomial,
        Schedule::Blocks,
        Schedule::BlocksShuffled,
        Schedule::LeftToRight,
        Schedule::Block,
        Schedule::BlockAutoregressive,
        Schedule::FirstHitting,
        Schedule::Confidence,
    ];

    /// Whether all tokens are written in contiguous blocks, which leaves no phases for alpha_0 to divide.
    pub fn is_all_in_blocks(self) -> bool {
        matches!(self, Schedule::Block | Schedule::BlockAutoregressive)
    }

    /// Its name, as read by [`FromStr`] and used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::Binomial => "binomial",
            Schedule::Blocks => "blocks",
            Schedule::BlocksShuffled => "blocks-shuffled",
            Schedule::LeftToRight => "left-to-right",
            Schedule::Block => "block",
            Schedule::BlockAutoregressive => "block-autoregressive",
            Schedule::FirstHitting => "first-hitting",
            Schedule::Confidence => "confidence",
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        // Published names contain underscores.
        let plain = name.replace('_', "-");
        Schedule::ALL
            .into_iter()
            .find(|schedule| schedule.name() == plain)
            .ok_or_else(|| {
                let names = Schedule::ALL.map(Schedule::name).join(", ");
                format!("\"{name}\" is not a schedule; give one of {names}")
            })
    }
}

/// What a step does. For several sequences of a batch, the greatest of their phases counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Given tokens enter the cache; nothing is drawn.
    Prompt,
    /// One token, left to right.
    Sequential,
    /// Tokens at any positions, at once.
    Diffusion,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Prompt => "prompt",
            Phase::Sequential => "sequential",
            Phase::Diffusion => "diffusion",
        })
    }
}

/// Options of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOptions {
    /// Family of the model.
    pub family: Family,
    /// Its attention.
    pub attention: AttentionKind,
    /// Tokens per sequence, including the given ones.
    pub length: usize,
    /// Fraction of the tokens that diffusion writes, in [0, 1]. Must be 1 for an MDLM. Unused for AR,
    /// [`Schedule::LeftToRight`], [`Schedule::Block`] and [`Schedule::BlockAutoregressive`].
    pub alpha_0: f64,
    /// T: the number of diffusion time steps, counted before steps that unmask nothing are dropped; for a SetDLM, the
    /// maximum. It is the number of blocks of [`Schedule::Blocks`] and [`Schedule::BlocksShuffled`], and the block size
    /// of [`Schedule::Block`] and [`Schedule::BlockAutoregressive`]. Unused for AR and [`Schedule::LeftToRight`]. For a
    /// BD3-LM, steps per block, and only with [`Schedule::Binomial`] and [`Schedule::Confidence`]. For an MDLM written
    /// in blocks, each block gets T divided by the number of blocks, rounded up.
    pub steps: usize,
    /// How the steps are laid out. AR always goes from left to right, and rejects the block schedules. A BD3-LM
    /// supports binomial, left-to-right, first-hitting and confidence, each within a block.
    pub schedule: Schedule,
    /// R: number of regions that [`Schedule::BlockAutoregressive`] writes one after another; 1 for every other
    /// schedule.
    pub sar_steps: usize,
    /// How [`Schedule::Confidence`] chooses; the default for every other schedule.
    pub reveal: Rule,
    /// Seed of the plan.
    pub seed: u64,
    /// Absolute index of the first sequence; the others follow.
    pub first_sequence: u32,
    /// Given (natural position, token) pairs in any order, one list per sequence; the number of lists is the batch
    /// size.
    pub known: Vec<Vec<(u32, u32)>>,
    /// What an AR model reads first.
    pub prepend: Prepend,
    /// The token that opens a text, if the model has one.
    pub bos: Option<u32>,
    /// The mask token.
    pub mask_index: u32,
    /// V, including the mask.
    pub vocab_size: usize,
    /// Tokens per block of a BD3-LM, a divisor of the length and of the context; with [`PlanOptions::block_rules`], the
    /// last block may be shorter. For an MDLM with [`Schedule::Confidence`], the number of tokens that it completes
    /// before moving on; if unset, confidence chooses among all.
    pub block_size: Option<usize>,
    /// Where a decoder's blocks begin, and how many tokens a step of [`Schedule::Confidence`] reveals; `None` for other
    /// networks.
    pub block_rules: Option<BlockRules>,
    /// Context length in tokens. A BD3-LM, or a SetDLM with confidence, can write more, and then sees only the last
    /// tokens. Unused for other families.
    pub context: usize,
    /// The noise of a SetDLM, from which [`Schedule::FirstHitting`] draws the order of its tokens.
    pub sets: Option<Sets>,
    /// How [`Schedule::Confidence`] goes through a SetDLM's text.
    pub set_rules: Option<SetRules>,
}

impl PlanOptions {
    /// Checks everything that can be checked without drawing a plan.
    ///
    /// # Errors
    /// Those of [`Plan::new`](super::Plan::new), except errors of given tokens.
    pub fn check(&self) -> Result<(), PlanError> {
        super::build::check(self)
    }

    /// Whether this is for an Eso-LM (A).
    pub(super) fn is_mixed(&self) -> bool {
        self.family == Family::EsoLm && self.attention == AttentionKind::Mixed
    }

    /// Number of cache slots, if the text is longer than the context.
    pub(super) fn window(&self) -> Option<usize> {
        let can = match self.family {
            Family::Bd3Lm => self.block_rules.is_none(),
            Family::SetDlm => self.schedule == Schedule::Confidence,
            _ => false,
        };
        (can && self.length > self.context).then_some(self.context)
    }

    /// Default options for a model: its length; its alpha_0, or 1 if it does not specify one; the binomial schedule, or
    /// left-to-right for AR, or confidence for other decoders. `batch` sequences from index 0 on, with nothing given.
    pub fn new(config: &ModelConfig, batch: usize, steps: usize, seed: u64) -> Self {
        Self {
            family: config.family,
            attention: config.attention,
            length: config.length,
            alpha_0: match config.family {
                Family::EsoLm => config.alpha_0.unwrap_or(1.0),
                Family::Mdlm | Family::Bd3Lm | Family::SetDlm => 1.0,
                Family::Ar => 0.0,
            },
            steps,
            schedule: match config.family {
                Family::Ar => Schedule::LeftToRight,
                _ if config.decoder.is_some() => Schedule::Confidence,
                Family::EsoLm | Family::Mdlm => Schedule::Binomial,
                Family::Bd3Lm => Schedule::FirstHitting,
                Family::SetDlm => Schedule::Confidence,
            },
            sar_steps: 1,
            reveal: Rule::default(),
            seed,
            first_sequence: 0,
            known: vec![Vec::new(); batch],
            prepend: config.prepend,
            bos: config.bos,
            mask_index: config.mask_index,
            vocab_size: config.vocab_size,
            block_size: config.block_size,
            block_rules: (config.decoder.as_ref())
                .filter(|_| config.family != Family::Ar)
                .map(|decoder| BlockRules::new(decoder, None)),
            context: config.length,
            sets: config.sets,
            set_rules: config.sets.map(|sets| SetRules {
                window: sets.largest,
                context: config.length,
                joining: match sets.cache_by_time {
                    true => Joining::Time,
                    false => Joining::Position,
                },
                sees_right: true,
            }),
        }
    }
}

/// One step of one sequence, as ranges of its order; `clean`, `start` and `end` are the published sampler's
/// `last_k_start`, `curr_k_start` and `curr_k_end`. JSON: `[phase, clean, start, end]`, or `[phase, clean, start, end,
/// least]`.
///
/// Steps with a `least` let the network's confidence choose ([`crate::reveal`]). Those with the same entries start..end
/// form a *stretch*: each draws for the entries that are still masked, and at the end of the stretch, when the `least`
/// values have added up to the number of entries, all are known. The plan does not say which entries are known in
/// between, so the rows of such a plan read the token buffer, where an unknown entry holds the mask token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "StepForm", into = "StepForm")]
pub struct PlanStep {
    /// What it does.
    pub phase: Phase,
    /// Entries clean..start of the order enter as known tokens; earlier ones are in the cache. An MDLM computes every
    /// row, an Eso-LM (A) all known ones up to its first sequential step, because they see each other. For a BD3-LM,
    /// `clean` is the position from which clean blocks enter, up to the block being drawn.
    pub clean: u32,
    /// Entries start..end are drawn; an AR model draws entry `start` from the row of entry `start - 1`.
    pub start: u32,
    /// One past the last entry drawn.
    pub end: u32,
    /// Minimum number of these entries to reveal, the most confident ones first; `None` reveals all of them.
    pub least: Option<u32>,
}

impl PlanStep {
    /// The step that draws the entries start..end.
    pub fn new(phase: Phase, clean: u32, start: u32, end: u32) -> Self {
        Self {
            phase,
            clean,
            start,
            end,
            least: None,
        }
    }
}

/// A step in JSON.
#[derive(Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "a step is [phase, clean, start, end], or with a fifth number"
)]
enum StepForm {
    All(Phase, u32, u32, u32),
    Least(Phase, u32, u32, u32, u32),
}

impl From<StepForm> for PlanStep {
    fn from(form: StepForm) -> Self {
        match form {
            StepForm::All(phase, clean, start, end) => Self::new(phase, clean, start, end),
            StepForm::Least(phase, clean, start, end, least) => Self {
                least: Some(least),
                ..Self::new(phase, clean, start, end)
            },
        }
    }
}

impl From<PlanStep> for StepForm {
    fn from(step: PlanStep) -> Self {
        let PlanStep {
            phase,
            clean,
            start,
            end,
            least,
        } = step;
        match least {
            Some(least) => Self::Least(phase, clean, start, end, least),
            None => Self::All(phase, clean, start, end),
        }
    }
}

/// The plan of one sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequencePlan {
    /// Absolute index, which keys the random numbers.
    pub sequence: u32,
    /// Natural positions in the order in which they become known, the given ones first. For an Eso-LM, entry i takes
    /// slot i. For an MDLM or a BD3-LM, whose slots are positions, it is only the order. AR goes from left to right. A
    /// prepended token is at position 0. If confidence chooses, the order is not known in advance, and positions ascend
    /// within a stretch.
    pub order: Vec<u32>,
    /// The given tokens, for the first entries of the order.
    pub known: Vec<u32>,
    /// Its steps.
    pub steps: Vec<PlanStep>,
}
