use super::*;
use crate::rng::{Purpose, Stream};

const MASK: u32 = 2;

fn sampler(top_k: Option<u32>, top_p: Option<f32>, min_p: Option<f32>) -> Sampler {
    Sampler {
        top_k,
        top_p,
        min_p,
        ..Sampler::default()
    }
}

/// Which tokens are kept.
fn kept(logits: &[f32], mask: u32, sampler: &Sampler) -> Vec<bool> {
    let Some(filter) = Filter::new(sampler) else {
        return vec![true; logits.len()];
    };
    let cut = filter.cut(logits, mask);
    let logit = |(v, &logit): (usize, &f32)| match v as u32 == mask {
        true => filter.mask_logit,
        false => logit,
    };
    (logits.iter().enumerate())
        .map(|token| cut.keeps(logit(token)))
        .collect()
}

/// The lowest scaled logit kept, found by sorting, and the same for a slightly smaller and a slightly larger top-p,
/// which bound the effect of rounding masses.
fn reference(logits: &[f32], mask: u32, sampler: &Sampler) -> [f64; 3] {
    let temperature = f64::from(sampler.temperature);
    let mut sorted: Vec<f64> = logits.iter().map(|&x| f64::from(x) / temperature).collect();
    if let Some(value) = sorted.get_mut(mask as usize) {
        *value = f64::from(MASK_LOGIT);
    }
    sorted.sort_by(|a, b| b.total_cmp(a));
    let top = sorted[0];
    if let Some(k) = sampler.top_k {
        let last = sorted[(k as usize).min(sorted.len()) - 1];
        sorted.retain(|&x| x >= last);
    }
    let weight = |x: f64| (x - top).exp();
    let total: f64 = sorted.iter().copied().map(weight).sum();
    // Rounding of a share, of the steps, and of the logits themselves.
    [1.0, 1.0 - 1e-5, 1.0 + 1e-5].map(|about| {
        let mut last = sorted[sorted.len() - 1];
        if let Some(p) = sampler.top_p.filter(|&p| p < 1.0) {
            let mut mass = 0.0;
            let bound = f64::from(p) * about * total;
            match sampler.top_p_crossing {
                Crossing::Keep => {
                    for &x in &sorted {
                        (mass, last) = (mass + weight(x), x);
                        if mass >= bound {
                            break;
                        }
                    }
                }
                // Equal tokens stay together.
                Crossing::Drop => {
                    last = sorted[0];
                    for equal in sorted.chunk_by(|a, b| a == b) {
                        mass += equal.iter().copied().map(weight).sum::<f64>();
                        if mass > bound {
                            break;
                        }
                        last = equal[0];
                    }
                }
            }
        }
        match sampler.min_p {
            Some(p) if p > 0.0 => last.max(top + f64::from(p).ln()),
            _ => last,
        }
    })
}

/// Compares the kept tokens with the reference, except for tokens within rounding of the border.
fn check(name: &str, logits: &[f32], sampler: &Sampler) {
    let [last, high, low] = reference(logits, MASK, sampler);
    let rounding = 2e-5 + last.abs() * 1e-6;
    let temperature = f64::from(sampler.temperature);
    let mut kept = kept(logits, MASK, sampler).into_iter();
    for (v, &logit) in logits.iter().enumerate() {
        let value = match v as u32 == MASK {
            true => f64::from(MASK_LOGIT),
            false => f64::from(logit) / temperature,
        };
        let is_kept = kept.next().unwrap();
        if value >= high.max(last) + rounding {
            assert!(is_kept, "{name} {sampler:?}: {v} at {value}, last {last}");
        }
        // Tokens 32 octaves below the top have no mass, and cannot be told apart.
        if value < low.min(last) - rounding
            && value > f64::from(largest(logits)) / temperature - 22.0
        {
            assert!(!is_kept, "{name} {sampler:?}: {v} at {value}, last {last}");
        }
    }
}

