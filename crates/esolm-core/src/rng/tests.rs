use super::*;

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (found - expected).abs() <= tolerance,
        "{what}: {found}, expected {expected} within {tolerance}"
    );
}

fn mean_and_variance(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, squares / (values.len() - 1) as f64)
}

#[test]
fn philox_known_answers() {
    // kat_vectors of Random123, "philox4x32 10".
    let cases = [
        (
            [0; 4],
            [0; 2],
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
        ),
        (
            [u32::MAX; 4],
            [u32::MAX; 2],
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
        ),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, answer) in cases {
        assert_eq!(philox4x32(counter, key), answer);
    }
}

#[test]
fn streams_and_noise_share_no_counter() {
    // The last counter word differs, whatever the others are.
    assert_ne!(GUMBEL_DOMAIN, PLAN_DOMAIN);
    let mut words: Vec<u32> = Vec::new();
    for purpose in [Purpose::Schedule, Purpose::Order, Purpose::Other(0)] {
        for sequence in [0, 1] {
            words.push(Stream::new(5, sequence, purpose).next_u32());
        }
    }
    words.push(Stream::new(5 << 32, 0, Purpose::Schedule).next_u32());
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count);
}

#[test]
fn uniform_numbers_stay_inside() {
    assert!(unit(0) > 0.0);
    assert!(unit(u64::MAX) < 1.0);
    let mut stream = Stream::new(3, 0, Purpose::Other(1));
    let draws: Vec<f64> = (0..100_000).map(|_| stream.uniform()).collect();
    let (mean, variance) = mean_and_variance(&draws);
    close(mean, 0.5, 0.005, "mean");
    close(variance, 1.0 / 12.0, 0.002, "variance");
}

#[test]
fn below_is_unbiased() {
    let mut stream = Stream::new(4, 0, Purpose::Other(0));
    let mut counts = [0f64; 7];
    for _ in 0..70_000 {
        counts[stream.below(7) as usize] += 1.0;
    }
    // 6 degrees of freedom: 99.99 % below 27.9.
    let chi: f64 = counts.iter().map(|c| (c - 1e4).powi(2) / 1e4).sum();
    assert!(chi < 27.9, "{counts:?}");
    assert_eq!(stream.below(0), 0);
    assert_eq!(stream.below(1), 0);
    // Three quarters of 2^32: a plain remainder or product would favour a third of the values.
    let n = 3 << 30;
    let low = (0..30_000).filter(|_| stream.below(n) < 1 << 30).count();
    close(low as f64, 1e4, 400.0, "values in the lowest third");
}

#[test]
fn shuffles_are_uniform() {
    let mut counts = std::collections::HashMap::new();
    for sequence in 0..24_000 {
        let mut items = [0, 1, 2, 3];
        Stream::new(1, sequence, Purpose::Order).shuffle(&mut items);
        *counts.entry(items).or_insert(0f64) += 1.0;
    }
    assert_eq!(counts.len(), 24);
    // 23 degrees of freedom: 99.99 % below 57.
    let chi: f64 = counts.values().map(|n| (n - 1e3).powi(2) / 1e3).sum();
    assert!(chi < 57.0, "chi-square {chi}");
}

/// Probability mass function of the binomial distribution, using logarithms of factorials.
fn binomial_mass(n: u32, p: f64) -> Vec<f64> {
    let mut log_factorial = vec![0.0f64];
    for k in 1..=n {
        log_factorial.push(log_factorial[k as usize - 1] + f64::from(k).ln());
    }
    (0..=n)
        .map(|k| {
            let ways = log_factorial[n as usize]
                - log_factorial[k as usize]
                - log_factorial[(n - k) as usize];
            (ways + f64::from(k) * p.ln() + f64::from(n - k) * (1.0 - p).ln()).exp()
        })
        .collect()
}

