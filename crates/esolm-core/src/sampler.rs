//! Drawing a token from logits on the host: the CPU's sampler and the twin of `shaders/sample.wgsl`.

use serde::{Deserialize, Serialize};

use crate::finite::first_beyond;
use crate::rng::{STRETCH, gumbel_ceiling, gumbel_from_bits, gumbel_stretch};

pub mod kept;

use kept::Filter;

/// The logit that the mask token counts with, as in the published code.
pub const MASK_LOGIT: f32 = -1e6;

/// The logit of a token that must not be drawn: finite at any temperature, and below any that a network computes.
pub const NEVER: f32 = -1e30;

/// What is drawn from logits that are not finite, instead of a token: no vocabulary holds it.
pub const NO_TOKEN: u32 = u32::MAX;

/// How tokens are drawn: logits are divided by the temperature, then top-k, top-p and min-p leave tokens out, in this order, each of
/// what the one before it left. Tokens whose logits are equal stay together ([`kept`]). The most likely token is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the k most likely tokens, and what is as likely as the last of them; at least 1.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Keeps the smallest set of tokens whose mass reaches p; above 0, and 1 keeps all.
    pub top_p: Option<f32>,
    /// Whether the token at which the mass reaches top-p is kept too.
    #[serde(default)]
    pub top_p_crossing: Crossing,
    /// Keeps the tokens that are at least this fraction as likely as the most likely one, from 0, which keeps all, to 1.
    #[serde(default)]
    pub min_p: Option<f32>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            top_p_crossing: Crossing::Keep,
            min_p: None,
        }
    }
}

/// What becomes of the token at which the mass crosses top-p.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crossing {
    /// It is kept: what is kept has a mass of at least p.
    #[default]
    Keep,
    /// It is left out, unless it is the most likely token: what is kept has a mass of at most p. So the published BD3-LM draws.
    Drop,
}

