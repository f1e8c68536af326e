use proptest::prelude::*;

use super::*;
use crate::noise::alpha;

fn options() -> PlanOptions {
    PlanOptions {
        family: Family::EsoLm,
        attention: AttentionKind::Causal,
        length: 32,
        alpha_0: 0.5,
        steps: 8,
        schedule: Schedule::Binomial,
        seed: 1,
        first_sequence: 0,
        known: vec![vec![]],
        prepend: Prepend::None,
        bos: Some(1),
        mask_index: 96,
    }
}

fn any_options() -> impl Strategy<Value = PlanOptions> {
    let schedule = prop_oneof![Just(Schedule::Binomial), Just(Schedule::Blocks), Just(Schedule::BlocksShuffled), Just(Schedule::LeftToRight)];
    let alpha = prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64];
    let family = prop_oneof![3 => Just(Family::EsoLm), 1 => Just(Family::Mdlm), 1 => Just(Family::Ar)];
    let prepend = prop_oneof![Just(Prepend::None), Just(Prepend::Bos), Just(Prepend::Mask)];
    (family, 1usize..70, alpha, 1usize..100, schedule, any::<u64>(), 0u32..100, prop::collection::vec(0usize..90, 1..4), prepend, any::<bool>()).prop_map(
        |(family, length, alpha_0, steps, schedule, seed, first_sequence, shares, prepend, infill)| {
            // Ragged prompts, or gaps anywhere.
            let known = shares
                .iter()
                .map(|&share| {
                    let infill = infill && family != Family::Ar;
                    (0..length as u32).filter(|&p| if infill { (p as usize * 37 + share) % 90 < share } else { (p as usize) < share * length / 90 }).map(|p| (p, p % 90)).collect()
                })
                .collect();
            let attention = if family == Family::Mdlm { AttentionKind::Bidirectional } else { AttentionKind::Causal };
            let alpha_0 = if family == Family::Mdlm { 1.0 } else { alpha_0 };
            PlanOptions { family, attention, length, alpha_0, steps, schedule, seed, first_sequence, known, prepend, bos: Some(1), mask_index: 96 }
        },
    )
}

proptest! {
    #[test]
    fn a_plan_is_complete_and_exact(options in any_options()) {
        let plan = Plan::new(&options).unwrap();
        plan.check().unwrap();
        let layout = plan.layout();
        let initial = plan.initial_tokens();
        let mut known: Vec<bool> = initial.iter().map(|&t| t != 96).collect();
        if plan.lead {
            known.iter_mut().step_by(plan.length).for_each(|k| *k = true);
        }
        let mut cached = vec![false; layout.tokens];
        for index in 0..plan.nfe() {
            let step = plan.step_rows(index);
            prop_assert!(!step.rows.is_empty());
            prop_assert!(step.rows.is_sorted_by_key(|r| r.sequence));
            let mut written = Vec::new();
            for (at, row) in step.rows.iter().enumerate() {
                let first = row.sequence as usize * plan.length;
                prop_assert!((row.slot as usize) < plan.length && (row.prefix as usize) <= plan.length);
                // A row reads a token only once it is known.
                prop_assert!(row.source == MASKED || known[row.source as usize]);
                prop_assert_eq!(row.target != NO_TARGET, step.sampled.contains(&(at as u32)));
                match options.family {
                    Family::Mdlm => prop_assert_eq!(row.prefix as usize, plan.length),
                    _ => {
                        prop_assert_eq!(row.prefix, row.slot + 1);
                        // Slots below are in the cache or in this pass: dense, no hole.
                        for slot in 0..row.slot {
                            let here = step.rows.iter().any(|r| r.sequence == row.sequence && r.slot == slot);
                            prop_assert!(here || cached[first + slot as usize]);
                        }
                    }
                }
                if row.target != NO_TARGET {
                    prop_assert!(!known[row.target as usize], "a position is drawn once");
                    written.push(row.target as usize);
                }
            }
            for row in &step.rows {
                cached[row.sequence as usize * plan.length + row.slot as usize] = row.source != MASKED;
            }
            written.into_iter().for_each(|t| known[t] = true);
        }
        prop_assert!(known.iter().all(|&k| k), "every position is given or drawn");
    }

    #[test]
    fn a_sequence_does_not_depend_on_its_batch(options in any_options()) {
        let batch = Plan::new(&options).unwrap();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let alone = PlanOptions { known: vec![options.known[index].clone()], first_sequence: options.first_sequence + index as u32, ..options.clone() };
            prop_assert_eq!(&Plan::new(&alone).unwrap().sequences[0], sequence);
        }
    }

    #[test]
    fn json_goes_round(options in any_options()) {
        let plan = Plan::new(&options).unwrap();
        prop_assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan.clone());
        plan.uncached().check().unwrap();
    }

    #[test]
    fn spoilt_json_is_an_error_or_runs(options in any_options(), at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
        let mut json = Plan::new(&options).unwrap().to_json().into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(plan) = Plan::from_json(std::str::from_utf8(&json).unwrap()) {
            let layout = plan.layout();
            for step in 0..plan.nfe() {
                for row in plan.step_rows(step).rows {
                    prop_assert!((row.slot as usize) < layout.slots && (row.source == MASKED || (row.source as usize) < layout.tokens));
                    prop_assert!(row.target == NO_TARGET || (row.target as usize) < layout.tokens);
                }
            }
        }
    }
}

