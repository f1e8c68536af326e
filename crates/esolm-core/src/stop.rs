//! When a text ends early: stop strings, for texts that are written block by block the rules of the published BD3-LM for texts of
//! variable length, and for those of a SetDLM the rules of its scripts. `ending` looks for all of them while a text is written.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

/// The entropy is that of so many last tokens, and counts once there are more.
pub const ENTROPY_WINDOW: usize = 256;
/// An entropy below so many nats ends a text.
pub const LEAST_ENTROPY: f64 = 4.0;

/// The entropy of a SetDLM's text is that of so many last tokens.
pub const SET_ENTROPY_WINDOW: usize = 128;
/// So many tokens of a SetDLM's text are written at least.
pub const SET_LEAST_TOKENS: usize = 32;

/// Why a text may end after a block, or one of a SetDLM after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopRule {
    /// It has more than one end-of-text token, the token that opens it included, and is cut after the second. One of a SetDLM is cut after the
    /// first that is not given, if [`SET_LEAST_TOKENS`] are; one of a decoder after the first that is not given.
    Eos,
    /// Its last [`ENTROPY_WINDOW`] tokens, of a SetDLM [`SET_ENTROPY_WINDOW`], repeat each other, with an entropy below [`LEAST_ENTROPY`], and
    /// are cut off.
    Entropy,
}

/// Why a text is as long as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// It has its whole length.
    #[default]
    Length,
    /// A stop string followed.
    Stop,
    /// An end-of-text token followed, or the rule for those ended it.
    Eos,
    /// It began to repeat itself, and the rule for that ended it.
    Entropy,
    /// The run was stopped before the text was whole.
    Interrupted,
}

/// Tokens that begin and end a text, where the model has such.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ends {
    /// Opens a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// End a text too, as those of a chat model that ends its turns and its documents by different tokens.
    pub more: Vec<u32>,
}

impl Ends {
    /// Those that a configuration says.
    pub fn of(config: &ModelConfig) -> Self {
        Self {
            bos: config.bos,
            eos: config.eos,
            more: config.more_eos.clone(),
        }
    }

    /// Whether a token ends a text.
    pub fn is_end(&self, token: u32) -> bool {
        self.eos == Some(token) || self.more.contains(&token)
    }

    /// Whether there is such a token.
    pub fn has_end(&self) -> bool {
        self.eos.is_some() || !self.more.is_empty()
    }
}

/// What ends a text before its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopRules {
    /// Any of them ends a text after a block.
    pub rules: Vec<StopRule>,
    /// Texts before any of which a text ends, and then also at its first end-of-text token; none of them is empty.
    pub strings: Vec<String>,
    /// The tokens that open and end texts; one that opens them counts at position 0 as an end of the text before.
    pub ends: Ends,
}

impl StopRules {
    /// Whether there is anything that ends a text early.
    pub fn is_any(&self) -> bool {
        !self.rules.is_empty() || !self.strings.is_empty()
    }

    /// Tokens to keep of a text whose blocks so far are `tokens`, where a rule ends it after the last of them, and which one does; none
    /// where it goes on. As published, low entropy decides where both rules hold.
    pub fn end(&self, tokens: &[u32]) -> Option<(usize, Finish)> {
        if let Some(end) = self.low_entropy(tokens) {
            return Some(end);
        }
        let is_end = |&(place, &token): &(usize, &u32)| {
            self.ends.is_end(token) || place == 0 && Some(token) == self.ends.bos
        };
        let second = tokens.iter().enumerate().filter(is_end).nth(1);
        second
            .filter(|_| self.rules.contains(&StopRule::Eos))
            .map(|(place, _)| (place + 1, Finish::Eos))
    }

    fn low_entropy(&self, tokens: &[u32]) -> Option<(usize, Finish)> {
        let start = (tokens.len().checked_sub(ENTROPY_WINDOW)).filter(|&start| start > 0)?;
        let repeats =
            self.rules.contains(&StopRule::Entropy) && entropy(&tokens[start..]) < LEAST_ENTROPY;
        repeats.then_some((start, Finish::Entropy))
    }

    /// As [`StopRules::end`] for the text of a decoder, of which the first `given` tokens are not written: the first end-of-text token behind
    /// them ends it, since prompts hold such tokens themselves.
    pub fn end_of_decoder(&self, tokens: &[u32], given: usize) -> Option<(usize, Finish)> {
        let mut written = tokens.iter().enumerate().skip(given);
        let eos = written.find(|&(_, &token)| self.ends.is_end(token));
        eos.filter(|_| self.rules.contains(&StopRule::Eos))
            .map(|(place, _)| (place + 1, Finish::Eos))
            .or_else(|| self.low_entropy(tokens))
    }

