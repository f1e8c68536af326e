//! `esolm score`: log-likelihoods of lines, of choices given a context, and of middles given both sides.

mod items;

use std::f64::consts::LN_2;
use std::fmt::Write as _;

use esolm::config::{Family, ModelConfig};
use esolm::likelihood::{Asked, LikelihoodOptions, Meaningless, TextScore};
use serde::Serialize;

use crate::arguments::{Normalize, Score};
use crate::failure::Failure;
use crate::{likelihood, output, setup};
use items::{Items, Piece};

pub fn run(arguments: &Score) -> Result<(), Failure> {
    let (checkpoint, _) = setup::open(&arguments.model)?;
    let config = checkpoint.config();
    let options = options(arguments, config)?;
    let codec = setup::codec(&checkpoint, arguments.tokenizer.as_deref())?.ok_or_else(|| {
        Failure::usage("texts need a tokenizer; give one with --tokenizer FILE instead of none")
    })?;
    let items = Items::read(arguments, config, &codec)?;
    if !arguments.quiet {
        items.notes().iter().for_each(|note| output::note(note));
    }
    let mut engine = setup::load(&checkpoint, &arguments.device, arguments.quiet)?;
    let quiet = arguments.quiet;
    let scores = likelihood::run(&mut engine, &items.windows, None, &options, quiet)?;
    let exact = options.orders > 0;
    if !exact && !quiet {
        output::note("the figures are lower bounds: this model has no exact likelihood");
    }
    let mut text = String::new();
    for (index, pieces) in items.pieces.iter().enumerate() {
        let results: Vec<Line> = pieces
            .iter()
            .map(|piece| Line::new(index, piece, &scores, exact))
            .collect();
        match (arguments.choices, &results[..]) {
            (true, results) => choice(&mut text, index, results, arguments)?,
            (false, [line]) if arguments.json => push_json(&mut text, line)?,
            (false, results) => results.iter().for_each(|line| {
                let _ = writeln!(text, "{:.6}", line.logp);
            }),
        }
    }
    output::text(&text)
}

/// One scored text.
#[derive(Serialize)]
struct Line {
    index: usize,
    tokens: usize,
    bytes: usize,
    logp: f64,
    exact: bool,
    nats_per_token: Option<f64>,
    bits_per_byte: Option<f64>,
}

impl Line {
    fn new(index: usize, piece: &Piece, scores: &[TextScore], exact: bool) -> Self {
        let own = &scores[piece.windows.clone()];
        // The sum over no windows is -0.
        let logp = 0.0 + own.iter().map(TextScore::log_likelihood).sum::<f64>();
        let share = |n: usize| (n > 0).then(|| -logp / n as f64);
        let tokens = own.iter().map(|score| score.tokens).sum();
        Self {
            index,
            tokens,
            bytes: piece.bytes,
            logp,
            exact,
            nats_per_token: share(tokens),
            bits_per_byte: share(piece.bytes).map(|nats| nats / LN_2),
        }
    }
}

/// A JSON line of `--choices`.
#[derive(Serialize)]
struct Choice {
    index: usize,
    best: usize,
    logp: Vec<f64>,
    tokens: Vec<usize>,
    bytes: Vec<usize>,
    /// What was compared.
    normalized: Vec<f64>,
    exact: bool,
}

fn choice(
    text: &mut String,
    index: usize,
    results: &[Line],
    arguments: &Score,
) -> Result<(), Failure> {
    let normalized: Vec<f64> = results
        .iter()
        .map(|line| match arguments.normalize {
            Normalize::None => line.logp,
            Normalize::Token => line.logp / line.tokens.max(1) as f64,
            Normalize::Byte => line.logp / line.bytes.max(1) as f64,
        })
        .collect();
    // Of equal ones the first.
    let best = (0..normalized.len()).fold(0, |best, i| {
        if normalized[i] > normalized[best] {
            i
        } else {
            best
        }
    });
    if arguments.json {
        return push_json(
            text,
            &Choice {
                index,
                best,
                logp: results.iter().map(|line| line.logp).collect(),
                tokens: results.iter().map(|line| line.tokens).collect(),
                bytes: results.iter().map(|line| line.bytes).collect(),
                normalized,
                exact: results.iter().all(|line| line.exact),
            },
        );
    }
    let _ = write!(text, "{best}");
    for line in results {
        let _ = write!(text, "\t{:.6}", line.logp);
    }
    text.push('\n');
    Ok(())
}

fn push_json(text: &mut String, value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| {
        Failure::failed(format!("the result cannot be written as JSON: {error}"))
    })?;
    text.push_str(&line);
    text.push('\n');
    Ok(())
}

/// Fills in what was not given, and refuses what the model's family does not know.
fn options(arguments: &Score, config: &ModelConfig) -> Result<LikelihoodOptions, Failure> {
    if config.family == Family::Ar && arguments.infill {
        return Err(Failure::usage(
            "--infill needs a model that reads what comes after a gap, which an AR model does not; give an Eso-LM or an MDLM",
        ));
    }
    let asked = Asked {
        alpha_0: arguments.alpha0,
        orders: arguments.orders,
        draws: arguments.draws,
    };
    asked
        .of(config, arguments.seed, arguments.batch)
        .map_err(|Meaningless { option, why }| {
            let option = option.replace('_', "");
            Failure::usage(format!("--{option} has no meaning for {why}; leave it out"))
        })
}
