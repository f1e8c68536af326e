//! `esolm inspect`: what a checkpoint is, from its configuration and tensor directory.

use std::collections::BTreeMap;
use std::fmt::Write;

use esolm::checkpoint::{Checkpoint, TokenizerForm};
use esolm::config::{AttentionKind, Family, ModelConfig};
use esolm::cpu::memory_needed;
use esolm::gpu;
use esolm::network::store::stored_form;
use esolm::{Error, Recommended, Weights};
use esolm_checkpoint::message::count;
use serde::Serialize;

use crate::arguments::{FormatName, Inspect};
use crate::failure::Failure;
use crate::{output, setup};

/// The forms in which weights can be held.
const FORMS: [Weights; 4] = [Weights::F32, Weights::F16, Weights::Q8, Weights::Q4];

/// The report, printed as text or JSON.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    form: String,
    #[serde(flatten)]
    config: &'a ModelConfig,
    /// False if the last token is taken as the mask.
    mask_told: bool,
    /// Biases that differ from the published network.
    biases: Biases,
    parameters: u64,
    file_bytes: u64,
    dtypes: Vec<String>,
    is_quantised: bool,
    /// The default form of the weights in memory.
    weights: String,
    tokenizer: Option<String>,
    /// Why the checkpoint's own tokenizer cannot be used.
    tokenizer_problem: Option<String>,
    /// What this program can do with the model.
    runs: &'static str,
    /// Tensors in the files that are not used.
    ignored: &'a [String],
    /// Bytes needed to load it on the CPU, by form of the weights.
    memory: BTreeMap<String, u64>,
    /// Bytes of the weights on a GPU, and of main memory needed to load them, by form of the weights.
    gpu_memory: BTreeMap<String, [u64; 2]>,
    /// Bytes of the cache of a text as long as the context.
    cache_bytes: u64,
    /// The defaults of `esolm sample`.
    recommended: &'a Recommended,
    tensors: Vec<Tensor>,
}

#[derive(Serialize)]
struct Biases {
    /// Layers with a bias that have none in the published network.
    more: Vec<String>,
    /// Layers without a bias that have one in the published network.
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
    match arguments.form.format() {
        FormatName::Text => output::text(&table(&report, arguments.tensors)),
        format => output::json(&report, format),
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
        tokenizer: tokenizer(checkpoint),
        recommended: checkpoint.recommended(),
        tokenizer_problem: match checkpoint.tokenizer_form() {
            Some(Err(error)) => Some(error.to_string()),
            _ => None,
        },
        runs: runs(checkpoint.config()),
        ignored: checkpoint.ignored(),
        memory: FORMS
            .map(|form| {
                (
                    form.to_string(),
                    memory_needed(checkpoint.config(), form)[0],
                )
            })
            .into(),
        gpu_memory: FORMS
            .map(|form| {
                let needed = gpu::memory_needed(checkpoint.config(), form);
                (form.to_string(), needed)
            })
            .into(),
        cache_bytes: memory_needed(checkpoint.config(), Weights::F32)[1],
        tensors,
    }
}

/// Where the tokenizer is, and what it was made from.
fn tokenizer(checkpoint: &Checkpoint) -> Option<String> {
    let place = checkpoint.tokenizer_path();
    let place = place.map(|path| path.display().to_string()).or_else(|| {
        checkpoint
            .tokenizer_json()
            .map(|_| "inside the checkpoint".into())
    })?;
    Some(match checkpoint.tokenizer_form() {
        Some(Ok(form)) if *form != TokenizerForm::Fast => format!("{place} ({form})"),
        _ => place,
    })
}

/// What a network can and cannot do here.
fn runs(config: &ModelConfig) -> &'static str {
    match (config.family, config.attention) {
        (Family::EsoLm, AttentionKind::Causal) => {
            "writes and scores in any order, with an exact cache"
        }
        (Family::EsoLm, AttentionKind::Mixed) => {
            "writes and scores in any order, every known token in every diffusion pass, then with an exact cache"
        }
        (Family::EsoLm, _) => "scores, but does not write: its masked tokens would see each other",
        (Family::Mdlm, _) => "writes and scores in any order, every position in every pass",
        (Family::Ar, _) => "writes and scores from left to right, with an exact cache",
        (Family::Bd3Lm, _) => {
            "writes and scores a block after the other, with a cache that is exact up to the context"
        }
        (Family::SetDlm, _) => {
            "writes sets of tokens by confidence and scores in any order, with a cache that is exact up to the context"
        }
    }
}

