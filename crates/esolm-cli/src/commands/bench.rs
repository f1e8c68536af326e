//! `esolm bench`: Eso-LM, MDLM and AR on one device in one run, by ratios. The three share a backbone, so one set of weights
//! serves all; only the plan differs.

mod random;
mod table;

use std::time::Instant;

use esolm::config::{AttentionKind, Family, ModelConfig, Prepend};
use esolm::measure::Rates;
use esolm::plan::{Plan, PlanOptions, Schedule};
use esolm::rng::{Purpose, Stream};
use esolm::sampler::Sampler;
use esolm::{Draw, Engine, GenerateOptions};
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
    let (checkpoint, model) = if arguments.model.model.is_some() {
        setup::open(&arguments.model)?
    } else {
        random::checkpoint(arguments)?
    };
    let mut engine = setup::load(&checkpoint, &arguments.device, false)?;
    drop(checkpoint);
    let length = arguments.length;
    let sampler = Sampler {
        temperature: 1.0,
        top_p: arguments.top_p,
    };
    let rates = match engine.gpu() {
        Some(gpu) => Some(block_on(gpu.rates())?),
        None => None,
    };
    let mut lines: Vec<Line> = Vec::new();
    let mut cases: Vec<(String, Family, Schedule, usize)> = Vec::new();
    for &steps in &arguments.steps {
        cases.push((
            format!("MDLM T={steps}"),
            Family::Mdlm,
            Schedule::Binomial,
            steps,
        ));
        cases.push((
            format!("Eso-LM T={steps}"),
            Family::EsoLm,
            Schedule::Binomial,
            steps,
        ));
    }
    // One token a pass: what the published speed table compares.
    cases.push((
        "MDLM NFE=L".into(),
        Family::Mdlm,
        Schedule::BlocksShuffled,
        length,
    ));
    cases.push((
        "Eso-LM NFE=L".into(),
        Family::EsoLm,
        Schedule::BlocksShuffled,
        length,
    ));
    cases.push(("AR".into(), Family::Ar, Schedule::Binomial, length));
    for (name, family, schedule, steps) in cases {
        let plan = Plan::new(&options(
            engine.config(),
            family,
            schedule,
            steps,
            arguments,
        ))?;
        output::note(&format!("{name}: {} passes", plan.nfe()));
        let mut line = time(
            &mut engine,
            &plan,
            name,
            steps,
            sampler,
            arguments.max_seconds,
        )?;
        let mdlm = lines.iter().find(|other| {
            other.name == line.name.replace("Eso-LM", "MDLM") && other.name != line.name
        });
        let mdlm = mdlm.or_else(|| {
            lines
                .iter()
                .find(|o| line.name == "AR" && o.name == "MDLM NFE=L")
        });
        line.speedup_over_mdlm = mdlm.map(|other| other.seconds / line.seconds);
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
    sampler: Sampler,
    max_seconds: f64,
) -> Result<Line, Failure> {
    let nfe = plan.nfe();
    let tokens = plan.layout().tokens;
    let all: usize = (0..nfe).map(|step| plan.positions_computed(step)).sum();
    let mut order: Vec<usize> = (0..nfe).collect();
    Stream::new(7, 0, Purpose::Other(0)).shuffle(&mut order);
    let ids: Vec<u32> = plan.sequences.iter().map(|s| s.sequence).collect();
    let mask_index = engine.config().mask_index;
    let draw = Draw {
        sampler,
        seed: 1,
        sequence_ids: &ids,
        noise: None,
        mask_index,
    };
    engine.start(&plan.layout(), &plan.initial_tokens())?;
    // The first passes compile kernels and size buffers; they are not counted.
    let widest = (0..nfe).max_by_key(|&step| plan.positions_computed(step));
    for &step in order.iter().take(2).chain(&widest) {
        engine.step(&plan.step_rows(step), &draw)?;
        block_on(engine.wait())?;
    }
    let before = engine.counters();
    let begin = Instant::now();
    let mut run = 0;
    // A probe that settles whether the whole fits.
    for &step in order.iter().take(4) {
        engine.step(&plan.step_rows(step), &draw)?;
        block_on(engine.wait())?;
        run += 1;
        if begin.elapsed().as_secs_f64() > max_seconds {
            break;
        }
    }
    let estimate = begin.elapsed().as_secs_f64() / run as f64 * nfe as f64;
    let (seconds, ran, counters) = if estimate <= max_seconds {
        let how = GenerateOptions {
            sampler,
            seed: 1,
            observe: false,
        };
        let done = block_on(engine.run(plan, &how)?.finish())?;
        (done.seconds, nfe, done.counters)
    } else {
        for &step in &order[run.min(nfe)..] {
            if begin.elapsed().as_secs_f64() > max_seconds {
                break;
            }
            engine.step(&plan.step_rows(step), &draw)?;
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
