//! The CPU executor against the published code's golden numbers, and its cache against none.

use esolm::plan::{Plan, PlanOptions, Schedule};
use esolm_tests::{Cpu, checkpoint, checks, stories};

#[test]
fn golden_forward() {
    for (model, count) in [("model_a", 14), ("mdlm", 1), ("ar", 1)] {
        let (cases, largest) = checks::check_forward(model, &mut Cpu::load(&checkpoint(model)));
        println!("{model}: {cases} cases, largest difference {largest:e}");
        assert_eq!(cases, count);
    }
}

#[test]
fn golden_sampling() {
    let traces = checks::check_sampling_model_a(&mut Cpu::load(&checkpoint("model_a")));
    assert_eq!(traces, 6);
    let ar = checkpoint("ar");
    checks::check_sampling_ar(ar.config(), &mut Cpu::load(&ar));
    checks::check_sampling_mdlm(&mut Cpu::load(&checkpoint("mdlm")));
}

#[test]
fn cached_equals_uncached() {
    let ckpt = stories();
    let base = PlanOptions {
        alpha_0: 1.0,
        ..PlanOptions::new(ckpt.config(), 2, 16, 3)
    };
    let some = |positions: &[u32]| positions.iter().map(|&p| (p, 100 + p)).collect();
    let cases = [
        ("alpha_0 = 1", base.clone()),
        (
            "alpha_0 = 0.5",
            PlanOptions {
                alpha_0: 0.5,
                ..base.clone()
            },
        ),
        (
            "alpha_0 = 0",
            PlanOptions {
                alpha_0: 0.0,
                ..base.clone()
            },
        ),
        (
            "blocks",
            PlanOptions {
                schedule: Schedule::Blocks,
                ..base.clone()
            },
        ),
        (
            "shuffled blocks",
            PlanOptions {
                schedule: Schedule::BlocksShuffled,
                alpha_0: 0.75,
                ..base.clone()
            },
        ),
        (
            "ragged prompts",
            PlanOptions {
                known: vec![some(&[0, 1, 2, 3, 4, 5, 6]), some(&[0])],
                ..base.clone()
            },
        ),
        (
            "infill",
            PlanOptions {
                alpha_0: 0.5,
                known: vec![some(&[0, 1, 40, 41, 42]), some(&[60, 126, 127])],
                ..base.clone()
            },
        ),
    ];
    let (mut cached, mut uncached) = (Cpu::load(&ckpt), Cpu::load(&ckpt));
    for (what, options) in cases {
        let plan = Plan::new(&options).unwrap();
        let largest = checks::check_cached(what, &plan, &mut cached, &mut uncached);
        println!(
            "{what}: {} steps, largest difference {largest:e}",
            plan.nfe()
        );
    }
}
