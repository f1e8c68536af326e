//! Rows, plans and the host sampler compared with the published code's recorded data. The network itself is not needed:
//! its recorded logits stand in for it.

mod common;

use common::golden::Golden;
use common::plan::{MASK, V};
use esolm_core::config::{AttentionKind, Family, Prepend};
use esolm_core::plan::{Phase, Plan, PlanOptions, Schedule};
use esolm_core::rng::gumbel_from_uniform;
use esolm_core::rows::{MASKED, MaskMode, NO_TARGET, Row, StepRows, forward_rows};
use esolm_core::sampler::kept::Filter;
use esolm_core::sampler::{MASK_LOGIT, NoiseSource, Sampler, sample_row};

const L: usize = 32;

fn attends(row: &Row, slot: usize) -> bool {
    row.sees(slot as u32)
}

#[test]
fn forward_rows_are_the_published_masks() {
    let golden = Golden::open("forward_model_a.safetensors");
    let order = golden.rows("uneven.sort_idx");
    let z = golden.rows("uneven.zt_sorted");
    let x = golden.rows("uneven.x0_sorted");
    for (name, mode, sequential) in [
        ("mask.mixed", MaskMode::Mixed, false),
        ("mask.mixed2", MaskMode::Mixed2, false),
        ("mask.seq_causal", MaskMode::Causal, true),
        ("mask.seq_mixed", MaskMode::Mixed, true),
    ] {
        let (layout, tokens, step) =
            forward_rows(mode, sequential, &order, &z, Some(&x), MASK, V).unwrap();
        let mask = golden.u8(name);
        let shape = golden.shape(name);
        let span = if sequential { 2 * L } else { L };
        assert_eq!(shape[1..], [span, span]);
        assert_eq!((layout.sequences, layout.slots), (2, span));
        assert_eq!(layout.tokens, tokens.len());
        assert_eq!(step.rows.len(), 2 * span);
        // In the published masks, z comes first; here, z has the slots after x.
        let published = |slot: usize| {
            if sequential {
                (slot + L) % (2 * L)
            } else {
                slot
            }
        };
        let mut seen = vec![false; 2 * span];
        for row in &step.rows {
            let (b, slot) = (row.sequence as usize, row.slot as usize);
            assert!(!std::mem::replace(&mut seen[b * span + slot], true));
            assert_eq!(row.position, order[b][slot % L]);
            let mask = &mask[(b % shape[0]) * span * span..][..span * span];
            for key in 0..span {
                let expected = mask[published(slot) * span + published(key)] == 1;
                assert_eq!(attends(row, key), expected, "{name} {b} {slot} {key}");
            }
            let text = if !sequential || slot >= L { &z } else { &x };
            assert_eq!(tokens[row.source as usize], text[b][slot % L]);
        }
        let sampled: Vec<u32> = step
            .sampled
            .iter()
            .map(|&row| step.rows[row as usize].slot)
            .collect();
        let slots: Vec<u32> = ((span - L) as u32..span as u32).collect();
        assert_eq!(sampled, [slots.clone(), slots].concat());
    }
}

#[test]
fn causal_and_bidirectional_rows() {
    let golden = Golden::open("forward_model_a.safetensors");
    let order = golden.rows("half.sort_idx");
    let z = golden.rows("half.zt_sorted");
    for (mode, prefix) in [
        (MaskMode::Causal, None),
        (MaskMode::Bidirectional, Some(L as u32)),
    ] {
        let (_, _, step) = forward_rows(mode, false, &order, &z, None, MASK, V).unwrap();
        for row in &step.rows {
            assert_eq!(row.prefix, prefix.unwrap_or(row.slot + 1));
        }
    }
}

#[test]
fn unshuffled_blocks_are_the_published_subcontexts() {
    let golden = Golden::open("sampling_model_a.safetensors");
    for (case, alpha_0) in [("subcontext8", 1.0), ("subcontext8_alpha05", 0.5)] {
        let options = PlanOptions {
            alpha_0,
            schedule: Schedule::Blocks,
            ..options(Family::EsoLm, AttentionKind::Causal, 2)
        };
        let plan = Plan::new(&options).unwrap();
        let order = golden.rows(&format!("{case}.sort_idx"));
        let steps = golden.rows(&format!("{case}.steps"));
        for (sequence, order) in plan.sequences.iter().zip(&order) {
            assert_eq!(&sequence.order, order, "{case}");
            let found: Vec<Vec<u32>> = sequence
                .steps
                .iter()
                .map(|step| vec![step.clean, step.start, step.end])
                .collect();
            assert_eq!(found, steps, "{case}");
        }
        let recorded = recorded(&golden, case);
        assert_eq!(recorded.sequences, plan.sequences, "{case}: phases too");
    }
}

