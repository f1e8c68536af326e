use super::*;
use crate::rng::Stream;
use crate::rng::{Purpose, gumbel};
use crate::sampler::{Crossing, NoiseSource, sample_row};

const MASK: u32 = 9;

/// A pass of one group whose rows have the entries 0, 1, ... and the tokens 100, 101, ...
fn one(known: &[usize], confidences: &[u32], least: u32, rule: Rule) -> (Outcome, Vec<u32>) {
    let rows = confidences.len() as u32;
    let drawn: Vec<u32> = (100..100 + rows).collect();
    let targets: Vec<u32> = (0..rows).collect();
    let mut tokens = vec![MASK; rows as usize];
    known.iter().for_each(|&place| tokens[place] = 1);
    let groups = vec![Group {
        first: 0,
        rows,
        least,
    }];
    let choice = Choice { rule, groups };
    let outcome = choose(&choice, MASK, &drawn, confidences, &targets, &mut tokens);
    (outcome, tokens)
}

#[test]
fn the_most_confident_become_known_and_ties_go_to_the_left() {
    let (outcome, tokens) = one(&[1], &[5, 9, 7, 5, 7, 5], 3, Rule::default());
    assert_eq!(tokens, [100, 1, 102, MASK, 104, MASK]);
    assert_eq!(outcome.tokens, [100, MASK, 102, MASK, 104, MASK]);
    assert_eq!(outcome.left, [2]);
    // All equal: from left to right.
    let (outcome, tokens) = one(&[0], &[0; 5], 2, Rule::default());
    assert_eq!(tokens, [1, 101, 102, MASK, MASK]);
    assert_eq!(outcome.left, [2]);
    // Fewer than requested.
    let (outcome, tokens) = one(&[0, 1, 2], &[0; 4], 3, Rule::default());
    assert_eq!((tokens[3], outcome.left), (103, vec![0]));
    // A pass in which nothing is masked changes nothing.
    let (outcome, tokens) = one(&[0, 1], &[3, 4], 2, Rule::default());
    assert_eq!((tokens, outcome.left), (vec![1, 1], vec![0]));
    assert_eq!(outcome.tokens, [MASK, MASK]);
}

#[test]
fn a_threshold_lets_more_become_known() {
    let half = CERTAIN / 2;
    let confidences = [half - 1, half, 3, half + 1, half];
    let rule = |threshold: f32| Rule {
        threshold: Some(threshold),
        ..Rule::default()
    };
    let (_, tokens) = one(&[], &confidences, 1, rule(0.5));
    assert_eq!(tokens, [MASK, 101, MASK, 103, 104]);
    // Strictly above.
    let (_, tokens) = one(&[], &confidences, 1, rule(0.5f32.next_up()));
    assert_eq!(tokens, [MASK, MASK, MASK, 103, MASK]);
    // More requested than reach the threshold.
    let (_, tokens) = one(&[], &confidences, 4, rule(0.5));
    assert_eq!(tokens, [100, 101, MASK, 103, 104]);
    assert_eq!(rule(1.0).bound(), CERTAIN);
    assert_eq!(rule(0.0).bound(), 0);
    for wrong in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        assert!(!rule(wrong).is_sound(), "{wrong}");
    }
    for by in [Confidence::Random, Confidence::Leftmost] {
        assert!(!Rule { by, ..rule(0.5) }.is_sound(), "{by:?}");
    }
}

/// The published dynamic rule: all above the threshold if there are at least k, otherwise the k most confident.
#[test]
fn one_rule_is_both_published_ones() {
    let mut stream = Stream::new(3, 0, Purpose::Other(1));
    for round in 0..400 {
        let rows = 1 + stream.below(12) as usize;
        let confidences: Vec<u32> = (0..rows).map(|_| stream.below(6) << 28).collect();
        let known: Vec<usize> = (0..rows).filter(|_| stream.below(3) == 0).collect();
        let k = 1 + stream.below(5);
        let t = stream.below(6) as f32 / 8.0;
        let (outcome, _) = one(
            &known,
            &confidences,
            k,
            Rule {
                threshold: Some(t.next_up()),
                ..Rule::default()
            },
        );
        let masked: Vec<usize> = (0..rows).filter(|row| !known.contains(row)).collect();
        let beyond = |row: &usize| f64::from(confidences[*row]) / f64::from(CERTAIN) > f64::from(t);
        let mut expected: Vec<usize> = masked.iter().copied().filter(beyond).collect();
        if expected.len() < k as usize {
            expected = masked.clone();
            expected.sort_by_key(|&row| (std::cmp::Reverse(confidences[row]), row));
            expected.truncate(k as usize);
            expected.sort_unstable();
        }
        let chosen = (0..rows).filter(|&row| outcome.tokens[row] != MASK);
        assert_eq!(chosen.collect::<Vec<_>>(), expected, "round {round}");
        assert_eq!(outcome.left, [(masked.len() - expected.len()) as u32]);
    }
}

