//! Plans of recorded runs of the published samplers, to replay them.
//!
//! A replay gives each drawn token the Gumbel noise of the uniforms that the published sampler used,
//! [`crate::rng::gumbel_from_uniform`], and must then draw the same tokens.
//!
//! * Eso-LM, [`Plan::from_recorded`]: one schedule per batch, one order per row; `u` `[B, L, V]` by slot.
//! * MDLM, [`Plan::from_recorded_mdlm`]: `u` `[N, L, V]` by recorded step and position, see [`RecordedDiffusion`].
//! * BD3-LM, [`Plan::from_recorded_blocks`]: `u` `[N, b, V]` by recorded step and place in the block, likewise.
//! * AR needs no record, since there is only one plan, that of [`Plan::new`]. Row i of the published run, which draws
//!   entry i + 1 of the token buffer, used `u[b, i]`; i is the row's slot.

use super::Plan;
use super::blocks::Blocks;
use super::check::VERSION;
use super::error::PlanError;
use super::types::{Phase, PlanStep, SequencePlan};
use crate::config::{AttentionKind, Family};

/// The run of an MDLM or a BD3-LM as a plan, along with the recorded step in which each position was drawn.
///
/// The published samplers (`_ddpm_caching_update`) draw at every masked position in each of their N steps, from the
/// predicted distribution times the probability of being unmasked, with the rest of the mass on the mask token.
/// Gumbel-max sampling from this is the same as first deciding whether the position is unmasked, and then drawing the
/// token with the same noise, since scaling the probabilities of all tokens shifts their scores equally. A position
/// unmasked by recorded step n therefore draws its token with the uniforms `u[n, position]`, from the logits of the
/// text before step n. If the previous step changed nothing, the published code reuses its prediction; the text is the
/// same, so the logits are too. Steps that unmask nothing are not part of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedDiffusion {
    /// The plan, which has a single sequence.
    pub plan: Plan,
    /// For each natural position, the recorded step that unmasked it; `None` if the token was given.
    pub unmasked_in: Vec<Option<usize>>,
}

impl RecordedDiffusion {
    /// The uniforms `[1, L, V]` by position, from the recorded `[N, L, V]` (`[N, b, V]` for a BD3-LM). Given positions
    /// draw nothing and get 1/2.
    ///
    /// # Errors
    /// [`PlanError::Recorded`] if the recorded array is too short.
    pub fn uniforms(&self, recorded: &[f64]) -> Result<Vec<f64>, PlanError> {
        let vocab = self.plan.vocab_size;
        let width = (self.plan.block_size.unwrap_or(self.plan.length)).max(1);
        let mut uniforms = Vec::new();
        for (position, step) in self.unmasked_in.iter().enumerate() {
            match step {
                Some(step) => {
                    let row = step * width + position % width;
                    let row = recorded.chunks_exact(vocab).nth(row).ok_or_else(|| {
                        PlanError::Recorded(format!("there are no uniforms for step {step}"))
                    })?;
                    uniforms.extend_from_slice(row);
                }
                None => uniforms.resize(uniforms.len() + vocab, 0.5),
            }
        }
        Ok(uniforms)
    }
}

impl Plan {
    /// The plan of a recorded Eso-LM generation: `sort_idx` `[B, L]`, and `steps` `[N, 3]` of (last start, current
    /// start, current end) as the published sampler goes through them, with one schedule for all rows.
    ///
    /// The record does not say where the sequential phase begins. It is taken to be the final run of steps that take
    /// one token each, in ascending positions in every row; this only matters for display.
    ///
    /// # Errors
    /// If there are no rows, an order is not a permutation, or the steps do not follow each other up to the end.
    pub fn from_recorded(
        sort_idx: &[Vec<u32>],
        steps: &[[u32; 3]],
        mask_index: u32,
        vocab_size: usize,
    ) -> Result<Self, PlanError> {
        let sequential = sequential_start(sort_idx, steps);
        Self::from_steps(None, sequential, sort_idx, steps, mask_index, vocab_size)
    }

    /// Like [`Plan::from_recorded`], for an Eso-LM (A). A step that does not compute all known tokens belongs to the
    /// sequential phase, which begins one step before the first such step: until then, all known tokens see each other,
    /// and each one that joins changes the others.
    ///
    /// # Errors
    /// See [`Plan::from_recorded`].
    pub fn from_recorded_mixed(
        sort_idx: &[Vec<u32>],
        steps: &[[u32; 3]],
        mask_index: u32,
        vocab_size: usize,
    ) -> Result<Self, PlanError> {
        let cached = steps.iter().position(|[clean, ..]| *clean > 0);
        let first = cached.map(|step| step.saturating_sub(1));
        let sequential = first.map_or(u32::MAX, |first| steps[first][1]);
        let attention = Some(AttentionKind::Mixed);
        Self::from_steps(
            attention, sequential, sort_idx, steps, mask_index, vocab_size,
        )
    }