#[test]
fn left_to_right_is_the_published_run_without_diffusion() {
    let golden = Golden::open("sampling_model_a.safetensors");
    for (schedule, alpha_0) in [(Schedule::LeftToRight, 0.7), (Schedule::Binomial, 0.0)] {
        let options = PlanOptions {
            alpha_0,
            schedule,
            ..options(Family::EsoLm, AttentionKind::Causal, 2)
        };
        let plan = Plan::new(&options).unwrap();
        assert_eq!(plan, recorded(&golden, "alpha0"));
    }
}

fn options(family: Family, attention: AttentionKind, batch: usize) -> PlanOptions {
    PlanOptions {
        family,
        attention,
        alpha_0: 1.0,
        known: vec![vec![]; batch],
        ..common::plan::options()
    }
}

fn recorded(golden: &Golden, case: &str) -> Plan {
    let steps: Vec<[u32; 3]> = golden
        .rows(&format!("{case}.steps"))
        .iter()
        .map(|step| step[..].try_into().unwrap())
        .collect();
    let order = golden.rows(&format!("{case}.sort_idx"));
    Plan::from_recorded(&order, &steps, MASK, V).unwrap()
}

/// Runs a plan without a network: `logits` returns the row that the published network computed, `uniforms` those of its
/// draw. Checks that rows read only known tokens. Returns the token buffer.
fn replay<'a>(
    plan: &Plan,
    top_p: Option<f32>,
    logits: impl Fn(&Row, &StepRows) -> &'a [f32],
    uniforms: impl Fn(&Row) -> &'a [f64],
) -> Vec<u32> {
    let sampler = Sampler {
        top_p,
        ..Sampler::default()
    };
    let mut tokens = plan.initial_tokens();
    for step in 0..plan.nfe() {
        let step = plan.step_rows(step);
        let mut drawn = Vec::new();
        for row in &step.rows {
            assert!(row.source == MASKED || tokens[row.source as usize] != MASK);
        }
        for &row in &step.sampled {
            let row = &step.rows[row as usize];
            let noise: Vec<f32> = uniforms(row)
                .iter()
                .map(|&u| gumbel_from_uniform(u))
                .collect();
            let token = sample_row(
                logits(row, &step),
                MASK,
                &sampler,
                NoiseSource::Given(&noise),
            );
            drawn.push((row.target, token));
        }
        for (target, token) in drawn {
            assert_eq!(tokens[target as usize], MASK);
            tokens[target as usize] = token;
        }
    }
    tokens
}