#[test]
fn what_is_not_finite_becomes_known_at_once() {
    let mut tokens = vec![MASK; 3];
    let choice = Choice {
        rule: Rule::default(),
        groups: vec![Group {
            first: 0,
            rows: 3,
            least: 1,
        }],
    };
    let drawn = [4, 5, NO_TOKEN];
    let outcome = choose(
        &choice,
        MASK,
        &drawn,
        &[CERTAIN, 0, 0],
        &[0, 1, 2],
        &mut tokens,
    );
    assert_eq!(tokens, [MASK, MASK, NO_TOKEN]);
    assert_eq!(outcome.left, [2]);
    let mut logits = vec![0.5; 12];
    logits[3] = f32::NAN;
    let sampler = Sampler::default();
    let broken = confidence(Confidence::Model, &sampler, &logits, MASK, 1);
    assert_eq!(broken, Some(BROKEN));
    // The mask's logit is never read.
    logits[3] = 0.5;
    logits[MASK as usize] = f32::NAN;
    let certain = confidence(Confidence::Model, &sampler, &logits, MASK, 1).unwrap();
    assert!((f64::from(certain) / f64::from(CERTAIN) - 1.0 / 11.0).abs() < 1e-6);
}

#[test]
fn groups_hold_every_row_once() {
    let choice = |groups: &[(u32, u32)]| Choice {
        rule: Rule::default(),
        groups: groups
            .iter()
            .map(|&(first, rows)| Group {
                first,
                rows,
                least: 1,
            })
            .collect(),
    };
    assert!(choice(&[]).holds(0));
    assert!(choice(&[(0, 3), (3, 2)]).holds(5));
    for wrong in [
        &[(0, 3), (2, 3)][..],
        &[(0, 3), (4, 1)],
        &[(1, 4)],
        &[(0, 6)],
        &[(0, 3)],
        &[(0, u32::MAX), (u32::MAX, 6)],
    ] {
        assert!(!choice(wrong).holds(5), "{wrong:?}");
    }
}

/// Confidences against probabilities in f64, with every filter.
#[test]
fn confidences_are_probabilities() {
    let vocab = 300;
    for (seed, temperature, top_k, top_p, min_p) in [
        (1, 1.0, None, None, None),
        (2, 0.7, Some(20), None, None),
        (3, 1.5, None, Some(0.6), None),
        (4, 2.0, Some(100), Some(0.9), Some(0.05)),
        (5, 0.0, Some(3), Some(0.5), None),
        (6, 0.3, None, None, Some(0.2)),
    ] {
        let logits: Vec<f32> = (0..vocab).map(|v| 2.0 * gumbel(seed, 0, 0, v)).collect();
        let sampler = Sampler {
            temperature,
            top_k,
            top_p,
            top_p_crossing: Crossing::Keep,
            min_p,
        };
        let noise = NoiseSource::Seeded {
            seed,
            sequence: 1,
            position: 2,
        };
        let token = sample_row(&logits, MASK, &sampler, noise);
        let divided = |t: f32| if t > 0.0 { f64::from(t) } else { 1.0 };
        let probability = |t: f32, keeps: &dyn Fn(usize) -> bool| {
            let weight = |v: usize| (f64::from(logits[v]) / divided(t)).exp();
            let all = (0..vocab as usize).filter(|&v| v != MASK as usize && keeps(v));
            weight(token as usize) / all.map(weight).sum::<f64>()
        };
        let cut = Filter::new(&sampler).map(|filter| filter.cut(&logits, MASK));
        let keeps = |v: usize| cut.is_none_or(|cut| cut.keeps(logits[v]));
        for (by, expected) in [
            (Confidence::Model, probability(1.0, &|_| true)),
            (Confidence::Tempered, probability(temperature, &|_| true)),
            (Confidence::Drawn, probability(temperature, &keeps)),
        ] {
            let found = confidence(by, &sampler, &logits, MASK, token).unwrap();
            let found = f64::from(found) / f64::from(CERTAIN);
            assert!(
                (found - expected).abs() < 1e-5,
                "{by:?} of {sampler:?}: {found} for {expected}"
            );
        }
        for by in [Confidence::Random, Confidence::Leftmost] {
            assert_eq!(confidence(by, &sampler, &logits, MASK, token), None);
        }
    }
    // The only token left is certain, and so is one far above all others.
    let mut logits = vec![-40.0; 12];
    logits[2] = 40.0;
    let model = |token| confidence(Confidence::Model, &Sampler::default(), &logits, MASK, token);
    assert_eq!(
        [model(2), model(1), model(MASK)],
        [Some(CERTAIN), Some(0), Some(0)]
    );
}

