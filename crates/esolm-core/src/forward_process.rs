//! What the losses and bounds of the model family do to a text before the network sees it: how much is masked, which
//! tokens are masked, and how the tokens are ordered. Pure functions of uniform random numbers, shared by training and
//! [`crate::passes`].
//!
//! The formulas are those of the published code (s-sahoo/Eso-LMs, trainer_base.py and algo.py; arXiv 2506.01928):
//!
//! * Diffusion: t in [1e-3, 1), alpha_t = alpha_0 (1 - (1 - 1e-3) t). Each token is masked with probability 1 -
//!   alpha_t. Clean tokens come first in random order, then masked ones in random order. -log p of a masked token is
//!   weighted by -alpha_t' / (1 - alpha_t). The expectation over all of this bounds the part of -log p(x) that
//!   diffusion contributes.
//! * Sequential: each token is masked with probability 1 - alpha_0. Clean tokens come first in random order, then
//!   masked ones from left to right. -log p of a masked token has weight 1.
//! * Block diffusion (BD3-LM, arXiv 2503.09573): see [`NoisedBlocks`].
//! * Set diffusion (SetDLM): see [`Staggered`].
//! * Any order: Binomial(L, alpha_0) random positions in random order, the rest from left to right.
//!
//! All functions take their uniforms in [0, 1) as arguments, so that recorded runs can be reproduced.
//! [`Uniforms::draw`] draws them, keyed by (seed, sequence, draw, purpose), so a sequence's numbers do not depend on
//! its batch.

mod blocks;
mod sets;

use crate::noise;
use crate::rng::{Purpose, Stream};

pub use blocks::{NoisedBlocks, block_times, can_resample, resample};
pub use sets::{Staggered, by_time, hold};

/// Smallest diffusion time of a loss (`sampling_eps` of the published configuration). At t = 0 no token would be
/// masked, with infinite weight.
pub const TIME_EPS: f64 = 1e-3;

/// Maps a number `e` in [0, 1) to a diffusion time: (1 - 1e-3) e + 1e-3.
pub fn time(e: f64) -> f64 {
    (1.0 - TIME_EPS) * e + TIME_EPS
}

/// Stratified times of a batch, as drawn in the published training: row i of n gets a time in the i-th of n equal
/// intervals, e = (u / n + i / n) mod 1.
pub fn antithetic_times(uniforms: &[f64]) -> Vec<f64> {
    antithetic(uniforms).map(time).collect()
}

/// (u / n + i / n) mod 1 for the i-th of n uniforms: one number in each of n equal intervals of [0, 1).
fn antithetic(uniforms: &[f64]) -> impl Iterator<Item = f64> {
    let n = uniforms.len() as f64;
    (0..)
        .zip(uniforms)
        .map(move |(i, u)| (u / n + f64::from(i) / n).fract())
}

/// Times of an evaluation, spread evenly over sequences and over the draws of each: e = (`shift` + `sequence` phi +
/// `draw` / `draws`) mod 1 with the golden ratio phi (a Kronecker sequence). For a uniform `shift` each is uniform on
/// [1e-3, 1), and the number of sequences need not be known.
pub fn spread_time(shift: f64, sequence: u32, draw: u64, draws: u64) -> f64 {
    // The fractional part of the golden ratio as a multiple of 2^-64, so that multiplication modulo 1 is exact on every
    // platform.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let turned = u64::from(sequence).wrapping_mul(GOLDEN) >> 11;
    let turned = turned as f64 / (1u64 << 53) as f64;
    time((shift + turned + draw as f64 / draws.max(1) as f64).fract())
}

/// How noisy a text is at a given time, and the weight of its masked tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Diffusion time.
    pub t: f64,
    /// Fraction of clean tokens at `t`.
    pub alpha_t: f64,
    /// Weight of a masked token's -log p in the bound: -alpha_t' / (1 - alpha_t). The training loss `low_var` uses 1
    /// instead.
    pub weight: f64,
}

impl Level {
    /// The level at time `t` of a model that writes the fraction `alpha_0` by diffusion.
    pub fn at(alpha_0: f64, t: f64) -> Self {
        let alpha_t = noise::alpha(alpha_0, t);
        Self {
            t,
            alpha_t,
            weight: -noise::alpha_derivative(alpha_0) / (1.0 - alpha_t),
        }
    }
}

/// Which tokens are masked if the fraction `alpha` stays clean: those with u < 1 - alpha.
pub fn masked(uniforms: &[f64], alpha: f64) -> Vec<bool> {
    uniforms.iter().map(|&u| u < 1.0 - alpha).collect()
}

