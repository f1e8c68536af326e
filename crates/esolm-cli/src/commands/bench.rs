//! `esolm bench`: Eso-LM, MDLM and AR on one device in one run, as ratios. The three share a backbone, so one set of
//! weights serves all, and only the plan differs. Forms of weights are compared in alternated runs.

mod cases;
mod cost;
mod kernels;
mod random;
mod table;
mod timing;

use std::fmt;
use std::str::FromStr;

use esolm::config::Family;
use esolm::engine::Engine;
use esolm::measure::Rates;
use esolm::measure::prediction::{self, Device};
use esolm::measure::work::Work;
use esolm::{Activations, DeviceChoice, EngineError, LoadOptions, Weights};
use esolm_checkpoint::message::count;
use pollster::block_on;
use serde::Serialize;

use crate::arguments::{Bench, FormatName};
use crate::failure::Failure;
use crate::{output, setup};
use cases::Case;
use cost::Cost;
use timing::Timing;

/// How a model is held in memory: `weights`, or `weights/activations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    weights: Weights,
    activations: Activations,
}

impl FromStr for Form {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let (weights, activations) = text.split_once('/').unwrap_or((text, "f32"));
        let form = Self {
            weights: weights.parse()?,
            activations: activations.parse()?,
        };
        match form.activations == Activations::F32 || form.weights.are_quantised() {
            true => Ok(form),
            false => Err(EngineError::Option {
                option: "form",
                value: text.into(),
                allowed: "f32, f16, q8, q4, q8/q8 or q4/q8",
            }),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.activations {
            Activations::F32 => write!(f, "{}", self.weights),
            activations => write!(f, "{}/{activations}", self.weights),
        }
    }
}

/// The figures of one plan with one form of the weights.
#[derive(Serialize)]
struct Line {
    /// Family and schedule.
    name: String,
    /// Form of the weights and activations.
    form: String,
    /// The requested number of steps T.
    steps: usize,
    /// Forward passes in the whole plan.
    nfe: usize,
    /// Rows processed by the network in the whole plan.
    rows: usize,
    /// The same per token of the texts.
    rows_per_token: f64,
    #[serde(flatten)]
    timing: Timing,
    /// Minimum and maximum predicted seconds, from what the passes must read and compute and from the device's rates.
    predicted: [f64; 2],
    /// New tokens per second.
    tokens_per_second: f64,
    /// Seconds relative to those of the first form in the same round: median, minimum and maximum.
    of_first: Option<[f64; 3]>,
    /// Bytes of weights and cache read per second, and as a share of the memory bandwidth.
    bytes_per_second: f64,
    memory_share: f64,
    /// Floating-point operations per second, and as a share of the device's f32 rate.
    flops: f64,
    flops_share: f64,
    /// MDLM's seconds at the same T, divided by these.
    speedup_over_mdlm: Option<f64>,
}

/// The whole report.
#[derive(Serialize)]
struct Report {
    device: String,
    model: String,
    length: usize,
    batch: usize,
    rounds: usize,
    peak_bytes: u64,
    rates: Rates,
    lines: Vec<Line>,
    /// What each form of the weights costs in likelihood, if a model was given.
    cost: Option<Cost>,
}

