//! What the losses and bounds of the family do to a text before the network sees it: how much is masked, what is masked, and in
//! which order the tokens stand. Pure functions of uniform numbers, shared by training and by [`crate::passes`].
//!
//! The formulas are those of the published code (s-sahoo/Eso-LMs, trainer_base.py and algo.py; arXiv 2506.01928):
//!
//! * Diffusion: t in [1e-3, 1), alpha_t = alpha_0 (1 - (1 - 1e-3) t); each token is masked with probability 1 - alpha_t; clean
//!   tokens come first in random order, then masked ones in random order; -log p of a masked token counts -alpha_t' / (1 - alpha_t)
//!   times. The expectation over all of it bounds the share of -log p(x) that diffusion writes.
//! * Sequential: each token is masked with probability 1 - alpha_0; clean tokens come first in random order, then masked ones from
//!   left to right; -log p of a masked token counts once.
//! * Block diffusion (BD3-LM, arXiv 2503.09573): see [`NoisedBlocks`].
//! * Set diffusion (SetDLM): see [`Staggered`].
//! * Any order: Binomial(L, alpha_0) random positions in random order, the rest from left to right.
//!
//! Every function takes its uniforms in [0, 1) as arguments, so that recorded runs can be repeated. [`Uniforms::draw`] draws them,
//! keyed by (seed, sequence, draw, purpose): numbers of a sequence do not depend on the batch it is in.

mod blocks;
mod sets;

use crate::noise;
use crate::rng::{Purpose, Stream};

pub use blocks::{NoisedBlocks, block_times, can_resample, resample};
pub use sets::{Staggered, by_time, hold};

/// Smallest diffusion time of a loss (`sampling_eps` of the published configuration): t = 0 would weigh nothing infinitely.
pub const TIME_EPS: f64 = 1e-3;

/// The diffusion time of a number `e` in [0, 1): (1 - 1e-3) e + 1e-3.
pub fn time(e: f64) -> f64 {
    (1.0 - TIME_EPS) * e + TIME_EPS
}

/// Antithetic times of a batch, as the published training draws them: row i of n gets a time of the i-th of n equal parts,
/// e = (u / n + i / n) mod 1.
pub fn antithetic_times(uniforms: &[f64]) -> Vec<f64> {
    antithetic(uniforms).map(time).collect()
}

/// (u / n + i / n) mod 1 of the i-th of n uniforms: one number in each of n equal parts of [0, 1).
fn antithetic(uniforms: &[f64]) -> impl Iterator<Item = f64> {
    let n = uniforms.len() as f64;
    (0..)
        .zip(uniforms)
        .map(move |(i, u)| (u / n + f64::from(i) / n).fract())
}

/// Times of an evaluation, spread evenly over sequences and over the draws of each: e = (`shift` + `sequence` phi + `draw` / `draws`)
/// mod 1 with the golden ratio phi (a Kronecker sequence). Each is uniform on [1e-3, 1) for a uniform `shift`, and needs no knowledge
/// of how many sequences there are.
pub fn spread_time(shift: f64, sequence: u32, draw: u64, draws: u64) -> f64 {
    // The fraction of the golden ratio as a multiple of 2^-64: multiplying modulo 1 is then exact on every platform.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let turned = u64::from(sequence).wrapping_mul(GOLDEN) >> 11;
    let turned = turned as f64 / (1u64 << 53) as f64;
    time((shift + turned + draw as f64 / draws.max(1) as f64).fract())
}

/// How noisy a text is at a time, and what its masked tokens weigh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Diffusion time.
    pub t: f64,
    /// Share of clean tokens at `t`.
    pub alpha_t: f64,
    /// What -log p of a masked token counts in the bound: -alpha_t' / (1 - alpha_t). The training loss `low_var` takes 1 instead.
    pub weight: f64,
}

impl Level {
    /// The level at time `t` of a model whose diffusion takes the share `alpha_0`.
    pub fn at(alpha_0: f64, t: f64) -> Self {
        let alpha_t = noise::alpha(alpha_0, t);
        Self {
            t,
            alpha_t,
            weight: -noise::alpha_derivative(alpha_0) / (1.0 - alpha_t),
        }
    }
}

/// Which tokens are masked where a share `alpha` stays clean: those with u < 1 - alpha.
pub fn masked(uniforms: &[f64], alpha: f64) -> Vec<bool> {
    uniforms.iter().map(|&u| u < 1.0 - alpha).collect()
}

/// The order of the diffusion loss: clean positions, then masked ones, each ordered by their offsets, which are random numbers.
/// (The published code sorts is_mask + 0.9 offset.)
pub fn diffusion_order(masked: &[bool], offsets: &[f64]) -> Vec<u32> {
    let mut order = positions(masked.len());
    order.sort_by(|&a, &b| {
        let key = |p: u32| (masked[p as usize], offsets[p as usize]);
        let ((mask_a, a), (mask_b, b)) = (key(a), key(b));
        mask_a.cmp(&mask_b).then(a.total_cmp(&b))
    });
    order
}

/// The order of the sequential loss: clean positions by their offsets (without any: from left to right), then masked ones from
/// left to right.
pub fn sequential_order(masked: &[bool], offsets: Option<&[f64]>) -> Vec<u32> {
    let of = |wanted: bool| {
        positions(masked.len())
            .into_iter()
            .filter(move |&p| masked[p as usize] == wanted)
    };
    let mut order: Vec<u32> = of(false).collect();
    if let Some(offsets) = offsets {
        order.sort_by(|&a, &b| offsets[a as usize].total_cmp(&offsets[b as usize]));
    }
    order.extend(of(true));
    order
}

