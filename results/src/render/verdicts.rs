//! The verdicts of the page: orders beside the paper's, and which samples are better or faster.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::record::{Records, Samples};

/// The samples of a model at an alpha_0 under a schedule, by steps. AR has no other than the published schedule, binomial.
pub fn runs<'a>(
    records: &'a Records,
    name: &str,
    alpha_0: Option<f64>,
    schedule: &str,
) -> Vec<&'a Samples> {
    let fits = |line: &&Samples| {
        let own = &line.setting;
        own.name == name
            && own.alpha_0 == alpha_0
            && own.schedule.as_deref().unwrap_or("binomial") == schedule
    };
    let mut runs: Vec<&Samples> = records.samples.iter().filter(fits).collect();
    runs.sort_by_key(|line| line.setting.steps);
    runs
}

/// The samples that no other beats in both time and quality, from fast to good; by the time of a sample in the batch, or alone.
pub fn front(lines: &[Samples], alone: bool) -> Vec<&Samples> {
    let seconds = |line: &Samples| match alone {
        true => line.seconds_alone.unwrap_or(f64::INFINITY),
        false => line.seconds_per_sample,
    };
    let beats = |a: &Samples, b: &Samples| {
        let (a, b) = ((seconds(a), a.judge.ppl), (seconds(b), b.judge.ppl));
        a.0 <= b.0 && a.1 <= b.1 && a != b
    };
    let mut front: Vec<&Samples> = lines.iter().collect();
    front.retain(|line| !lines.iter().any(|other| beats(other, line)));
    front.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    front
}

/// Two sets of samples at the same numbers of steps: the pairs, and in how many of them the first one is better.
pub fn versus(ours: &[Samples], theirs: &[Samples]) -> Value {
    let same = |a: &Samples| theirs.iter().find(|b| b.setting.steps == a.setting.steps);
    let pairs = ours.iter().filter_map(|a| Some((a, same(a)?)));
    let pairs: Vec<(&Samples, &Samples)> = pairs.collect();
    let better = pairs.iter().filter(|(a, b)| a.judge.ppl < b.judge.ppl);
    json!({ "better": better.count(), "pairs": pairs })
}

/// One model with a figure of the paper and a measured one; lower is better.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ranked {
    /// Its name.
    pub title: String,
    /// The paper's figure.
    pub published: f64,
    /// The measured figure.
    pub measured: f64,
    /// Standard error of the measured figure.
    pub error: f64,
}

/// The paper's order of models beside the measured one: both, best first, how many pairs there are, and the pairs that are the other way
/// round here. The standard error of a difference takes both figures as independent; on the same text it is smaller.
pub fn order(ranked: &[Ranked]) -> Value {
    let sorted = |figure: fn(&Ranked) -> f64| {
        let mut sorted: Vec<&Ranked> = ranked.iter().collect();
        sorted.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
        sorted
    };
    let titles = |sorted: &[&Ranked]| {
        sorted
            .iter()
            .map(|one| one.title.clone())
            .collect::<Vec<_>>()
    };
    let measured = sorted(|one| one.measured);
    let mut pairs = 0;
    let mut differing = Vec::new();
    for (index, better) in measured.iter().enumerate() {
        for worse in &measured[index + 1..] {
            pairs += 1;
            let (by, error) = (
                worse.measured - better.measured,
                better.error.hypot(worse.error),
            );
            if better.published > worse.published {
                differing.push(json!({
                    "better": better.title, "worse": worse.title, "by": by, "error": error, "is_small": by < 2.0 * error
                }));
            }
        }
    }
    json!({
        "published": titles(&sorted(|one| one.published)),
        "measured": titles(&measured),
        "pairs": pairs,
        "differing": differing,
    })
}
