use super::*;

const MASK: u32 = 4;

fn seeded(position: u32) -> NoiseSource<'static> {
    NoiseSource::Seeded {
        seed: 11,
        sequence: 2,
        position,
    }
}

fn sampler(temperature: f32, top_p: Option<f32>) -> Sampler {
    Sampler {
        temperature,
        top_p,
        ..Sampler::default()
    }
}

/// Chi-square of draws against weights; also checks that nothing of weight 0 is drawn.
fn chi_square(logits: &[f32], sampler: &Sampler, weights: &[f64], draws: u32) -> f64 {
    let mut counts = vec![0f64; logits.len()];
    for position in 0..draws {
        counts[sample_row(logits, MASK, sampler, seeded(position)) as usize] += 1.0;
    }
    let total: f64 = weights.iter().sum();
    let mut chi = 0.0;
    for (&count, &weight) in counts.iter().zip(weights) {
        let expected = weight / total * f64::from(draws);
        if weight == 0.0 {
            assert_eq!(count, 0.0, "drawn without weight: {counts:?}");
        } else {
            chi += (count - expected).powi(2) / expected;
        }
    }
    chi
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [0.0f32, 1.0, 2.0, -1.0, 9.0, 0.5];
    for temperature in [1.0f32, 0.5, 2.0] {
        let weights: Vec<f64> = (0..6)
            .map(|v| {
                if v == MASK as usize {
                    0.0
                } else {
                    f64::from(logits[v] / temperature).exp()
                }
            })
            .collect();
        let chi = chi_square(&logits, &sampler(temperature, None), &weights, 60_000);
        // 4 degrees of freedom: 99.99 % below 23.5.
        assert!(chi < 23.5, "temperature {temperature}: chi-square {chi}");
    }
}

#[test]
fn draws_follow_the_softmax_of_a_wide_vocabulary() {
    // 1000 tokens over eight units of logit; the rarest is expected 7 times.
    let logits: Vec<f32> = (0..1001u32)
        .map(|v| (v * 37 % 1001) as f32 / 250.0)
        .collect();
    let weights: Vec<f64> = logits
        .iter()
        .enumerate()
        .map(|(v, &l)| {
            if v == MASK as usize {
                0.0
            } else {
                f64::from(l).exp()
            }
        })
        .collect();
    let chi = chi_square(&logits, &sampler(1.0, None), &weights, 100_000);
    // 999 degrees of freedom: four standard deviations of sqrt(2 * 999).
    assert!(chi < 999.0 + 4.0 * 44.7, "chi-square {chi}");
}

#[test]
fn a_nucleus_is_renormalised() {
    let shares = [0.4f64, 0.3, 0.2, 0.06, 0.0, 0.04];
    let logits = shares.map(|p| if p == 0.0 { 50.0 } else { p.ln() as f32 });
    // 0.4 + 0.3 reach 0.65; 0.2 crosses 0.8.
    for (p, kept) in [(0.3, 1), (0.65, 2), (0.8, 3)] {
        let weights: Vec<f64> = (0..6)
            .map(|v| if v < kept { shares[v] } else { 0.0 })
            .collect();
        let chi = chi_square(&logits, &sampler(1.0, Some(p)), &weights, 30_000);
        assert!(chi < 18.5, "top-p {p}: chi-square {chi}");
    }
}

#[test]
fn greedy_takes_the_best_and_the_lower_index() {
    let logits = [1.0f32, 3.0, 3.0, 2.0, 9.0];
    for noise in [seeded(0), NoiseSource::None, NoiseSource::Given(&[9.0; 5])] {
        assert_eq!(
            sample_row(&logits, MASK, &sampler(0.0, Some(0.1)), noise),
            1
        );
    }
    assert_eq!(
        sample_row(&logits, MASK, &sampler(1.0, None), NoiseSource::None),
        1
    );
}

#[test]
fn given_noise_decides() {
    let logits = [0.0f32; 6];
    for best in [0, 3, 5] {
        let mut noise = [-1.0f32; 6];
        noise[best] = 1.0;
        noise[MASK as usize] = 100.0;
        let drawn = sample_row(
            &logits,
            MASK,
            &sampler(1.0, None),
            NoiseSource::Given(&noise),
        );
        assert_eq!(drawn as usize, best);
    }
}

#[test]
fn seeded_noise_is_that_of_gumbel() {
    let logits: Vec<f32> = (0..11u32).map(|v| (v as f32).sin()).collect();
    for position in 0..50 {
        let noise: Vec<f32> = (0..11)
            .map(|v| crate::rng::gumbel(11, 2, position, v))
            .collect();
        assert_eq!(
            sample_row(&logits, MASK, &sampler(0.8, Some(0.9)), seeded(position)),
            sample_row(
                &logits,
                MASK,
                &sampler(0.8, Some(0.9)),
                NoiseSource::Given(&noise)
            )
        );
    }
}

#[test]
fn nothing_is_drawn_from_logits_that_are_not_finite() {
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in 0..6 {
            let mut logits = [3.0, 2.0, 1.0, 0.0, 9.0, -1.0];
            logits[at] = strange;
            for temperature in [0.0, 0.5, 1.0] {
                for top_p in [None, Some(0.5), Some(1.0)] {
                    let sampler = sampler(temperature, top_p);
                    for noise in [seeded(0), NoiseSource::Given(&[0.0; 6])] {
                        let drawn = sample_row(&logits, MASK, &sampler, noise);
                        // The mask's own logit is never read.
                        let is_token = at == MASK as usize;
                        assert_eq!(drawn < MASK, is_token, "{strange} at {at}: {drawn}");
                        assert!(is_token || drawn == NO_TOKEN);
                    }
                }
            }
        }
    }
    // Finite, but not after division by the temperature: only the mask is left.
    let cold = sampler(1e-6, None);
    assert_eq!(
        sample_row(&[-1e35; 5], MASK, &cold, NoiseSource::None),
        MASK
    );
    assert_eq!(sample_row(&[-1e35; 4], MASK, &cold, seeded(0)), NO_TOKEN);
    assert_eq!(sample_row(&[], MASK, &cold, seeded(0)), NO_TOKEN);
}

#[test]
fn ranges_are_checked() {
    assert_eq!(Sampler::default().validate(), Ok(()));
    for temperature in [0.0, 1e-6, 1.0, 100.0] {
        assert_eq!(sampler(temperature, Some(1.0)).validate(), Ok(()));
    }
    for temperature in [-1.0, f32::NAN, f32::INFINITY, 1e-30, 1e7] {
        let error = sampler(temperature, None).validate().unwrap_err();
        assert!(error.to_string().starts_with("temperature is"), "{error}");
    }
    for p in [0.0, -0.1, 1.1, f32::NAN] {
        let error = sampler(1.0, Some(p)).validate().unwrap_err();
        assert!(error.to_string().starts_with("top_p is"), "{error}");
    }
    for p in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        let sampler = Sampler {
            min_p: Some(p),
            ..Sampler::default()
        };
        let error = sampler.validate().unwrap_err().to_string();
        assert!(error.starts_with("min_p is"), "{error}");
    }
    let none = Sampler {
        top_k: Some(0),
        ..Sampler::default()
    };
    let error = none.validate().unwrap_err().to_string();
    assert!(error.starts_with("top_k is 0"), "{error}");
    let all = Sampler {
        top_k: Some(1),
        min_p: Some(1.0),
        ..none
    };
    assert_eq!(all.validate(), Ok(()));
}
