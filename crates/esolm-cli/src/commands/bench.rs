//! `esolm bench`: Eso-LM, MDLM and AR on one device in one run, by ratios. The three share a backbone, so one set of weights
//! serves all; only the plan differs.

mod kernels;
mod random;
mod table;

use std::time::Instant;

use esolm::DeviceChoice;
use esolm::config::{AttentionKind, Family, ModelConfig, Prepend};
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::measure::Rates;
use esolm::plan::{Plan, PlanOptions, Schedule};
use esolm::rng::{Purpose, Stream};
use pollster::block_on;
use serde::Serialize;

use crate::arguments::Bench;
use crate::failure::Failure;
use crate::{output, setup};

/// One plan's figures.
#[derive(Serialize)]
pub struct Line {
    /// Family and schedule.
    pub name: String,
    /// Steps T asked for.
    pub steps: usize,
    /// Forward passes of the whole plan.
    pub nfe: usize,
    /// Share of the passes that was run; the other figures are for the whole plan.
    pub share: f64,
    /// Seconds of the whole plan.
    pub seconds: f64,
    /// New tokens a second.
    pub tokens_per_second: f64,
    /// Kernel launches a pass.
    pub dispatches_per_step: f64,
    /// Command submissions a pass.
    pub submits_per_step: f64,
    /// Bytes read back in the passes that were run.
    pub bytes_read: u64,
    /// Rows that went through the network.
    pub rows: usize,
    /// MDLM's seconds at the same T over these.
    pub speedup_over_mdlm: Option<f64>,
}

/// Everything that is printed.
#[derive(Serialize)]
pub struct Report {
    device: String,
    model: String,
    length: usize,
    batch: usize,
    peak_bytes: u64,
    rates: Option<Rates>,
    lines: Vec<Line>,
}

pub fn run(arguments: &Bench) -> Result<(), Failure> {
    if arguments.kernels && arguments.device.device == DeviceChoice::Cpu {
        return Err(Failure::usage(
            "--kernels compares the kernels of a GPU, and --device cpu runs none; give --device gpu",
        ));
    }
    let (checkpoint, model) = match arguments.model.model {
        Some(_) => setup::checkpoint(&arguments.model, false)?,
        None => random::checkpoint(arguments)?,
    };
    setup::note_mask(&checkpoint);
    let mut engine = block_on(Engine::load(&checkpoint, &arguments.device.options()))?;
    drop(checkpoint);
    output::note(&format!("device: {}", engine.device()));
    if arguments.kernels {
        return kernels::run(&engine, model, arguments);
    }
    let rates = block_on(engine.rates())?;
    let [mdlm, eso_lm] = [("MDLM", Family::Mdlm), ("Eso-LM", Family::EsoLm)];
    let mut cases = Vec::new();
    for &steps in &arguments.steps {
        for (name, family) in [mdlm, eso_lm] {
            let name = format!("{name} T={steps}");
            cases.push((name, family, Schedule::Binomial, steps));
        }
    }
    // One token a pass: what the published speed table compares.
    let length = arguments.length;
    for (name, family) in [mdlm, eso_lm] {
        let name = format!("{name} NFE=L");
        cases.push((name, family, Schedule::BlocksShuffled, length));
    }
    cases.push(("AR".into(), Family::Ar, Schedule::Binomial, length));

    let mut lines: Vec<Line> = Vec::new();
    // Each is compared with the MDLM before it.
    let mut mdlm_seconds = None;
    for (name, family, schedule, steps) in cases {
        let options = options(engine.config(), family, schedule, steps, arguments);
        let plan = Plan::new(&options)?;
        output::note(&format!("{name}: {} passes", plan.nfe()));
        let mut line = time(&mut engine, &plan, name, steps, arguments)?;
        match family {
            Family::Mdlm => mdlm_seconds = Some(line.seconds),
            _ => line.speedup_over_mdlm = mdlm_seconds.map(|seconds| seconds / line.seconds),
        }
        lines.push(line);
    }
    let report = Report {
        device: engine.device().to_string(),
        model,
        length,
        batch: arguments.batch,
        peak_bytes: engine.counters().peak_bytes,
        rates,
        lines,
    };
    if arguments.json {
        output::json(&report)
    } else {
        output::text(&table::table(&report))
    }
}

/// The plan of a case over any of the weights.
fn options(
    config: &ModelConfig,
    family: Family,
    schedule: Schedule,
    steps: usize,
    arguments: &Bench,
) -> PlanOptions {
    PlanOptions {
        family,
        attention: if family == Family::Mdlm {
            AttentionKind::Bidirectional
        } else {
            AttentionKind::Causal
        },
        alpha_0: 1.0,
        length: arguments.length,
        schedule,
        prepend: Prepend::None,
        bos: Some(0),
        ..PlanOptions::new(config, arguments.batch, steps, 1)
    }
}

/// Seconds of a whole plan: run from end to end where that fits `max_seconds`, else from passes drawn at random over the plan,
/// each waited for. What a pass costs does not depend on the tokens.
fn time(
    engine: &mut Engine,
    plan: &Plan,
    name: String,
    steps: usize,
    arguments: &Bench,
) -> Result<Line, Failure> {
    let max_seconds = arguments.max_seconds;
    let nfe = plan.nfe();
    let tokens = plan.layout().tokens;
    let all: usize = (0..nfe).map(|step| plan.positions_computed(step)).sum();
    let mut order: Vec<usize> = (0..nfe).collect();
    Stream::new(7, 0, Purpose::Other(0)).shuffle(&mut order);
    let ids = plan.ids();
    let draw = Draw {
        sampler: arguments.filters.sampler(),
        seed: 1,
        noise: None,
    };
    engine.start(&plan.layout(), &plan.initial_tokens())?;
    // The first passes compile kernels and size buffers; they are not counted.
    let widest = (0..nfe).max_by_key(|&step| plan.positions_computed(step));
    for &step in order.iter().take(2).chain(&widest) {
        engine.step(&plan.step_rows(step), &ids, &draw)?;
        block_on(engine.wait())?;
    }
    let before = engine.counters();
    let begin = Instant::now();
    let mut run = 0;
    // A probe that settles whether the whole fits.
    for &step in order.iter().take(4) {
        engine.step(&plan.step_rows(step), &ids, &draw)?;
        block_on(engine.wait())?;
        run += 1;
        if begin.elapsed().as_secs_f64() > max_seconds {
            break;
        }
    }
    let estimate = begin.elapsed().as_secs_f64() / run as f64 * nfe as f64;
    let (seconds, ran, counters) = if estimate <= max_seconds {
        let before = engine.counters();
        let done = block_on(engine.run(plan, draw, false)?.finish())?;
        (done.seconds, nfe, engine.counters().since(&before))
    } else {
        for &step in &order[run.min(nfe)..] {
            if begin.elapsed().as_secs_f64() > max_seconds {
                break;
            }
            engine.step(&plan.step_rows(step), &ids, &draw)?;
            block_on(engine.wait())?;
            run += 1;
        }
        let seconds = begin.elapsed().as_secs_f64() / run as f64 * nfe as f64;
        (seconds, run, engine.counters().since(&before))
    };
    Ok(Line {
        name,
        steps,
        nfe,
        share: ran as f64 / nfe as f64,
        seconds,
        tokens_per_second: tokens as f64 / seconds,
        dispatches_per_step: counters.dispatches as f64 / ran as f64,
        submits_per_step: counters.submits as f64 / ran as f64,
        bytes_read: counters.bytes_read,
        rows: all,
        speedup_over_mdlm: None,
    })
}
