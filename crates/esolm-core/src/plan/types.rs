//! What plans are made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{AttentionKind, Family, ModelConfig, Prepend, Sets};
use crate::reveal::Rule;

use super::error::PlanError;
use super::sets::{Joining, SetRules};
use super::tail::BlockRules;

/// Longest sequence of a plan.
pub const MAX_LENGTH: usize = 1 << 20;
/// Most diffusion steps T that can be asked for.
pub const MAX_STEPS: usize = 1 << 20;
/// Most given tokens that enter the cache in one step, so that the work of a submit stays bounded. A longer prompt gets steps of its
/// own.
pub const MAX_PROMPT_ROWS: usize = 512;

/// How the steps are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The published sampler: binomial step sizes, uniformly random positions, the rest left to right.
    #[default]
    Binomial,
    /// T blocks of positions that lie far apart: step i takes positions i, i + T, ...; the last (1 - alpha_0) share of the blocks is
    /// taken left to right (the published sub-contexts).
    Blocks,
    /// As blocks, shuffled within steps and the order of the steps.
    BlocksShuffled,
    /// One by one, ascending, whatever alpha_0.
    LeftToRight,
    /// S = T neighbours are a block; step i takes one place, drawn at random for the text, of every block at once (`block` of
    /// scaling-dllms). All by diffusion, whatever alpha_0.
    Block,
    /// Blocks as in [`Schedule::Block`], but each from left to right: the first positions of the blocks one by one, then those after them in
    /// all blocks at once, in [`PlanOptions::sar_steps`] stretches of the text one after the other (`block_autoregressive` of
    /// scaling-dllms).
    #[serde(alias = "block_autoregressive")]
    BlockAutoregressive,
    /// The published sampler of a BD3-LM: one by one in random order within each block. Of a SetDLM, in an order that its noise draws, as many
    /// at a time as make T steps of about the same size.
    FirstHitting,
    /// The network's confidence chooses: each step draws a token for every place of the text, or of the block of a BD3-LM, that is still
    /// masked, and the tokens that it is most sure of become known. The first T steps take about as many each. Of a SetDLM, for the masked
    /// places of a window ([`SetRules`]).
    Confidence,
}

impl Schedule {
    /// Every schedule.
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

    /// Whether it writes every token in contiguous blocks, so that no phase is left for an alpha_0 to divide.
    pub fn is_all_in_blocks(self) -> bool {
        matches!(self, Schedule::Block | Schedule::BlockAutoregressive)
    }

    /// The name that [`FromStr`] reads, also that of the JSON form.
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
        // Published names are written with underscores.
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

/// What a step does. Of several sequences of a batch, the greatest of their phases stands for the step.
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

/// What a plan is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOptions {
    /// Family of the model.
    pub family: Family,
    /// Its attention.
    pub attention: AttentionKind,
    /// Tokens of each sequence, the given ones included.
    pub length: usize,
    /// Share of the tokens that diffusion takes, in [0, 1]. An MDLM knows only 1. AR, [`Schedule::LeftToRight`], [`Schedule::Block`] and
    /// [`Schedule::BlockAutoregressive`] do not use it.
    pub alpha_0: f64,
    /// T: diffusion time steps, of a SetDLM the most that there are; of the other families before those that unmask nothing are dropped; number of blocks of [`Schedule::Blocks`] and [`Schedule::BlocksShuffled`], and tokens of a block
    /// of [`Schedule::Block`] and [`Schedule::BlockAutoregressive`]. AR and
    /// [`Schedule::LeftToRight`] do not use it. Of a BD3-LM, the steps of each block, of [`Schedule::Binomial`] and [`Schedule::Confidence`]
    /// alone. An MDLM that is written in blocks has T divided by their number, rounded up, in each.
    pub steps: usize,
    /// How the steps are laid out. AR goes left to right in any case, and refuses the block schedules; a BD3-LM has the binomial one, left
    /// to right and first-hitting, each within a block.
    pub schedule: Schedule,
    /// R: stretches of the text that [`Schedule::BlockAutoregressive`] writes one after the other; 1 for every other schedule.
    pub sar_steps: usize,
    /// How [`Schedule::Confidence`] chooses; every other schedule has the default.
    pub reveal: Rule,
    /// Seed of the plan.
    pub seed: u64,
    /// Absolute index of the first sequence; the others follow.
    pub first_sequence: u32,
    /// Given (natural position, token) pairs in any order, a list for each sequence: their number is the batch.
    pub known: Vec<Vec<(u32, u32)>>,
    /// What an AR model reads first.
    pub prepend: Prepend,
    /// The token that opens a text, where the model has one.
    pub bos: Option<u32>,
    /// The mask token.
    pub mask_index: u32,
    /// V, the mask included.
    pub vocab_size: usize,
    /// Tokens of a block of a BD3-LM, a divisor of the length and of the context; with [`PlanOptions::block_rules`] the last block may be
    /// short. Of an MDLM by [`Schedule::Confidence`], the tokens that are written before any behind them; without it, confidence chooses among
    /// all.
    pub block_size: Option<usize>,
    /// Where the blocks of a decoder begin, and how many tokens a step of [`Schedule::Confidence`] takes; other networks have none.
    pub block_rules: Option<BlockRules>,
    /// Tokens of the context. A BD3-LM can write more, and so can a SetDLM by confidence, and then see the last so many; other families do not
    /// read it.
    pub context: usize,
    /// The noise of a SetDLM, which [`Schedule::FirstHitting`] draws the order of its tokens from.
    pub sets: Option<Sets>,
    /// How [`Schedule::Confidence`] goes through the text of a SetDLM.
    pub set_rules: Option<SetRules>,
}