#[test]
fn binomial_draws_follow_the_mass_function() {
    // Plain inversion, many halvings, the mirrored side.
    for (case, (n, p)) in [(6, 0.3), (40, 0.02), (300, 0.45), (1000, 0.06), (300, 0.93)]
        .into_iter()
        .enumerate()
    {
        let draws = 40_000;
        let mut stream = Stream::new(8, 0, Purpose::Other(case as u32));
        let mut counts = vec![0f64; n as usize + 1];
        for _ in 0..draws {
            counts[stream.binomial(n, p) as usize] += 1.0;
        }
        // Adjacent values are merged until 10 draws are expected.
        let (mut chi, mut bins) = (0.0, 0);
        let (mut seen, mut expected) = (0.0, 0.0);
        for (count, mass) in counts.iter().zip(binomial_mass(n, p)) {
            seen += count;
            expected += mass * f64::from(draws);
            if expected >= 10.0 {
                chi += (seen - expected) * (seen - expected) / expected;
                bins += 1;
                (seen, expected) = (0.0, 0.0);
            }
        }
        // Normal approximation of chi-square with bins - 1 degrees of freedom, four standard deviations.
        let freedom = f64::from(bins - 1);
        let limit = freedom + 4.0 * (2.0 * freedom).sqrt();
        assert!(chi < limit, "n {n} p {p}: chi-square {chi} over {limit}");
    }
}

#[test]
fn binomial_moments_of_large_n() {
    for (case, (n, p)) in [(1_000_000, 0.001), (1_000_000, 0.5), (8192, 0.97)]
        .into_iter()
        .enumerate()
    {
        let draws = 400;
        let mut stream = Stream::new(3, 0, Purpose::Other(case as u32));
        let values: Vec<f64> = (0..draws)
            .map(|_| f64::from(stream.binomial(n, p)))
            .collect();
        let (mean, variance) = mean_and_variance(&values);
        let expected = f64::from(n) * p * (1.0 - p);
        let error = (expected / f64::from(draws)).sqrt();
        close(mean, f64::from(n) * p, 4.0 * error, "mean");
        close(
            variance / expected,
            1.0,
            4.0 * (2.0 / 400f64).sqrt(),
            "variance",
        );
    }
}

#[test]
fn binomial_ends() {
    let mut stream = Stream::new(0, 0, Purpose::Schedule);
    for n in [0, 1, 17, 1_000_000] {
        assert_eq!(stream.binomial(n, 0.0), 0);
        assert_eq!(stream.binomial(n, -1.0), 0);
        assert_eq!(stream.binomial(n, f64::NAN), 0);
        assert_eq!(stream.binomial(n, 1.0), n);
        assert_eq!(stream.binomial(n, 2.0), n);
        assert!(stream.binomial(n, 1e-300) == 0);
        // Two failures of probability 1e-15 in a million trials do not happen.
        assert!(n - stream.binomial(n, 1.0 - 1e-15) <= 1);
    }
}

/// The exact value of [`gumbel_from_bits`], in f64.
fn exact_gumbel(n: u32) -> f64 {
    let w = (f64::from(n) + 0.5) / 4_294_967_296.0;
    -(-(-w).ln_1p()).ln()
}

#[test]
fn gumbel_is_exact_in_both_tails_and_between() {
    let mut bits: Vec<u32> = (0..32).map(|shift| 1u32 << shift).collect();
    bits.extend((0..32).map(|shift| !(1u32 << shift)));
    bits.extend([0, 3, (1 << 26) - 1, (1 << 26) + 1, u32::MAX, u32::MAX - 1]);
    let mut stream = Stream::new(12, 0, Purpose::Other(0));
    bits.extend((0..100_000).map(|_| stream.next_u32()));
    for n in bits {
        let exact = exact_gumbel(n);
        let found = f64::from(gumbel_from_bits(n));
        close(
            found,
            exact,
            3e-6 * exact.abs().max(1.0),
            &format!("bits {n:#x}"),
        );
    }
    close(
        exact_gumbel(0),
        33.0 * std::f64::consts::LN_2,
        1e-9,
        "the largest",
    );
}

#[test]
fn gumbel_never_rises_with_its_bits() {
    for start in [0, (1 << 26) - 500, 1 << 31, u32::MAX - 1000] {
        for n in start..start + 999 {
            assert!(gumbel_from_bits(n) >= gumbel_from_bits(n + 1), "{n}");
        }
    }
}