#[test]
fn what_is_kept_is_what_sorting_keeps() {
    let mut random = Stream::new(3, 0, Purpose::Other(9));
    let mut skipped = Stream::new(4, 0, Purpose::Other(9));
    let mut noise = |spread: f64| (0..6).map(|_| random.uniform() - 0.5).sum::<f64>() * spread;
    for vocab in [5usize, 97, 1030, 20_001] {
        let rows: [(&str, Vec<f32>); 6] = [
            ("wide", (0..vocab).map(|_| noise(8.0) as f32).collect()),
            ("narrow", (0..vocab).map(|_| noise(0.01) as f32).collect()),
            (
                "shifted",
                (0..vocab).map(|_| 900.0 + noise(3.0) as f32).collect(),
            ),
            ("equal", vec![-3.25; vocab]),
            (
                "peaked",
                (0..vocab)
                    .map(|v| if v == 4 { 80.0 } else { noise(1.0) as f32 })
                    .collect(),
            ),
            (
                "far",
                (0..vocab)
                    .map(|v| if v % 5 == 1 { noise(2.0) as f32 } else { -3e38 })
                    .collect(),
            ),
        ];
        for (name, logits) in rows {
            let logits: Vec<f32> = logits;
            for temperature in [1.0, 0.7, 1.9] {
                for top_k in [None, Some(1), Some(3), Some(40), Some(5000)] {
                    for top_p in [
                        None,
                        Some(0.05),
                        Some(0.5),
                        Some(0.9),
                        Some(0.9999),
                        Some(1.0),
                    ] {
                        // Sorting is slow.
                        if vocab > 1000 && skipped.below(vocab as u32 / 500) > 0 {
                            continue;
                        }
                        for min_p in [None, Some(0.0), Some(0.02), Some(0.6), Some(1.0)] {
                            for top_p_crossing in [Crossing::Keep, Crossing::Drop] {
                                let sampler = Sampler {
                                    temperature,
                                    top_p_crossing,
                                    ..sampler(top_k, top_p, min_p)
                                };
                                check(name, &logits, &sampler);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_order_is_top_k_then_top_p() {
    // Probabilities 0.4, 0.3, 0.2, 0.1. Of the first three, 0.4 / 0.9 are less than half and 0.7 / 0.9 more.
    let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
    let of = |sampler| kept(&logits, u32::MAX, &sampler);
    assert_eq!(
        of(sampler(Some(3), Some(0.75), None)),
        [true, true, false, false]
    );
    assert_eq!(
        of(sampler(None, Some(0.75), None)),
        [true, true, true, false]
    );
    assert_eq!(
        of(sampler(Some(1), Some(0.75), None)),
        [true, false, false, false]
    );
    // The token at which the mass crosses top-p may be dropped, but not the first one.
    let dropping = |top_k, top_p| Sampler {
        top_p_crossing: Crossing::Drop,
        ..sampler(top_k, Some(top_p), None)
    };
    assert_eq!(of(dropping(None, 0.75)), [true, true, false, false]);
    assert_eq!(of(dropping(None, 0.95)), [true, true, true, false]);
    assert_eq!(of(dropping(None, 0.3)), [true, false, false, false]);
    assert_eq!(of(dropping(Some(3), 0.75)), [true, false, false, false]);
    // Min-p is relative to the largest probability, whatever was excluded.
    assert_eq!(
        of(sampler(None, None, Some(0.45))),
        [true, true, true, false]
    );
    assert_eq!(
        of(sampler(Some(2), None, Some(0.45))),
        [true, true, false, false]
    );
    assert_eq!(
        of(sampler(None, Some(0.5), Some(0.9))),
        [true, false, false, false]
    );
}

#[test]
fn equal_tokens_stay_together() {
    let logits = [1.0, 2.0, 9.0, 2.0, 2.0, 0.0];
    let twos = [false, true, false, true, true, false];
    for sampler in [
        sampler(Some(1), None, None),
        sampler(Some(2), None, None),
        sampler(None, Some(0.01), None),
        sampler(None, None, Some(1.0)),
    ] {
        assert_eq!(kept(&logits, MASK, &sampler), twos, "{sampler:?}");
    }
}

#[test]
fn what_keeps_every_token_is_no_filter() {
    for (top_p, min_p) in [
        (None, None),
        (Some(1.0), None),
        (Some(1.0), Some(0.0)),
        (None, Some(1e-12)),
    ] {
        assert_eq!(Filter::new(&sampler(None, top_p, min_p)), None);
    }
    let greedy = Sampler {
        temperature: 0.0,
        ..sampler(Some(1), Some(0.1), Some(1.0))
    };
    assert_eq!(Filter::new(&greedy), None);
    // The smallest possible p still excludes tokens.
    let least = sampler(None, Some(f32::MIN_POSITIVE), None);
    assert_eq!(kept(&[0.0, -1.0, 9.0], MASK, &least), [true, false, false]);
    // A k larger than the vocabulary does not matter either.
    assert_eq!(
        kept(&[0.0, -90.0, 9.0], MASK, &sampler(Some(9), None, None)),
        [true; 3]
    );
}

#[test]
fn sums_fit_the_largest_vocabulary() {
    // All tokens in the first step, and all in the last one.
    for step in [0, FAR - 1] {
        let (bin, fine) = ((step >> FINE_BITS) as usize, step % BINS as u32);
        let sum = MAX_VOCAB as u64 * u64::from(share(fine));
        let expected = MAX_VOCAB as f64 * (39.0 - f64::from(step) / f64::from(OCTAVE)).exp2();
        let error = (mass(bin, sum) as f64 / expected - 1.0).abs();
        assert!(error < 1e-6, "{step}: {error}");
    }
    let shares: Vec<f64> = (0..BINS as u32)
        .map(|fine| f64::from(share(fine)) / f64::from(1 << 20))
        .collect();
    for (fine, share) in shares.iter().enumerate() {
        let exact = (-(fine as f64) / f64::from(OCTAVE)).exp2();
        assert!((share - exact).abs() < 7e-7, "{fine}: {share} {exact}");
    }
}
