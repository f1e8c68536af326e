//! Figures of texts that need no model.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Entropy of the token counts inside one sample, in nats; the mean of it over samples is the published code's sample entropy
/// (`metrics.py`, `record_entropy`). 0 for an empty sample.
///
/// Of words as well as of tokens.
pub fn entropy<T: Eq + Hash>(tokens: &[T]) -> f64 {
    let mut counts: HashMap<&T, usize> = HashMap::new();
    for token in tokens {
        *counts.entry(token).or_default() += 1;
    }
    // Summed in a fixed order, so that the same tokens give the same bits.
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    let total = tokens.len() as f64;
    counts
        .iter()
        .map(|&count| {
            let share = count as f64 / total;
            -share * share.ln()
        })
        .sum()
}

/// Mean and standard error of the mean; the latter is 0 for a single value.
pub fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / (count - 1.0);
    (mean, (variance / count).sqrt())
}

/// The words of a text: runs of letters, digits and apostrophes, in lower case.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\''))
        .map(|word| word.trim_matches('\'').to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Distinct-n: the share of different n-grams among all n-grams of words. Grams do not cross from one text to the next. 0 where there is
/// none.
pub fn distinct(texts: &[Vec<String>], n: usize) -> f64 {
    let all: usize = texts.iter().map(|words| grams(words, n).count()).sum();
    let different: HashSet<u64> = texts.iter().flat_map(|words| grams(words, n)).collect();
    match all {
        0 => 0.0,
        all => different.len() as f64 / all as f64,
    }
}

/// As many words of `texts` as `limit` allows, so that distinct-n, which falls with the amount of text, compares like with like.
pub fn first_words(texts: &[Vec<String>], limit: usize) -> Vec<Vec<String>> {
    let mut left = limit;
    let mut first = Vec::new();
    for words in texts {
        let taken = words.len().min(left);
        first.push(words[..taken].to_vec());
        left -= taken;
    }
    first
}

/// The word n-grams of a body of text.
#[derive(Debug)]
pub struct Grams {
    n: usize,
    seen: HashSet<u64>,
}

impl Grams {
    /// Collects the n-grams of `texts`.
    pub fn new<'a>(n: usize, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let seen = texts
            .into_iter()
            .flat_map(|text| grams(&words(text), n).collect::<Vec<_>>())
            .collect();
        Self { n, seen }
    }

    /// The share of the n-grams of `texts` that occur in this body, counted with repetitions. 0 where there is none.
    pub fn share(&self, texts: &[Vec<String>]) -> f64 {
        let mut all = 0usize;
        let mut found = 0usize;
        for gram in texts.iter().flat_map(|words| grams(words, self.n)) {
            all += 1;
            found += usize::from(self.seen.contains(&gram));
        }
        match all {
            0 => 0.0,
            all => found as f64 / all as f64,
        }
    }
}

/// The n-grams of a text as 64-bit hashes: among a few million, one in a million pairs of texts would be off by one.
fn grams(words: &[String], n: usize) -> impl Iterator<Item = u64> + '_ {
    words.windows(n).map(|gram| {
        let mut hasher = DefaultHasher::new();
        gram.hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_known_counts() {
        assert_eq!(entropy::<u32>(&[]), 0.0);
        assert_eq!(entropy(&[5, 5, 5]), 0.0);
        assert!((entropy(&[1, 2, 3, 4]) - 4f64.ln()).abs() < 1e-12);
        // Counts 3 and 1: -(3/4) ln(3/4) - (1/4) ln(1/4).
        assert!((entropy(&[7, 9, 7, 7]) - 0.562_335_144_618_808_3).abs() < 1e-12);
    }

    #[test]
    fn mean_and_its_error() {
        assert_eq!(mean(&[2.0]), (2.0, 0.0));
        let (middle, error) = mean(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(middle, 2.5);
        assert!((error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn words_without_punctuation() {
        assert_eq!(
            words("\"Don't go!\" said Tom's 2 cats.\n"),
            ["don't", "go", "said", "tom's", "2", "cats"]
        );
        assert!(words(" ' -- ").is_empty());
    }

    #[test]
    fn distinct_counts_within_texts() {
        let texts = [words("a b a b"), words("b a")];
        assert_eq!(distinct(&texts, 1), 2.0 / 6.0);
        // ab ba ab | ba
        assert_eq!(distinct(&texts, 2), 2.0 / 4.0);
        assert_eq!(distinct(&texts, 5), 0.0);
    }

    #[test]
    fn a_limit_cuts_the_last_text() {
        let texts = [words("a b c"), words("d e f"), words("g")];
        let first = first_words(&texts, 4);
        assert_eq!(first.concat(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn share_of_copied_grams() {
        let body = Grams::new(3, ["One two three four.", "five six seven"]);
        let texts = [words("one TWO three, four five"), words("five six")];
        // of "one two three", "two three four", "three four five" the last one crosses two texts of the body
        assert_eq!(body.share(&texts), 2.0 / 3.0);
        assert_eq!(body.share(&[words("a b")]), 0.0);
    }
}