    /// The plan of recorded steps, of which those from entry `sequential` on are sequential.
    fn from_steps(
        attention: Option<AttentionKind>,
        sequential: u32,
        sort_idx: &[Vec<u32>],
        steps: &[[u32; 3]],
        mask_index: u32,
        vocab_size: usize,
    ) -> Result<Self, PlanError> {
        let steps: Vec<PlanStep> = steps
            .iter()
            .map(|&[clean, start, end]| {
                let phase = match start < sequential {
                    true => Phase::Diffusion,
                    false => Phase::Sequential,
                };
                PlanStep::new(phase, clean, start, end)
            })
            .collect();
        let sequences = (0..)
            .zip(sort_idx)
            .map(|(sequence, order)| SequencePlan {
                sequence,
                order: order.clone(),
                known: Vec::new(),
                steps: steps.clone(),
            })
            .collect();
        let plan = Self {
            esolm_plan: VERSION,
            family: Family::EsoLm,
            attention,
            length: sort_idx.first().map_or(0, Vec::len),
            block_size: None,
            window: None,
            lead: false,
            mask_index,
            vocab_size,
            prompt_tail: None,
            reveal: None,
            sets: None,
            sequences,
        };
        recorded(plan)
    }

    /// The plan of one recorded MDLM generation, given its text before and after each step, `[N, L]` each.
    /// [`RecordedDiffusion`] says which uniforms belong to which draw.
    ///
    /// # Errors
    /// If the arrays differ in shape, a step changes a known token or does not begin where the previous one ended, or
    /// masks are left.
    pub fn from_recorded_mdlm(
        x_before: &[Vec<u32>],
        x_after: &[Vec<u32>],
        mask_index: u32,
        vocab_size: usize,
    ) -> Result<RecordedDiffusion, PlanError> {
        let wrong = |text: String| Err(PlanError::Recorded(text));
        let Some(first) = x_before.first() else {
            return wrong("it has no step".into());
        };
        if x_after.len() != x_before.len() {
            let (before, after) = (x_before.len(), x_after.len());
            return wrong(format!(
                "it has {before} texts before and {after} after a step"
            ));
        }
        let mut unmasked_in = vec![None; first.len()];
        let (mut order, known): (Vec<u32>, Vec<u32>) = (0..)
            .zip(first)
            .filter(|&(_, &token)| token != mask_index)
            .unzip();
        let mut steps = Vec::new();
        let mut text = first;
        for (number, (before, after)) in x_before.iter().zip(x_after).enumerate() {
            if before != text {
                return wrong(format!(
                    "step {number} does not begin where the last one ended"
                ));
            }
            if after.len() != before.len() {
                return wrong(format!("step {number} changes the length"));
            }
            let start = order.len() as u32;
            for (position, (&old, &new)) in before.iter().zip(after).enumerate() {
                if old == new {
                    continue;
                }
                if old != mask_index {
                    return wrong(format!(
                        "step {number} changes the known position {position}"
                    ));
                }
                order.push(position as u32);
                unmasked_in[position] = Some(number);
            }
            let end = order.len() as u32;
            if start < end {
                steps.push(PlanStep::new(Phase::Diffusion, 0, start, end));
            }
            text = after;
        }
        let plan = Self {
            esolm_plan: VERSION,
            family: Family::Mdlm,
            attention: None,
            length: first.len(),
            block_size: None,
            window: None,
            lead: false,
            mask_index,
            vocab_size,
            prompt_tail: None,
            reveal: None,
            sets: None,
            sequences: vec![SequencePlan {
                sequence: 0,
                order,
                known,
                steps,
            }],
        };
        Ok(RecordedDiffusion {
            plan: recorded(plan)?,
            unmasked_in,
        })
    }
}

/// A recorded block, and the entries of the order drawn in each of its steps.
struct RecordedBlock<'a> {
    text: &'a [u32],
    draws: Vec<Vec<u32>>,
}

