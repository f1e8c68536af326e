//! Timing of plans.

use std::time::Instant;

use esolm::config::ModelConfig;
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::measure::work::Work;
use esolm::plan::Plan;
use esolm::rng::{Purpose, Stream};
use esolm::rows::StepRows;
use esolm::{Precision, Weights};
use pollster::block_on;
use serde::Serialize;

use crate::arguments::Bench;
use crate::failure::Failure;

/// The cost of running a plan.
#[derive(Clone, Serialize)]
pub struct Timing {
    /// Seconds of the whole plan; the median over rounds.
    pub seconds: f64,
    /// Their minimum and maximum over rounds.
    pub range: [f64; 2],
    /// Share of the passes that was run; the other figures are for the whole plan.
    pub share: f64,
    /// Kernel launches per pass.
    pub dispatches_per_step: f64,
    /// Command submissions per pass.
    pub submits_per_step: f64,
    /// Bytes read back in the passes that were run.
    pub bytes_read: u64,
}

impl Timing {
    /// Times a plan with this many `passes`: from end to end if that fits the seconds allowed for a line, otherwise
    /// passes drawn at random over the plan, each awaited. The cost of a pass does not depend on the tokens.
    pub fn of(
        engine: &mut Engine,
        plan: &Plan,
        passes: &[StepRows],
        arguments: &Bench,
    ) -> Result<Self, Failure> {
        let max_seconds = arguments.max_seconds;
        let nfe = passes.len();
        let mut order: Vec<usize> = (0..nfe).collect();
        Stream::new(7, 0, Purpose::Other(0)).shuffle(&mut order);
        let ids = plan.ids();
        let draw = Draw {
            sampler: arguments.filters.sampler(),
            seed: 1,
            ..Draw::default()
        };
        engine.start(&plan.layout(), &plan.initial_tokens())?;
        // The first passes compile kernels and size buffers; they are not counted.
        let widest = (0..nfe).max_by_key(|&step| passes[step].rows.len());
        for &step in order.iter().take(2).chain(&widest) {
            engine.step(&passes[step], &ids, &draw)?;
            block_on(engine.wait())?;
        }
        let before = engine.counters();
        let begin = Instant::now();
        let mut run = 0;
        // A probe that decides whether the whole plan fits.
        for &step in order.iter().take(4) {
            engine.step(&passes[step], &ids, &draw)?;
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
                engine.step(&passes[step], &ids, &draw)?;
                block_on(engine.wait())?;
                run += 1;
            }
            let seconds = begin.elapsed().as_secs_f64() / run as f64 * nfe as f64;
            (seconds, run, engine.counters().since(&before))
        };
        Ok(Self {
            seconds,
            range: [seconds; 2],
            share: ran as f64 / nfe as f64,
            dispatches_per_step: counters.dispatches as f64 / ran as f64,
            submits_per_step: counters.submits as f64 / ran as f64,
            bytes_read: counters.bytes_read,
        })
    }

    /// The median time, with the range of all times; the other figures are from the middle run.
    pub fn median(mut runs: Vec<Self>) -> Self {
        runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let [seconds, least, most] = median_and_range(runs.iter().map(|run| run.seconds).collect());
        Self {
            seconds,
            range: [least, most],
            ..runs.swap_remove((runs.len() - 1) / 2)
        }
    }
}

/// Median, minimum and maximum of at least one value.
pub fn median_and_range(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let median = (values[last / 2] + values[last.div_ceil(2)]) / 2.0;
    [median, values[0], values[last]]
}

/// The minimum work of the passes.
pub fn work(
    config: &ModelConfig,
    weights: Weights,
    cache: Precision,
    passes: &[StepRows],
) -> Vec<Work> {
    let of = |step| Work::of(config, weights, cache, step);
    passes.iter().map(of).collect()
}
