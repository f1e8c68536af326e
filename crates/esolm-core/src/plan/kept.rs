//! Reusing the cache of one text for another text with the same beginning.

use super::Plan;
use crate::config::Family;

/// How a text's tokens are grouped for computation. Cache contents can be reused only between texts with the same
/// grouping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    family: Family,
    block_size: Option<usize>,
    /// Number of tokens by which the first block is shorter.
    pad: usize,
}

impl Plan {
    /// The grouping of the first text.
    pub fn grouping(&self) -> Grouping {
        let first = self.sequences.first();
        let pad = first.map_or(0, |text| self.blocks(text).pad as usize);
        Grouping {
            family: self.family,
            block_size: self.block_size,
            pad: if self.family == Family::Bd3Lm { pad } else { 0 },
        }
    }

    /// Skips the computation of the first `common` tokens of the only text, which are in the cache, except for what
    /// must be recomputed: the rest of a block, an AR model's last given token, and everything in a text whose tokens
    /// see later ones. Steps that no longer compute anything are kept, so that the others keep their random numbers.
    /// Returns the number of tokens kept.
    ///
    /// The cache must hold these tokens from a plan with the same [`Plan::grouping`].
    pub fn keep(&mut self, common: usize) -> usize {
        let [text] = &self.sequences[..] else {
            return 0;
        };
        if self.lead || self.window.is_some() {
            return 0;
        }
        let common = common.min(text.known.len()) as u32;
        let kept = match self.family {
            Family::Ar => common.min((text.known.len() as u32).saturating_sub(1)),
            Family::Bd3Lm if common < self.length as u32 => self.blocks(text).first(common),
            _ => 0,
        };
        // The position up to which a step computes clean rows.
        let ends: Vec<u32> = (text.steps.iter())
            .map(|step| match self.family {
                Family::Bd3Lm => self.blocks_of(text, step).0,
                _ => step.start,
            })
            .collect();
        for (step, end) in self.sequences[0].steps.iter_mut().zip(ends) {
            step.clean = step.clean.max(kept.min(end));
        }
        kept as usize
    }
}