#[test]
fn random_confidences_are_keyed_by_row_and_seed() {
    let word = |seed, key| Confidence::Random.of_key(seed, key).unwrap();
    let all = [
        word(1, [0, 0]),
        word(2, [0, 0]),
        word(1, [1, 0]),
        word(1, [0, 1]),
    ];
    for (i, a) in all.iter().enumerate() {
        assert!(*a < CERTAIN && !all[i + 1..].contains(a));
        // It is not the noise of the draw.
        assert_ne!(*a, rng::gumbel_block(1, 0, 0, 0)[0] >> 1);
    }
    assert_eq!(Confidence::Leftmost.of_key(1, [5, 6]), Some(0));
    assert_eq!(Confidence::Model.of_key(1, [5, 6]), None);
}

#[test]
fn counts_take_all() {
    assert_eq!(even_counts(10, 4), [3, 3, 2, 2]);
    assert_eq!(even_counts(4, 3), [2, 1, 1]);
    assert_eq!(even_counts(3, 100), [1, 1, 1]);
    assert_eq!(even_counts(7, 1), [7]);
    assert_eq!(even_counts(0, 5), [0u32; 0]);
}

#[test]
fn counts_of_a_block_end_with_its_masks() {
    assert_eq!(Counts::Block.of(8, 8, 3), [3, 3, 2]);
    assert_eq!(Counts::Block.of(4, 8, 3), [3, 1]);
    assert_eq!(Counts::Block.of(1, 4, 4), [1]);
    assert_eq!(Counts::Block.of(0, 4, 4), [0u32; 0]);
    assert_eq!(Counts::Even.of(4, 8, 3), [2, 1, 1]);
}

/// The published counts, from a file in the folder given by `ESOLM_GOLDEN_LLM`, or the repository's.
#[test]
fn golden_llm_transfer_counts() {
    let own = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/golden-llm"
    );
    let folder = std::env::var("ESOLM_GOLDEN_LLM").unwrap_or_else(|_| own.into());
    let path = std::path::Path::new(&folder).join("transfer_counts.json");
    let json = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let mut compared = 0;
    for (masked, row) in json["table"].as_object().unwrap() {
        for (steps, counts) in row.as_object().unwrap() {
            let counts = counts.as_array().unwrap().iter();
            let want: Vec<u32> = counts.map(|c| c.as_u64().unwrap() as u32).collect();
            let got = linear_counts(masked.parse().unwrap(), steps.parse().unwrap());
            assert_eq!(got, want, "{masked} in {steps} steps");
            compared += 1;
        }
    }
    assert!(compared > 0, "no counts in {}", path.display());
    println!("{compared} pairs");
}

#[test]
fn linear_counts_take_all() {
    for masked in 0..70 {
        for steps in [1, 2, 3, 7, 64, 1000, 1 << 20] {
            let counts = linear_counts(masked, steps);
            assert_eq!(counts.iter().sum::<u32>(), masked, "{masked} in {steps}");
            assert!(!counts.contains(&0) && counts.len() <= steps);
        }
    }
}
