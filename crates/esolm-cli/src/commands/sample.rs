//! `esolm sample`: options become a request, its events are shown, and the text is printed.

mod given;
mod lines;
mod report;
mod show;
mod watch;

use std::io::{self, IsTerminal};

use esolm::config::Family;
use esolm::plan::Schedule;
use esolm::trace::{Counters, Event, Footer, Header};
use esolm_checkpoint::message::count;
use serde::Serialize;

use crate::arguments::{FormatName, Sample};
use crate::failure::Failure;
use crate::files::Pending;
use crate::{interrupts, output, setup};
use report::Sequence;
use show::Show;

/// Separates the texts of a batch.
const SEPARATOR: &str = "----\n";

/// `--format json`.
#[derive(Serialize)]
struct Report<'a> {
    /// The header of a trace, with the passes of all attempts.
    #[serde(flatten)]
    header: Header,
    device: String,
    interrupted: bool,
    /// Texts in which the model extended a given word in every attempt, as indices within the batch.
    run_on: &'a [usize],
    /// Texts ended by --stop or --stop-string, likewise.
    ended: &'a [usize],
    rows: usize,
    seconds: f64,
    tokens_per_second: f64,
    counters: Counters,
    sequences: Vec<Sequence>,
}

pub fn run(arguments: Sample) -> Result<(), Failure> {
    if arguments.job.input.is_some() {
        return lines::run(&arguments);
    }
    let is_json = arguments.form.format() != FormatName::Text || arguments.trace.is_some();
    if arguments.logprobs && !is_json {
        return Err(Failure::usage(
            "--logprobs are told in JSON; give --format json or jsonl, or --trace FILE",
        ));
    }
    let files = setup::open(&arguments.source, arguments.quiet)?;
    let request = given::request(&arguments)?;
    // Bad requests and files that cannot be written are reported before the model is loaded.
    files.plan(&request)?;
    let trace = arguments.trace.as_deref().map(Pending::create);
    let mut trace = trace.transpose()?;
    let model = setup::load(files, &arguments.device, arguments.quiet)?;
    let mut generation = model.generate(request);
    if !arguments.watch && trace.is_none() {
        generation = generation.unobserved();
    }
    interrupts::stop(generation.stop_flag());

    let mut show = Show::new(&arguments, model.codec());
    let mut first = None;
    let mut written = None;
    for event in generation.blocking() {
        let event = event?;
        if let Some(trace) = &mut trace {
            trace.json_line(&event)?;
        }
        match event {
            Event::Header(header) => {
                let notes = announcements(&header, &arguments);
                for note in notes.iter().filter(|_| !arguments.quiet) {
                    show.note(note)?;
                }
                show.begin(&header);
                first.get_or_insert(header);
            }
            Event::Step(step) => show.step(&step)?,
            Event::Footer(footer) => written = Some(footer),
        }
    }
    show.end()?;
    trace.map(Pending::commit).transpose()?;
    let (Some(header), Some(footer)) = (first, written) else {
        return Err(esolm::Error::Crashed.into());
    };
    print(&arguments, &model, header, &footer)?;
    match footer.interrupted {
        true => Err(Failure::interrupted()),
        false => Ok(()),
    }
}

/// Notes for the start of an attempt.
fn announcements(header: &Header, arguments: &Sample) -> Vec<String> {
    if header.attempt > 0 {
        return vec![format!(
            "{} of {} ran on at a given word and {} drawn again",
            header.texts.len(),
            count(header.batch, "text"),
            if header.texts.len() == 1 { "is" } else { "are" }
        )];
    }
    let altered = (header.altered.iter())
        .map(|altered| format!("warning: {altered} in the prompt, and the text goes on from that"));
    let window = header.window.map(|window| {
        format!(
            "the text is longer than the model's context: past {window} tokens what is written sees the last {window} alone, its own included, which is not exact"
        )
    });
    let seed = (arguments.seed.is_none()).then(|| format!("seed: {}", header.seed));
    let steps = arguments.steps.and_then(|_| surplus_steps(header));
    altered.chain(window).chain(steps).chain(seed).collect()
}

/// A note if there are more steps than tokens to choose: each step reveals at least one.
fn surplus_steps(header: &Header) -> Option<String> {
    let tokens = match header.family {
        Family::Bd3Lm => header.block_size?,
        _ => header.length,
    };
    let is_surplus = header.schedule == Schedule::Confidence && header.steps > tokens;
    let of = match header.family {
        Family::Bd3Lm => "a block",
        _ => "the text",
    };
    is_surplus.then(|| {
        format!(
            "{of} of {} takes no more steps than that, so the further ones of {} are not run",
            count(tokens, "token"),
            header.steps
        )
    })
}

fn print(
    arguments: &Sample,
    model: &esolm::Model,
    header: Header,
    footer: &Footer,
) -> Result<(), Failure> {
    if !arguments.quiet && !footer.interrupted && !footer.run_on.is_empty() {
        output::note(&format!(
            "the model kept running on at a given word in {} of {}; move the gap, or try another --seed",
            footer.run_on.len(),
            count(header.batch, "text")
        ));
    }
    if !arguments.quiet && !footer.ended.is_empty() {
        output::note(&format!(
            "{} of {} ended early",
            footer.ended.len(),
            count(header.batch, "text")
        ));
    }
    let tokens = written(&header, footer);
    let tokens_per_second = tokens as f64 / footer.seconds.max(1e-9);
    if !arguments.quiet {
        output::note(&format!(
            "{} in {:.2} s ({tokens_per_second:.1} tokens/s), {}, {}{}",
            count(tokens, "token"),
            footer.seconds,
            count(footer.nfe, "pass"),
            count(footer.rows, "row"),
            if footer.interrupted {
                ", interrupted"
            } else {
                ""
            }
        ));
    }
    let (format, raw) = (arguments.form.format(), arguments.raw);
    if format == FormatName::Jsonl {
        let mut lines = report::lines(model, &header, footer, raw).into_iter();
        return lines.try_for_each(|line| output::json_line(&line));
    }
    if format == FormatName::Json {
        let report = Report {
            device: model.device().to_string(),
            interrupted: footer.interrupted,
            run_on: &footer.run_on,
            ended: &footer.ended,
            rows: footer.rows,
            seconds: footer.seconds,
            tokens_per_second,
            counters: footer.counters,
            sequences: report::sequences(model, &header, footer, raw),
            header: Header {
                nfe: footer.nfe,
                ..header
            },
        };
        return output::json(&report, format);
    }
    let texts = report::texts(model, &header, footer, raw);
    let mut text = texts.join(&format!("\n{SEPARATOR}")) + "\n";
    if io::stdout().is_terminal() {
        text = output::printable(&text);
    }
    output::text(&text)
}

/// The number of tokens that the model wrote.
fn written(header: &Header, footer: &Footer) -> usize {
    let tokens = footer.tokens.iter().flatten();
    let known = tokens.filter(|&&token| token != header.mask_index).count();
    let texts = header.known.iter().zip(&footer.tokens);
    let given =
        texts.flat_map(|(known, text)| known.iter().filter(|(at, _)| (*at as usize) < text.len()));
    known.saturating_sub(given.count())
}
