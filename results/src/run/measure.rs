//! What the trained models are measured by: the likelihood of the hold-out, and samples that the judge scores.

use std::collections::BTreeSet;

use super::{Bench, HOLDOUT, JUDGED};
use crate::corpus::{SEPARATOR, beginning};
use crate::error::Error;
use crate::metrics;
use crate::plan::{Model, Setting};
use crate::program::json;
use crate::record::{self, LIKELIHOOD, Likelihood, SAMPLES, Samples};
use crate::reports::{Perplexity, Sampled};
use esolm_core::config::Family;

/// How often a sample is drawn alone, for the time; the shortest counts, since other work only makes it longer.
const ALONE: usize = 3;
/// Characters of the example text.
const EXAMPLE: usize = 320;

/// A measurement of the hold-out.
struct Scoring {
    name: String,
    alpha_0: Option<f64>,
    whole: bool,
    /// Of the answer.
    key: String,
    command: String,
}

/// Every model on the hold-out; each Eso-LM that is compared also on its first windows at other alpha_0, and with more orders.
fn scorings(bench: &Bench) -> Vec<Scoring> {
    let settings = &bench.plan.likelihood;
    let mut all = Vec::new();
    for model in bench.plan.all() {
        let mut runs = vec![(model.alpha_0, settings.orders, true)];
        let is_control = bench.plan.controls.contains(model);
        if model.alpha_0.is_some() && settings.cross_windows > 0 && !is_control {
            let cross = settings.cross.iter();
            runs.extend(cross.map(|&alpha_0| (Some(alpha_0), settings.orders, false)));
            if settings.more_orders > 0 {
                runs.push((model.alpha_0, settings.more_orders, false));
            }
        }
        let scored = runs.into_iter();
        all.extend(
            scored.map(|(alpha_0, orders, whole)| scoring(bench, model, alpha_0, orders, whole)),
        );
    }
    all
}

/// Bound and exact likelihood on the whole hold-out, or the exact one on its first windows.
fn scoring(
    Bench { esolm, plan, .. }: &Bench,
    model: &Model,
    alpha_0: Option<f64>,
    orders: usize,
    whole: bool,
) -> Scoring {
    let settings = &plan.likelihood;
    let (name, device, seed) = (model.name.clone(), &esolm.device, settings.seed);
    let mut key = format!("{name}--ppl");
    let mut command = format!(
        "esolm ppl {HOLDOUT} --model train/{name}/model --separator '{SEPARATOR}' --seed {seed} --device {device} --json"
    );
    if let Some(alpha_0) = alpha_0 {
        command += &format!(" --alpha0 {alpha_0} --orders {orders}");
        key += &format!("-a{alpha_0}");
    }
    if !whole {
        command += &format!(" --draws 0 --max-windows {}", settings.cross_windows);
        key += "-first";
        if orders != settings.orders {
            key += &format!("-{orders}");
        }
    } else if let Some(options) = &model.ppl {
        command += &format!(" {options}");
    } else if model.family != Family::Ar {
        command += &format!(" --draws {}", settings.draws);
    }
    Scoring {
        name,
        alpha_0,
        whole,
        key,
        command,
    }
}

/// The commands that draw samples, of this many texts, and have the judge score them.
fn sampling(
    Bench { esolm, plan, .. }: &Bench,
    setting: &Setting,
    batch: usize,
) -> (String, String) {
    let (name, device, sampling) = (&setting.name, &esolm.device, &plan.sampling);
    let mut options = String::new();
    if let Some(alpha_0) = setting.alpha_0 {
        options += &format!(" --alpha0 {alpha_0}");
    }
    if let Some(steps) = setting.steps {
        options += &format!(" --steps {steps}");
    }
    if let Some(schedule) = &setting.schedule {
        options += &format!(" --schedule {schedule}");
    }
    let draw = format!(
        "esolm sample --model train/{name}/model --batch {batch} --seed {} --top-p {} --device {device} --quiet --json{options}",
        sampling.seed, sampling.top_p
    );
    let (file, judge) = (samples_file(setting), &plan.judge.name);
    let judged =
        format!("esolm ppl --tokens {file} --model train/{judge}/model --device {device} --json");
    (draw, judged)
}

fn samples_file(setting: &Setting) -> String {
    format!("data/samples-{}.safetensors", setting.key())
}

