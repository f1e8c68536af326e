//! `esolm inspect`: what a checkpoint is, from its configuration and tensor directory.

use std::fmt::Write;

use esolm::Error;
use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, ModelConfig};
use esolm::network::store::stored_form;
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
    /// Layers that have a bias and in the published network have none, or the other way round.
    biases: Biases,
    parameters: u64,
    file_bytes: u64,
    dtypes: Vec<String>,
    is_quantised: bool,
    /// How the weights are held in memory where nothing else is asked for.
    weights: String,
    tokenizer: Option<String>,
    tensors: Vec<Tensor>,
}

#[derive(Serialize)]
struct Biases {
    /// Layers with one that in the published network have none.
    more: Vec<String>,
    /// Layers without one that in the published network have one.
    fewer: Vec<String>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    bytes: u64,
}

pub fn run(arguments: &Inspect) -> Result<(), Failure> {
    let (checkpoint, name) = setup::described(&arguments.source, &arguments.input)?;
    let weights = pollster::block_on(stored_form(&checkpoint)).map_err(Error::from)?;
    let report = report(&name, &checkpoint, weights.to_string());
    if arguments.json {
        output::json(&report)
    } else {
        output::text(&table(&report, arguments.tensors))
    }
}

fn report<'a>(model: &'a str, checkpoint: &'a Checkpoint, weights: String) -> Report<'a> {
    let tensors: Vec<Tensor> = checkpoint
        .parameters()
        .map(|tensor| Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.form().to_string(),
            bytes: tensor.bytes(),
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
        biases: biases(checkpoint),
        parameters: checkpoint.count(),
        file_bytes: checkpoint.file_bytes(),
        dtypes,
        is_quantised: checkpoint.quantization().is_some(),
        weights,
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

/// Of a kind of bias a network has all or none, so the first block speaks for all.
fn biases(checkpoint: &Checkpoint) -> Biases {
    let published = checkpoint.config().parameters();
    let (mut more, mut fewer) = (Vec::new(), Vec::new());
    for kind in checkpoint.config().biases() {
        let Some(first) = kind.first() else { continue };
        let is_published = published.iter().any(|spec| spec.name == first.name);
        let layer = first.name.trim_start_matches("blocks.0.");
        let layer = layer.trim_end_matches(".bias").to_string();
        match (checkpoint.has(&first.name), is_published) {
            (true, false) => more.push(layer),
            (false, true) => fewer.push(layer),
            _ => {}
        }
    }
    Biases { more, fewer }
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
        match config.block_size {
            None => format!("{}, {} attention", config.family, config.attention),
            Some(size) => format!(
                "{}, {} attention, {size} tokens a block",
                config.family, config.attention
            ),
        },
    );
    row(
        "shape",
        format!(
            "{} blocks, width {}, {} heads of {}{}",
            config.n_blocks,
            config.hidden,
            config.n_heads,
            config.head_dim(),
            match config.cond_dim {
                0 => ", without adaLN".into(),
                width => format!(", adaLN of conditioning width {width}"),
            }
        ),
    );
    for (what, layers) in [
        ("more", &report.biases.more),
        ("fewer", &report.biases.fewer),
    ] {
        if !layers.is_empty() {
            let layers = layers.join(", ");
            row("biases", format!("{what} than published: {layers}"));
        }
    }
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
    if let Some([least, most]) = config.noise_range {
        let range = format!("{least} to {most} of the tokens masked in training");
        row("noise", range);
    }
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
    if report.is_quantised {
        row(
            "held as",
            format!("{} unless asked otherwise", report.weights),
        );
    }
    row(
        "tokenizer",
        report.tokenizer.clone().unwrap_or_else(|| "none".into()),
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
