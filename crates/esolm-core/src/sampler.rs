//! Drawing a token from logits on the host: the CPU's sampler and the twin of `shaders/sample.wgsl`.

use serde::{Deserialize, Serialize};

use crate::finite::first_beyond;
use crate::rng::{gumbel_block, gumbel_ceiling, gumbel_from_bits};

/// The logit that the mask token counts with, as in the published code.
pub const MASK_LOGIT: f32 = -1e6;

/// What is drawn from logits that are not finite, instead of a token: no vocabulary holds it.
pub const NO_TOKEN: u32 = u32::MAX;

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
        Self {
            temperature: 1.0,
            top_p: None,
        }
    }
}

/// Why a [`Sampler`] cannot draw.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// The temperature is negative or not a number.
    #[error(
        "the temperature is {0}; give 0 for the most likely token, 1 for a draw as the model says, or any number from 1e-6"
    )]
    Temperature(f32),
    /// The nucleus holds nothing, or more than all.
    #[error("top-p is {0}; give a number above 0 and at most 1, where 1 keeps every token")]
    TopP(f32),
}

impl Sampler {
    /// Smallest temperature beside 0: with smaller ones scaled logits would leave the range of f32.
    pub const MIN_TEMPERATURE: f32 = 1e-6;

    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// A temperature that is neither 0 nor a number from [`Sampler::MIN_TEMPERATURE`], or a top-p outside (0, 1].
    pub fn validate(&self) -> Result<(), SamplerError> {
        let temperature = self.temperature;
        let usable = temperature.is_finite() && temperature >= Self::MIN_TEMPERATURE;
        if temperature != 0.0 && !usable {
            return Err(SamplerError::Temperature(temperature));
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => Err(SamplerError::TopP(p)),
            _ => Ok(()),
        }
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
    /// Given values `[V]`.
    Given(&'a [f32]),
    /// None: the most likely token.
    None,
}

/// Draws a token from `logits` `[V]`, as the published samplers do (algo.py): mask column to -1e6, temperature, top-p, then the largest logit + noise (Gumbel-max); ties
/// go to the lower index. Where a logit other than the mask's is not finite, or none is left after all that, it is [`NO_TOKEN`].
pub fn sample_row(logits: &[f32], mask_index: u32, sampler: &Sampler, noise: NoiseSource) -> u32 {
    if !are_finite(logits, mask_index) {
        return NO_TOKEN;
    }
    let greedy = sampler.temperature <= 0.0;
    let scale = if greedy {
        1.0
    } else {
        1.0 / sampler.temperature
    };
    let value = |v: usize| {
        if v as u32 == mask_index {
            MASK_LOGIT
        } else {
            logits[v] * scale
        }
    };
    let noise = if greedy { NoiseSource::None } else { noise };
    let floor = match sampler.top_p {
        Some(p) if !greedy && p < 1.0 => nucleus_threshold((0..logits.len()).map(value), p),
        _ => f32::MIN,
    };
    let mut best = (f32::MIN, NO_TOKEN);
    // The noise is asked for only where an upper bound of it could win: two logarithms are spared for nearly all entries.
    let mut offer = |v: usize, ceiling: f32, noise: &dyn Fn() -> f32| {
        let value = value(v);
        if value >= floor && value + ceiling > best.0 {
            let score = value + noise();
            if score > best.0 {
                best = (score, v as u32);
            }
        }
    };
    match noise {
        NoiseSource::Seeded {
            seed,
            sequence,
            position,
        } => {
            for block in 0..logits.len().div_ceil(4) {
                let bits = gumbel_block(seed, sequence, position, block as u32);
                for (v, bits) in (block * 4..logits.len()).zip(bits) {
                    offer(v, gumbel_ceiling(bits), &|| gumbel_from_bits(bits));
                }
            }
        }
        NoiseSource::Given(values) => (0..logits.len())
            .zip(values)
            .for_each(|(v, &noise)| offer(v, noise, &|| noise)),
        NoiseSource::None => (0..logits.len()).for_each(|v| offer(v, 0.0, &|| 0.0)),
    }
    best.1
}

/// Whether all of a row's logits are finite but for the mask's, which nothing reads.
pub fn are_finite(logits: &[f32], mask_index: u32) -> bool {
    let (before, rest) = logits.split_at(logits.len().min(mask_index as usize));
    let after = rest.get(1..).unwrap_or_default();
    [before, after]
        .iter()
        .all(|logits| first_beyond(logits, f32::MAX).is_none())
}

/// The lowest logit that top-p keeps: the smallest set of most likely tokens whose mass reaches `p`. Equal logits stay together
/// (`top_k_top_p_filtering` of the published utils.py, which keeps some of them). The logits are final: scaled, mask blanked.
pub fn nucleus_threshold(logits: impl Iterator<Item = f32>, p: f32) -> f32 {
    // Sorting the whole vocabulary costs more than a network's output layer; the nucleus mostly lies in a short beginning, so
    // that is selected and sorted in parts of growing length.
    const FIRST: usize = 256;
    let mut logits: Vec<f32> = logits.filter(|logit| !logit.is_nan()).collect();
    let Some(top) = logits.iter().copied().reduce(f32::max) else {
        return f32::MIN;
    };
    let weight = |logit: f32| (f64::from(logit) - f64::from(top)).exp();
    let wanted = f64::from(p) * logits.iter().map(|&l| weight(l)).sum::<f64>();
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let (mut mass, mut lowest) = (0.0, f32::MIN);
    let (mut rest, mut length) = (&mut logits[..], FIRST);
    while !rest.is_empty() {
        let taken = length.min(rest.len());
        if taken < rest.len() {
            rest.select_nth_unstable_by(taken, descending);
        }
        let (part, others) = rest.split_at_mut(taken);
        part.sort_unstable_by(descending);
        for &logit in &*part {
            (mass, lowest) = (mass + weight(logit), logit);
            if mass >= wanted {
                return logit;
            }
        }
        (rest, length) = (others, length * 4);
    }
    lowest
}

#[cfg(test)]
mod tests;
