//! `esolm ppl`: how well a model predicts texts, as exact likelihood and as a bound.

mod lines;
mod report;

use std::path::{Path, PathBuf};

use esolm::likelihood::TextScore;
use esolm::{Corpus, Error, Likelihood, ModelFiles, Perplexity, PerplexityOptions, documents};
use serde::Deserialize;

use crate::arguments::{FormatName, Ppl};
use crate::failure::Failure;
use crate::files::{Pending, check_apart};
use crate::likelihood::{self, Line};
use crate::tensors::{self, Output};
use crate::{output, setup, texts};
use report::Report;

pub fn run(arguments: &Ppl) -> Result<(), Failure> {
    if arguments.job.input.is_some() {
        return lines::run(arguments, options(arguments));
    }
    if arguments.files.is_empty() && arguments.tokens.is_none() {
        return Err(Failure::usage(
            "there is nothing to score; give text files, - for the standard input, or --tokens FILE",
        ));
    }
    for output in [&arguments.per_document, &arguments.per_sequence] {
        let inputs = arguments.files.iter().chain(&arguments.tokens);
        if let Some(output) = output {
            check_apart(inputs.map(PathBuf::as_path), output)?;
        }
    }
    let files = match arguments.tokens {
        Some(_) => setup::open_without_tokenizer(&arguments.source.model, arguments.quiet)?,
        None => setup::open(&arguments.source, arguments.quiet)?,
    };
    setup::check_block_size(&arguments.source.model, files.config())?;
    let mut options = options(arguments);
    let corpus = match &arguments.tokens {
        Some(path) => read_tokens(path)?,
        None => read_documents(arguments, &files)?,
    };
    options
        .check(files.config(), &corpus)
        .map_err(|error| explained(error, arguments))?;
    // Files that cannot be written are reported before the model is loaded.
    let create = |path: &Option<_>| path.as_deref().map(Pending::create).transpose();
    let per_document = create(&arguments.per_document)?;
    let per_sequence = create(&arguments.per_sequence)?;

    let model = setup::load(files, &arguments.device, arguments.quiet)?;
    let has_orders = matches!(
        &corpus,
        Corpus::Tokens {
            orders: Some(_),
            ..
        }
    );
    let measured = likelihood::run(arguments.quiet, |progress| {
        options.progress = progress;
        model.blocking().perplexity(corpus, options)
    });
    let measured = measured.map_err(|error| explained(error, arguments))?;
    if let Some((index, altered)) = measured.altered.as_ref().filter(|_| !arguments.quiet) {
        let place = format!("document {index}");
        let count = measured.altered_documents;
        output::note(&likelihood::altered(altered, &place, count));
    }
    if let Some(mut pending) = per_document {
        for (index, score) in &measured.per_document {
            let index = *index;
            pending.json_line(&Line { index, score })?;
        }
        pending.commit()?;
    }
    if let Some(pending) = per_sequence {
        write_sequences(pending, &measured)?;
    }
    let cut = report::cut(&measured, arguments.per_document.is_some(), has_orders);
    let report = Report::new(&model, measured);
    match arguments.form.format() {
        FormatName::Text => output::text(&report.text(&cut)),
        format => output::json(&report, format),
    }
}

fn options(arguments: &Ppl) -> PerplexityOptions {
    let leave_out = arguments.no_exact.then_some(0);
    PerplexityOptions {
        likelihood: Likelihood {
            alpha_0: arguments.alpha0,
            orders: leave_out.or(arguments.orders),
            draws: arguments.draws,
            seed: Some(arguments.seed),
            batch: arguments.batch,
        },
        length: arguments.length,
        max_windows: arguments.max_windows,
        ascii_only: arguments.ascii_only,
        per_document: arguments.per_document.is_some(),
        bos: arguments.opening.said(),
        ..PerplexityOptions::default()
    }
}

/// Adds what this command knows to an error: which option was meant, and where the texts are from.
fn explained(error: Error, arguments: &Ppl) -> Failure {
    match error {
        Error::NotApplicable {
            option: "orders",
            why,
        } if arguments.no_exact => Error::NotApplicable {
            option: "no_exact",
            why,
        }
        .into(),
        Error::NoDocument { .. } => {
            let names = arguments.files.iter().map(|path| texts::name(path));
            let names: Vec<String> = names.collect();
            Failure::failed(format!("{}: {error}", names.join(", ")))
        }
        Error::Item { index, source } => Failure::item(&format!("document {index}"), &source),
        error => error.into(),
    }
}

fn read_tokens(path: &Path) -> Result<Corpus, Failure> {
    let file = tensors::Input::read(path)?;
    let tokens = file.rows("tokens", ["N", "L"])?;
    if tokens.iter().all(Vec::is_empty) {
        return Err(Failure::failed(format!(
            "tokens in {} is empty; give at least one sequence of at least one token",
            path.display()
        )));
    }
    let orders = file
        .has("sort_idx")
        .then(|| file.rows("sort_idx", ["N", "L"]));
    let orders = orders.transpose()?;
    Ok(Corpus::Tokens { tokens, orders })
}

/// A line of JSON.
#[derive(Deserialize)]
struct JsonText {
    text: String,
}

fn read_documents(arguments: &Ppl, files: &ModelFiles) -> Result<Corpus, Failure> {
    let codec = files.codec().ok_or(Error::NeedsTokenizer)?;
    let separator = match &arguments.separator {
        Some(separator) if separator.is_empty() => {
            return Err(Failure::usage(
                "--separator is empty; give the text that stands between documents, or leave it out",
            ));
        }
        Some(separator) => Some(separator.replace("\\n", "\n")),
        None => codec.ends().eos.map(|eos| codec.decode(&[eos])),
    };
    let mut all: Vec<String> = Vec::new();
    for text in texts::read(&arguments.files)? {
        if arguments.jsonl || text.is_jsonl {
            let lines = text.json_lines("a JSON object whose field text is a text")?;
            let text = |(_, line): (usize, JsonText)| line.text.trim().to_string();
            // Whitespace around a document is always ignored.
            all.extend(lines.into_iter().map(text));
        } else {
            let parts = documents::split(&text.content, separator.as_deref());
            all.extend(parts.into_iter().map(String::from));
        }
    }
    Ok(Corpus::Documents(all))
}

fn write_sequences(pending: Pending, measured: &Perplexity) -> Result<(), Failure> {
    let scores = &measured.per_window;
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
    if measured.draws > 0 {
        written.push(Output::f32("nelbo_per_seq", &[n], &nelbo));
    }
    tensors::write(pending, written)
}