impl PlanOptions {
    /// Checks all that can be told without drawing a plan.
    ///
    /// # Errors
    /// Those of [`Plan::new`](super::Plan::new), but for given tokens.
    pub fn check(&self) -> Result<(), PlanError> {
        super::build::check(self)
    }

    /// Whether it is for an Eso-LM (A).
    pub(super) fn is_mixed(&self) -> bool {
        self.family == Family::EsoLm && self.attention == AttentionKind::Mixed
    }

    /// Slots of the cache where the text is longer than the context.
    pub(super) fn window(&self) -> Option<usize> {
        let can = match self.family {
            Family::Bd3Lm => self.block_rules.is_none(),
            Family::SetDlm => self.schedule == Schedule::Confidence,
            _ => false,
        };
        (can && self.length > self.context).then_some(self.context)
    }

    /// The options that suit a model: its length, its alpha_0 (1 where it does not say), the binomial schedule or, for AR, left to
    /// right, for a decoder that is neither confidence; `batch` sequences from index 0, nothing given.
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

/// One step of one sequence, as ranges of its order; `clean`, `start` and `end` are the `last_k_start`, `curr_k_start` and
/// `curr_k_end` of the published sampler. JSON: `[phase, clean, start, end]`, or `[phase, clean, start, end, least]`.
///
/// Steps with a `least` let the network's confidence choose ([`crate::reveal`]). Those with the same entries start..end are one *stretch*:
/// each draws for those of the entries that are still masked, and at the end of the stretch, when `least` has added up to their number, all
/// of them are known. Of which places a token is known meanwhile no plan says, so the rows of such a plan read the token buffer, where an
/// unknown place holds the mask token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "StepForm", into = "StepForm")]
pub struct PlanStep {
    /// What it does.
    pub phase: Phase,
    /// Entries clean..start of the order enter as known tokens; those below stand in the cache. An MDLM computes every row, an Eso-LM (A)
    /// all known ones up to its first sequential step, as they see each other. Of a BD3-LM it
    /// is a position, from which clean blocks enter up to the one that is drawn from.
    pub clean: u32,
    /// Entries start..end are drawn; an AR model draws entry `start` from the row of entry `start - 1`.
    pub start: u32,
    /// One past the last entry drawn.
    pub end: u32,
    /// At least so many of the entries become known, the most confident ones; without it all of them do.
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
    /// Absolute index: keys the random numbers.
    pub sequence: u32,
    /// Natural positions in the order in which they become known, the given ones first. For an Eso-LM entry i takes slot i; for
    /// an MDLM or a BD3-LM, whose slots are positions, it is only the order; AR goes left to right. With a prepended token, that is position 0.
    /// Where confidence chooses, nobody knows the order beforehand, and positions ascend within a stretch.
    pub order: Vec<u32>,
    /// Tokens of the first entries of the order: what is given.
    pub known: Vec<u32>,
    /// Its steps.
    pub steps: Vec<PlanStep>,
}
