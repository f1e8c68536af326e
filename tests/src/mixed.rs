//! Sampling of an Eso-LM (A), which the published code does not implement, compared with passes over all rows with the
//! masks that it was trained with: those passes are compared with its numbers elsewhere
//! ([`crate::checks::check_forward`]).

use esolm::config::{AttentionKind, ModelConfig};
use esolm::executor::Draw;
use esolm::plan::{Phase, Plan, PlanOptions, PlanStep, Schedule, SequencePlan};
use esolm::rows::{MaskMode, forward_rows};
use esolm::sampler::Sampler;

use crate::Runner;
use crate::checks::{GOLDEN, assert_close};

/// The configuration of an Eso-LM, as an Eso-LM (A), which has the same parameters.
pub fn config(config: &ModelConfig) -> ModelConfig {
    ModelConfig {
        attention: AttentionKind::Mixed,
        ..config.clone()
    }
}

/// Plans that together use every kind of step, with sequences of one batch in different phases.
fn cases(config: &ModelConfig) -> Vec<PlanOptions> {
    let base = PlanOptions::new(config, 2, 6, 11);
    let given = |positions: &[u32]| positions.iter().map(|&p| (p, 3 + p)).collect();
    let mut cases: Vec<PlanOptions> = [0.0, 0.5, 1.0]
        .map(|alpha_0| PlanOptions {
            alpha_0,
            ..base.clone()
        })
        .into();
    cases.push(PlanOptions {
        alpha_0: 0.4,
        known: vec![given(&[0, 1, 2, 9]), given(&[5])],
        ..base.clone()
    });
    cases.push(PlanOptions {
        schedule: Schedule::BlocksShuffled,
        alpha_0: 0.5,
        ..base.clone()
    });
    cases.push(PlanOptions {
        schedule: Schedule::LeftToRight,
        known: vec![given(&[0, 1, 2, 3, 4]), given(&[])],
        ..base
    });
    cases
}

/// Samples, comparing the logits of every step with those of a pass over all rows of each text. Returns the number of
/// steps.
pub fn check(own: &ModelConfig, runner: &mut dyn Runner, reference: &mut dyn Runner) -> usize {
    let mut steps = 0;
    for options in cases(&config(own)) {
        let plan = Plan::new(&options).unwrap();
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 3,
            ..Draw::default()
        };
        runner.start(&plan.layout(), &plan.initial_tokens());
        for index in 0..plan.nfe() {
            let step = plan.step_rows(index);
            let got = runner.logits(&step);
            let tokens = plan.sorted(&runner.tokens());
            let running = plan.sequences.iter().zip(&tokens);
            let wanted: Vec<f32> = running
                .filter_map(|(sequence, tokens)| {
                    let step = sequence.steps.get(index)?;
                    Some(drawn_from(&plan, sequence, step, tokens, reference))
                })
                .flatten()
                .collect();
            let name = format!("alpha_0 = {}, step {index}", options.alpha_0);
            assert_close(&name, &got, &wanted, GOLDEN);
            runner.step(&step, &plan.ids(), &draw);
            steps += 1;
        }
    }
    steps
}

/// The logits that a step draws from, computed by the published pass over a whole text.
fn drawn_from(
    plan: &Plan,
    sequence: &SequencePlan,
    step: &PlanStep,
    tokens: &[u32],
    reference: &mut dyn Runner,
) -> Vec<f32> {
    let (mask, vocab) = (plan.mask_index, plan.vocab_size);
    let masked_from = |first: u32| -> Vec<u32> {
        let slots = tokens.iter().zip(0..);
        slots
            .map(|(&token, slot)| if slot < first { token } else { mask })
            .collect()
    };
    let order = std::slice::from_ref(&sequence.order);
    let is_sequential = step.phase == Phase::Sequential;
    let (layout, tokens, rows) = if is_sequential {
        // The clean text next to the one in which diffusion wrote its share; what is not yet known is not visible to
        // any row here.
        let steps = sequence.steps.iter();
        let mut sequential = steps.filter(|step| step.phase == Phase::Sequential);
        let begin = sequential.next().unwrap().start;
        let clean = masked_from(step.start).into_iter();
        let clean: Vec<u32> = clean
            .map(|token| if token == mask { 0 } else { token })
            .collect();
        let (z, x) = ([masked_from(begin)], [clean]);
        forward_rows(MaskMode::Mixed, true, order, &z, Some(&x), mask, vocab)
    } else {
        let z = [masked_from(step.start)];
        forward_rows(MaskMode::Mixed2, false, order, &z, None, mask, vocab)
    }
    .unwrap();
    reference.start(&layout, &tokens);
    let logits = reference.logits(&rows);
    logits[step.start as usize * vocab..step.end as usize * vocab].to_vec()
}
