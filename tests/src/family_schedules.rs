//! Recorded generations of Eso-LMs and AR models of the family's other code, token for token. `ESOLM_GOLDEN_FAMILY`
//! names a folder of such files to use instead of the repository's.
//!
//! A file `NAME.sampling.safetensors` whose traces have a `sort_idx` belongs to an Eso-LM, a file
//! `NAME.forward.safetensors` with `sampling.sample` to an AR model; its network is next to it, as
//! `NAME.weights.safetensors` or in another of the formats of a forward case of that name.

use esolm::checkpoint::Checkpoint;
use esolm::config::ModelConfig;
use esolm::plan::{Plan, PlanOptions, Schedule};
use esolm::rng::gumbel_from_uniform;

use crate::checks::{Trace, check_trace, run_trace};
use crate::family::{files, open};
use crate::{Golden, Runner};

const SAMPLING: &str = ".sampling.safetensors";
const FORWARD: &str = ".forward.safetensors";

/// Runs every trace with its cache and without; returns how many there were.
///
/// # Panics
/// If logits or tokens differ, or there is no trace.
pub fn check_schedules(mut load: impl FnMut(&Checkpoint) -> Box<dyn Runner>) -> usize {
    let mut ran = 0;
    for file in files(SAMPLING) {
        let golden = Golden::read(&file);
        let traces = golden.names().into_iter();
        let traces: Vec<&str> = traces
            .filter_map(|name| name.strip_suffix(".sort_idx"))
            .collect();
        if traces.is_empty() {
            continue;
        }
        let checkpoint =
            open(&file, SAMPLING, &golden).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut runner = load(&checkpoint);
        for trace in &traces {
            check(trace, &golden, &checkpoint, &mut *runner);
        }
        println!("{}: {}", file.display(), traces.join(", "));
        ran += traces.len();
    }
    for file in files(FORWARD) {
        let golden = Golden::read(&file);
        if !golden.has("sampling.sample") {
            continue;
        }
        let checkpoint =
            open(&file, FORWARD, &golden).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        check_ar(&golden, &checkpoint, &mut *load(&checkpoint));
        println!("{}: sampling", file.display());
        ran += 1;
    }
    assert!(ran > 0, "no trace of an Eso-LM");
    ran
}

fn check(name: &str, golden: &Golden, checkpoint: &Checkpoint, runner: &mut dyn Runner) {
    let tensor = |what: &str| format!("{name}.{what}");
    let config = checkpoint.config();
    let order = golden.rows(&tensor("sort_idx"));
    let steps = golden.rows(&tensor("steps"));
    let steps: Vec<[u32; 3]> = steps.iter().map(|s| [s[0], s[1], s[2]]).collect();
    let plan = Plan::from_recorded(&order, &steps, config.mask_index, config.vocab_size).unwrap();
    check_plan(name, &plan, checkpoint);
    for plan in [&plan, &plan.uncached()] {
        check_trace(
            golden,
            name,
            &order,
            plan,
            noise(golden, &tensor("u")),
            runner,
        );
    }
}

/// The AR sampler: the beginning of text, then one token after another.
fn check_ar(golden: &Golden, checkpoint: &Checkpoint, runner: &mut dyn Runner) {
    let sample = golden.rows("sampling.sample");
    let config = ModelConfig {
        length: sample[0].len(),
        bos: golden
            .metadata()
            .get("bos_token_id")
            .map(|bos| bos.parse().unwrap()),
        ..checkpoint.config().clone()
    };
    let plan = Plan::new(&PlanOptions::new(&config, sample.len(), 1, 0)).unwrap();
    let steps = golden.shape("sampling.logits")[1];
    for plan in [&plan, &plan.uncached()] {
        let trace = Trace {
            name: "sampling".into(),
            plan,
            top_p: None,
            logits: golden.f32("sampling.logits"),
            noise: noise(golden, "sampling.u"),
            // Step s draws the token at s + 1.
            place: &|sequence, target| {
                sequence * steps + target as usize - sequence * plan.length - 1
            },
        };
        let tokens = run_trace(&trace, runner);
        assert_eq!(plan.output(&tokens), sample);
    }
}

/// The Gumbel noise from uniforms that were recorded in f32.
fn noise(golden: &Golden, name: &str) -> Vec<f32> {
    let uniforms = golden.f32(name).into_iter();
    uniforms.map(|u| gumbel_from_uniform(u.into())).collect()
}

/// The plan made for the schedule in the trace's name, such as `block_ar4_sar2`, matches the recorded one; if the order
/// is random, except for which position comes when.
fn check_plan(name: &str, recorded: &Plan, checkpoint: &Checkpoint) {
    let name = name.trim_end_matches("_p09");
    let number = |text: &str| text.parse::<usize>().ok();
    let (schedule, steps, sar_steps) = match name.strip_prefix("block") {
        Some(rest) => match rest
            .strip_prefix("_ar")
            .and_then(|rest| rest.split_once("_sar"))
        {
            Some((steps, regions)) => (
                Schedule::BlockAutoregressive,
                number(steps).unwrap(),
                number(regions).unwrap(),
            ),
            None => (Schedule::Block, number(rest).unwrap(), 1),
        },
        None => return,
    };
    let options = PlanOptions {
        length: recorded.length,
        schedule,
        sar_steps,
        ..PlanOptions::new(checkpoint.config(), recorded.sequences.len(), steps, 1)
    };
    let drawn = Plan::new(&options).unwrap();
    for (drawn, recorded) in drawn.sequences.iter().zip(&recorded.sequences) {
        let ranges = |plan: &esolm::plan::SequencePlan| -> Vec<[u32; 3]> {
            plan.steps
                .iter()
                .map(|s| [s.clean, s.start, s.end])
                .collect()
        };
        assert_eq!(ranges(drawn), ranges(recorded), "{name}");
        if schedule == Schedule::BlockAutoregressive {
            assert_eq!(drawn.order, recorded.order, "{name}");
            continue;
        }
        let places = |order: &[u32]| -> Vec<Vec<u32>> {
            let blocks = recorded.order.len() / steps;
            let mut places: Vec<Vec<u32>> = order.chunks(blocks).map(<[u32]>::to_vec).collect();
            places.sort_unstable();
            places
        };
        assert_eq!(places(&drawn.order), places(&recorded.order), "{name}");
    }
}
