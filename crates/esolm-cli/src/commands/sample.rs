//! `esolm sample`: options become a request, the events of its generation are shown, the text is printed.

mod given;
mod show;
mod watch;

use std::io::{self, IsTerminal};

use esolm::trace::{Counters, Event, Footer, Header};
use serde::Serialize;

use crate::arguments::Sample;
use crate::failure::Failure;
use crate::files::Pending;
use crate::{interrupts, output, setup};
use show::Show;

/// Between the texts of a batch.
const SEPARATOR: &str = "----\n";

/// `--json`.
#[derive(Serialize)]
struct Report<'a> {
    /// That of a trace, with the passes of all attempts.
    #[serde(flatten)]
    header: Header,
    device: String,
    interrupted: bool,
    /// Texts in which the model ran on at a given word to the last, as indices within the batch.
    run_on: &'a [usize],
    /// Texts that a rule of --stop ended, likewise.
    ended: &'a [usize],
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
    text: Option<&'a str>,
    tokens: &'a [u32],
}

pub fn run(arguments: Sample) -> Result<(), Failure> {
    let files = setup::open(&arguments.source, arguments.quiet)?;
    let request = given::request(&arguments)?;
    // Bad requests and files that cannot be written are said before the model is loaded.
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
                let notes = announcements(&header, arguments.seed.is_none());
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

/// What to say of an attempt that begins.
fn announcements(header: &Header, is_random: bool) -> Vec<String> {
    if header.attempt > 0 {
        return vec![format!(
            "{} of {} texts ran on at a given word and are drawn again",
            header.texts.len(),
            header.batch
        )];
    }
    let altered = (header.altered.iter())
        .map(|altered| format!("warning: {altered} in the prompt, and the text goes on from that"));
    let window = header.window.map(|window| {
        format!(
            "the text is longer than the model's context: past {window} tokens what is written sees the last {window} alone, its own included, which is not exact"
        )
    });
    let seed = is_random.then(|| format!("seed: {}", header.seed));
    altered.chain(window).chain(seed).collect()
}

fn print(
    arguments: &Sample,
    model: &esolm::Model,
    header: Header,
    footer: &Footer,
) -> Result<(), Failure> {
    if !arguments.quiet && !footer.interrupted && !footer.run_on.is_empty() {
        output::note(&format!(
            "in {} of the texts the model kept running on at a given word; move the gap, or try another --seed",
            footer.run_on.len()
        ));
    }
    if !arguments.quiet && !footer.ended.is_empty() {
        output::note(&format!(
            "{} of {} texts ended before their length",
            footer.ended.len(),
            header.batch
        ));
    }
    let tokens = count(&header, footer);
    let tokens_per_second = tokens as f64 / footer.seconds.max(1e-9);
    if !arguments.quiet {
        output::note(&format!(
            "{tokens} tokens in {:.2} s ({tokens_per_second:.1} tokens/s), {} passes, {} rows{}",
            footer.seconds,
            footer.nfe,
            footer.rows,
            if footer.interrupted {
                ", interrupted"
            } else {
                ""
            }
        ));
    }
    let raw = model.codec().filter(|_| arguments.raw);
    let texts: Vec<String> = (footer.tokens.iter().zip(&footer.text))
        .map(|(tokens, text)| match raw {
            Some(codec) if !tokens.contains(&header.mask_index) => codec.decode(tokens),
            _ => text.clone(),
        })
        .collect();
    if arguments.json {
        let numbered = (header.first..).zip(texts.iter().zip(&footer.tokens));
        return output::json(&Report {
            device: model.device().to_string(),
            interrupted: footer.interrupted,
            run_on: &footer.run_on,
            ended: &footer.ended,
            rows: footer.rows,
            seconds: footer.seconds,
            tokens_per_second,
            counters: footer.counters,
            sequences: numbered
                .map(|(sequence, (text, tokens))| Sequence {
                    sequence,
                    text: model.codec().map(|_| &text[..]),
                    tokens,
                })
                .collect(),
            header: Header {
                nfe: footer.nfe,
                ..header
            },
        });
    }
    let mut text = texts.join(&format!("\n{SEPARATOR}")) + "\n";
    if io::stdout().is_terminal() {
        text = output::printable(&text);
    }
    output::text(&text)
}

/// How many tokens the model wrote.
fn count(header: &Header, footer: &Footer) -> usize {
    let tokens = footer.tokens.iter().flatten();
    let known = tokens.filter(|&&token| token != header.mask_index).count();
    let texts = header.known.iter().zip(&footer.tokens);
    let given =
        texts.flat_map(|(known, text)| known.iter().filter(|(at, _)| (*at as usize) < text.len()));
    known.saturating_sub(given.count())
}
