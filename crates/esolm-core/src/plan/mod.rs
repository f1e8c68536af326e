//! A plan says which rows run in which step: pure data, drawn on the host before any forward pass, since nothing about *which*
//! tokens are written *when* depends on the network. The same plan drives every executor, native or in a browser, and whatever
//! shows the steps.
//!
//! Each sequence has a schedule and an order of its own, drawn from (seed, sequence) alone, so a sample does not depend on the
//! batch it is in. (The published code draws one schedule a batch; the distribution of each sequence is the same.)

mod build;
mod check;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::config::{AttentionKind, Family, Prepend};
use crate::rows::{Layout, MASKED, NO_TARGET, Row, StepRows};

/// How the steps are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The published schedule: binomial step sizes, uniformly random positions.
    #[default]
    Binomial,
    /// Step i takes positions i, i + S, ... of S steps.
    Blocks,
    /// As blocks, shuffled within steps and the order of the steps.
    BlocksShuffled,
    /// One by one, ascending.
    LeftToRight,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Given tokens enter the cache; nothing is drawn.
    Prompt,
    /// Several tokens at once, in any order.
    Diffusion,
    /// One token, left to right.
    Sequential,
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
    /// Share written by diffusion, in [0, 1].
    pub alpha_0: f64,
    /// Steps T of the diffusion phase.
    pub steps: usize,
    /// How the steps are laid out.
    pub schedule: Schedule,
    /// Seed of the plan.
    pub seed: u64,
    /// Absolute index of the first sequence.
    pub first_sequence: u32,
    /// Given (position, token) pairs, a list for each sequence of the batch.
    pub known: Vec<Vec<(u32, u32)>>,
    /// What an AR model reads first.
    pub prepend: Prepend,
    /// The token that opens a text, where the model has one.
    pub bos: Option<u32>,
    /// The mask token.
    pub mask_index: u32,
}

/// Why a plan cannot be made or is not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A value out of its range.
    #[error("{name} is {value}; it must be {range}")]
    Range {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        range: String,
    },
    /// A given token that does not fit.
    #[error("sequence {sequence}: the given token at position {position} {reason}")]
    Known {
        /// The sequence.
        sequence: usize,
        /// The position.
        position: u32,
        /// What is wrong.
        reason: String,
    },
    /// A combination that the model cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// A plan file that is not valid.
    #[error("the plan is not valid: {0}")]
    Invalid(String),
}

/// One step of one sequence, as ranges of its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// What it does.
    pub phase: Phase,
    /// Entries clean..start of the order enter as known tokens.
    pub clean: u32,
    /// Entries start..end are drawn.
    pub start: u32,
    /// One past the last entry drawn.
    pub end: u32,
}

/// The plan of one sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencePlan {
    /// Absolute index: keys the random numbers.
    pub sequence: u32,
    /// Natural positions in the order in which they become known. For an Eso-LM entry i takes slot i.
    pub order: Vec<u32>,
    /// Tokens of the first entries of the order: what is given.
    pub known: Vec<u32>,
    /// Its steps.
    pub steps: Vec<PlanStep>,
}

/// The plan of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Family of the model it is for.
    pub family: Family,
    /// Entries of each sequence, a prepended one included.
    pub length: usize,
    /// Whether the first entry is prepended and not part of the text.
    pub lead: bool,
    /// The mask token.
    pub mask_index: u32,
    /// One plan a sequence.
    pub sequences: Vec<SequencePlan>,
}

impl Plan {
    /// Draws a plan.
    ///
    /// # Errors
    /// When an option is out of its range, a given token does not fit, or the family cannot do it.
    pub fn new(options: &PlanOptions) -> Result<Self, PlanError> {
        build::plan(options)
    }

    /// The plan of a recorded Eso-LM generation: `sort_idx` [B, L] and `steps` [N, 3] of (last start, current start, current
    /// end), as the published sampler goes through them.
    ///
    /// # Errors
    /// When an order is no permutation or the steps do not follow each other up to the end.
    pub fn from_recorded(sort_idx: &[Vec<u32>], steps: &[[u32; 3]], mask_index: u32) -> Result<Self, PlanError> {
        let steps: Vec<PlanStep> = steps
            .iter()
            .map(|&[clean, start, end]| PlanStep { phase: if end == start + 1 { Phase::Sequential } else { Phase::Diffusion }, clean, start, end })
            .collect();
        let sequences = sort_idx
            .iter()
            .zip(0..)
            .map(|(order, sequence)| SequencePlan { sequence, order: order.clone(), known: Vec::new(), steps: steps.clone() })
            .collect();
        let plan = Self { family: Family::EsoLm, length: sort_idx.first().map_or(0, Vec::len), lead: false, mask_index, sequences };
        plan.check()?;
        Ok(plan)
    }

    /// Reads a plan that somebody wrote, and checks all of it.
    ///
    /// # Errors
    /// When it is no JSON of a plan, or an executor could not run it.
    pub fn from_json(json: &str) -> Result<Self, PlanError> {
        let plan: Self = serde_json::from_str(json).map_err(|e| PlanError::Invalid(e.to_string()))?;
        plan.check()?;
        Ok(plan)
    }

