//! Which tokens are kept by top-k, top-p and min-p. Everything after the first multiplication is integer arithmetic,
//! whose sums do not depend on their order. The shader's counterpart `kept.wgsl`, which adds in arbitrary order,
//! therefore keeps exactly the same tokens.
//!
//! Tokens are compared by how far their logit lies below the largest one, in steps of 2^-17 octaves: an octave halves
//! the probability, and a step is 5.3e-6 in natural logarithm, about the f32 precision of a logit of 64. Tokens in the
//! same step count as equally likely and stay together. Steps are counted up to 32 octaves; rarer tokens have no mass,
//! and no noise of a draw could lift them to the top.
//!
//! The step at which a sum crosses a bound is found in two passes over the logits: first from the sums of 2048 bins of
//! 2048 steps each (a 64th of an octave), then from the sums of the steps in one bin. For top-k, the sums are counts.
//! For top-p, a token adds to its bin a mass of 2^20 scaled by its offset within the bin; the weight of a bin relative
//! to others depends only on its index. Masses are therefore accurate to a relative 2^-20, and one 32 octaves below the
//! top still counts.

use super::{Crossing, MASK_LOGIT, Sampler};

/// Number of bits that index a step within its bin.
const FINE_BITS: u32 = 11;
/// Number of bins in the first pass, and of steps in a bin.
const BINS: usize = 1 << FINE_BITS;
/// Number of tokens whose steps are computed at a time.
const STRETCH: usize = 32;
/// Steps per octave.
const OCTAVE: u32 = 1 << 17;
/// The step of all tokens 32 octaves or more below the top.
pub const FAR: u32 = 32 * OCTAVE;

/// The largest vocabulary whose masses fit 64 bits.
pub const MAX_VOCAB: usize = 1 << 23;

/// The numbers with which a draw applies a [`Sampler`]'s filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// Steps per unit of a logit.
    pub rate: f32,
    /// The logit substituted for the mask's, before dividing by the temperature.
    pub mask_logit: f32,
    /// Number of tokens kept by top-k; 0 keeps all.
    pub top_k: u32,
    /// 2^32 times top-p; 0 keeps all.
    pub top_p: u32,
    /// Whether the step at which the mass crosses top-p is dropped; the first step never is.
    pub drops_crossing: bool,
    /// The last step kept by min-p.
    pub reach: u32,
}

/// Where a row's kept tokens end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    top: f32,
    rate: f32,
    /// The last step kept.
    pub last: u32,
}

impl Filter {
    /// The filter that keeps every token, unscaled.
    pub const NONE: Self = Self {
        rate: 0.0,
        mask_logit: MASK_LOGIT,
        top_k: 0,
        top_p: 0,
        drops_crossing: false,
        reach: FAR,
    };

    /// The filter of a sampler; `None` if it keeps every token, or draws the most likely one, which is always kept.
    pub fn new(sampler: &Sampler) -> Option<Self> {
        if sampler.temperature <= 0.0 {
            return None;
        }
        let top_p = sampler.top_p.filter(|&p| p < 1.0);
        let min_p = f64::from(sampler.min_p.unwrap_or(0.0));
        let reach = (-min_p.log2() * f64::from(OCTAVE)).min(f64::from(FAR)) as u32;
        let top_k = sampler.top_k.unwrap_or(0);
        if top_k == 0 && top_p.is_none() && reach == FAR {
            return None;
        }
        Some(Self {
            top_k,
            // However small, it must not become 0, which keeps all.
            top_p: top_p.map_or(0, |p| ((f64::from(p) * 4_294_967_296.0) as u32).max(1)),
            drops_crossing: sampler.top_p_crossing == Crossing::Drop,
            reach,
            ..Self::all(sampler.temperature)
        })
    }

    /// The filter that keeps every token, at a temperature above 0.
    pub fn all(temperature: f32) -> Self {
        let temperature = f64::from(temperature);
        Self {
            rate: (f64::from(OCTAVE) * std::f64::consts::LOG2_E / temperature) as f32,
            mask_logit: ((f64::from(MASK_LOGIT) * temperature) as f32).max(f32::MIN),
            ..Self::NONE
        }
    }

    /// How many times [`Filter::cut`] reads the logits: once for the largest one, and twice per search.
    pub fn passes(&self) -> u64 {
        1 + 2 * u64::from(self.top_k > 0) + 2 * u64::from(self.top_p > 0)
    }