#[test]
fn gumbel_has_the_tail_that_coarse_uniforms_lack() {
    // -ln(-ln u) with 24-bit uniforms ends here.
    let coarse_end = -(-(1.0 - 2f64.powi(-24)).ln()).ln();
    close(coarse_end, 16.6355, 1e-3, "end of coarse noise");
    // 2^-24 of all values lie beyond, and they are distinct.
    let beyond: Vec<f32> = (0..256).map(gumbel_from_bits).collect();
    assert!(beyond.iter().all(|&g| f64::from(g) > coarse_end));
    assert!(beyond.windows(2).all(|pair| pair[0] > pair[1]));
    assert!(f64::from(gumbel_from_bits(260)) < coarse_end);

    // They do occur: in 2^26 draws, 4 are expected. Above 12, where coarse noise is on a grid, 2^26 e^-12 = 412 are
    // expected.
    let (mut above_16, mut above_12) = (0, 0);
    for block in 0..1 << 24 {
        for n in gumbel_block(1, 0, block >> 12, block & 0xfff) {
            // The smaller the bits, the larger the noise, so only few need the logarithm.
            if n < 1 << 16 {
                let noise = f64::from(gumbel_from_bits(n));
                above_16 += u32::from(noise > coarse_end);
                above_12 += u32::from(noise > 12.0);
            }
        }
    }
    assert!(
        (1..=12).contains(&above_16),
        "{above_16} beyond the coarse end"
    );
    close(f64::from(above_12), 412.3, 4.0 * 20.3, "beyond 12");
}

#[test]
fn gumbel_moments_and_distribution() {
    let draws = 400_000u32;
    let values: Vec<f64> = (0..draws)
        .map(|i| f64::from(gumbel(9, 1, i / 4000, i % 4000)))
        .collect();
    let (mean, variance) = mean_and_variance(&values);
    let expected = std::f64::consts::PI.powi(2) / 6.0;
    close(mean, 0.577_215_664_9, 4.0 * (expected / 4e5).sqrt(), "mean");
    // The fourth central moment is 27 / 5 of the squared variance.
    close(
        variance / expected,
        1.0,
        4.0 * (4.4f64 / 4e5).sqrt(),
        "variance",
    );
    // Kolmogorov-Smirnov against exp(-exp(-g)): 99.99 % below 2.23 / sqrt(n).
    let mut sorted = values;
    sorted.sort_unstable_by(f64::total_cmp);
    let distance = sorted
        .iter()
        .enumerate()
        .map(|(i, g)| ((-(-g).exp()).exp() - (i as f64 + 0.5) / f64::from(draws)).abs())
        .fold(0.0, f64::max);
    assert!(
        distance < 2.23 / f64::from(draws).sqrt(),
        "distance {distance}"
    );
}

#[test]
fn noise_is_keyed_by_all_of_its_arguments() {
    let base = gumbel(1, 2, 3, 4);
    for other in [
        gumbel(2, 2, 3, 4),
        gumbel(1 | 1 << 32, 2, 3, 4),
        gumbel(1, 3, 3, 4),
        gumbel(1, 2, 4, 4),
        gumbel(1, 2, 3, 5),
        gumbel(1, 2, 3, 8),
    ] {
        assert_ne!(base, other);
    }
    for vocab in 0..9 {
        let word = gumbel_block(1, 2, 3, vocab / 4)[vocab as usize % 4];
        assert_eq!(gumbel(1, 2, 3, vocab), gumbel_from_bits(word));
    }
    // Computing many at a time gives the same.
    let stretch = gumbel_stretch(1, 2, 3, 77);
    for block in 0..STRETCH {
        let words = stretch.map(|lanes| lanes[block]);
        assert_eq!(words, gumbel_block(1, 2, 3, 77 + block as u32));
    }
}

#[test]
fn recorded_uniforms_give_the_published_noise() {
    assert_eq!(gumbel_from_uniform((-1f64).exp()), 0.0);
    close(
        f64::from(gumbel_from_uniform(0.5)),
        0.366_512_9,
        1e-6,
        "u = 1/2",
    );
}

#[test]
fn no_noise_exceeds_its_ceiling() {
    let edges = (0..32).flat_map(|bit| [(1u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    let spread = (0..1_000_000u32).map(|i| i.wrapping_mul(2_654_435_761));
    for n in edges.chain(spread).chain([u32::MAX]) {
        assert!(gumbel_from_bits(n) <= gumbel_ceiling(n), "{n}");
    }
}