#[test]
fn step_sizes_follow_the_formula() {
    // The expected number of tokens known after step i is L alpha_s, so the mean size of step i is L (alpha_s - alpha_t), up to
    // the share that t = 1 leaves clean (alpha_1 = alpha_0 eps).
    let (length, steps, seeds) = (256u32, 16, 3000);
    for alpha_0 in [1.0, 0.5] {
        let mut sums = vec![0f64; steps];
        for seed in 0..seeds {
            let options = PlanOptions { seed, alpha_0, length: length as usize, steps, ..options() };
            let mut stream = crate::rng::Stream::new(seed, 0, crate::rng::Purpose::Schedule);
            let mut left = length;
            for (i, sum) in sums.iter_mut().enumerate() {
                let (t, s) = (1.0 - i as f64 / 16.0, 1.0 - (i + 1) as f64 / 16.0);
                let size = stream.binomial(left, crate::noise::unmask_probability(alpha_0, t, s));
                left -= size;
                *sum += f64::from(size);
            }
            let plan = Plan::new(&options).unwrap();
            let drawn: u32 = plan.sequences[0].steps.iter().filter(|s| s.phase == Phase::Diffusion).map(|s| s.end - s.start).sum();
            assert_eq!(drawn, if alpha_0 == 1.0 { length } else { length - left }, "the plan draws the same sizes");
        }
        for (i, sum) in sums.iter().enumerate() {
            let (t, s) = (1.0 - i as f64 / 16.0, 1.0 - (i + 1) as f64 / 16.0);
            // P(unmasked in step i) = (1 - alpha_t) / (1 - alpha_1) times the step's probability.
            let p = (alpha(alpha_0, s) - alpha(alpha_0, t)) / (1.0 - alpha(alpha_0, 1.0));
            let mean = sum / seeds as f64;
            let error = (f64::from(length) * p * (1.0 - p) / seeds as f64).sqrt();
            assert!((mean - f64::from(length) * p).abs() < 4.5 * error, "step {i}: mean {mean}, expected {}", f64::from(length) * p);
        }
    }
}

#[test]
fn ends_of_alpha_0() {
    let plan = Plan::new(&PlanOptions { alpha_0: 0.0, ..options() }).unwrap();
    assert!(plan.sequences[0].order.is_sorted() && plan.nfe() == 32);
    assert!((0..32).all(|i| plan.phase(i) == Phase::Sequential));
    let plan = Plan::new(&PlanOptions { alpha_0: 1.0, ..options() }).unwrap();
    assert!((0..plan.nfe()).all(|i| plan.phase(i) == Phase::Diffusion) && plan.nfe() <= 9);
}

#[test]
fn long_prompts_enter_in_bounded_steps() {
    let known = (0..1300).map(|p| (p, 5)).collect();
    let plan = Plan::new(&PlanOptions { length: 1400, known: vec![known], ..options() }).unwrap();
    assert_eq!((0..3).map(|i| plan.phase(i)).collect::<Vec<_>>(), [Phase::Prompt, Phase::Prompt, Phase::Diffusion]);
    assert!((0..plan.nfe()).all(|i| plan.step_rows(i).rows.len() <= 512 + 100));
}

#[test]
fn bad_options_are_one_sentence() {
    let bad = |options: PlanOptions| Plan::new(&options).unwrap_err().to_string();
    assert_eq!(bad(PlanOptions { steps: 0, ..options() }), "steps is 0; it must be from 1 to 1048576");
    assert!(bad(PlanOptions { alpha_0: f64::NAN, ..options() }).starts_with("alpha_0 is NaN"));
    assert!(bad(PlanOptions { alpha_0: 1.5, ..options() }).contains("from 0 (all left to right) to 1"));
    assert!(bad(PlanOptions { length: 0, ..options() }).starts_with("length is 0"));
    assert!(bad(PlanOptions { known: vec![vec![(40, 1)]], ..options() }).contains("lies beyond the length of 32"));
    assert!(bad(PlanOptions { known: vec![vec![(4, 1), (4, 2)]], ..options() }).contains("given twice"));
    assert!(bad(PlanOptions { known: vec![vec![(4, 96)]], ..options() }).contains("is the mask token"));
    assert!(bad(PlanOptions { known: vec![], ..options() }).starts_with("batch is 0"));
    assert!(bad(PlanOptions { family: Family::Mdlm, attention: AttentionKind::Bidirectional, ..options() }).contains("1 for an MDLM"));
    assert!(bad(PlanOptions { attention: AttentionKind::Mixed, ..options() }).contains("Eso-LM (B)"));
    assert!(bad(PlanOptions { family: Family::Ar, known: vec![vec![(3, 1)]], ..options() }).contains("only continues a prefix"));
    assert!(bad(PlanOptions { family: Family::Ar, bos: None, ..options() }).contains("give a prompt"));
}
