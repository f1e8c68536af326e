//! The noise of a BD3-LM (arXiv 2503.09573; kuleshov-group/bd3lms, diffusion.py): each block of a text has a time of its own, which is the
//! share of its tokens that is masked. -log p of a masked token counts 1 / t times, and the sum bounds -log p(x) where t is uniform
//! on (0, 1].

use super::antithetic;

/// What is masked of a text of a BD3-LM, and what it counts. The first token is never masked where nothing before it is: nothing predicts
/// it, as in the published training, whose texts all begin with the same token.
#[derive(Clone, Debug, PartialEq)]
pub struct NoisedBlocks {
    /// Tokens of a block; the last one may have fewer.
    pub size: usize,
    /// Whether a token is masked, `[L]`.
    pub masked: Vec<bool>,
    /// What -log p of a masked token of each block counts, `[blocks]`.
    pub weights: Vec<f64>,
}

impl NoisedBlocks {
    /// Masks each token with u <= t of its block. `uniforms` is `[L]`, `times` `[blocks]`.
    pub fn new(size: usize, times: &[f64], uniforms: &[f64]) -> Self {
        let is_masked = |(position, &u): (usize, &f64)| u <= times[position / size];
        Self {
            size,
            masked: uniforms.iter().enumerate().map(is_masked).collect(),
            weights: times.iter().map(|t| 1.0 / t).collect(),
        }
    }

    /// Lets the first `count` tokens be clean.
    pub fn give(&mut self, count: usize) {
        let count = count.min(self.masked.len());
        self.masked[..count].fill(false);
    }

    /// `x` with its masked tokens replaced by the mask.
    pub fn apply(&self, x: &[u32], mask_index: u32) -> Vec<u32> {
        (x.iter().zip(&self.masked))
            .map(|(&token, &masked)| if masked { mask_index } else { token })
            .collect()
    }
}

/// Antithetic times of all blocks of a batch, as the published training draws them, spread over the range `[low, high]`: block i of n
/// gets a time of the i-th of n equal parts.
pub fn block_times(uniforms: &[f64], [low, high]: [f64; 2]) -> Vec<f64> {
    antithetic(uniforms)
        .map(|e| e * (high - low) + low)
        .collect()
}

/// Masks blocks anew, with u < t, until the share of masked tokens in each lies in `[low, high]`, as the published training may do with
/// the tokens of a clipped range. `redraw` gives uniforms `[L]`, new ones at each call.
///
/// It does not end where no number of tokens is such a share ([`can_resample`] tells).
pub fn resample(
    noised: &mut NoisedBlocks,
    times: &[f64],
    [low, high]: [f64; 2],
    mut redraw: impl FnMut() -> Vec<f64>,
) {
    let size = noised.size;
    let is_outside = |masked: &[bool]| {
        let count = masked.iter().filter(|&&masked| masked).count();
        !(low..=high).contains(&(count as f64 / masked.len() as f64))
    };
    while noised.masked.chunks(size).any(is_outside) {
        let uniforms = redraw();
        for ((block, uniforms), t) in (noised.masked.chunks_mut(size))
            .zip(uniforms.chunks(size))
            .zip(times)
        {
            if is_outside(block) {
                for (masked, u) in block.iter_mut().zip(uniforms) {
                    *masked = u < t;
                }
            }
        }
    }
}

/// Whether a number of masked tokens in a block of `size` is a share that lies in `[low, high]`.
pub fn can_resample(size: usize, [low, high]: [f64; 2]) -> bool {
    (0..=size).any(|count| (low..=high).contains(&(count as f64 / size as f64)))
}
