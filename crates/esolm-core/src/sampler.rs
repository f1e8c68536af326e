//! Drawing a token from logits on the host: the CPU's sampler and the twin of `shaders/sample.wgsl`.

use serde::{Deserialize, Serialize};

use crate::rng::{gumbel_block, gumbel_from_bits};

/// The logit that the mask token counts with, as in the published code.
pub const MASK_LOGIT: f32 = -1e6;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the smallest set of tokens whose mass reaches p, the one that crosses it included.
    pub top_p: Option<f32>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: None }
    }
}

/// Where the Gumbel noise of a row comes from.
#[derive(Clone, Copy, Debug)]
pub enum NoiseSource<'a> {
    /// Counter-based, keyed by all three.
    Seeded {
        /// The seed.
        seed: u64,
        /// Absolute index of the sequence.
        sequence: u32,
        /// Natural position of the token.
        position: u32,
    },
    /// Given values [V].
    Given(&'a [f32]),
    /// None: the most likely token.
    None,
}

/// Draws a token from `logits` [V]: mask column to -1e6, temperature, top-p, then the largest logit + noise (Gumbel-max); ties
/// go to the lower index.
pub fn sample_row(logits: &[f32], mask_index: u32, sampler: &Sampler, noise: NoiseSource) -> u32 {
    let greedy = sampler.temperature <= 0.0;
    let scale = if greedy { 1.0 } else { 1.0 / sampler.temperature };
    let value = |v: usize| if v as u32 == mask_index { MASK_LOGIT } else { logits[v] * scale };
    let noise = if greedy { NoiseSource::None } else { noise };
    let floor = match sampler.top_p {
        Some(p) if !greedy => nucleus_threshold((0..logits.len()).map(value), p),
        _ => f32::MIN,
    };
    let mut best = (f32::MIN, 0);
    let mut offer = |v: usize, noise: f32| {
        let value = value(v);
        if value >= floor && value + noise > best.0 {
            best = (value + noise, v as u32);
        }
    };
    match noise {
        NoiseSource::Seeded { seed, sequence, position } => {
            for block in 0..logits.len().div_ceil(4) {
                let bits = gumbel_block(seed, sequence, position, block as u32);
                for (v, bits) in (block * 4..logits.len()).zip(bits) {
                    offer(v, gumbel_from_bits(bits));
                }
            }
        }
        NoiseSource::Given(values) => (0..logits.len()).zip(values).for_each(|(v, &noise)| offer(v, noise)),
        NoiseSource::None => (0..logits.len()).for_each(|v| offer(v, 0.0)),
    }
    best.1
}

/// The lowest logit that top-p keeps: the smallest set of most likely tokens whose mass reaches `p`. Equal logits stay together.
pub fn nucleus_threshold(logits: impl Iterator<Item = f32>, p: f32) -> f32 {
    let mut sorted: Vec<f32> = logits.collect();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let Some(&top) = sorted.first() else { return f32::MIN };
    let weight = |logit: f32| f64::from(logit - top).exp();
    let wanted = f64::from(p) * sorted.iter().map(|&l| weight(l)).sum::<f64>();
    let mut mass = 0.0;
    for &logit in &sorted {
        mass += weight(logit);
        if mass >= wanted {
            return logit;
        }
    }
    sorted.last().copied().unwrap_or(f32::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0, 9.0, 0.5];
        for temperature in [1.0f32, 0.5, 2.0] {
            let sampler = Sampler { temperature, top_p: None };
            let mut counts = [0f64; 6];
            let draws = 60_000;
            for position in 0..draws {
                counts[sample_row(&logits, 4, &sampler, NoiseSource::Seeded { seed: 11, sequence: 2, position }) as usize] += 1.0;
            }
            assert_eq!(counts[4], 0.0, "the mask token is never drawn");
            let weights: Vec<f64> = logits.iter().enumerate().map(|(v, &l)| if v == 4 { 0.0 } else { f64::from(l / temperature).exp() }).collect();
            let mass: f64 = weights.iter().sum();
            let chi2: f64 = (0..6).filter(|&v| v != 4).map(|v| weights[v] / mass * f64::from(draws)).zip([0, 1, 2, 3, 5]).map(|(e, v)| (counts[v] - e).powi(2) / e).sum();
            assert!(chi2 < 18.5, "chi-square {chi2} with 4 degrees of freedom (0.999 quantile 18.5)");
        }
    }

    #[test]
    fn greedy_and_nucleus() {
        let logits = [1.0f32, 3.0, 3.0, 2.0];
        assert_eq!(sample_row(&logits, 3, &Sampler { temperature: 0.0, top_p: Some(0.1) }, NoiseSource::None), 1);
        let threshold = nucleus_threshold([0.1f32, 0.4, 0.3, 0.2].iter().map(|p: &f32| p.ln()), 0.65);
        assert!((threshold - 0.3f32.ln()).abs() < 1e-6);
        assert_eq!(nucleus_threshold(std::iter::empty(), 0.5), f32::MIN);
    }
}