/// The order of the diffusion loss: clean positions, then masked ones, each sorted by their random offsets. (The
/// published code sorts by is_mask + 0.9 offset.)
pub fn diffusion_order(masked: &[bool], offsets: &[f64]) -> Vec<u32> {
    let mut order = positions(masked.len());
    order.sort_by(|&a, &b| {
        let key = |p: u32| (masked[p as usize], offsets[p as usize]);
        let ((mask_a, a), (mask_b, b)) = (key(a), key(b));
        mask_a.cmp(&mask_b).then(a.total_cmp(&b))
    });
    order
}

/// The order of the sequential loss: clean positions sorted by their offsets (from left to right if there are none),
/// then masked ones from left to right.
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

/// An order in which a text may be written: the `diffusion` positions with the smallest offsets, sorted by offset, then
/// the others from left to right.
pub fn any_order(offsets: &[f64], diffusion: usize) -> Vec<u32> {
    let mut order = positions(offsets.len());
    order.sort_by(|&a, &b| offsets[a as usize].total_cmp(&offsets[b as usize]));
    order[diffusion.min(offsets.len())..].sort_unstable();
    order
}

fn positions(length: usize) -> Vec<u32> {
    (0..length as u32).collect()
}

/// A partly masked text in sorted order: all inputs of a loss.
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

    /// The input of an Eso-LM's diffusion loss at a level.
    pub fn diffusion(x0: &[u32], level: Level, uniforms: &Uniforms, mask_index: u32) -> Self {
        let masked = masked(&uniforms.mask, level.alpha_t);
        let order = diffusion_order(&masked, &uniforms.offsets);
        Self::gather(x0, &masked, order, mask_index)
    }

    /// The input of an Eso-LM's sequential loss.
    pub fn sequential(x0: &[u32], alpha_0: f64, uniforms: &Uniforms, mask_index: u32) -> Self {
        let masked = masked(&uniforms.mask, alpha_0);
        let order = sequential_order(&masked, Some(&uniforms.offsets));
        Self::gather(x0, &masked, order, mask_index)
    }

    /// The input of the MDLM loss at a level, in natural order.
    pub fn mdlm(x0: &[u32], level: Level, uniforms: &Uniforms, mask_index: u32) -> Self {
        let masked = masked(&uniforms.mask, level.alpha_t);
        Self::gather(x0, &masked, positions(x0.len()), mask_index)
    }

    /// Number of masked tokens.
    pub fn masked_count(&self) -> usize {
        self.masked_sorted.iter().filter(|&&masked| masked).count()
    }
}

/// What a set of uniforms is used for; each part of a loss has its own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The diffusion loss.
    Diffusion,
    /// The sequential loss.
    Sequential,
    /// An order of the exact likelihood.
    Order,
    /// Diffusion times: one number for all sequences of an evaluation, or one per row in training.
    Time,
}

impl Part {
    fn stream(self, seed: u64, sequence: u32, draw: u32) -> Stream {
        // Plans use the first purposes; the factor of eight leaves room for further parts.
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
    /// The numbers keyed by (seed, sequence, draw, part).
    pub fn draw(seed: u64, sequence: u32, draw: u32, part: Part, length: usize) -> Self {
        let mut stream = part.stream(seed, sequence, draw);
        let mut numbers = || (0..length).map(|_| stream.uniform()).collect();
        Self {
            mask: numbers(),
            offsets: numbers(),
        }
    }
}

/// A uniform number for a diffusion time.
pub fn draw_time(seed: u64, sequence: u32, draw: u32) -> f64 {
    Part::Time.stream(seed, sequence, draw).uniform()
}

/// `count` uniform numbers for the times of a sequence's blocks.
pub fn draw_times(seed: u64, sequence: u32, draw: u32, count: usize) -> Vec<f64> {
    let mut stream = Part::Time.stream(seed, sequence, draw);
    (0..count).map(|_| stream.uniform()).collect()
}

/// A random order of `length` positions: Binomial(length, alpha_0) random ones first, in random order, the rest from
/// left to right.
pub fn draw_order(seed: u64, sequence: u32, draw: u32, length: usize, alpha_0: f64) -> Vec<u32> {
    let mut stream = Part::Order.stream(seed, sequence, draw);
    let diffusion = stream.binomial(length as u32, alpha_0) as usize;
    let offsets: Vec<f64> = (0..length).map(|_| stream.uniform()).collect();
    any_order(&offsets, diffusion)
}

/// `count` exponential random numbers of rate 1, from which the order of a SetDLM's text is drawn
/// ([`Staggered::times`]).
pub fn draw_exponentials(seed: u64, sequence: u32, draw: u32, count: usize) -> Vec<f64> {
    let mut stream = Part::Order.stream(seed, sequence, draw);
    (0..count).map(|_| -stream.uniform().ln()).collect()
}

#[cfg(test)]
mod tests;