/// An order in which a text may be written: the `diffusion` positions with the smallest offsets, by their offsets, then the others
/// from left to right.
pub fn any_order(offsets: &[f64], diffusion: usize) -> Vec<u32> {
    let mut order = positions(offsets.len());
    order.sort_by(|&a, &b| offsets[a as usize].total_cmp(&offsets[b as usize]));
    order[diffusion.min(offsets.len())..].sort_unstable();
    order
}

fn positions(length: usize) -> Vec<u32> {
    (0..length as u32).collect()
}

/// A partly masked text in sorted order: everything that a loss gathers, gathered once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noised {
    /// Natural position of each slot, `[L]`.
    pub sort_idx: Vec<u32>,
    /// The text, `[L]`.
    pub x0_sorted: Vec<u32>,
    /// The text with its masked tokens replaced by the mask, `[L]`.
    pub zt_sorted: Vec<u32>,
    /// Whether a slot is masked, `[L]`.
    pub masked_sorted: Vec<bool>,
}

impl Noised {
    /// Gathers `x0` `[L]` and `masked` `[L]`, both in natural order, by `sort_idx`.
    pub fn gather(x0: &[u32], masked: &[bool], sort_idx: Vec<u32>, mask_index: u32) -> Self {
        let of = |p: &u32| *p as usize;
        let x0_sorted: Vec<u32> = sort_idx.iter().map(|p| x0[of(p)]).collect();
        let masked_sorted: Vec<bool> = sort_idx.iter().map(|p| masked[of(p)]).collect();
        let zt_sorted = (x0_sorted.iter().zip(&masked_sorted))
            .map(|(&token, &masked)| if masked { mask_index } else { token })
            .collect();
        Self {
            sort_idx,
            x0_sorted,
            zt_sorted,
            masked_sorted,
        }
    }

    /// The input of the diffusion loss of an Eso-LM at a level.
    pub fn diffusion(x0: &[u32], level: Level, uniforms: &Uniforms, mask_index: u32) -> Self {
        let masked = masked(&uniforms.mask, level.alpha_t);
        let order = diffusion_order(&masked, &uniforms.offsets);
        Self::gather(x0, &masked, order, mask_index)
    }

    /// The input of the sequential loss of an Eso-LM.
    pub fn sequential(x0: &[u32], alpha_0: f64, uniforms: &Uniforms, mask_index: u32) -> Self {
        let masked = masked(&uniforms.mask, alpha_0);
        let order = sequential_order(&masked, Some(&uniforms.offsets));
        Self::gather(x0, &masked, order, mask_index)
    }

    /// The input of the MDLM loss at a level: natural order.
    pub fn mdlm(x0: &[u32], level: Level, uniforms: &Uniforms, mask_index: u32) -> Self {
        let masked = masked(&uniforms.mask, level.alpha_t);
        Self::gather(x0, &masked, positions(x0.len()), mask_index)
    }

    /// Number of masked tokens.
    pub fn masked_count(&self) -> usize {
        self.masked_sorted.iter().filter(|&&masked| masked).count()
    }
}

/// What a set of uniforms is for; each part of a loss has numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The diffusion loss.
    Diffusion,
    /// The sequential loss.
    Sequential,
    /// An order of the exact likelihood.
    Order,
    /// Diffusion times, one number for all sequences of an evaluation, or one a row in training.
    Time,
}

impl Part {
    fn stream(self, seed: u64, sequence: u32, draw: u32) -> Stream {
        // Plans take the first purposes; a multiple of eight leaves room for further parts.
        let purpose = draw.wrapping_mul(8).wrapping_add(self as u32 + 16);
        Stream::new(seed, sequence, Purpose::Other(purpose))
    }
}

/// The random numbers of one noised sequence, uniform in (0, 1).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Uniforms {
    /// Decides what is masked, `[L]`.
    pub mask: Vec<f64>,
    /// Decides the order, `[L]`.
    pub offsets: Vec<f64>,
}

impl Uniforms {
    /// Draws the numbers of (seed, sequence, draw, part).
    pub fn draw(seed: u64, sequence: u32, draw: u32, part: Part, length: usize) -> Self {
        let mut stream = part.stream(seed, sequence, draw);
        let mut numbers = || (0..length).map(|_| stream.uniform()).collect();
        Self {
            mask: numbers(),
            offsets: numbers(),
        }
    }
}

/// One uniform number for a diffusion time.
pub fn draw_time(seed: u64, sequence: u32, draw: u32) -> f64 {
    Part::Time.stream(seed, sequence, draw).uniform()
}

/// As many uniform numbers for the times of a sequence's blocks.
pub fn draw_times(seed: u64, sequence: u32, draw: u32, count: usize) -> Vec<f64> {
    let mut stream = Part::Time.stream(seed, sequence, draw);
    (0..count).map(|_| stream.uniform()).collect()
}

/// A drawn order of `length` positions: Binomial(length, alpha_0) random ones first, in random order, the rest from left to right.
pub fn draw_order(seed: u64, sequence: u32, draw: u32, length: usize, alpha_0: f64) -> Vec<u32> {
    let mut stream = Part::Order.stream(seed, sequence, draw);
    let diffusion = stream.binomial(length as u32, alpha_0) as usize;
    let offsets: Vec<f64> = (0..length).map(|_| stream.uniform()).collect();
    any_order(&offsets, diffusion)
}

/// As many exponential numbers of rate 1, which draw the order of a SetDLM's text ([`Staggered::times`]).
pub fn draw_exponentials(seed: u64, sequence: u32, draw: u32, count: usize) -> Vec<f64> {
    let mut stream = Part::Order.stream(seed, sequence, draw);
    (0..count).map(|_| -stream.uniform().ln()).collect()
}

#[cfg(test)]
mod tests;
