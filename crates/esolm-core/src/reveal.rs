//! Which of the drawn tokens become known, where the network's confidence chooses: a step draws a token for every place that is still
//! masked, keeps the tokens that it is most sure of, and forgets the others. The rule as data, and its twin in Rust of
//! `shaders/reveal.wgsl` and `shaders/confidence.wgsl`.
//!
//! One rule covers the published samplers: the `least` most confident tokens become known, and with them every token whose confidence
//! reaches a threshold. "All beyond a threshold if those are k at least, else the k most confident" is the same, since what lies beyond a
//! threshold is always a run of the most confident.
//!
//! A confidence is a whole number, [`CERTAIN`] times a probability, made of the integers of [`crate::sampler::kept`]: so devices that agree
//! on the logits agree on the choice, ties included, which go to the earlier row.

mod counts;

use serde::{Deserialize, Serialize};

use crate::rng;
use crate::sampler::kept::Filter;
use crate::sampler::{NO_TOKEN, Sampler, are_finite};
pub use counts::{Counts, even_counts, linear_counts};

/// The confidence of a token whose probability is 1.
pub const CERTAIN: u32 = 1 << 31;

/// The confidence that [`NO_TOKEN`] counts with: what is drawn from logits that are not finite becomes known at once, so that whoever reads
/// the tokens finds it.
pub const BROKEN: u32 = u32::MAX;

/// What the confidence of a drawn token is. The mask token never takes part in a probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The model's own probability: at temperature 1, among all tokens, however the token was drawn.
    #[default]
    Model,
    /// The probability after the temperature, among all tokens.
    Tempered,
    /// The probability that it was drawn with: after the temperature, among the tokens that top-k, top-p and min-p keep.
    Drawn,
    /// A random number of the row, whatever the network says.
    Random,
    /// The same for all rows, so that the leftmost ones come first.
    Leftmost,
}

impl Confidence {
    /// Whether it is the network's, and not a random number or none.
    pub fn is_networks(self) -> bool {
        !matches!(self, Self::Random | Self::Leftmost)
    }

    /// The filter whose mass the drawn token has a share of; none where no probability is asked for. A draw at temperature 0 has no
    /// distribution, so its confidence is the model's own.
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

    /// The confidence of a row that does not depend on its logits, from what keys its noise; none where it does.
    pub fn of_key(self, seed: u64, [sequence, position]: [u32; 2]) -> Option<u32> {
        match self {
            Self::Random => Some(rng::row_word(seed, sequence, position) >> 1),
            Self::Leftmost => Some(0),
            Self::Model | Self::Tempered | Self::Drawn => None,
        }
    }
}

/// How the tokens are chosen that become known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What they are compared by.
    #[serde(default)]
    pub by: Confidence,
    /// Tokens of at least this confidence, from 0 to 1, become known however many they are. "Beyond" a threshold is at least the next
    /// number after it ([`f32::next_up`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

impl Rule {
    /// Whether the threshold is one that a confidence can reach, and the confidence the network's.
    pub fn is_sound(&self) -> bool {
        let in_range = |t: f32| (0.0..=1.0).contains(&t) && self.by.is_networks();
        self.threshold.is_none_or(in_range)
    }

    /// The least whole number that reaches the threshold; without one, that of [`BROKEN`] alone.
    pub fn bound(&self) -> u32 {
        match self.threshold {
            Some(t) if t <= 1.0 => (f64::from(t) * f64::from(CERTAIN)).ceil() as u32,
            _ => BROKEN,
        }
    }
}

/// Neighbours among the sampled rows of a pass, all of one sequence, from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The first of them, as an index into the sampled rows.
    pub first: u32,
    /// How many there are.
    pub rows: u32,
    /// So many of those whose place is still masked become known; all, where there are fewer.
    pub least: u32,
}

/// What may become known of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The rule, of all groups.
    pub rule: Rule,
    /// One after the other, they hold every sampled row.
    pub groups: Vec<Group>,
}

impl Choice {
    /// Whether the groups hold each of `sampled` rows once, in order.
    pub fn holds(&self, sampled: usize) -> bool {
        let follow = |next: Option<u32>, group: &Group| match next {
            Some(next) if group.first == next => next.checked_add(group.rows),
            _ => None,
        };
        self.groups.iter().fold(Some(0), follow) == u32::try_from(sampled).ok()
    }
}

/// What a choice came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of each group the rows whose places are still masked.
    pub left: Vec<u32>,
    /// Of each sampled row the token that became known, the mask token where none did.
    pub tokens: Vec<u32>,
}

/// The confidence of a drawn `token`, of logits `[V]` that it was drawn from by `sampler`; none where it does not depend on them
/// ([`Confidence::of_key`]).
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

/// Chooses among drawn tokens, and writes those that become known where the next pass reads them. For each sampled row `drawn` has its
/// token, `confidences` its confidence, and `targets` its place in `tokens`, which may become known only where it is the mask token.
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
        // A stable sort keeps the earlier row first.
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
