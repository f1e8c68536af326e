//! Samples of every setting, and what the judge says of them.

use serde::Deserialize;

use super::likelihood::report;
use super::{Bench, JUDGED};
use crate::failure::Error;
use crate::metrics;
use crate::plan::Setting;
use crate::record::{self, SAMPLES, Samples};
use crate::tensors;
use crate::words;

/// So often a sample is drawn alone, for the time; the shortest counts, since other work only makes it longer.
const ALONE: usize = 3;
/// Characters of the example text.
const EXAMPLE: usize = 320;

/// The part of `esolm sample --json` that is used.
#[derive(Deserialize)]
struct Drawn {
    device: String,
    length: usize,
    nfe: u64,
    seconds: f64,
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Sequence {
    text: Option<String>,
    tokens: Vec<u32>,
}

/// Draws and judges every setting of the plan.
pub fn all(bench: &Bench) -> Result<(), Error> {
    let settings = bench.plan.settings();
    let mut lines = Vec::new();
    for (index, setting) in settings.iter().enumerate() {
        eprintln!(
            "samples {} of {}: {}",
            index + 1,
            settings.len(),
            setting.key()
        );
        lines.push(one(bench, setting)?);
        record::write(&bench.out.join(SAMPLES), &lines)?;
    }
    Ok(())
}

/// The command line that draws `batch` samples of a setting.
fn arguments(bench: &Bench, setting: &Setting, batch: usize) -> Vec<String> {
    let sampling = &bench.plan.sampling;
    let mut arguments = words![
        "sample",
        "--model",
        Bench::model(&setting.model),
        "--batch",
        batch,
        "--seed",
        sampling.seed,
        "--top-p",
        sampling.top_p,
        "--device",
        bench.device,
        "--quiet",
        "--json",
    ];
    if let Some(alpha_0) = setting.alpha_0 {
        arguments.extend(words!["--alpha0", alpha_0]);
    }
    if let Some((steps, schedule)) = &setting.steps {
        arguments.extend(words!["--steps", steps, "--schedule", schedule]);
    }
    arguments
}

fn one(bench: &Bench, setting: &Setting) -> Result<Samples, Error> {
    let sampling = &bench.plan.sampling;
    let arguments = |batch: usize| arguments(bench, setting, batch);
    let key = format!("{}--sample-{}", setting.model, setting.key());
    let answer = bench.esolm.answer(&key, &arguments(sampling.batch))?;
    let drawn: Drawn = serde_json::from_value(answer.report).map_err(|source| Error::Json {
        what: format!("the answer of `{}`", answer.command),
        source,
    })?;

    // The judge shares the tokenizer, so it reads the tokens themselves, each sample as a window of its own.
    let tokens: Vec<Vec<u32>> = drawn
        .sequences
        .iter()
        .map(|one| one.tokens.clone())
        .collect();
    let mut alone = None;
    for repeat in 0..ALONE {
        let answer = bench
            .esolm
            .answer(&format!("{key}--alone-{repeat}"), &arguments(1))?;
        let seconds = answer.report["seconds"].as_f64().unwrap_or(f64::INFINITY);
        alone = Some(alone.map_or(seconds, |shortest: f64| shortest.min(seconds)));
    }
    let file = format!("data/samples-{}.safetensors", setting.key());
    tensors::write_tokens(&bench.esolm.path(&file), &tokens)?;
    let judged = bench.esolm.answer(
        &(key + JUDGED),
        &words![
            "ppl",
            "--tokens",
            file,
            "--model",
            Bench::model(&bench.plan.judge.name),
            "--device",
            bench.device,
            "--json",
        ],
    )?;
    let judge = report(&judged.command, judged.report)?
        .exact
        .ok_or_else(|| {
            Error::Data(
                "the judge gives no exact likelihood; make it an AR model in the plan".into(),
            )
        })?;
    let entropies: Vec<f64> = tokens
        .iter()
        .map(|tokens| metrics::entropy(tokens))
        .collect();
    let (entropy, entropy_error) = metrics::mean(&entropies);
    Ok(Samples {
        name: setting.model.clone(),
        alpha_0: setting.alpha_0,
        steps: setting.steps.as_ref().map(|(steps, _)| *steps),
        schedule: setting.steps.as_ref().map(|(_, schedule)| schedule.clone()),
        command: answer.command,
        judge_command: judged.command,
        date: answer.date,
        device: drawn.device,
        batch: tokens.len(),
        length: drawn.length,
        nfe: drawn.nfe,
        seconds_per_sample: drawn.seconds / tokens.len() as f64,
        seconds_alone: alone,
        judge,
        entropy,
        entropy_error,
        text: beginning(
            drawn
                .sequences
                .first()
                .and_then(|one| one.text.as_deref())
                .unwrap_or_default(),
            EXAMPLE,
        ),
    })
}

/// The first characters of a text, cut after a word.
pub fn beginning(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    let cut: String = text.chars().take(most).collect();
    let whole = cut
        .rfind(char::is_whitespace)
        .map_or(&*cut, |at| &cut[..at]);
    format!("{whole} ...")
}
