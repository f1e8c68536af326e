//! How a pass's tokens are drawn, the same for every executor.

use esolm_core::rows::{Layout, NO_TARGET, StepRows};
use esolm_core::sampler::Sampler;

use crate::error::EngineError;

/// The draw of one pass.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Temperature and top-p.
    pub sampler: Sampler,
    /// Keys the noise together with the sequence and the position.
    pub seed: u64,
    /// Absolute index of each sequence of the batch, so that a sample does not depend on the batch it is in.
    pub sequence_ids: &'a [u32],
    /// Given Gumbel values [sampled rows, V] instead of the seeded ones (a replay).
    pub noise: Option<&'a [f32]>,
    /// The token whose logit counts as -1e6.
    pub mask_index: u32,
}

impl Draw<'_> {
    /// For each sampled row the words that key its noise: (absolute sequence, index of the target within the sequence's
    /// part of the token buffer).
    ///
    /// # Errors
    /// When a sampled row has no target or the ids do not cover the batch.
    pub fn keys(&self, layout: &Layout, step: &StepRows) -> Result<Vec<[u32; 2]>, EngineError> {
        if self.sequence_ids.len() != layout.sequences {
            return Err(EngineError::Rows(format!(
                "{} sequence ids for a batch of {}",
                self.sequence_ids.len(),
                layout.sequences
            )));
        }
        let span = (layout.tokens / layout.sequences.max(1)).max(1) as u32;
        step.sampled
            .iter()
            .map(|&index| {
                let row = step
                    .rows
                    .get(index as usize)
                    .filter(|row| row.target != NO_TARGET);
                let row = row.ok_or_else(|| {
                    EngineError::Rows(format!("sampled row {index} has no target"))
                })?;
                let sequence = self.sequence_ids.get(row.sequence as usize);
                let sequence = *sequence.ok_or_else(|| {
                    EngineError::Rows(format!("row {index} belongs to no sequence of the batch"))
                })?;
                Ok([sequence, row.target % span])
            })
            .collect()
    }
}

/// Checks that every sampled row has a token of the vocabulary to predict.
///
/// # Errors
/// [`EngineError::Rows`] where one has none, or one outside the vocabulary.
pub fn check_targets(step: &StepRows, targets: &[u32], vocab: usize) -> Result<(), EngineError> {
    if targets.len() != step.sampled.len() {
        return Err(EngineError::Rows(format!(
            "{} tokens to predict for {} sampled rows",
            targets.len(),
            step.sampled.len()
        )));
    }
    match targets.iter().find(|&&token| token as usize >= vocab) {
        Some(token) => Err(EngineError::Rows(format!(
            "the token {token} to predict is beyond the vocabulary of {vocab}"
        ))),
        None => Ok(()),
    }
}

/// Checks that a pass stays inside its layout: kernels run without bounds checks, so this is where safety lies.
///
/// # Errors
/// [`EngineError::Rows`] naming the first row that does not fit.
pub fn check_rows(layout: &Layout, positions: usize, step: &StepRows) -> Result<(), EngineError> {
    let mut last = 0;
    for (index, row) in step.rows.iter().enumerate() {
        let inside = (row.sequence as usize) < layout.sequences
            && (row.slot as usize) < layout.slots
            && (row.prefix as usize) <= layout.slots
            && (row.position as usize) < positions
            && (row.source == esolm_core::rows::MASKED || (row.source as usize) < layout.tokens)
            && (row.target == NO_TARGET || (row.target as usize) < layout.tokens)
            && row.sequence >= last;
        if !inside {
            return Err(EngineError::Rows(format!(
                "row {index} ({row:?}) does not fit the layout {layout:?} with {positions} positions"
            )));
        }
        last = row.sequence;
    }
    match step
        .sampled
        .iter()
        .find(|&&index| index as usize >= step.rows.len())
    {
        Some(index) => Err(EngineError::Rows(format!(
            "sampled row {index} of {}",
            step.rows.len()
        ))),
        None => Ok(()),
    }
}
