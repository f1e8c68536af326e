//! A text that begins as one before it did: what stands in the cache of the first need not be computed again for the second.

use super::Plan;
use crate::config::Family;

/// Which tokens of a text are computed together; the cache of one text is that of another only where this is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    family: Family,
    block_size: Option<usize>,
    /// By so many tokens the first block is short.
    pad: usize,
}

impl Plan {
    /// How the first text is divided.
    pub fn grouping(&self) -> Grouping {
        let first = self.sequences.first();
        let pad = first.map_or(0, |text| self.blocks(text).pad as usize);
        Grouping {
            family: self.family,
            block_size: self.block_size,
            pad: if self.family == Family::Bd3Lm { pad } else { 0 },
        }
    }

    /// Computes nothing of the first `common` tokens of the only text, which stand in the cache, beyond what must be computed again: what
    /// is left of a block, of an AR model the last given token, and all of a text whose tokens see later ones. Steps that have nothing to
    /// compute stay, so that the others keep their random numbers. Gives the number of tokens that are kept.
    ///
    /// The cache must hold them from a plan of the same [`Plan::grouping`].
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
        // Up to where a step computes clean rows.
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