    /// Tokens to keep of a SetDLM's text of which `tokens` are known so far without a gap, the first `given` of them not written, and the rule
    /// that ends it; none where it goes on.
    pub fn end_of_sets(&self, tokens: &[u32], given: usize) -> Option<(usize, Finish)> {
        let least = given + SET_LEAST_TOKENS;
        if tokens.len() < least {
            return None;
        }
        let ends = |&(place, token): &(usize, &u32)| {
            place >= given && place + 1 >= least && self.ends.is_end(*token)
        };
        if self.rules.contains(&StopRule::Eos)
            && let Some((place, _)) = tokens.iter().enumerate().find(ends)
        {
            return Some((place + 1, Finish::Eos));
        }
        let start = tokens.len().checked_sub(SET_ENTROPY_WINDOW)?;
        let repeats =
            self.rules.contains(&StopRule::Entropy) && entropy(&tokens[start..]) < LEAST_ENTROPY;
        repeats.then_some((start.max(least), Finish::Entropy))
    }
}

/// The entropy of how often each token occurs, in nats.
pub fn entropy(tokens: &[u32]) -> f64 {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    for &token in tokens {
        *counts.entry(token).or_default() += 1;
    }
    // In an order of their own, so that the sum is the same every time.
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    let share = |count: usize| count as f64 / tokens.len() as f64;
    -counts
        .into_iter()
        .map(|count| share(count) * share(count).ln())
        .sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[StopRule], bos: u32) -> StopRules {
        StopRules {
            rules: rules.to_vec(),
            strings: Vec::new(),
            ends: Ends {
                bos: Some(bos),
                eos: Some(9),
                more: Vec::new(),
            },
        }
    }

    fn eos(tokens: usize) -> Option<(usize, Finish)> {
        Some((tokens, Finish::Eos))
    }

    #[test]
    fn the_second_end_counts_and_so_does_the_opening() {
        let ends = |bos, text: &[u32]| rules(&[StopRule::Eos], bos).end(text);
        assert_eq!(ends(9, &[9, 1, 2, 3]), None);
        assert_eq!(ends(9, &[9, 1, 9, 3]), eos(3));
        assert_eq!(ends(8, &[8, 1, 9, 3]), eos(3));
        assert_eq!(ends(8, &[1, 8, 9, 3]), None);
        assert_eq!(ends(8, &[1, 9, 8, 9]), eos(4));
        assert_eq!(rules(&[], 9).end(&[9, 9]), None);
    }

    #[test]
    fn a_text_of_sets_ends_with_the_first_end_that_is_written() {
        let by_eos = rules(&[StopRule::Eos], 9);
        let mut text = vec![1; 60];
        // Too early, given, and in time.
        for (place, given, end) in [(20, 1, None), (40, 41, None), (40, 1, eos(41))] {
            text[place] = 9;
            assert_eq!(by_eos.end_of_sets(&text, given), end, "{place}, {given}");
        }
        assert_eq!(by_eos.end_of_sets(&text[..40], 1), None);
        let entropy = rules(&[StopRule::Entropy], 9);
        let repeats: Vec<u32> = (0..200).map(|i| 10 + i % 3).collect();
        assert_eq!(
            entropy.end_of_sets(&repeats, 1),
            Some((72, Finish::Entropy))
        );
        assert_eq!(
            entropy.end_of_sets(&repeats, 60),
            Some((92, Finish::Entropy))
        );
        assert_eq!(entropy.end_of_sets(&repeats[..127], 1), None);
        let differs: Vec<u32> = (0..200).collect();
        assert_eq!(entropy.end_of_sets(&differs, 1), None);
        assert_eq!(by_eos.end_of_sets(&repeats, 1), None);
    }

    #[test]
    fn low_entropy_cuts_what_repeats() {
        let mut text: Vec<u32> = (0..300).map(|i| 10 + i % 3).collect();
        let repeats = rules(&[StopRule::Entropy], 9).end(&text);
        assert_eq!(repeats, Some((44, Finish::Entropy)));
        assert_eq!(rules(&[StopRule::Entropy], 9).end(&text[..256]), None);
        assert_eq!(rules(&[StopRule::Eos], 9).end(&text), None);
        text[100..]
            .iter_mut()
            .zip(100..)
            .for_each(|(token, i)| *token = i);
        assert_eq!(rules(&[StopRule::Entropy], 9).end(&text), None);
        assert!((entropy(&[1, 2, 3, 4]) - 4f64.ln()).abs() < 1e-12);
    }
}
