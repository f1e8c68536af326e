//! The random parts of plans, compared with the schedule's formula and with uniform orders.

mod common;

use common::plan::options;
use esolm_core::noise::alpha;
use esolm_core::plan::{Phase, Plan, PlanOptions, Schedule};

#[test]
fn step_sizes_follow_the_formula() {
    // A token is unmasked in the step from t to s with probability (alpha_s - alpha_t) / (1 - alpha_1), independently of the others, so
    // sizes are binomial: mean and variance are known. T = 1 to T > L; every step of T is counted, dropped ones as 0.
    let length = 48usize;
    for (steps, seeds) in [(1usize, 500u64), (7, 3000), (48, 3000), (100, 3000)] {
        for alpha_0 in [1.0, 0.5, 0.1] {
            let mut totals = 0.0;
            let mut first = Vec::new();
            let mut numbers = Vec::new();
            for seed in 0..seeds {
                let plan = Plan::new(&PlanOptions {
                    seed,
                    alpha_0,
                    length,
                    steps,
                    ..options()
                })
                .unwrap();
                let sequence = &plan.sequences[0];
                let sizes = sequence
                    .steps
                    .iter()
                    .filter(|step| step.phase == Phase::Diffusion);
                let sizes: Vec<u32> = sizes.map(|step| step.end - step.start).collect();
                numbers.push(sizes.len() as f64);
                totals += f64::from(sizes.iter().sum::<u32>());
                // Only if no step before it is dropped, the first size is that of the first step.
                first.push(f64::from(sizes.first().copied().unwrap_or(0)));
            }
            let seeds = seeds as f64;
            let masked = 1.0 - alpha(alpha_0, 1.0);
            let n = length as f64;
            // Diffusion's share of the tokens masked at t = 1: alpha_0, less those that are clean there anyway.
            let p = (alpha_0 - alpha(alpha_0, 1.0)) / masked;
            let error = (n * p * (1.0 - p) / seeds).sqrt();
            let mean = totals / seeds;
            assert!(
                (mean - n * p).abs() <= 4.0 * error + 1e-9,
                "T {steps} alpha_0 {alpha_0}: {mean} of {}",
                n * p
            );
            // Steps that are not dropped: 1 - (1 - q)^n each.
            let q = |i: usize| {
                let (t, s) = (
                    (steps - i) as f64 / steps as f64,
                    (steps - i - 1) as f64 / steps as f64,
                );
                (alpha(alpha_0, s) - alpha(alpha_0, t)) / masked
            };
            let expected: f64 = (0..steps).map(|i| 1.0 - (1.0 - q(i)).powf(n)).sum();
            let mean = numbers.iter().sum::<f64>() / seeds;
            let variance = numbers.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / seeds;
            assert!(
                (mean - expected).abs() <= 4.0 * (variance / seeds).sqrt() + 1e-9,
                "T {steps} alpha_0 {alpha_0}: {mean} steps of {expected}"
            );
            // The first size that is not 0: the mean over the steps in which it may fall.
            let (mut expected, mut none_before) = (0.0, 1.0f64);
            let mut left = 1.0;
            for i in 0..steps {
                let p = q(i) / left;
                expected += none_before * n * p;
                none_before *= (1.0 - p).powf(n);
                left -= q(i);
            }
            let mean = first.iter().sum::<f64>() / seeds;
            let variance = first.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / seeds;
            assert!(
                (mean - expected).abs() <= 4.0 * (variance / seeds).sqrt() + 1e-9,
                "T {steps} alpha_0 {alpha_0}: first size {mean} of {expected}"
            );
        }
    }
}

#[test]
fn each_steps_mean_size_follows_the_formula() {
    // Long enough that no step is ever dropped, so step i of the plan is time step i.
    let (length, steps, seeds) = (2000usize, 8usize, 600u64);
    for alpha_0 in [1.0, 0.5] {
        let mut sums = vec![0.0; steps];
        let mut squares = vec![0.0; steps];
        for seed in 0..seeds {
            let plan = Plan::new(&PlanOptions {
                seed,
                alpha_0,
                length,
                steps,
                ..options()
            })
            .unwrap();
            for i in 0..steps {
                let step = plan.sequences[0].steps[i];
                assert_eq!(step.phase, Phase::Diffusion);
                let size = f64::from(step.end - step.start);
                sums[i] += size;
                squares[i] += size * size;
            }
        }
        for i in 0..steps {
            let (t, s) = ((steps - i) as f64 / 8.0, (steps - i - 1) as f64 / 8.0);
            let p = (alpha(alpha_0, s) - alpha(alpha_0, t)) / (1.0 - alpha(alpha_0, 1.0));
            let n = length as f64;
            let mean = sums[i] / seeds as f64;
            let variance = squares[i] / seeds as f64 - mean * mean;
            let expected = n * p * (1.0 - p);
            let error = (expected / seeds as f64).sqrt();
            assert!(
                (mean - n * p).abs() < 4.0 * error,
                "step {i}: mean {mean} of {}",
                n * p
            );
            assert!(
                (variance / expected - 1.0).abs() < 4.0 * (2.0 / seeds as f64).sqrt(),
                "step {i}: variance {variance} of {expected}"
            );
        }
    }
}

#[test]
fn every_position_is_equally_likely_in_every_place() {
    let (length, seeds) = (8usize, 8000u64);
    for (schedule, alpha_0) in [(Schedule::Binomial, 1.0), (Schedule::BlocksShuffled, 1.0)] {
        let mut counts = vec![vec![0f64; length]; length];
        for seed in 0..seeds {
            let plan = Plan::new(&PlanOptions {
                seed,
                alpha_0,
                length,
                steps: 4,
                schedule,
                ..options()
            })
            .unwrap();
            for (place, &position) in plan.sequences[0].order.iter().enumerate() {
                counts[place][position as usize] += 1.0;
            }
        }
        for row in counts {
            // 7 degrees of freedom: 99.99 % below 29.9.
            let chi: f64 = row.iter().map(|n| (n - 1000.0).powi(2) / 1000.0).sum();
            assert!(chi < 29.9, "{schedule}: {row:?}");
        }
    }
}

#[test]
fn a_seed_keeps_its_plan() {
    // Users may have noted a seed: what it draws must not change between versions or platforms.
    let plan = Plan::new(&PlanOptions {
        length: 12,
        steps: 4,
        seed: 0x1234_5678_9abc_def0,
        first_sequence: 3,
        ..options()
    })
    .unwrap();
    let sequence = &plan.sequences[0];
    let sizes: Vec<u32> = sequence
        .steps
        .iter()
        .map(|step| step.end - step.start)
        .collect();
    assert_eq!(sequence.order, [5, 11, 2, 3, 10, 9, 1, 6, 0, 4, 7, 8]);
    assert_eq!(sizes, [4, 3, 1, 1, 1, 1, 1]);
}