pub fn run(arguments: &Bench) -> Result<(), Failure> {
    if arguments.kernels && arguments.device.device == DeviceChoice::Cpu {
        return Err(Failure::usage(
            "--kernels compares the kernels of a GPU, and --device cpu runs none; give --device gpu",
        ));
    }
    let is_random = arguments.model.model.is_none();
    check_steps(arguments, arguments.like.is_some())?;
    let (checkpoint, model) = match is_random {
        false => {
            let (checkpoint, name) = setup::checkpoint(&arguments.model, false)?;
            setup::check_block_size(&arguments.model, checkpoint.config())?;
            (checkpoint, name)
        }
        true => random::checkpoint(arguments)?,
    };
    setup::note_mask(&checkpoint);
    check_steps(arguments, checkpoint.config().decoder.is_some())?;
    let options = arguments.device.options();
    let load = |options: LoadOptions| -> Result<(Form, Engine), Failure> {
        let engine = block_on(Engine::load(&checkpoint, &options))?;
        let device = engine.device();
        output::note(&format!("device: {device}"));
        let (weights, activations) = (device.weights, device.activations);
        let form = Form {
            weights,
            activations,
        };
        Ok((form, engine))
    };
    let with = |form: &Form| LoadOptions {
        weights: Some(form.weights),
        activations: form.activations,
        ..options
    };
    let mut engines = match arguments.compare.is_empty() {
        true => vec![load(options)?],
        false => {
            (arguments.compare.iter().map(|form| load(with(form)))).collect::<Result<_, _>>()?
        }
    };
    drop(checkpoint);
    let (_, first) = &engines[0];
    if arguments.kernels {
        return kernels::run(first, model, arguments);
    }
    let device = first.device().to_string();
    let rates = (engines.iter().map(|(_, engine)| block_on(engine.rates())))
        .collect::<Result<Vec<_>, _>>()?;
    let cost = match is_random || arguments.compare.is_empty() {
        true => None,
        false => Some(Cost::measure(&mut engines)?),
    };
    let mut lines: Vec<Line> = Vec::new();
    // MDLM's seconds with each form; the other families are compared with the preceding MDLM.
    let mut mdlm = Vec::new();
    let cases = Case::all(engines[0].1.config(), arguments);
    for case in cases {
        let mut timed = time(&mut engines, &case, &rates, arguments)?;
        match case.family {
            Family::Mdlm => mdlm = timed.iter().map(|line| line.timing.seconds).collect(),
            _ => {
                for (line, seconds) in timed.iter_mut().zip(&mdlm) {
                    line.speedup_over_mdlm = Some(seconds / line.timing.seconds);
                }
            }
        }
        lines.extend(timed);
    }
    let peaks = engines.iter().map(|(_, e)| e.counters().peak_bytes);
    let report = Report {
        device,
        model,
        length: arguments.length,
        batch: arguments.batch,
        rounds: arguments.rounds,
        peak_bytes: peaks.max().unwrap_or(0),
        rates: rates[0],
        lines,
        cost,
    };
    match arguments.form.format() {
        FormatName::Text => output::text(&table::table(&report)),
        format => output::json(&report, format),
    }
}

fn check_steps(arguments: &Bench, is_decoder: bool) -> Result<(), Failure> {
    match is_decoder && !arguments.steps.is_empty() {
        true => Err(Failure::usage(
            "--steps is for Eso-LMs and their kin, and of a decoder steps of 1, 2 and 4 tokens are timed; leave it out",
        )),
        false => Ok(()),
    }
}

/// Times a case with each form in turn, once per round.
fn time(
    engines: &mut [(Form, Engine)],
    case: &Case,
    rates: &[Rates],
    arguments: &Bench,
) -> Result<Vec<Line>, Failure> {
    let plan = case.plan(engines[0].1.config(), arguments)?;
    let steps = plan.passes();
    let passes = count(steps.len(), "pass");
    output::note(&format!("{}: {passes}", case.name));
    let mut runs: Vec<Vec<Timing>> = vec![Vec::new(); engines.len()];
    for _ in 0..arguments.rounds {
        for ((_, engine), runs) in engines.iter_mut().zip(&mut runs) {
            runs.push(Timing::of(engine, &plan, &steps, arguments)?);
        }
    }
    let rows: usize = steps.iter().map(|step| step.rows.len()).sum();
    let first: Vec<f64> = runs[0].iter().map(|run| run.seconds).collect();
    let cache = arguments.device.kv_cache;
    let lines = engines.iter().zip(rates).zip(runs).enumerate();
    let lines = lines.map(|(index, (((form, engine), own), runs))| {
        let ratios = runs
            .iter()
            .zip(&first)
            .map(|(run, first)| run.seconds / first);
        let of_first = (index > 0).then(|| timing::median_and_range(ratios.collect()));
        let timing = Timing::median(runs);
        let config = engine.config();
        let passes = timing::work(config, form.weights, cache, &steps);
        let launches = match own.kernels {
            Some(_) => timing.dispatches_per_step,
            None => prediction::waits(config.n_blocks),
        };
        let device = Device::from(own);
        let each = passes.iter().map(|work| device.seconds(work, launches));
        let predicted = each.fold([0.0; 2], |all, pass| [all[0] + pass[0], all[1] + pass[1]]);
        let work: Work = passes.into_iter().sum();
        let (bytes_per_second, flops) = (
            work.bytes() / timing.seconds,
            work.operations() / timing.seconds,
        );
        Line {
            name: case.name.clone(),
            form: form.to_string(),
            steps: case.steps,
            nfe: steps.len(),
            rows,
            rows_per_token: rows as f64 / plan.layout().tokens as f64,
            predicted,
            tokens_per_second: plan.layout().tokens as f64 / timing.seconds,
            of_first,
            bytes_per_second,
            memory_share: bytes_per_second / rates[0].memory_bytes,
            flops,
            flops_share: flops / rates[0].flops,
            speedup_over_mdlm: None,
            timing,
        }
    });
    Ok(lines.collect())
}
