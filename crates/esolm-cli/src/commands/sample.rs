//! `esolm sample`: a plan is drawn, the engine runs it, the text comes out.

mod given;
mod show;
mod trace;
mod watch;

use std::io::{self, IsTerminal};

use std::sync::atomic::{AtomicBool, Ordering};

use esolm::plan::Plan;
use esolm::request::{self, Given, MOST_REDRAWS};
use esolm::{Counters, GenerateOptions, Generation, Run};
use serde::Serialize;

use crate::arguments::Sample;
use crate::failure::Failure;
use crate::{output, setup};
use show::Show;
use trace::Trace;

/// Between the texts of a batch.
const SEPARATOR: &str = "----\n";

/// The name of the model with everything else that decides what is written.
#[derive(Debug, Clone, Serialize)]
struct Settings {
    model: String,
    #[serde(flatten)]
    resolved: request::Settings,
}

/// `--json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    settings: &'a Settings,
    device: String,
    interrupted: bool,
    nfe: usize,
    rows: usize,
    seconds: f64,
    tokens_per_second: f64,
    counters: Counters,
    sequences: Vec<Sequence<'a>>,
}

#[derive(Serialize)]
struct Sequence<'a> {
    sequence: u32,
    /// `null` without a tokenizer.
    text: Option<String>,
    tokens: &'a [u32],
}

pub fn run(arguments: Sample) -> Result<(), Failure> {
    let (checkpoint, model) = setup::open(&arguments.model)?;
    let config = checkpoint.config();
    let codec = setup::codec(&checkpoint, arguments.tokenizer.as_deref())?;
    let resolved = given::request(&arguments, codec.is_some())?.resolve(config, codec.as_ref())?;
    let settings = Settings {
        model,
        resolved: resolved.settings.clone(),
    };
    let given = &resolved.given;
    let mut plan = resolved.plan()?;
    let new_trace = |plan: &Plan| match &arguments.trace {
        Some(path) => Trace::create(path, &settings, config, given, plan).map(Some),
        None => Ok(None),
    };
    // A file that cannot be written is said before the model is loaded.
    let mut trace = new_trace(&plan)?;
    if arguments.seed.is_none() && !arguments.quiet {
        output::note(&format!("seed: {}", resolved.settings.seed));
    }
    let mut engine = setup::load(&checkpoint, &arguments.device, arguments.quiet)?;
    let device = engine.device().to_string();

    let stop = setup::interrupts("Ctrl-C will not print what was written so far");
    let options = GenerateOptions {
        sampler: resolved.settings.sampler(),
        seed: resolved.settings.seed,
        observe: arguments.watch || trace.is_some(),
    };
    let mut attempt = 0;
    let (generation, interrupted) = loop {
        let show = Show::new(&arguments, &plan, given, codec.as_ref());
        let run = engine.run(&plan, &options)?;
        let (generation, interrupted) = finish(run, trace.as_mut(), show, &stop)?;
        let broken = resolved.broken(&generation.tokens, codec.as_ref());
        if interrupted || broken.is_empty() {
            break (generation, interrupted);
        }
        // Drawing again until the words are whole draws from the model's distribution given that they are.
        attempt += 1;
        if attempt > MOST_REDRAWS {
            output::note(&format!(
                "in {} of the texts the model kept writing on at a given word; put the gap elsewhere or try another --seed",
                broken.len()
            ));
            break (generation, interrupted);
        }
        if !arguments.quiet {
            output::note(&format!(
                "{} of {} texts went on with a given word and are drawn again",
                broken.len(),
                resolved.settings.batch
            ));
        }
        resolved.redraw(&mut plan, &broken, attempt)?;
        trace = new_trace(&plan)?;
    };

    let texts = resolved.texts(&generation.tokens, codec.as_ref(), arguments.raw);
    if let Some(trace) = trace {
        trace.end(&generation, codec.as_ref(), &texts, interrupted)?;
    }
    let written = written(&generation, given, config.mask_index);
    let tokens_per_second = written as f64 / generation.seconds.max(1e-9);
    if !arguments.quiet {
        output::note(&format!(
            "{written} tokens in {:.2} s ({tokens_per_second:.1} tokens/s), {} passes, {} rows{}",
            generation.seconds,
            generation.nfe,
            generation.rows,
            if interrupted { ", interrupted" } else { "" }
        ));
    }
    if arguments.json {
        output::json(&Report {
            device,
            interrupted,
            nfe: generation.nfe,
            rows: generation.rows,
            seconds: generation.seconds,
            tokens_per_second,
            counters: generation.counters,
            sequences: (resolved.settings.first..)
                .zip(&generation.tokens)
                .zip(&texts)
                .map(|((sequence, tokens), text)| Sequence {
                    sequence,
                    text: codec.is_some().then(|| text.clone()),
                    tokens,
                })
                .collect(),
            settings: &settings,
        })?;
    } else {
        let mut text = texts.join(&format!("\n{SEPARATOR}")) + "\n";
        if io::stdout().is_terminal() {
            text = output::printable(&text);
        }
        output::text(&text)?;
    }
    match interrupted {
        true => Err(Failure::interrupted()),
        false => Ok(()),
    }
}

/// Takes a run to its end, or to the step at which the user stops it; the latter is what the answer says last.
fn finish(
    mut run: Run,
    mut trace: Option<&mut Trace>,
    mut show: Show,
    stop: &AtomicBool,
) -> Result<(Generation, bool), Failure> {
    while !stop.load(Ordering::SeqCst)
        && let Some(event) = pollster::block_on(run.next())?
    {
        if let Some(trace) = &mut trace {
            trace.step(&event)?;
        }
        show.step(&event)?;
    }
    let interrupted = stop.load(Ordering::SeqCst);
    let generation = pollster::block_on(run.stop())?;
    show.end()?;
    Ok((generation, interrupted))
}

/// How many tokens the model wrote.
fn written(generation: &Generation, given: &Given, mask: u32) -> usize {
    let known = generation
        .tokens
        .iter()
        .flatten()
        .filter(|&&token| token != mask);
    let given: usize = given.known.iter().map(Vec::len).sum();
    known.count().saturating_sub(given)
}