    /// The plan as JSON.
    pub fn to_json(&self) -> String {
        // Numbers, strings and lists alone: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Sizes of the batch on a device.
    pub fn layout(&self) -> Layout {
        Layout { sequences: self.sequences.len(), slots: self.length, tokens: self.sequences.len() * self.length }
    }

    /// Forward passes: the most steps of any sequence.
    pub fn nfe(&self) -> usize {
        self.sequences.iter().map(|s| s.steps.len()).max().unwrap_or(0)
    }

    /// The phase of a step: that of the first sequence that still runs.
    pub fn phase(&self, step: usize) -> Phase {
        self.sequences.iter().find_map(|s| s.steps.get(step)).map_or(Phase::Sequential, |s| s.phase)
    }

    /// The token buffer at the start: given tokens in place, the mask token elsewhere.
    pub fn initial_tokens(&self) -> Vec<u32> {
        let mut tokens = vec![self.mask_index; self.layout().tokens];
        for (sequence, first) in self.sequences.iter().zip((0..).step_by(self.length.max(1))) {
            for (&position, &token) in sequence.order.iter().zip(&sequence.known) {
                tokens[first + position as usize] = token;
            }
        }
        tokens
    }

    /// The rows of a step for the whole batch; a sequence that is done adds none.
    pub fn step_rows(&self, step: usize) -> StepRows {
        let mut rows = StepRows::default();
        for (index, sequence) in self.sequences.iter().enumerate() {
            if let Some(step) = sequence.steps.get(step) {
                self.add_rows(index as u32, sequence, step, &mut rows);
            }
        }
        rows
    }

    fn add_rows(&self, index: u32, sequence: &SequencePlan, step: &PlanStep, out: &mut StepRows) {
        let first = index * self.length as u32;
        let mut push = |slot: u32, position: u32, prefix: u32, source: u32, target: u32| {
            if target != NO_TARGET {
                out.sampled.push(out.rows.len() as u32);
            }
            out.rows.push(Row { sequence: index, slot, position, prefix, source, target });
        };
        match self.family {
            Family::EsoLm => {
                for slot in step.clean..step.end {
                    let position = sequence.order[slot as usize];
                    let place = first + position;
                    if slot < step.start {
                        push(slot, position, slot + 1, place, NO_TARGET);
                    } else {
                        push(slot, position, slot + 1, MASKED, place);
                    }
                }
            }
            Family::Mdlm => {
                // Every position runs in natural order; `rank` says which are known and which are drawn now.
                let mut rank = vec![0; self.length];
                sequence.order.iter().zip(0..).for_each(|(&position, at)| rank[position as usize] = at);
                for (position, &rank) in (0..).zip(&rank) {
                    let source = if rank < step.start { first + position } else { MASKED };
                    let target = if (step.start..step.end).contains(&rank) { first + position } else { NO_TARGET };
                    push(position, position, self.length as u32, source, target);
                }
            }
            Family::Ar => {
                // The row at position p reads token p and foretells p + 1; the last known one foretells the token drawn.
                for position in step.clean..step.start {
                    let target = if position + 1 == step.start && step.end > step.start { first + step.start } else { NO_TARGET };
                    push(position, position, position + 1, first + position, target);
                }
            }
        }
    }

    /// Clean slots in the kv_cache after a step, over all sequences; 0 for MDLM, which has no cache.
    pub fn cache_length(&self, step: usize) -> usize {
        if self.family == Family::Mdlm {
            return 0;
        }
        self.sequences.iter().filter_map(|s| s.steps.get(step.min(s.steps.len().saturating_sub(1)))).map(|s| s.start as usize).sum()
    }

    /// The position in the text of an index into the token buffer; a prepended element counts as position 0.
    pub fn output_position(&self, target: u32) -> u32 {
        (target % self.length.max(1) as u32).saturating_sub(u32::from(self.lead))
    }

    /// Texts in natural order from the token buffer, without what was prepended.
    pub fn output(&self, tokens: &[u32]) -> Vec<Vec<u32>> {
        tokens.chunks(self.length.max(1)).map(|sequence| sequence[usize::from(self.lead)..].to_vec()).collect()
    }

    /// Tokens in the order in which they became known.
    pub fn sorted(&self, tokens: &[u32]) -> Vec<Vec<u32>> {
        let sequences = tokens.chunks(self.length.max(1)).zip(&self.sequences);
        sequences.map(|(tokens, sequence)| sequence.order.iter().map(|&p| tokens[p as usize]).collect()).collect()
    }

    /// The same steps and draws without a cache: every step computes all known rows again. What a cached run is checked
    /// against, and what it saves.
    pub fn uncached(&self) -> Self {
        let mut plan = self.clone();
        plan.sequences.iter_mut().flat_map(|s| &mut s.steps).for_each(|step| step.clean = 0);
        plan
    }
}