    /// Where the kept tokens of finite `logits` `[V]` end. Top-k comes first, and keeps tokens as likely as the k-th;
    /// top-p is a fraction of the remaining mass; min-p is relative to the most likely token, which all three keep.
    pub fn cut(&self, logits: &[f32], mask_index: u32) -> Cut {
        let row = Row::new(logits, mask_index, self);
        let mut last = FAR;
        if self.top_k > 0 {
            last = row.top_k(self.top_k).unwrap_or(FAR);
        }
        if self.top_p > 0 {
            let crossed = row.top_p(self.top_p, self.drops_crossing, last);
            last = crossed.unwrap_or(FAR).min(last);
        }
        Cut {
            top: row.top,
            rate: self.rate,
            last: last.min(self.reach),
        }
    }

    /// The fraction of `token` in the total mass of the kept tokens of finite `logits` `[V]`, excluding the mask, in
    /// units of 2^-31; 0 for the mask. Each token's mass is that of its step, so the sum does not depend on the order.
    pub fn share(&self, logits: &[f32], mask_index: u32, token: u32) -> u32 {
        let cut = self.cut(logits, mask_index);
        let mass_of = |logit: f32| match step(logit, cut.top, cut.rate) {
            step if step > cut.last || step == FAR => 0,
            step => mass(
                (step >> FINE_BITS) as usize,
                u64::from(SHARES[step as usize % BINS]),
            ),
        };
        let (before, rest) = logits.split_at(logits.len().min(mask_index as usize));
        let after = rest.get(1..).unwrap_or_default();
        let total: u64 = before
            .iter()
            .chain(after)
            .map(|&logit| mass_of(logit))
            .sum();
        match logits.get(token as usize) {
            Some(&logit) if token != mask_index && total > 0 => {
                ((u128::from(mass_of(logit)) << 31) / u128::from(total)) as u32
            }
            _ => 0,
        }
    }
}

impl Cut {
    /// Whether a token with this logit is kept; for the mask, pass [`Filter::mask_logit`].
    pub fn keeps(&self, logit: f32) -> bool {
        step(logit, self.top, self.rate) <= self.last
    }
}

/// Number of steps by which a logit lies below the largest one.
fn step(logit: f32, top: f32, rate: f32) -> u32 {
    ((top - logit) * rate).min(FAR as f32) as i32 as u32
}

/// A row of logits in three parts, with the mask's in the middle.
struct Row<'a> {
    parts: [&'a [f32]; 3],
    top: f32,
    rate: f32,
}

impl<'a> Row<'a> {
    fn new(logits: &'a [f32], mask_index: u32, filter: &'a Filter) -> Self {
        let (before, rest) = logits.split_at(logits.len().min(mask_index as usize));
        let mask = if rest.is_empty() {
            &[]
        } else {
            std::slice::from_ref(&filter.mask_logit)
        };
        let parts = [before, mask, rest.get(1..).unwrap_or_default()];
        Self {
            parts,
            top: parts.map(largest).into_iter().fold(f32::MIN, f32::max),
            rate: filter.rate,
        }
    }

    /// Calls `each` with the steps of all tokens, in chunks.
    fn steps(&self, mut each: impl FnMut(&[u32])) {
        for part in self.parts {
            for logits in part.chunks(STRETCH) {
                // A separate loop, which compilers vectorise.
                let mut steps = [0; STRETCH];
                for (to, &logit) in steps.iter_mut().zip(logits) {
                    *to = step(logit, self.top, self.rate);
                }
                each(&steps[..logits.len()]);
            }
        }
    }

    /// The step of the k-th token; `None` if that token is too rare to be counted.
    fn top_k(&self, k: u32) -> Option<u32> {
        let wanted = u64::from(k);
        let mut counts = [0u64; BINS + 1];
        self.steps(|steps| {
            for step in steps {
                counts[(step >> FINE_BITS) as usize] += 1;
            }
        });
        let (bin, above) = crossing(counts[..BINS].iter().copied(), |sum| sum >= wanted)?;
        let counts = self.count(bin, FAR);
        let (fine, _) = crossing(counts, |sum| above + sum >= wanted)?;
        Some((bin << FINE_BITS) as u32 + fine as u32)
    }

