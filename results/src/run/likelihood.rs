//! The hold-out under every model.

use super::Bench;
use crate::corpus::SEPARATOR;
use crate::failure::Error;
use crate::plan::Model;
use crate::record::{self, LIKELIHOOD, Likelihood, Report};
use crate::words;

/// Scores every model, each Eso-LM also at other alpha_0.
pub fn all(bench: &Bench) -> Result<(), Error> {
    let mut lines = Vec::new();
    for model in bench.plan.all() {
        let settings = &bench.plan.likelihood;
        let is_control = bench.plan.controls.contains(model);
        lines.push(score(bench, model, model.alpha_0, settings.orders, true)?);
        if model.alpha_0.is_some() && settings.cross_windows > 0 && !is_control {
            for &alpha_0 in &settings.cross {
                lines.push(score(bench, model, Some(alpha_0), settings.orders, false)?);
            }
            if settings.more_orders > 0 {
                lines.push(score(
                    bench,
                    model,
                    model.alpha_0,
                    settings.more_orders,
                    false,
                )?);
            }
        }
        record::write(&bench.out.join(LIKELIHOOD), &lines)?;
    }
    Ok(())
}

/// One measurement: bound and exact likelihood on the whole hold-out, or the exact one on its first windows.
fn score(
    bench: &Bench,
    model: &Model,
    alpha_0: Option<f64>,
    orders: usize,
    whole: bool,
) -> Result<Likelihood, Error> {
    let settings = &bench.plan.likelihood;
    let mut arguments = words![
        "ppl",
        "data/holdout.txt",
        "--model",
        Bench::model(&model.name),
        "--separator",
        SEPARATOR,
        "--seed",
        settings.seed,
        "--device",
        bench.device,
        "--json",
    ];
    let mut key = format!("{}--ppl", model.name);
    if let Some(alpha_0) = alpha_0 {
        arguments.extend(words!["--alpha0", alpha_0, "--orders", orders]);
        key += &format!("-a{alpha_0}");
    }
    if !whole {
        arguments.extend(words![
            "--draws",
            0,
            "--max-windows",
            settings.cross_windows
        ]);
        key += "-first";
        if orders != settings.orders {
            key += &format!("-{orders}");
        }
    } else if model.family != "ar" {
        arguments.extend(words!["--draws", settings.draws]);
    }
    eprintln!("likelihood: {key}");
    let answer = bench.esolm.answer(&key, &arguments)?;
    Ok(Likelihood {
        name: model.name.clone(),
        alpha_0,
        whole,
        report: report(&answer.command, answer.report)?,
        command: answer.command,
        date: answer.date,
    })
}

/// What is kept of an answer of `esolm ppl --json`.
pub fn report(command: &str, answer: serde_json::Value) -> Result<Report, Error> {
    serde_json::from_value(answer).map_err(|source| Error::Json {
        what: format!("the answer of `{command}`"),
        source,
    })
}