impl Plan {
    /// The plan of one recorded BD3-LM generation, given the block of each step and the block's tokens before and after
    /// it, `[N, b]` each. A text of more than `context` tokens goes through a window, as in the published cache.
    /// [`RecordedDiffusion`] says which uniforms belong to which draw.
    ///
    /// # Errors
    /// If the arrays differ in shape, blocks do not follow each other, a step changes a known token or does not begin
    /// where the previous one ended, or masks are left.
    pub fn from_recorded_blocks(
        block: &[u32],
        x_before: &[Vec<u32>],
        x_after: &[Vec<u32>],
        context: usize,
        mask_index: u32,
        vocab_size: usize,
    ) -> Result<RecordedDiffusion, PlanError> {
        let wrong = |text: String| Err(PlanError::Recorded(text));
        let size = x_before.first().map_or(0, Vec::len);
        let shapes = x_before.iter().chain(x_after).all(|x| x.len() == size);
        if size == 0 || !shapes || [x_before.len(), x_after.len()] != [block.len(); 2] {
            return wrong("its steps have no block, or its arrays differ in shape".into());
        }
        let mut blocks: Vec<RecordedBlock> = Vec::new();
        let (mut order, mut known) = (Vec::new(), Vec::new());
        let mut unmasked_in = Vec::new();
        for (number, ((&block, before), after)) in
            block.iter().zip(x_before).zip(x_after).enumerate()
        {
            let count = blocks.len();
            let current = (count.max(1) - 1) * size;
            match blocks.last_mut() {
                Some(last) if block as usize + 1 == count => {
                    if before[..] != *last.text {
                        return wrong(format!(
                            "step {number} does not begin where the last one ended"
                        ));
                    }
                }
                Some(last) if last.text.contains(&mask_index) => {
                    return wrong(format!("step {number} leaves a block with masks"));
                }
                _ if block as usize == count => {
                    let first = (count * size) as u32;
                    let given = (first..)
                        .zip(before)
                        .filter(|&(_, &token)| token != mask_index);
                    let (positions, tokens): (Vec<u32>, Vec<u32>) = given.unzip();
                    order.extend(positions);
                    known.extend(tokens);
                    unmasked_in.extend(std::iter::repeat_n(None, size));
                    blocks.push(RecordedBlock {
                        text: before,
                        draws: Vec::new(),
                    });
                }
                _ => {
                    return wrong(format!(
                        "step {number} is of block {block}, the {count} before it are done"
                    ));
                }
            }
            let first = if block as usize == count {
                count * size
            } else {
                current
            };
            let mut drawn = Vec::new();
            for (place, (&old, &new)) in before.iter().zip(after).enumerate() {
                if old != new && old != mask_index {
                    return wrong(format!(
                        "step {number} changes the known place {place} of its block"
                    ));
                }
                if old != new {
                    drawn.push((first + place) as u32);
                    unmasked_in[first + place] = Some(number);
                }
            }
            if let Some(last) = blocks.last_mut() {
                last.text = after;
                if !drawn.is_empty() {
                    last.draws.push(drawn);
                }
            }
        }
        if blocks
            .last()
            .is_some_and(|block| block.text.contains(&mask_index))
        {
            return wrong("its last block has masks".into());
        }
        let length = blocks.len() * size;
        let window = (length > context).then_some(context);
        let cache = Blocks::new(size, window.unwrap_or(length), length, None, 0);
        let (mut steps, mut stored) = (Vec::new(), 0);
        for (first, block) in (0..).step_by(size).zip(blocks) {
            if block.draws.is_empty() {
                continue;
            }
            let (mut own, mut clean) = cache.storing(stored, first);
            steps.append(&mut own);
            for drawn in block.draws {
                let start = order.len() as u32;
                order.extend(drawn);
                let end = order.len() as u32;
                steps.push(PlanStep::new(Phase::Diffusion, clean, start, end));
                clean = first;
            }
            stored = first;
        }
        let plan = Self {
            esolm_plan: VERSION,
            family: Family::Bd3Lm,
            attention: None,
            length,
            block_size: Some(size),
            window,
            lead: false,
            mask_index,
            vocab_size,
            prompt_tail: None,
            reveal: None,
            sets: None,
            sequences: vec![SequencePlan {
                sequence: 0,
                order,
                known,
                steps,
            }],
        };
        Ok(RecordedDiffusion {
            plan: recorded(plan)?,
            unmasked_in,
        })
    }
}

/// First slot of the sequential phase: the longest final run of steps that take one token each, in ascending positions
/// in every row.
fn sequential_start(sort_idx: &[Vec<u32>], steps: &[[u32; 3]]) -> u32 {
    let ascends = |slot: u32| {
        sort_idx.iter().all(|order| {
            let next = order.get(slot as usize + 1);
            next.is_none_or(|next| order.get(slot as usize) < Some(next))
        })
    };
    steps
        .iter()
        .rev()
        .take_while(|[_, start, end]| start.checked_add(1) == Some(*end) && ascends(*start))
        .last()
        .map_or(u32::MAX, |step| step[1])
}

fn recorded(plan: Plan) -> Result<Plan, PlanError> {
    match plan.check() {
        Ok(()) => Ok(plan),
        Err(PlanError::Invalid(text)) => Err(PlanError::Recorded(text)),
        Err(error) => Err(error),
    }
}
