//! Figures of texts that need no model.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

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
    ratio(values, &vec![1.0; values.len()])
}

/// Sum of `a` over sum of `b`, and the standard error of this ratio over the entries, 0 for a single one.
pub fn ratio(a: &[f64], b: &[f64]) -> (f64, f64) {
    let count = a.len() as f64;
    let total: f64 = b.iter().sum();
    let ratio = a.iter().sum::<f64>() / total;
    let residuals: f64 = a.iter().zip(b).map(|(a, b)| (a - ratio * b).powi(2)).sum();
    let variance = residuals / (count - 1.0).max(1.0);
    (ratio, (variance / count).sqrt() / (total / count))
}

/// The words of a text: runs of letters, digits and apostrophes, in lower case.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\''))
        .map(|word| word.trim_matches('\'').to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

/// The words of each text.
pub fn all_words(texts: &[String]) -> Vec<Vec<String>> {
    texts.iter().map(|text| words(text)).collect()
}

/// Distinct-n: the share of different n-grams among all n-grams of words. 0 where there is none.
pub fn distinct(texts: &[Vec<String>], n: usize) -> f64 {
    let all = grams(texts, n);
    let different: HashSet<&u64> = all.iter().collect();
    different.len() as f64 / all.len().max(1) as f64
}

/// The share of the n-grams of `texts` that occur in `body`, counted with repetitions. 0 where there is none.
pub fn copied(texts: &[Vec<String>], body: &[Vec<String>], n: usize) -> f64 {
    let (all, body) = (grams(texts, n), grams(body, n));
    let body: HashSet<&u64> = body.iter().collect();
    all.iter().filter(|gram| body.contains(gram)).count() as f64 / all.len().max(1) as f64
}

/// The n-grams of texts, which do not cross from one text to the next, as 64-bit hashes: among a few million, one in a million pairs of
/// texts would be off by one.
fn grams(texts: &[Vec<String>], n: usize) -> Vec<u64> {
    let grams = texts.iter().flat_map(|words| words.windows(n));
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    grams.map(|gram| hasher.hash_one(gram)).collect()
}

/// As many words of `texts` as `limit` allows, so that distinct-n, which falls with the amount of text, compares like with like.
pub fn first_words(texts: &[Vec<String>], limit: usize) -> Vec<Vec<String>> {
    let mut left = limit;
    let cut = |words: &Vec<String>| {
        let taken = words.len().min(left);
        left -= taken;
        words[..taken].to_vec()
    };
    texts.iter().map(cut).collect()
}
