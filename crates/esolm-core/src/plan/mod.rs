//! A plan says which rows run in which step: pure data, drawn on the host before any forward pass, since nothing about *which*
//! tokens are written *when* depends on the network. The same plan drives every executor, native or in a browser, and whatever
//! shows the steps.
//!
//! Each sequence has a schedule and an order of its own, drawn from (seed, sequence) alone, so a sample does not depend on the
//! batch it is in. (The published code draws one schedule a batch; the distribution of each sequence is the same.)
//!
//! A second form leaves open *which* tokens of a stretch become known in a step, and says how many at least: confidence chooses
//! ([`crate::reveal`]). Which rows run is settled there too.

mod blocks;
mod build;
mod check;
mod error;
mod kept;
mod recorded;
mod schedule;
mod sets;
mod tail;
mod types;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::config::{AttentionKind, Family};
use crate::message::json_error;
use crate::order;
use crate::reveal::{Choice, Group, Rule};
use crate::rows::{Layout, MASKED, NO_TARGET, Row, StepRows, own_slot};

use blocks::Blocks;
pub use error::PlanError;
pub use kept::Grouping;
pub use recorded::RecordedDiffusion;
pub use sets::{Joining, SetRules, SetRun, SlotMove};
pub use tail::{BlockRules, PromptTail};
pub use types::{
    MAX_LENGTH, MAX_PROMPT_ROWS, MAX_STEPS, Phase, PlanOptions, PlanStep, Schedule, SequencePlan,
};

/// The plan of a batch. Its JSON form is that of docs/plan-format.md; reading it, in whatever way, checks all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "check::Unchecked")]
pub struct Plan {
    /// Version of the JSON form.
    esolm_plan: u32,
    /// Family of the model it is for.
    pub family: Family,
    /// Entries of each sequence, a prepended one included.
    pub length: usize,
    /// [`AttentionKind::Mixed`] for an Eso-LM (A), and nothing for all others, whose family says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionKind>,
    /// Tokens of a block, for a BD3-LM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// Slots of the cache where a BD3-LM or a SetDLM writes more than its context: those of the last so many tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Where the blocks of a decoder that is a BD3-LM begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tail: Option<PromptTail>,
    /// Whether the first entry is prepended and not part of the text.
    pub lead: bool,
    /// The mask token.
    pub mask_index: u32,
    /// V, the mask included: all given tokens lie below.
    pub vocab_size: usize,
    /// How confidence chooses, in the steps that let it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reveal: Option<Rule>,
    /// How confidence goes through the texts of a SetDLM. Then a step says what it takes at least, and a [`SetRun`] which rows run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sets: Option<SetRules>,
    /// One plan a sequence.
    pub sequences: Vec<SequencePlan>,
}

impl Plan {
    /// Draws a plan.
    ///
    /// # Errors
    /// When an option is out of its range, a given token does not fit, or the family cannot do it.
    pub fn new(options: &PlanOptions) -> Result<Self, PlanError> {
        let (lead, sequences) = build::build(options)?;
        Ok(Self {
            esolm_plan: check::VERSION,
            family: options.family,
            attention: options.is_mixed().then_some(options.attention),
            length: options.length + usize::from(lead),
            block_size: options
                .block_size
                .filter(|_| options.family == Family::Bd3Lm),
            prompt_tail: (options.block_rules)
                .filter(|_| options.family == Family::Bd3Lm)
                .map(|rules| rules.tail),
            window: options.window(),
            lead,
            mask_index: options.mask_index,
            vocab_size: options.vocab_size,
            reveal: (options.schedule == Schedule::Confidence).then_some(options.reveal),
            sets: (options.set_rules).filter(|_| {
                options.schedule == Schedule::Confidence && options.family == Family::SetDlm
            }),
            sequences,
        })
    }

    /// Reads a plan that somebody wrote, and checks all of it.
    ///
    /// # Errors
    /// When it is not the JSON of a plan, or an executor could not run it.
    pub fn from_json(json: &str) -> Result<Self, PlanError> {
        let read: check::Unchecked =
            serde_json::from_str(json).map_err(|e| PlanError::Invalid(json_error(&e)))?;
        read.try_into()
    }