/// The models that something is still to be measured with.
pub fn needed(bench: &Bench) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for scoring in scorings(bench) {
        if bench.kept.likelihood(&scoring.command).is_none() {
            names.insert(scoring.name);
        }
    }
    for setting in bench.plan.settings() {
        let (draw, judged) = sampling(bench, &setting, bench.plan.sampling.batch);
        if bench.kept.samples(&draw, &judged).is_none() {
            names.extend([setting.name, bench.plan.judge.name.clone()]);
        }
    }
    names
}

/// Scores the hold-out under every model.
pub fn likelihoods(bench: &Bench) -> Result<(), Error> {
    let mut lines = Vec::new();
    for scoring in scorings(bench) {
        if let Some(kept) = bench.kept.likelihood(&scoring.command) {
            lines.push(kept.clone());
            continue;
        }
        lines.push(record::line(&score(bench, scoring)?)?);
        let all = bench.kept.with_likelihood(&lines);
        record::write_lines(&bench.out.join(LIKELIHOOD), &all)?;
    }
    record::write_lines(&bench.out.join(LIKELIHOOD), &lines)
}

fn score(Bench { esolm, .. }: &Bench, scoring: Scoring) -> Result<Likelihood, Error> {
    let Scoring {
        name,
        alpha_0,
        whole,
        key,
        command,
    } = scoring;
    eprintln!("likelihood: {key}");
    let answer = esolm.answer(&key, command, json)?;
    Ok(Likelihood {
        name,
        alpha_0,
        whole,
        answer,
    })
}

/// Draws every setting of the plan and has the judge score it.
pub fn samples(bench: &Bench) -> Result<(), Error> {
    let settings = bench.plan.settings();
    let mut lines = Vec::new();
    for (index, setting) in settings.iter().enumerate() {
        let (key, count) = (setting.key(), settings.len());
        let (draw, judged) = sampling(bench, setting, bench.plan.sampling.batch);
        if let Some(kept) = bench.kept.samples(&draw, &judged) {
            lines.push(kept.clone());
            continue;
        }
        eprintln!("samples {} of {count}: {key}", index + 1);
        lines.push(record::line(&sample(bench, setting)?)?);
        let all = bench.kept.with_samples(&lines);
        record::write_lines(&bench.out.join(SAMPLES), &all)?;
    }
    record::write_lines(&bench.out.join(SAMPLES), &lines)
}

fn sample(bench: &Bench, setting: &Setting) -> Result<Samples, Error> {
    let Bench { esolm, plan, .. } = bench;
    let draw = |key: &str, batch: usize| {
        let (command, _) = sampling(bench, setting, batch);
        esolm.answer::<Sampled>(key, command, json)
    };
    let key = format!("{}--sample-{}", setting.name, setting.key());
    let drawn = draw(&key, plan.sampling.batch)?;
    let mut alone = f64::INFINITY;
    for repeat in 0..ALONE {
        let drawn = draw(&format!("{key}--alone-{repeat}"), 1)?;
        alone = alone.min(drawn.report.seconds);
    }

    // The judge shares the tokenizer, so it reads the tokens themselves, each sample as a window of its own.
    let sequences = &drawn.report.sequences;
    let tokens: Vec<&[u32]> = sequences.iter().map(|one| &*one.tokens).collect();
    esolm.write_tokens(&samples_file(setting), &tokens)?;
    let (_, command) = sampling(bench, setting, plan.sampling.batch);
    let judged = esolm.answer::<Perplexity>(&(key + JUDGED), command, json)?;
    let Some(figure) = judged.report.exact else {
        return Err(Error::Data(
            "the judge gives no exact likelihood; make it an AR model in the plan".into(),
        ));
    };
    let entropies = tokens.iter().map(|tokens| metrics::entropy(tokens));
    let (entropy, entropy_error) = metrics::mean(&entropies.collect::<Vec<_>>());
    let text = sequences.first().and_then(|one| one.text.as_deref());
    Ok(Samples {
        setting: setting.clone(),
        batch: tokens.len(),
        seconds_per_sample: drawn.report.seconds / tokens.len() as f64,
        seconds_alone: Some(alone),
        judge: figure,
        entropy,
        entropy_error,
        text: beginning(text.unwrap_or_default(), EXAMPLE),
        command: drawn.command,
        judge_command: judged.command,
        date: drawn.date,
        device: drawn.report.device,
        length: drawn.report.length,
        nfe: drawn.report.nfe,
    })
}