/// A human-readable size.
fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib < 1024 => format!("{mib} MiB"),
        mib => format!("{:.1} GiB", mib as f64 / 1024.0),
    }
}

/// A network has either all or none of a kind of bias, so checking the first block is enough.
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

/// The recommended settings as options of `esolm sample`.
fn recommended(settings: &Recommended, family: Family) -> String {
    let Recommended {
        alpha_0,
        temperature,
        top_k,
        top_p,
        min_p,
    } = settings;
    let options = [
        (alpha_0.filter(|_| family == Family::EsoLm)).map(|value| format!("--alpha0 {value}")),
        temperature.map(|value| format!("--temperature {value}")),
        top_k.map(|value| format!("--top-k {value}")),
        top_p.map(|value| format!("--top-p {value}")),
        min_p.map(|value| format!("--min-p {value}")),
    ];
    let options: Vec<String> = options.into_iter().flatten().collect();
    options.join(" ")
}

/// A one-line description of the network.
fn shape(config: &ModelConfig) -> String {
    let sizes = format!(
        "{}, width {}, {} of {}",
        count(config.n_blocks, "block"),
        config.hidden,
        count(config.n_heads, "head"),
        config.head_dim()
    );
    match (&config.decoder, config.cond_dim) {
        (Some(decoder), _) => format!(
            "{}'s: {sizes} over {} of keys and values, MLP of {}, rotary base {}, {}",
            decoder.kind,
            decoder.kv_heads,
            decoder.inner,
            decoder.rotary_base,
            match decoder.tied {
                true => "the output matrix is the embedding",
                false => "an output matrix of its own",
            }
        ),
        (None, 0) => format!("{sizes}, without adaLN"),
        (None, width) => format!("{sizes}, adaLN of conditioning width {width}"),
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
        match config.block_size {
            None => format!("{}, {} attention", config.family, config.attention),
            Some(size) => format!(
                "{}, {} attention, {} a block",
                config.family,
                config.attention,
                count(size, "token")
            ),
        },
    );
    row("shape", shape(config));
    for (what, layers) in [
        ("more", &report.biases.more),
        ("fewer", &report.biases.fewer),
    ] {
        if !layers.is_empty() {
            let layers = layers.join(", ");
            row("biases", format!("{what} than published: {layers}"));
        }
    }
    row("context", count(config.length, "token"));
    row(
        "vocabulary",
        format!(
            "{} ({}{})",
            config.vocab_size,
            match config.mask() {
                Some(mask) => format!("mask {mask}"),
                None => "no mask".into(),
            },
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
    if let Some(sets) = &config.sets {
        let first = match sets.keeps_first {
            true => "; the first token of a text is given",
            false => "",
        };
        let (desired, largest) = (sets.desired, sets.largest);
        row(
            "sets",
            format!(
                "trained for {} at once, {largest} at most{first}",
                count(desired, "token")
            ),
        );
    }
    if config.family == Family::Ar && config.decoder.is_none() {
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
    row("runs", report.runs.into());
    let forms = FORMS.map(|form| {
        let bytes = report.memory.get(&form.to_string());
        format!("{} in {form}", size(bytes.copied().unwrap_or(0)))
    });
    row(
        "memory",
        format!(
            "{} to load on the CPU; then {} a text of {}",
            forms.join(", "),
            size(report.cache_bytes),
            count(config.length, "token")
        ),
    );
    let forms = FORMS.map(|form| {
        let bytes = report.gpu_memory.get(&form.to_string());
        let [device, host] = bytes.copied().unwrap_or_default();
        format!("{} in {form} ({})", size(device), size(host))
    });
    row(
        "on a GPU",
        format!(
            "{} of its memory (of the machine's while it loads), beside the cache",
            forms.join(", ")
        ),
    );
    if !report.ignored.is_empty() {
        let names = report.ignored.join(", ");
        row(
            "ignored",
            format!("{names}, which nothing is computed with"),
        );
    }
    row(
        "tokenizer",
        match (&report.tokenizer, &report.tokenizer_problem) {
            (Some(tokenizer), _) => tokenizer.clone(),
            (None, Some(problem)) => format!("none: the checkpoint's own {problem}"),
            (None, None) => "none".into(),
        },
    );
    let recommended = recommended(report.recommended, config.family);
    if !recommended.is_empty() {
        row("recommended", format!("to sample with {recommended}"));
    }
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
