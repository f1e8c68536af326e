//! The noise of a BD3-LM (arXiv 2503.09573; kuleshov-group/bd3lms, diffusion.py): each block of a text has its own
//! time, which is the fraction of its tokens that is masked. -log p of a masked token has weight 1 / t, and the sum
//! bounds -log p(x) if t is uniform on (0, 1].

use super::antithetic;

/// Which tokens of a BD3-LM's text are masked, and their weights. The first token is never masked if nothing precedes
/// it, since nothing predicts it; likewise in the published training, where all texts start with the same token.
#[derive(Clone, Debug, PartialEq)]
pub struct NoisedBlocks {
    /// Tokens per block; the last block may be shorter.
    pub size: usize,
    /// Whether a token is masked, `[L]`.
    pub masked: Vec<bool>,
    /// Weight of -log p for the masked tokens of each block, `[blocks]`.
    pub weights: Vec<f64>,
}

impl NoisedBlocks {
    /// Masks each token with u <= t of its block. `uniforms` is `[L]`, `times` is `[blocks]`.
    pub fn new(size: usize, times: &[f64], uniforms: &[f64]) -> Self {
        let is_masked = |(position, &u): (usize, &f64)| u <= times[position / size];
        Self {
            size,
            masked: uniforms.iter().enumerate().map(is_masked).collect(),
            weights: times.iter().map(|t| 1.0 / t).collect(),
        }
    }

    /// Unmasks the first `count` tokens.
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

/// Stratified times of all blocks in a batch, as drawn in the published training, scaled to the range `[low, high]`:
/// block i of n gets a time in the i-th of n equal intervals.
pub fn block_times(uniforms: &[f64], [low, high]: [f64; 2]) -> Vec<f64> {
    antithetic(uniforms)
        .map(|e| e * (high - low) + low)
        .collect()
}

/// Masks blocks again, with u < t, until the fraction of masked tokens in each is within `[low, high]`, as the
/// published training may do with a clipped range. `redraw` returns new uniforms `[L]` on each call.
///
/// Does not terminate if no number of tokens is such a fraction; check with [`can_resample`].
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

/// Whether some number of masked tokens in a block of `size` is a fraction within `[low, high]`.
pub fn can_resample(size: usize, [low, high]: [f64; 2]) -> bool {
    (0..=size).any(|count| (low..=high).contains(&(count as f64 / size as f64)))
}