    /// The last step kept by top-p with `p` / 2^32, among the tokens up to the step `last`: the one at which the sum
    /// reaches that mass, or with `drops` the one before that at which the sum exceeds it. `None` if no sum does.
    fn top_p(&self, p: u32, drops: bool, last: u32) -> Option<u32> {
        let mut sums = [0u64; BINS + 1];
        self.steps(|steps| {
            for &step in steps {
                let share = if step <= last {
                    SHARES[step as usize % BINS]
                } else {
                    0
                };
                sums[(step >> FINE_BITS) as usize] += u64::from(share);
            }
        });
        let masses = || (sums[..BINS].iter().enumerate()).map(|(bin, &sum)| mass(bin, sum));
        let total: u64 = masses().sum();
        let wanted = ((u128::from(total) * u128::from(p)) >> 32) as u64;
        // To exceed is to reach the next integer.
        let wanted = if drops { wanted + 1 } else { wanted.max(1) };
        let (bin, above) = crossing(masses(), |sum| sum >= wanted)?;
        let sums = self
            .count(bin, last)
            .zip(&SHARES)
            .map(|(count, &share)| count * u64::from(share));
        let (fine, _) = crossing(sums, |sum| above + mass(bin, sum) >= wanted)?;
        let crossed = (bin << FINE_BITS) as u32 + fine as u32;
        Some(crossed.saturating_sub(u32::from(drops)))
    }

    /// Number of tokens in each step of a bin, up to the step `last`.
    fn count(&self, bin: usize, last: u32) -> impl Iterator<Item = u64> {
        let mut counts = [0u32; BINS];
        let first = (bin << FINE_BITS) as u32;
        let width = (last - first).min(BINS as u32 - 1);
        self.steps(|steps| {
            let is_here = |step: u32| step.wrapping_sub(first) <= width;
            if steps.iter().fold(false, |any, &step| any | is_here(step)) {
                for &step in steps.iter().filter(|&&step| is_here(step)) {
                    counts[(step - first) as usize] += 1;
                }
            }
        });
        counts.into_iter().map(u64::from)
    }
}

/// The largest of some values; [`f32::MIN`] if there are none.
fn largest(values: &[f32]) -> f32 {
    // Several lanes at once, which compilers vectorise.
    let mut lanes = [f32::MIN; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::MIN, f32::max)
}

/// The index at which the cumulative sum of `amounts` first reaches a bound, and the sum before it.
fn crossing(
    amounts: impl Iterator<Item = u64>,
    reaches: impl Fn(u64) -> bool,
) -> Option<(usize, u64)> {
    let mut sum = 0;
    for (index, amount) in amounts.enumerate() {
        if reaches(sum + amount) {
            return Some((index, sum));
        }
        sum += amount;
    }
    None
}

/// [`share`] of each step in a bin.
static SHARES: [u32; BINS] = {
    let mut shares = [0; BINS];
    let mut fine = 0;
    while fine < BINS {
        shares[fine] = share(fine as u32);
        fine += 1;
    }
    shares
};

/// 2^20 times 2^(-fine / 2^17), using two terms of its series; the third is below 2^-22.
const fn share(fine: u32) -> u32 {
    // ln 2 and half its square, scaled by powers of two that leave 18 fractional bits below the result.
    let series = fine * 1_453_635 - ((fine * fine * 984) >> 8);
    (1 << 20) - ((series + (1 << 17)) >> 18)
}

/// The mass of a sum of shares in a bin, in units of 2^-39 of the largest mass.
fn mass(bin: usize, shares: u64) -> u64 {
    let product = u128::from(shares << 20) * u128::from(FRACTIONS[bin % 64]);
    ((product >> 32) as u64) >> (bin / 64)
}

/// 2^31 times 2^(-i/64).
static FRACTIONS: [u32; 64] = {
    let mut fractions = [0; 64];
    let mut i = 0;
    while i < 64 {
        fractions[i] = fraction(i);
        i += 1;
    }
    fractions
};

const fn fraction(i: usize) -> u32 {
    /// 2^32 times 2^(-1/64), 2^(-1/32) .. 2^(-1/2).
    const ROOTS: [u32; 6] = [
        4_248_701_965,
        4_202_935_003,
        4_112_874_773,
        3_938_502_376,
        3_611_622_603,
        3_037_000_500,
    ];
    let mut fraction = 1u32 << 31;
    let mut bit = 0;
    while bit < ROOTS.len() {
        if i >> bit & 1 == 1 {
            fraction = ((fraction as u64 * ROOTS[bit] as u64) >> 32) as u32;
        }
        bit += 1;
    }
    fraction
}

#[cfg(test)]
mod tests;
