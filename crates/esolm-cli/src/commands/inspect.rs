//! `esolm inspect`: what a checkpoint is, from its configuration and tensor directory.

use std::fmt::Write;

use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, ModelConfig};
use serde::Serialize;

use crate::arguments::Inspect;
use crate::failure::Failure;
use crate::{output, setup};

/// What is printed, as text or JSON.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    form: String,
    #[serde(flatten)]
    config: &'a ModelConfig,
    /// False where the last token was taken for the mask.
    mask_told: bool,
    parameters: u64,
    file_bytes: u64,
    dtypes: Vec<String>,
    tokenizer: Option<String>,
    tensors: Vec<Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    bytes: u64,
}

pub fn run(arguments: &Inspect) -> Result<(), Failure> {
    let options = setup::open_options(&arguments.config, arguments.raw_weights, false);
    let checkpoint = Checkpoint::open(&arguments.model, &options)?;
    let report = report(&arguments.model, &checkpoint);
    if arguments.json {
        output::json(&report)
    } else {
        output::text(&table(&report, arguments.tensors))
    }
}

fn report<'a>(model: &'a str, checkpoint: &'a Checkpoint) -> Report<'a> {
    let tensors: Vec<Tensor> = checkpoint
        .tensors()
        .map(|tensor| Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype.to_string(),
            bytes: tensor.bytes,
        })
        .collect();
    let mut dtypes: Vec<String> = tensors.iter().map(|tensor| tensor.dtype.clone()).collect();
    dtypes.sort();
    dtypes.dedup();
    Report {
        model,
        form: checkpoint.source().to_string(),
        config: checkpoint.config(),
        mask_told: checkpoint.mask_told(),
        parameters: checkpoint
            .config()
            .parameters()
            .iter()
            .map(|parameter| parameter.elements())
            .sum(),
        file_bytes: checkpoint.file_bytes(),
        dtypes,
        tokenizer: checkpoint
            .tokenizer_path()
            .map(|path| path.display().to_string())
            .or_else(|| {
                checkpoint
                    .tokenizer_json()
                    .map(|_| "inside the checkpoint".into())
            }),
        tensors,
    }
}

fn table(report: &Report, with_tensors: bool) -> String {
    let config = report.config;
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    row("model", report.model.into());
    row("form", report.form.clone());
    row(
        "family",
        format!("{}, {} attention", config.family, config.attention),
    );
    row(
        "shape",
        format!(
            "{} blocks, width {}, {} heads of {}{}",
            config.n_blocks,
            config.hidden,
            config.n_heads,
            config.head_dim(),
            match config.family {
                Family::Ar => String::new(),
                _ => format!(", conditioning width {}", config.cond_dim),
            }
        ),
    );
    row("context", format!("{} tokens", config.length));
    row(
        "vocabulary",
        format!(
            "{} (mask {}{})",
            config.vocab_size,
            config.mask_index,
            match report.mask_told {
                true => "",
                false => ", the last token, since the checkpoint names none",
            }
        ),
    );
    let alpha_0 = match (config.family, config.alpha_0) {
        (Family::EsoLm, Some(alpha_0)) => alpha_0.to_string(),
        (Family::EsoLm, None) => "not given by the checkpoint".into(),
        (family, _) => format!("none: {family} has one phase"),
    };
    row("alpha_0", alpha_0);
    if config.family == Family::Ar {
        row("prepends", config.prepend.to_string());
    }
    row(
        "parameters",
        format!(
            "{} ({:.2} million)",
            report.parameters,
            report.parameters as f64 / 1e6
        ),
    );
    row(
        "weights",
        format!(
            "{}, file of {} bytes ({:.1} MiB)",
            report.dtypes.join(" and "),
            report.file_bytes,
            report.file_bytes as f64 / (1 << 20) as f64
        ),
    );
    row(
        "tokenizer",
        report
            .tokenizer
            .clone()
            .unwrap_or_else(|| "none comes with the weights".into()),
    );
    if with_tensors {
        let width = report
            .tensors
            .iter()
            .map(|t| t.name.len())
            .max()
            .unwrap_or(0);
        text.push('\n');
        for tensor in &report.tensors {
            let _ = writeln!(
                text,
                "{:<width$}  {:<4} {:?}",
                tensor.name, tensor.dtype, tensor.shape
            );
        }
    }
    text
}