impl Crossing {
    /// Whether it is what is done unless asked otherwise.
    pub fn is_default(&self) -> bool {
        *self == Self::Keep
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
    /// No token is kept.
    #[error("top-k is 0; give a number of tokens from 1, or leave it out to keep every token")]
    TopK,
    /// The nucleus holds nothing, or more than all.
    #[error("top-p is {0}; give a number above 0 and at most 1, where 1 keeps every token")]
    TopP(f32),
    /// A fraction that no probability can be of another.
    #[error("min-p is {0}; give a number from 0, which keeps every token, to 1")]
    MinP(f32),
}

impl Sampler {
    /// Smallest temperature beside 0: with smaller ones scaled logits would leave the range of f32.
    pub const MIN_TEMPERATURE: f32 = 1e-6;

    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// A temperature that is neither 0 nor a number from [`Sampler::MIN_TEMPERATURE`], a top-k of 0, a top-p outside (0, 1] or a min-p
    /// outside [0, 1].
    pub fn validate(&self) -> Result<(), SamplerError> {
        let temperature = self.temperature;
        let usable = temperature.is_finite() && temperature >= Self::MIN_TEMPERATURE;
        if temperature != 0.0 && !usable {
            return Err(SamplerError::Temperature(temperature));
        }
        if self.top_k == Some(0) {
            return Err(SamplerError::TopK);
        }
        if let Some(p) = self.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return Err(SamplerError::TopP(p));
        }
        match self.min_p {
            Some(p) if !(0.0..=1.0).contains(&p) => Err(SamplerError::MinP(p)),
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

/// Draws a token from `logits` `[V]`, as the published samplers do (algo.py): mask column to -1e6, temperature, then of what the [`Sampler`]
/// keeps the largest logit + noise (Gumbel-max); ties go to the lower index. Where a logit other than the mask's is not finite, or none is
/// left after all that, it is [`NO_TOKEN`].
///
/// It is inlined, so that its loops have the instruction set of whoever calls.
#[inline(always)]
pub fn sample_row(logits: &[f32], mask_index: u32, sampler: &Sampler, noise: NoiseSource) -> u32 {
    if !are_finite(logits, mask_index) {
        return NO_TOKEN;
    }
    let is_greedy = sampler.temperature <= 0.0;
    let scale = if is_greedy {
        1.0
    } else {
        1.0 / sampler.temperature
    };
    let row = Row {
        logits,
        mask_index,
        scale,
    };
    let noise = if is_greedy { NoiseSource::None } else { noise };
    match Filter::new(sampler) {
        None => row.draw(noise, |_| true),
        Some(filter) => {
            let cut = filter.cut(logits, mask_index);
            row.draw(noise, |token| match token {
                Token::Mask => cut.keeps(filter.mask_logit),
                Token::Logit(logit) => cut.keeps(logit),
            })
        }
    }
}

/// What tells whether a token is kept.
enum Token {
    Mask,
    /// Of any other token, not divided by the temperature.
    Logit(f32),
}

/// A row of finite logits.
struct Row<'a> {
    logits: &'a [f32],
    mask_index: u32,
    scale: f32,
}

impl Row<'_> {
    /// The token whose logit and noise are the most, of those that `keeps` keeps.
    #[inline(always)]
    fn draw(&self, noise: NoiseSource, keeps: impl Fn(Token) -> bool) -> u32 {
        let Self {
            logits,
            mask_index,
            scale,
        } = *self;
        let is_mask = |v: usize| v as u32 == mask_index;
        let value = |v: usize| match is_mask(v) {
            true => MASK_LOGIT,
            false => logits[v] * scale,
        };
        let is_kept = |v: usize| match is_mask(v) {
            true => keeps(Token::Mask),
            false => keeps(Token::Logit(logits[v])),
        };
        let (mut best, mut token) = (f32::MIN, NO_TOKEN);
        match noise {
            NoiseSource::Seeded {
                seed,
                sequence,
                position,
            } => {
                for first in (0..logits.len().div_ceil(4)).step_by(STRETCH) {
                    let all = first * 4..logits.len().min((first + STRETCH) * 4);
                    // Nothing is computed for neighbours that are all left out.
                    let stretch = logits.get(all.clone()).unwrap_or_default();
                    let highest = stretch.iter().copied().fold(f32::MIN, f32::max);
                    if !keeps(Token::Logit(highest)) && !all.contains(&(mask_index as usize)) {
                        continue;
                    }
                    let words = gumbel_stretch(seed, sequence, position, first as u32);
                    for v in all {
                        let bits = words[v % 4][v / 4 - first];
                        let value = value(v);
                        // Nor are the two logarithms of the noise where an upper bound of it would not win.
                        if value + gumbel_ceiling(bits) > best && is_kept(v) {
                            let score = value + gumbel_from_bits(bits);
                            if score > best {
                                (best, token) = (score, v as u32);
                            }
                        }
                    }
                }
            }
            NoiseSource::Given(values) => {
                for (v, noise) in (0..logits.len()).zip(values) {
                    let score = value(v) + noise;
                    if score > best && is_kept(v) {
                        (best, token) = (score, v as u32);
                    }
                }
            }
            NoiseSource::None => {
                for v in 0..logits.len() {
                    if value(v) > best {
                        (best, token) = (value(v), v as u32);
                    }
                }
            }
        }
        token
    }
}

/// Makes tokens impossible in a row of logits.
pub fn suppress(logits: &mut [f32], tokens: &[u32]) {
    for &token in tokens {
        logits[token as usize] = NEVER;
    }
}

/// Whether all of a row's logits are finite but for the mask's, which nothing reads.
pub fn are_finite(logits: &[f32], mask_index: u32) -> bool {
    let (before, rest) = logits.split_at(logits.len().min(mask_index as usize));
    let after = rest.get(1..).unwrap_or_default();
    [before, after]
        .iter()
        .all(|logits| first_beyond(logits, f32::MAX).is_none())
}

#[cfg(test)]
mod tests;
