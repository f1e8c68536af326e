//! Drawing a token from logits on the host: the CPU's sampler, and the counterpart of `shaders/sample.wgsl`.

use serde::{Deserialize, Serialize};

use crate::finite::first_beyond;
use crate::message::number;
use crate::rng::{STRETCH, gumbel_ceiling, gumbel_from_bits, gumbel_stretch};

pub mod kept;

use kept::Filter;

/// The logit substituted for the mask token's, as in the published code.
pub const MASK_LOGIT: f32 = -1e6;

/// The logit of a token that must not be drawn: finite at any temperature, and below any logit that a network computes.
pub const NEVER: f32 = -1e30;

/// Drawn instead of a token if the logits are not finite; outside every vocabulary.
pub const NO_TOKEN: u32 = u32::MAX;

/// How tokens are drawn: logits are divided by the temperature; then top-k, top-p and min-p exclude tokens, in this
/// order, each among those that the previous one kept. Tokens with equal logits stay together ([`kept`]). The most
/// likely token is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the k most likely tokens, and those as likely as the last of them; at least 1.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Keeps the smallest set of tokens whose total probability reaches p; above 0, and 1 keeps all.
    pub top_p: Option<f32>,
    /// Whether the token at which the total reaches top-p is kept too.
    #[serde(default)]
    pub top_p_crossing: Crossing,
    /// Keeps the tokens at least this fraction as likely as the most likely one, from 0, which keeps all, to 1.
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

/// What happens to the token at which the total probability crosses top-p.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crossing {
    /// It is kept: the kept tokens have a total of at least p.
    #[default]
    Keep,
    /// It is dropped, unless it is the most likely token: the kept tokens have a total of at most p. The published
    /// BD3-LM draws this way.
    Drop,
}

impl Crossing {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::Keep
    }
}

/// Why a [`Sampler`] cannot draw: a field is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} is {value}; it must be {range}")]
pub struct SamplerError {
    /// Name of the field.
    pub option: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub range: &'static str,
}

impl Sampler {
    /// Smallest temperature other than 0; with smaller ones, scaled logits would leave the range of f32.
    pub const MIN_TEMPERATURE: f32 = 1e-6;
    /// Largest temperature; well below it all tokens are already equally likely.
    pub const MAX_TEMPERATURE: f32 = 1e6;

    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// If the temperature is neither 0 nor from [`Sampler::MIN_TEMPERATURE`] to [`Sampler::MAX_TEMPERATURE`], top-k is 0, top-p is
    /// outside (0, 1], or min-p is outside [0, 1].
    pub fn validate(&self) -> Result<(), SamplerError> {
        let wrong = |option, value, range| SamplerError {
            option,
            value: number(value),
            range,
        };
        let temperature = self.temperature;
        let usable = (Self::MIN_TEMPERATURE..=Self::MAX_TEMPERATURE).contains(&temperature);
        if temperature != 0.0 && !usable {
            let range = "0 (the most likely token) or a number from 1e-6 to 1e6";
            return Err(wrong("temperature", temperature, range));
        }
        if self.top_k == Some(0) {
            return Err(wrong("top_k", 0.0, "a whole number, 1 or more"));
        }
        if let Some(p) = self.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return Err(wrong("top_p", p, "a number above 0, up to 1"));
        }
        match self.min_p {
            Some(p) if !(0.0..=1.0).contains(&p) => Err(wrong("min_p", p, "a number from 0 to 1")),
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

/// Draws a token from `logits` `[V]` like the published samplers (algo.py): sets the mask column to -1e6, divides by
/// the temperature, then takes the largest logit + noise (Gumbel-max) among the tokens that the [`Sampler`] keeps; ties
/// go to the lower index. Returns [`NO_TOKEN`] if a logit other than the mask's is not finite, or if no token is left.
///
/// Inlined, so that its loops use the caller's instruction set.
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

/// What determines whether a token is kept.
enum Token {
    Mask,
    /// Any other token, by its logit, not divided by the temperature.
    Logit(f32),
}

/// A row of finite logits.
struct Row<'a> {
    logits: &'a [f32],
    mask_index: u32,
    scale: f32,
}

impl Row<'_> {
    /// The token with the largest logit plus noise, among those that `keeps` keeps.
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
                    // Skips adjacent tokens that are all excluded.
                    let stretch = logits.get(all.clone()).unwrap_or_default();
                    let highest = stretch.iter().copied().fold(f32::MIN, f32::max);
                    if !keeps(Token::Logit(highest)) && !all.contains(&(mask_index as usize)) {
                        continue;
                    }
                    let words = gumbel_stretch(seed, sequence, position, first as u32);
                    for v in all {
                        let bits = words[v % 4][v / 4 - first];
                        let value = value(v);
                        // Nor are the noise's two logarithms computed if an upper bound of the noise would not win.
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

/// Whether all of a row's logits are finite, ignoring the mask's, which nothing reads.
pub fn are_finite(logits: &[f32], mask_index: u32) -> bool {
    let (before, rest) = logits.split_at(logits.len().min(mask_index as usize));
    let after = rest.get(1..).unwrap_or_default();
    [before, after]
        .iter()
        .all(|logits| first_beyond(logits, f32::MAX).is_none())
}

#[cfg(test)]
mod tests;