#[test]
fn recorded_eso_lm_runs_draw_the_same_tokens() {
    let golden = Golden::open("sampling_model_a.safetensors");
    for (case, sequential, top_p) in [
        ("alpha1", 32, None),
        ("alpha05", 20, None),
        ("alpha0", 0, None),
        ("subcontext8", 32, None),
        ("subcontext8_alpha05", 16, None),
        ("alpha1_p09", 32, Some(0.9)),
    ] {
        let plan = recorded(&golden, case);
        let logits = golden.f32(&format!("{case}.logits"));
        let u = golden.f64(&format!("{case}.u"));
        let place = |row: &Row| (row.sequence as usize * L + row.slot as usize) * V;
        let tokens = replay(
            &plan,
            top_p,
            |row, _| &logits[place(row)..][..V],
            |row| &u[place(row)..][..V],
        );
        assert_eq!(
            plan.output(&tokens),
            golden.rows(&format!("{case}.sample")),
            "{case}"
        );
        assert_eq!(
            plan.sorted(&tokens),
            golden.rows(&format!("{case}.tokens_sorted"))
        );
        for step in plan.sequences.iter().flat_map(|sequence| &sequence.steps) {
            // The last diffusion step of alpha1 revealed 5 tokens, so no single one before the end is mistaken for
            // sequential.
            let expected = if step.start < sequential {
                Phase::Diffusion
            } else {
                Phase::Sequential
            };
            assert_eq!(step.phase, expected, "{case} {step:?}");
        }
        // The schedule recorded with the steps.
        if case.starts_with("alpha") {
            let sizes: Vec<u32> = plan.sequences[0]
                .steps
                .iter()
                .filter(|step| step.phase == Phase::Diffusion)
                .map(|step| step.end - step.start)
                .collect();
            let schedule = golden.flat(&format!("{case}.diffusion_schedule"));
            assert_eq!(
                sizes,
                schedule.into_iter().filter(|&n| n > 0).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn recorded_mdlm_run_draws_the_same_tokens() {
    let golden = Golden::open("sampling_mdlm_ar.safetensors");
    let before = golden.rows("mdlm.x_before");
    let after = golden.rows("mdlm.x_after");
    let run = Plan::from_recorded_mdlm(&before, &after, MASK, V).unwrap();
    let uniforms = run.uniforms(&golden.f64("mdlm.u")).unwrap();
    assert_eq!(uniforms.len(), L * V);
    assert!(run.uniforms(&[0.5; 7]).is_err());
    // Two of the 16 recorded steps changed nothing; the network ran 14 times there, as it does here.
    assert_eq!(run.plan.nfe(), 14);
    let evaluated = golden.u8("mdlm.evaluated");
    let logits = golden.f32("mdlm.logits");
    let tokens = replay(
        &run.plan,
        None,
        |row, step| {
            assert_eq!(step.rows.len(), L);
            let recorded_step = run.unmasked_in[row.position as usize].unwrap();
            // Logits are stored only for evaluated steps; the others reused those of the previous step.
            let stored = evaluated[..=recorded_step]
                .iter()
                .filter(|&&e| e == 1)
                .count()
                - 1;
            &logits[(stored * L + row.position as usize) * V..][..V]
        },
        |row| &uniforms[row.slot as usize * V..][..V],
    );
    assert_eq!(run.plan.output(&tokens), golden.rows("mdlm.sample"));
    // Step by step, the known tokens are those of the recording.
    let mut steps: Vec<usize> = run.unmasked_in.iter().flatten().copied().collect();
    steps.sort_unstable();
    steps.dedup();
    for (step, recorded_step) in steps.into_iter().enumerate() {
        for row in run.plan.step_rows(step).rows {
            let masked = before[recorded_step][row.position as usize] == MASK;
            assert_eq!(row.source == MASKED, masked);
            let unmasked = masked && after[recorded_step][row.position as usize] != MASK;
            assert_eq!(row.target != NO_TARGET, unmasked);
        }
    }
}

#[test]
fn recorded_ar_runs_draw_the_same_tokens() {
    let golden = Golden::open("sampling_mdlm_ar.safetensors");
    for (case, prepend) in [("ar.none", Prepend::None), ("ar.bos", Prepend::Bos)] {
        let plan = Plan::new(&PlanOptions {
            prepend,
            schedule: Schedule::LeftToRight,
            ..options(Family::Ar, AttentionKind::Causal, 2)
        })
        .unwrap();
        let rows = golden.shape(&format!("{case}.logits"))[1];
        assert_eq!(plan.nfe(), rows, "{case}");
        let logits = golden.f32(&format!("{case}.logits"));
        let u = golden.f64(&format!("{case}.u"));
        let place = |row: &Row| (row.sequence as usize * rows + row.slot as usize) * V;
        let tokens = replay(
            &plan,
            None,
            |row, _| &logits[place(row)..][..V],
            |row| &u[place(row)..][..V],
        );
        assert_eq!(
            plan.output(&tokens),
            golden.rows(&format!("{case}.sample")),
            "{case}"
        );
    }
}

#[test]
fn what_top_p_and_top_k_keep_is_as_published() {
    let golden = Golden::open("nucleus.safetensors");
    let logits = golden.f64("logits");
    for (name, top_k, top_p) in [
        ("filtered_p09", None, Some(0.9)),
        ("filtered_p05", None, Some(0.5)),
        ("filtered_k5", Some(5), None),
    ] {
        let filtered = golden.f64(name);
        for (row, expected) in logits.chunks(V).zip(filtered.chunks(V)) {
            let row: Vec<f32> = row.iter().map(|&x| x as f32).collect();
            let sampler = Sampler {
                top_k,
                top_p,
                ..Sampler::default()
            };
            let filter = Filter::new(&sampler).expect("it leaves tokens out");
            let cut = filter.cut(&row, u32::MAX);
            for (v, (&logit, expected)) in row.iter().zip(expected).enumerate() {
                assert_eq!(cut.keeps(logit), expected.is_finite(), "{name} {v}");
            }
        }
    }
    assert_eq!(MASK_LOGIT, -1e6);
}

#[test]
fn single_tokens_out_of_order_are_diffusion() {
    let steps = [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]];
    let phases = |orders: &[Vec<u32>]| -> Vec<Phase> {
        let plan = Plan::from_recorded(orders, &steps, MASK, V).unwrap();
        plan.sequences[0]
            .steps
            .iter()
            .map(|step| step.phase)
            .collect()
    };
    let (d, s) = (Phase::Diffusion, Phase::Sequential);
    assert_eq!(phases(&[vec![0, 1, 2, 3]]), [s, s, s, s]);
    assert_eq!(phases(&[vec![3, 0, 1, 2]]), [d, s, s, s]);
    assert_eq!(phases(&[vec![0, 1, 2, 3], vec![0, 3, 1, 2]]), [d, d, s, s]);
}

#[test]
fn records_that_are_no_run_are_refused() {
    let order: Vec<u32> = (0..4).collect();
    let refused = |orders: &[Vec<u32>], steps: &[[u32; 3]]| {
        let error = Plan::from_recorded(orders, steps, MASK, V)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("the recorded run cannot be replayed"),
            "{error}"
        );
    };
    let whole = [[0, 0, 3], [0, 3, 4]];
    Plan::from_recorded(std::slice::from_ref(&order), &whole, MASK, V).unwrap();
    refused(&[], &whole);
    refused(&[vec![]], &[]);
    refused(&[vec![0, 1, 2, 2]], &whole);
    refused(&[order.clone(), vec![0, 1]], &whole);
    refused(std::slice::from_ref(&order), &whole[..1]);
    refused(std::slice::from_ref(&order), &[[0, 0, 3], [1, 3, 4]]);
    refused(std::slice::from_ref(&order), &[[0, 0, 3], [0, 2, 4]]);
    refused(std::slice::from_ref(&order), &[[0, 0, u32::MAX]]);
    refused(std::slice::from_ref(&order), &[[0, u32::MAX, u32::MAX]]);

    let refused = |before: &[Vec<u32>], after: &[Vec<u32>]| {
        let error = Plan::from_recorded_mdlm(before, after, MASK, V)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("the recorded run cannot be replayed"),
            "{error}"
        );
    };
    let texts = [vec![MASK, 1], vec![5, 1]];
    let run = Plan::from_recorded_mdlm(&texts[..1], &texts[1..], MASK, V).unwrap();
    assert_eq!(run.unmasked_in, [Some(0), None]);
    assert_eq!(run.uniforms(&vec![0.25; 2 * V]).unwrap()[V], 0.5);
    refused(&[], &[]);
    refused(&texts, &texts[1..]);
    refused(&texts[..1], &texts[..1]);
    refused(&texts[..1], &[vec![5, 2]]);
    let error = Plan::from_recorded_mdlm(&texts[..1], &[vec![5, 2]], MASK, V).unwrap_err();
    assert!(error.to_string().contains("changes the known position 1"));
    refused(&texts[..1], &[vec![5]]);
    refused(
        &[texts[0].clone(), texts[0].clone()],
        &[texts[1].clone(), texts[1].clone()],
    );
}

#[test]
fn arrays_that_are_no_batch_are_refused() {
    let order = vec![vec![0, 1, 2]];
    let z = vec![vec![5, MASK, MASK]];
    let error = |mode, sequential, order: &[Vec<u32>], z: &[Vec<u32>], x: Option<&[Vec<u32>]>| {
        forward_rows(mode, sequential, order, z, x, MASK, V)
            .unwrap_err()
            .to_string()
    };
    let causal = MaskMode::Causal;
    assert!(error(causal, false, &[], &[], None).contains("give at least one sequence"));
    assert!(error(causal, false, &[vec![0, 0, 1]], &z, None).contains("is not a permutation"));
    assert!(error(causal, false, &order, &[vec![1]], None).contains("zt_sorted has 1 entries"));
    assert!(error(causal, false, &order, &[], None).contains("zt_sorted has 0 entries"));
    assert!(
        error(causal, false, &order, &[vec![1, 2, 97]], None).contains("beyond the vocabulary")
    );
    assert!(error(causal, true, &order, &z, None).contains("add it to the input"));
    assert!(error(causal, true, &order, &z, Some(&[vec![1, 2]])).contains("x0_sorted has 2"));
    let mode = MaskMode::Mixed2;
    assert!(error(mode, true, &order, &z, Some(&z)).contains("not mixed2; choose one of those"));
}
