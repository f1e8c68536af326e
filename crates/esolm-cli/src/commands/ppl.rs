//! `esolm ppl`: likelihood of a text, exact and bounded.

mod input;
mod report;

use std::time::Instant;

use esolm::config::{Family, ModelConfig};
use esolm::likelihood::{LikelihoodOptions, Summary, TextScore, without_exact};
use serde::Serialize;

use crate::arguments::Ppl;
use crate::failure::Failure;
use crate::files::Pending;
use crate::tensors::Output;
use crate::{likelihood, output, setup, tensors};
use input::Input;
use report::Report;

pub fn run(arguments: &Ppl) -> Result<(), Failure> {
    if arguments.files.is_empty() && arguments.tokens.is_none() {
        return Err(Failure::usage(
            "there is nothing to score; give text files, - for the standard input, or --tokens FILE",
        ));
    }
    let (checkpoint, model) = setup::open(&arguments.model)?;
    let config = checkpoint.config();
    let options = options(arguments, config)?;
    let input = Input::read(arguments, &checkpoint, &options)?;
    // Files that cannot be written are said before the work begins.
    let create = |path: &Option<_>| path.as_deref().map(Pending::create).transpose();
    let per_document = create(&arguments.per_document)?;
    let per_sequence = create(&arguments.per_sequence)?;

    let mut engine = setup::load(&checkpoint, &arguments.device, arguments.quiet)?;
    let began = Instant::now();
    let orders = input.orders.as_deref();
    let scores = likelihood::run(
        &mut engine,
        &input.windows,
        orders,
        &options,
        arguments.quiet,
    )?;
    let seconds = began.elapsed().as_secs_f64();
    if let Some(pending) = per_document {
        write_documents(pending, &input, &scores)?;
    }
    if let Some(pending) = per_sequence {
        write_sequences(pending, &scores, &options)?;
    }
    let report = Report::new(
        model,
        engine.device(),
        config,
        &options,
        &input,
        &Summary::of(&scores),
        seconds,
    );
    if arguments.json {
        output::json(&report)
    } else {
        output::text(&report.text(&input.cut))
    }
}

/// Fills in what was not given, and refuses what the model's family does not know.
fn options(arguments: &Ppl, config: &ModelConfig) -> Result<LikelihoodOptions, Failure> {
    let foreign = |option: &str, why: &str| {
        Err(Failure::usage(format!(
            "{option} has no meaning for {why}; leave it out"
        )))
    };
    match config.family {
        Family::Ar => {
            let why = "an AR model, whose likelihood is exact in its one order";
            if arguments.alpha0.is_some() {
                return foreign("--alpha0", why);
            }
            if arguments.orders.is_some_and(|n| n != 1) {
                return foreign("--orders", why);
            }
            if arguments.draws.is_some_and(|n| n != 0) {
                return foreign("--draws", why);
            }
            if arguments.no_exact {
                return foreign("--no-exact", why);
            }
        }
        Family::Mdlm if arguments.alpha0.is_some_and(|alpha_0| alpha_0 != 1.0) => {
            return foreign("--alpha0", "an MDLM, which writes all by diffusion");
        }
        Family::EsoLm | Family::Mdlm => {}
    }
    let orders = match without_exact(config) {
        Some(what) if arguments.orders.is_some() => {
            return foreign(
                "--orders",
                &format!("{what}, which has no exact likelihood"),
            );
        }
        Some(_) => 0,
        None if arguments.no_exact => 0,
        None => arguments.orders.unwrap_or(1),
    };
    let draws = match config.family {
        Family::Ar => 0,
        Family::EsoLm | Family::Mdlm => arguments.draws.unwrap_or(1),
    };
    if orders == 0 && draws == 0 {
        return Err(Failure::usage(
            "neither the exact likelihood nor the NELBO is left to compute; give --draws 1 or more",
        ));
    }
    Ok(LikelihoodOptions {
        alpha_0: match config.family {
            Family::EsoLm => arguments.alpha0.or(config.alpha_0).unwrap_or(1.0),
            Family::Mdlm => 1.0,
            Family::Ar => 0.0,
        },
        orders,
        draws,
        seed: arguments.seed,
        batch: arguments.batch,
    })
}

/// A line of `--per-document`.
#[derive(Serialize)]
struct DocumentLine {
    index: usize,
    tokens: usize,
    bytes: usize,
    /// Exact, or the negative NELBO.
    logp: f64,
    exact: bool,
    nats_per_token: Option<f64>,
    bits_per_byte: Option<f64>,
}

fn write_documents(
    mut pending: Pending,
    input: &Input,
    scores: &[TextScore],
) -> Result<(), Failure> {
    for document in &input.documents {
        let own = &scores[document.windows.clone()];
        let exact: Option<f64> = own.iter().map(TextScore::exact).sum();
        let logp = exact.unwrap_or_else(|| -own.iter().map(TextScore::nelbo).sum::<f64>());
        let tokens: usize = own.iter().map(|score| score.tokens).sum();
        let share = |n: usize| (n > 0).then(|| -logp / n as f64);
        pending.json_line(&DocumentLine {
            index: document.index,
            tokens,
            bytes: document.bytes,
            logp,
            exact: exact.is_some(),
            nats_per_token: share(tokens),
            bits_per_byte: share(document.bytes).map(|nats| nats / std::f64::consts::LN_2),
        })?;
    }
    pending.commit()
}

fn write_sequences(
    pending: Pending,
    scores: &[TextScore],
    options: &LikelihoodOptions,
) -> Result<(), Failure> {
    let n = scores.len();
    let exact: Vec<f32> = (scores.iter().filter_map(TextScore::exact))
        .map(|log_p| log_p as f32)
        .collect();
    let all: Vec<f32> = (scores.iter().flat_map(|score| &score.log_p))
        .map(|&log_p| log_p as f32)
        .collect();
    let nelbo: Vec<f32> = scores.iter().map(|score| score.nelbo() as f32).collect();
    let mut written = Vec::new();
    if !exact.is_empty() {
        written.push(Output::f32("logp_per_seq", &[n], &exact));
    }
    if all.len() > n {
        written.push(Output::f32("logp_per_order", &[n, all.len() / n], &all));
    }
    if options.draws > 0 {
        written.push(Output::f32("nelbo_per_seq", &[n], &nelbo));
    }
    tensors::write(pending, written)
}
