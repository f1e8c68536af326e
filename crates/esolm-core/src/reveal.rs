//! Which of the drawn tokens are revealed when the network's confidence decides: a step draws a token at every masked
//! position, keeps those it is most confident in, and discards the others. This module has the rule as data, and the
//! Rust counterpart of `shaders/reveal.wgsl` and `shaders/confidence.wgsl`.
//!
//! One rule covers the published samplers: the `least` most confident tokens are revealed, as well as every token whose
//! confidence reaches a threshold. "All above the threshold if there are at least k, otherwise the k most confident" is
//! equivalent, since tokens above a threshold are always the most confident ones.
//!
//! A confidence is an integer, [`CERTAIN`] times a probability, computed from the integers of [`crate::sampler::kept`].
//! Devices that agree on the logits therefore agree on the choice, including ties, which go to the earlier row.

mod counts;

use serde::{Deserialize, Serialize};

use crate::rng;
use crate::sampler::kept::Filter;
use crate::sampler::{NO_TOKEN, Sampler, are_finite};
pub use counts::{Counts, even_counts, linear_counts};

/// The confidence of a token with probability 1.
pub const CERTAIN: u32 = 1 << 31;

/// The confidence of [`NO_TOKEN`]: a draw from logits that are not finite is always revealed, so that whoever reads the
/// tokens notices it.
pub const BROKEN: u32 = u32::MAX;

/// How the confidence of a drawn token is defined. The mask token never counts in a probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The model's own probability: at temperature 1, among all tokens, no matter how the token was drawn.
    #[default]
    Model,
    /// The probability after the temperature, among all tokens.
    Tempered,
    /// The probability with which it was drawn: after the temperature, among the tokens kept by top-k, top-p and min-p.
    Drawn,
    /// A random number per row, independent of the network.
    Random,
    /// The same for all rows, so that the leftmost come first.
    Leftmost,
}

impl Confidence {
    /// Whether it is computed by the network.
    pub fn is_networks(self) -> bool {
        !matches!(self, Self::Random | Self::Leftmost)
    }

    /// The filter whose kept mass the confidence is relative to; `None` if no probability is needed. A draw at
    /// temperature 0 has no distribution, so its confidence is the model's own.
    pub fn filter(self, sampler: &Sampler) -> Option<Filter> {
        let temperature = sampler.temperature;
        match self {
            Self::Random | Self::Leftmost => None,
            Self::Model => Some(Filter::all(1.0)),
            _ if temperature <= 0.0 => Some(Filter::all(1.0)),
            Self::Tempered => Some(Filter::all(temperature)),
            Self::Drawn => Some(Filter::new(sampler).unwrap_or(Filter::all(temperature))),
        }
    }

    /// The confidence of a row that does not depend on its logits, computed from the key of its noise; `None` if it
    /// does depend on them.
    pub fn of_key(self, seed: u64, [sequence, position]: [u32; 2]) -> Option<u32> {
        match self {
            Self::Random => Some(rng::row_word(seed, sequence, position) >> 1),
            Self::Leftmost => Some(0),
            Self::Model | Self::Tempered | Self::Drawn => None,
        }
    }
}

/// How the tokens to reveal are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What they are compared by.
    #[serde(default)]
    pub by: Confidence,
    /// Tokens of at least this confidence, from 0 to 1, are always revealed. For "above" a threshold, use the next
    /// larger number ([`f32::next_up`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

impl Rule {
    /// Whether the threshold, if there is one, is reachable and applies to a confidence of the network.
    pub fn is_sound(&self) -> bool {
        let in_range = |t: f32| (0.0..=1.0).contains(&t) && self.by.is_networks();
        self.threshold.is_none_or(in_range)
    }

    /// The smallest integer confidence that reaches the threshold; without one, only [`BROKEN`] does.
    pub fn bound(&self) -> u32 {
        match self.threshold {
            Some(t) if t <= 1.0 => (f64::from(t) * f64::from(CERTAIN)).ceil() as u32,
            _ => BROKEN,
        }
    }
}

/// Adjacent sampled rows of a pass, all in one sequence, from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Index of the first one among the sampled rows.
    pub first: u32,
    /// Number of rows.
    pub rows: u32,
    /// How many of those still masked are revealed at least; if there are fewer, all are.
    pub least: u32,
}

/// What a pass may reveal.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The rule for all groups.
    pub rule: Rule,
    /// Consecutive groups that cover every sampled row.
    pub groups: Vec<Group>,
}

impl Choice {
    /// Whether the groups cover each of `sampled` rows once, in order.
    pub fn holds(&self, sampled: usize) -> bool {
        let follow = |next: Option<u32>, group: &Group| match next {
            Some(next) if group.first == next => next.checked_add(group.rows),
            _ => None,
        };
        self.groups.iter().fold(Some(0), follow) == u32::try_from(sampled).ok()
    }
}

/// Result of a choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For each group, the number of positions still masked.
    pub left: Vec<u32>,
    /// For each sampled row, the token revealed, or the mask token if none was.
    pub tokens: Vec<u32>,
}

/// The confidence of a drawn `token`, computed from the logits `[V]` that `sampler` drew it from; `None` if it does not
/// depend on them ([`Confidence::of_key`]).
pub fn confidence(
    by: Confidence,
    sampler: &Sampler,
    logits: &[f32],
    mask_index: u32,
    token: u32,
) -> Option<u32> {
    let filter = by.filter(sampler)?;
    Some(match are_finite(logits, mask_index) {
        true => filter.share(logits, mask_index, token),
        false => BROKEN,
    })
}

/// Chooses among drawn tokens and writes those revealed to `tokens`, where the next pass reads them. For each sampled
/// row, `drawn` has its token, `confidences` its confidence, and `targets` its index in `tokens`, which is only written
/// if it holds the mask token.
pub fn choose(
    choice: &Choice,
    mask_index: u32,
    drawn: &[u32],
    confidences: &[u32],
    targets: &[u32],
    tokens: &mut [u32],
) -> Outcome {
    let bound = choice.rule.bound();
    let mut outcome = Outcome {
        left: Vec::with_capacity(choice.groups.len()),
        tokens: vec![mask_index; drawn.len()],
    };
    let of = |row: usize| match drawn[row] {
        NO_TOKEN => BROKEN,
        _ => confidences[row],
    };
    for group in &choice.groups {
        let rows = group.first as usize..(group.first + group.rows) as usize;
        let mut masked: Vec<usize> = rows
            .filter(|&row| tokens[targets[row] as usize] == mask_index)
            .collect();
        // The sort is stable, so the earlier row stays first.
        masked.sort_by_key(|&row| std::cmp::Reverse(of(row)));
        let beyond = masked.partition_point(|&row| of(row) >= bound);
        let known = beyond.max(group.least as usize).min(masked.len());
        for &row in &masked[..known] {
            outcome.tokens[row] = drawn[row];
            tokens[targets[row] as usize] = drawn[row];
        }
        outcome.left.push((masked.len() - known) as u32);
    }
    outcome
}

#[cfg(test)]
mod tests;
