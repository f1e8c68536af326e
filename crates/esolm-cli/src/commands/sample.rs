//! `esolm sample`: a plan is drawn, the engine runs it, the text comes out.

mod given;
mod show;
mod trace;
mod watch;

use std::io::{self, IsTerminal};

use std::sync::atomic::{AtomicBool, Ordering};

use esolm::config::{Family, ModelConfig};
use esolm::plan::{Plan, PlanOptions};
use esolm::sampler::Sampler;
use esolm::text::TextCodec;
use esolm::{Counters, GenerateOptions, Generation, Run};
use serde::Serialize;

use crate::arguments::{Sample, ScheduleName};
use crate::failure::Failure;
use crate::{output, setup};
use given::Given;
use show::Show;
use trace::Trace;

/// So often a text is drawn again in which the model went on with a given word.
const MOST_REDRAWS: u32 = 32;
/// Between the texts of a batch.
const SEPARATOR: &str = "----\n";

/// Everything that decides what is written, as it was resolved from options, model and defaults.
#[derive(Debug, Clone, Serialize)]
struct Settings {
    model: String,
    family: Family,
    length: usize,
    alpha_0: f64,
    steps: usize,
    schedule: esolm::plan::Schedule,
    top_p: Option<f32>,
    temperature: f32,
    seed: u64,
    first: u32,
    batch: usize,
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
    let given = Given::new(&arguments, config, codec.as_ref())?;
    let settings = settings(&arguments, model, config, &given)?;
    let plan_options = PlanOptions {
        family: config.family,
        attention: config.attention,
        length: settings.length,
        alpha_0: settings.alpha_0,
        steps: settings.steps,
        schedule: settings.schedule,
        seed: settings.seed,
        first_sequence: settings.first,
        known: given.known.clone(),
        prepend: config.prepend,
        bos: given.bos,
        mask_index: config.mask_index,
        vocab_size: config.vocab_size,
    };
    let mut plan = Plan::new(&plan_options)?;
    let new_trace = |plan: &Plan| match &arguments.trace {
        Some(path) => Trace::create(path, &settings, config, &given, plan).map(Some),
        None => Ok(None),
    };
    // A file that cannot be written is said before the model is loaded.
    let mut trace = new_trace(&plan)?;
    if arguments.seed.is_none() && !arguments.quiet {
        output::note(&format!("seed: {}", settings.seed));
    }
    let mut engine = setup::load(&checkpoint, &arguments.device, arguments.quiet)?;
    let device = engine.device().to_string();
    let mask = config.mask_index;

    let stop = setup::interrupts("Ctrl-C will not print what was written so far");
    let options = GenerateOptions {
        sampler: Sampler {
            temperature: settings.temperature,
            top_p: settings.top_p,
        },
        seed: settings.seed,
        observe: arguments.watch || trace.is_some(),
    };
    let mut attempt = 0;
    let (generation, interrupted) = loop {
        let show = Show::new(&arguments, &plan, &given, codec.as_ref());
        let run = engine.run(&plan, &options)?;
        let (generation, interrupted) = finish(run, trace.as_mut(), show, &stop)?;
        let broken = given.broken(&generation.tokens, codec.as_ref());
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
                settings.batch
            ));
        }
        redraw(&mut plan, &plan_options, &broken, attempt)?;
        trace = new_trace(&plan)?;
    };

    let texts = texts(&generation, codec.as_ref(), &given, mask, arguments.raw);
    if let Some(trace) = trace {
        trace.end(&generation, codec.as_ref(), &texts, interrupted)?;
    }
    let written = written(&generation, &given, mask);
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
            sequences: (settings.first..)
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

/// Gives the texts `broken` other random numbers: those of a number that no batch reaches, so that a text comes out the same alone
/// and in a batch.
fn redraw(
    plan: &mut Plan,
    options: &PlanOptions,
    broken: &[usize],
    attempt: u32,
) -> Result<(), Failure> {
    for &index in broken {
        let number = options.first_sequence.wrapping_add(index as u32);
        let one = PlanOptions {
            first_sequence: number.wrapping_add(attempt * given::MAX_BATCH as u32),
            known: vec![options.known[index].clone()],
            ..options.clone()
        };
        plan.sequences[index] = Plan::new(&one)?.sequences.swap_remove(0);
    }
    Ok(())
}

/// Fills in what was not given, and refuses what the model's family does not know.
fn settings(
    arguments: &Sample,
    model: String,
    config: &ModelConfig,
    given: &Given,
) -> Result<Settings, Failure> {
    let autoregressive = config.family == Family::Ar;
    if autoregressive {
        let foreign = [
            ("--alpha0", arguments.alpha0.is_some()),
            ("--steps", arguments.steps.is_some()),
            (
                "--schedule",
                arguments
                    .schedule
                    .is_some_and(|schedule| schedule != ScheduleName::LeftToRight),
            ),
        ];
        if let Some((option, _)) = foreign.iter().find(|(_, is_given)| *is_given) {
            return Err(Failure::usage(format!(
                "{option} has no meaning for an AR model, which writes from left to right; leave it out"
            )));
        }
    }
    if config.family == Family::Mdlm && arguments.alpha0.is_some_and(|alpha_0| alpha_0 != 1.0) {
        return Err(Failure::usage(
            "--alpha0 has no meaning for an MDLM, which writes all by diffusion; leave it out",
        ));
    }
    Ok(Settings {
        model,
        family: config.family,
        length: given.length,
        alpha_0: match config.family {
            Family::EsoLm => arguments.alpha0.or(config.alpha_0).unwrap_or(1.0),
            Family::Mdlm => 1.0,
            Family::Ar => 0.0,
        },
        steps: arguments.steps.unwrap_or(given.length),
        schedule: match arguments.schedule {
            Some(schedule) => schedule.into(),
            None if autoregressive => esolm::plan::Schedule::LeftToRight,
            None => esolm::plan::Schedule::Binomial,
        },
        top_p: arguments.top_p,
        temperature: arguments.temperature,
        seed: arguments.seed.unwrap_or_else(random_seed),
        first: arguments.first,
        batch: given.known.len(),
    })
}

/// A seed that nobody chose; short enough to be typed again.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
}

/// The texts to print; where a generation was interrupted, unknown stretches show as underscores.
fn texts(
    generation: &Generation,
    codec: Option<&TextCodec>,
    given: &Given,
    mask: u32,
    raw: bool,
) -> Vec<String> {
    let numbers = |tokens: &[u32]| {
        let numbers: Vec<String> = tokens.iter().map(u32::to_string).collect();
        numbers.join(" ")
    };
    (generation.tokens.iter().zip(&given.until))
        .map(|(tokens, &until)| match codec {
            None => numbers(tokens),
            Some(codec) if tokens.contains(&mask) => tokens
                .chunk_by(|a, b| (*a == mask) == (*b == mask))
                .map(|stretch| match stretch[0] == mask {
                    true => " ____ ".into(),
                    false => codec.decode_plain(stretch),
                })
                .collect(),
            Some(codec) if raw => codec.decode(tokens),
            Some(codec) => codec.text(tokens, until),
        })
        .collect()
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