    /// Checks that the plan is for a model with this vocabulary.
    ///
    /// # Errors
    /// [`PlanError::OtherModel`] where it is not.
    pub fn check_model(&self, vocab_size: usize, mask_index: u32) -> Result<(), PlanError> {
        if (self.vocab_size, self.mask_index) == (vocab_size, mask_index) {
            return Ok(());
        }
        Err(PlanError::OtherModel {
            vocab_size: self.vocab_size,
            mask_index: self.mask_index,
        })
    }

    /// Checks that a plan for an Eso-LM lets tokens see each other as the model was trained, if that is an Eso-LM too.
    ///
    /// # Errors
    /// [`PlanError::OtherAttention`] where it does not.
    pub fn check_attention(&self, family: Family, own: AttentionKind) -> Result<(), PlanError> {
        let planned = self.attention.unwrap_or(AttentionKind::Causal);
        let are_both = self.family == Family::EsoLm && family == Family::EsoLm;
        match are_both && planned != own {
            true => Err(PlanError::OtherAttention { planned, own }),
            false => Ok(()),
        }
    }

    /// The plan as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and lists are always JSON")
    }

    /// Sizes of the batch on a device.
    pub fn layout(&self) -> Layout {
        Layout {
            sequences: self.sequences.len(),
            slots: self.window.unwrap_or(self.length),
            tokens: self.sequences.len() * self.length,
        }
    }

    /// The blocks of a sequence of a BD3-LM's plan. Of a plan of another family they are one that nothing reads.
    fn blocks(&self, sequence: &SequencePlan) -> Blocks {
        Blocks::new(
            self.block_size.unwrap_or(self.length),
            self.layout().slots,
            self.length,
            self.prompt_tail,
            sequence.known.len(),
        )
    }

    /// Absolute index of each sequence, which with the seed keys its random numbers.
    pub fn ids(&self) -> Vec<u32> {
        self.sequences.iter().map(|s| s.sequence).collect()
    }

    /// Forward passes: the most steps of any sequence. Where tokens beyond a threshold become known as well, fewer may do.
    pub fn nfe(&self) -> usize {
        self.sequences
            .iter()
            .map(|s| s.steps.len())
            .max()
            .unwrap_or(0)
    }

    /// The phase of a step: diffusion if any sequence is there, else sequential if any is there, else prompt. Behind the last step,
    /// that of the last.
    pub fn phase(&self, step: usize) -> Phase {
        let step = step.min(self.nfe().saturating_sub(1));
        let running = self.sequences.iter().filter_map(|s| s.steps.get(step));
        running.map(|s| s.phase).max().unwrap_or(Phase::Prompt)
    }

    /// The rows of every step; where confidence decides which rows a SetDLM has, those of a run in which it takes the leftmost places.
    pub fn passes(&self) -> Vec<StepRows> {
        match SetRun::of(self) {
            Some(mut runs) => SetRun::leftmost(&mut runs, self.mask_index),
            None => (0..self.nfe()).map(|step| self.step_rows(step)).collect(),
        }
    }

    /// Number of rows of a step over all sequences, without making them.
    pub fn positions_computed(&self, step: usize) -> usize {
        let running = (self.sequences.iter()).filter_map(|s| Some((s, s.steps.get(step)?)));
        running
            .map(|(sequence, step)| self.rows_of(sequence, step))
            .sum()
    }

    /// The most rows of any step, and the most tokens that one draws.
    pub fn largest_pass(&self) -> (usize, usize) {
        let mut steps = vec![(0, 0); self.nfe()];
        for sequence in &self.sequences {
            for (step, (rows, drawn)) in sequence.steps.iter().zip(&mut steps) {
                *rows += self.rows_of(sequence, step);
                let places = (step.end - step.start) as usize;
                *drawn += self.sets.map_or(places, |rules| places.min(rules.window));
            }
        }
        let rows = steps.iter().map(|step| step.0).max();
        let drawn = steps.iter().map(|step| step.1).max();
        (rows.unwrap_or(0), drawn.unwrap_or(0))
    }

    /// Rows of a sequence's step; where a SetDLM's confidence decides, the most that there can be.
    fn rows_of(&self, sequence: &SequencePlan, step: &PlanStep) -> usize {
        if let Some(rules) = &self.sets {
            return rules.most_rows().min(self.layout().slots);
        }
        match self.family {
            Family::EsoLm | Family::SetDlm => (step.end - step.clean) as usize,
            Family::Mdlm => self.length,
            Family::Ar => (step.start - step.clean) as usize,
            Family::Bd3Lm => {
                let (stored, block) = self.blocks_of(sequence, step);
                (stored - step.clean) as usize + block.len()
            }
        }
    }

    /// The first slots, which clean rows of an Eso-LM attend to wherever they are. Of an Eso-LM (A) those are all that are known in the diffusion
    /// phase, and in the sequential phase what was known when it began.
    fn seen_by_all(&self, sequence: &SequencePlan, step: &PlanStep) -> u32 {
        match (self.attention, step.phase) {
            (None, _) => 0,
            (Some(_), Phase::Sequential) => {
                let steps = &sequence.steps;
                let first = steps.partition_point(|step| step.phase != Phase::Sequential);
                steps.get(first).map_or(0, |first| first.start)
            }
            (Some(_), _) => step.start,
        }
    }

    /// Of a BD3-LM's step, the position up to which clean blocks are computed, and the positions of the block that is drawn from.
    fn blocks_of(&self, sequence: &SequencePlan, step: &PlanStep) -> (u32, Range<u32>) {
        match sequence.order[step.start as usize..step.end as usize].first() {
            Some(&drawn) => {
                let blocks = self.blocks(sequence);
                let first = blocks.first(drawn);
                (first, first..blocks.end(drawn))
            }
            None => (step.start, 0..0),
        }
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
        self.step_rows_of(step, |_| true)
    }

    /// The rows of a step for the sequences that are wanted, by their index; none where a [`SetRun`] makes them.
    pub fn step_rows_of(&self, step: usize, is_wanted: impl Fn(usize) -> bool) -> StepRows {
        let mut rows = StepRows::default();
        if self.sets.is_some() {
            return rows;
        }
        for (index, sequence) in self
            .sequences
            .iter()
            .enumerate()
            .filter(|(index, _)| is_wanted(*index))
        {
            if let Some(step) = sequence.steps.get(step) {
                self.add_rows(index as u32, sequence, step, &mut rows);
            }
        }
        rows
    }

    /// How confidence chooses in a step, for the sequences that are wanted, by their index; none where the plan says all itself.
    pub fn choice(&self, step: usize, is_wanted: impl Fn(usize) -> bool) -> Option<Choice> {
        let rule = self.reveal?;
        let (mut groups, mut first) = (Vec::new(), 0);
        for (index, sequence) in self.sequences.iter().enumerate() {
            let Some(step) = sequence.steps.get(step).filter(|_| is_wanted(index)) else {
                continue;
            };
            let rows = step.end - step.start;
            if rows > 0 {
                let least = step.least.unwrap_or(rows);
                groups.push(Group { first, rows, least });
                first += rows;
            }
        }
        Some(Choice { rule, groups })
    }

    fn add_rows(&self, index: u32, sequence: &SequencePlan, step: &PlanStep, out: &mut StepRows) {
        let first = index * self.length as u32;
        // Where confidence chooses, the buffer alone knows what is masked.
        let unknown_source = |place: u32| match self.reveal {
            Some(_) => place,
            None => MASKED,
        };
        let mut push = |slot: u32, position: u32, prefix: u32, source: u32, target: u32| {
            if target != NO_TARGET {
                out.sampled.push(out.rows.len() as u32);
            }
            out.rows.push(Row {
                sequence: index,
                slot,
                position,
                prefix,
                own: own_slot(slot, prefix),
                source,
                target,
            });
        };
        match self.family {
            Family::EsoLm | Family::SetDlm => {
                let least = self.seen_by_all(sequence, step);
                // Masks of a SetDLM see none of each other.
                let sees = |slot| match self.family {
                    Family::SetDlm => step.start,
                    _ => slot + 1,
                };
                for slot in step.clean..step.end {
                    let position = sequence.order[slot as usize];
                    let place = first + position;
                    if slot < step.start {
                        push(slot, position, least.max(slot + 1), place, NO_TARGET);
                    } else {
                        push(slot, position, sees(slot), MASKED, place);
                    }
                }
            }
            Family::Mdlm => {
                // Every position runs in natural order; its rank in the order says whether it is known or drawn now.
                let rank = order::inverse(&sequence.order);
                for (position, &rank) in (0..).zip(&rank) {
                    let source = match rank < step.start {
                        true => first + position,
                        false => unknown_source(first + position),
                    };
                    let target = if (step.start..step.end).contains(&rank) {
                        first + position
                    } else {
                        NO_TARGET
                    };
                    push(position, position, self.length as u32, source, target);
                }
            }
            Family::Ar => {
                // The row at position p reads token p and predicts p + 1; the last known one predicts the token drawn.
                for position in step.clean..step.start {
                    let target = if position + 1 == step.start && step.end > step.start {
                        first + step.start
                    } else {
                        NO_TARGET
                    };
                    push(position, position, position + 1, first + position, target);
                }
            }
            Family::Bd3Lm => {
                let blocks = self.blocks(sequence);
                let (stored, block) = self.blocks_of(sequence, step);
                // What a prompt sees of the block that is drawn from.
                let blind = match self.prompt_tail {
                    Some(PromptTail::Blind) => sequence.known.len() as u32,
                    _ => 0,
                };
                let mut at = |position: u32, source: u32, target: u32| {
                    let slot = blocks.slot(position);
                    let prefix = match position < blind && position >= stored {
                        true => blind.min(blocks.prefix(position)),
                        false => blocks.prefix(position),
                    };
                    push(slot, position, prefix, source, target);
                };
                for position in step.clean..stored {
                    at(position, first + position, NO_TARGET);
                }
                // What is not known of the block is drawn now or later.
                let unknown = &sequence.order[step.start as usize..];
                let drawn = (step.end - step.start) as usize;
                let mut places = vec![None; block.len()];
                for (place, position) in unknown.iter().take(block.len()).enumerate() {
                    if let Some(entry) = position.checked_sub(block.start)
                        && let Some(entry) = places.get_mut(entry as usize)
                    {
                        *entry = Some(place < drawn);
                    }
                }
                for (position, place) in block.zip(places) {
                    let place_of = first + position;
                    match place {
                        None => at(position, place_of, NO_TARGET),
                        Some(true) => at(position, unknown_source(place_of), place_of),
                        Some(false) => at(position, unknown_source(place_of), NO_TARGET),
                    }
                }
            }
        }
    }

    /// Clean slots in the KV cache after a step, over all sequences; 0 for MDLM, which has no cache, and in the diffusion phase of an
    /// Eso-LM (A), whose next step computes all of them again.
    pub fn cache_length(&self, step: usize) -> usize {
        let slots = self.layout().slots;
        let last = |s: &SequencePlan| {
            let step = s.steps.get(step).or(s.steps.last())?;
            Some(match self.family {
                Family::Mdlm => 0,
                Family::EsoLm if self.attention.is_some() && step.phase != Phase::Sequential => 0,
                Family::EsoLm | Family::SetDlm | Family::Ar => step.start as usize,
                Family::Bd3Lm => (self.blocks_of(s, step).0 as usize).min(slots),
            })
        };
        self.sequences.iter().filter_map(last).sum()
    }

    /// The position in the text of an index into the token buffer; a prepended element counts as position 0.
    pub fn output_position(&self, target: u32) -> u32 {
        (target % self.length.max(1) as u32).saturating_sub(u32::from(self.lead))
    }

    /// Texts in natural order from the token buffer, without what was prepended.
    pub fn output(&self, tokens: &[u32]) -> Vec<Vec<u32>> {
        tokens
            .chunks(self.length.max(1))
            .map(|sequence| sequence[usize::from(self.lead)..].to_vec())
            .collect()
    }

    /// Tokens in the order in which they became known.
    pub fn sorted(&self, tokens: &[u32]) -> Vec<Vec<u32>> {
        let sequences = tokens.chunks(self.length.max(1)).zip(&self.sequences);
        sequences
            .map(|(tokens, sequence)| sequence.order.iter().map(|&p| tokens[p as usize]).collect())
            .collect()
    }

    /// The same steps and draws without a cache: every step computes all known rows again. What a cached run is checked
    /// against, and what it saves. What lies beyond a BD3-LM's window stays as it is.
    pub fn uncached(&self) -> Self {
        let mut plan = self.clone();
        let slots = self.layout().slots as u32;
        for (sequence, own) in plan.sequences.iter_mut().zip(&self.sequences) {
            for step in &mut sequence.steps {
                let (stored, block) = self.blocks_of(own, step);
                if self.family != Family::Bd3Lm || stored.max(block.end) <= slots {
                    step.clean = 0;
                }
            }
        }
        plan
    }
}
