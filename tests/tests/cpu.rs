//! The CPU executor against the published code's golden numbers, and its cache against none.

use esolm::executor::Draw;
use esolm::plan::{Plan, PlanOptions};
use esolm::sampler::Sampler;
use esolm::{Activations, Weights};
use esolm_tests::{OnDevice, Runner, broken, checkpoint, checks, losses, stories};

/// All ways of holding weights with fewer bits.
const ROUNDED: [(Weights, Activations); 5] = [
    (Weights::F16, Activations::F32),
    (Weights::Q8, Activations::F32),
    (Weights::Q8, Activations::Q8),
    (Weights::Q4, Activations::F32),
    (Weights::Q4, Activations::Q8),
];

#[test]
fn golden_forward() {
    for (model, count) in [("model_a", 14), ("mdlm", 1), ("ar", 1)] {
        let (cases, largest) = checks::check_forward(model, &mut OnDevice::cpu(&checkpoint(model)));
        println!("{model}: {cases} cases, largest difference {largest:e}");
        assert_eq!(cases, count);
    }
}

#[test]
fn golden_losses() {
    let ar = checkpoint("ar");
    let largest = [
        losses::check_model_a(&mut OnDevice::cpu(&checkpoint("model_a"))),
        losses::check_mdlm(&mut OnDevice::cpu(&checkpoint("mdlm"))),
        losses::check_ar(ar.config(), &mut OnDevice::cpu(&ar)),
    ];
    println!("largest relative differences {largest:?}");
}

#[test]
fn golden_sampling() {
    let traces = checks::check_sampling_model_a(&mut OnDevice::cpu(&checkpoint("model_a")));
    assert_eq!(traces, 6);
    let ar = checkpoint("ar");
    checks::check_sampling_ar(ar.config(), &mut OnDevice::cpu(&ar));
    checks::check_sampling_mdlm(&mut OnDevice::cpu(&checkpoint("mdlm")));
}

#[test]
fn cached_equals_uncached() {
    let ckpt = stories();
    let (mut cached, mut uncached) = (OnDevice::cpu(&ckpt), OnDevice::cpu(&ckpt));
    for (what, options) in checks::cached_cases(ckpt.config()) {
        let plan = Plan::new(&options).unwrap();
        let largest = checks::check_cached(what, &plan, &mut cached, &mut uncached);
        println!(
            "{what}: {} steps, largest difference {largest:e}",
            plan.nfe()
        );
    }
}

#[test]
fn numbers_that_overflow_are_an_error() {
    broken::check(&mut OnDevice::cpu(&broken::checkpoint()).0);
}

#[test]
fn unusable_batches_end_in_a_sentence() {
    use esolm::engine::Engine;
    use esolm::rows::{Layout, Row, StepRows};
    let mut cpu = OnDevice::cpu(&checkpoint("model_a")).0;
    let layout = |sequences, slots, tokens| Layout {
        sequences,
        slots,
        tokens,
    };
    let message = |result: Result<(), esolm::EngineError>| result.unwrap_err().to_string();
    let short = message(cpu.start(&layout(1, 4, 4), &[1, 2]));
    assert!(short.contains("2 tokens for a layout of 4"), "{short}");
    let foreign = message(cpu.start(&layout(1, 2, 2), &[1, 97]));
    assert!(foreign.contains("token 97"), "{foreign}");
    // A batch that does not fit leaves nothing behind that passes for the cache of the next one.
    let inside = |slot: u32| Row {
        sequence: 0,
        slot,
        position: slot,
        prefix: slot + 1,
        source: slot,
        target: slot,
    };
    let pass = StepRows {
        rows: vec![inside(0), inside(1)],
        sampled: vec![1],
    };
    let forward = |cpu: &mut Engine| {
        pollster::block_on(cpu.forward(&layout(1, 2, 2), &[1, 2], &pass)).unwrap()
    };
    let before = forward(&mut cpu);
    let large = message(cpu.start(&layout(1 << 20, 1 << 20, 1), &[1]));
    assert!(
        large.contains("a batch of 1048576 sequences of 1048576 slots needs"),
        "{large}"
    );

    assert_eq!(forward(&mut cpu), before);

    cpu.start(&layout(1, 2, 2), &[1, 2]).unwrap();
    let row = Row {
        sequence: 0,
        slot: 2,
        position: 0,
        prefix: 1,
        source: 0,
        target: 0,
    };
    let step = StepRows {
        rows: vec![row],
        sampled: vec![0],
    };
    let outside = pollster::block_on(cpu.logits(&step))
        .unwrap_err()
        .to_string();
    assert!(outside.contains("row 0"), "{outside}");
    let empty = pollster::block_on(cpu.logits(&StepRows::default())).unwrap();
    assert!(empty.is_empty());
}

/// The same (seed, sequence) gives the same text alone, in a batch and behind another first sequence.
#[test]
fn a_text_does_not_depend_on_its_batch() {
    check_batches(Weights::F32, Activations::F32);
    for (weights, activations) in ROUNDED {
        check_batches(weights, activations);
    }
}

fn check_batches(weights: Weights, activations: Activations) {
    let ckpt = stories();
    let mut cpu = OnDevice::rounded(&ckpt, weights, activations);
    let mut texts = |first_sequence: u32, batch: usize| {
        let plan = Plan::new(&PlanOptions {
            alpha_0: 0.6,
            first_sequence,
            ..PlanOptions::new(ckpt.config(), batch, 12, 9)
        })
        .unwrap();
        let ids = plan.ids();
        let draw = Draw {
            sampler: Sampler::default(),
            seed: 9,
            noise: None,
        };
        cpu.start(&plan.layout(), &plan.initial_tokens());
        let mut logits = vec![Vec::new(); batch];
        for index in 0..plan.nfe() {
            let step = plan.step_rows(index);
            let all = cpu.logits(&step);
            for (&row, logit) in step.sampled.iter().zip(all.chunks(plan.vocab_size)) {
                logits[step.rows[row as usize].sequence as usize].extend_from_slice(logit);
            }
            cpu.step(&step, &ids, &draw);
        }
        let texts = plan.output(&cpu.tokens());
        texts.into_iter().zip(logits).collect::<Vec<_>>()
    };
    let batch = texts(4, 5);
    for (index, expected) in (0..).zip(&batch) {
        let name = format!("{weights} {activations}, sequence {}", 4 + index);
        assert!(texts(4 + index, 1)[0] == *expected, "{name}");
    }
}
