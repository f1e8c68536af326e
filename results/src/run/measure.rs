//! What the trained models are measured by: the likelihood of the hold-out, and samples that the judge scores.

use super::{Bench, JUDGED};
use crate::corpus::{SEPARATOR, beginning};
use crate::error::Error;
use crate::metrics;
use crate::plan::{Model, Setting};
use crate::program::json;
use crate::record::{self, LIKELIHOOD, Likelihood, SAMPLES, Samples};
use crate::reports::{Family, Perplexity, Sampled};

/// How often a sample is drawn alone, for the time; the shortest counts, since other work only makes it longer.
const ALONE: usize = 3;
/// Characters of the example text.
const EXAMPLE: usize = 320;

/// Scores the hold-out under every model; its first windows under each Eso-LM also at other alpha_0, and with more orders.
pub fn likelihoods(bench: &Bench) -> Result<(), Error> {
    let settings = &bench.plan.likelihood;
    let mut lines = Vec::new();
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
        for (alpha_0, orders, whole) in runs {
            lines.push(likelihood(bench, model, alpha_0, orders, whole)?);
        }
        record::write(&bench.out.join(LIKELIHOOD), &lines)?;
    }
    Ok(())
}

/// One measurement: bound and exact likelihood on the whole hold-out, or the exact one on its first windows.
fn likelihood(
    Bench { esolm, plan, .. }: &Bench,
    model: &Model,
    alpha_0: Option<f64>,
    orders: usize,
    whole: bool,
) -> Result<Likelihood, Error> {
    let settings = &plan.likelihood;
    let (name, device, seed) = (model.name.clone(), &esolm.device, settings.seed);
    let mut key = format!("{name}--ppl");
    let mut command = format!(
        "esolm ppl data/holdout.txt --model train/{name}/model --separator '{SEPARATOR}' --seed {seed} --device {device} --json"
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
    } else if model.family != Family::Ar {
        command += &format!(" --draws {}", settings.draws);
    }
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
        eprintln!("samples {} of {count}: {key}", index + 1);
        lines.push(sample(bench, setting)?);
        record::write(&bench.out.join(SAMPLES), &lines)?;
    }
    Ok(())
}

fn sample(Bench { esolm, plan, .. }: &Bench, setting: &Setting) -> Result<Samples, Error> {
    let sampling = &plan.sampling;
    let (name, device) = (&setting.name, &esolm.device);
    let mut options = String::new();
    if let Some(alpha_0) = setting.alpha_0 {
        options += &format!(" --alpha0 {alpha_0}");
    }
    if let (Some(steps), Some(schedule)) = (setting.steps, &setting.schedule) {
        options += &format!(" --steps {steps} --schedule {schedule}");
    }
    let draw = |key: &str, batch: usize| {
        let command = format!(
            "esolm sample --model train/{name}/model --batch {batch} --seed {} --top-p {} --device {device} --quiet --json{options}",
            sampling.seed, sampling.top_p
        );
        esolm.answer::<Sampled>(key, command, json)
    };
    let key = format!("{name}--sample-{}", setting.key());
    let drawn = draw(&key, sampling.batch)?;
    let mut alone = f64::INFINITY;
    for repeat in 0..ALONE {
        let drawn = draw(&format!("{key}--alone-{repeat}"), 1)?;
        alone = alone.min(drawn.report.seconds);
    }

    // The judge shares the tokenizer, so it reads the tokens themselves, each sample as a window of its own.
    let sequences = &drawn.report.sequences;
    let tokens: Vec<&[u32]> = sequences.iter().map(|one| &*one.tokens).collect();
    let file = format!("data/samples-{}.safetensors", setting.key());
    esolm.write_tokens(&file, &tokens)?;
    let judge = &plan.judge.name;
    let command =
        format!("esolm ppl --tokens {file} --model train/{judge}/model --device {device} --json");
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
