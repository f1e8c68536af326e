//! The records of measurements: small JSON files in docs/results, from which everything in docs/results.md is made.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::corpus::Extent;
use crate::failure::Error;
use crate::plan::Plan;

/// `setup.json`: what was run, on what, where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// When the last run began, UTC.
    pub date: String,
    /// What `esolm --version` says.
    pub version: String,
    /// The processor and how many threads it runs.
    pub machine: String,
    /// The command that made the records.
    pub command: String,
    /// Documents that the models learn from.
    pub train: Extent,
    /// Documents that the judge learns from.
    pub judge_train: Extent,
    /// Documents that nobody learns from.
    pub holdout: Extent,
    /// The recipe that all models start from.
    pub recipe: String,
    /// The plan.
    pub plan: Plan,
}

/// `train-NAME.json`: one training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Name in the plan.
    pub name: String,
    /// As it was run, in the work folder.
    pub command: String,
    /// When it ended, UTC.
    pub date: String,
    /// Parameters of the model.
    pub parameters: Option<u64>,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Training tokens.
    pub tokens: u64,
    /// Time, without loading.
    pub seconds: f64,
    /// The training log, its losses averaged over stretches.
    pub train: Vec<Point>,
    /// All validations.
    pub validation: Vec<Point>,
    /// The last lines of the log as they are.
    pub tail: Vec<Value>,
}

/// A point of a loss curve. Losses are nats a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Training tokens seen.
    pub tokens: u64,
    /// The loss.
    pub loss: f64,
}

/// `likelihood.json`: one line a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// Name in the plan.
    pub name: String,
    /// alpha_0 at evaluation, for an Eso-LM.
    pub alpha_0: Option<f64>,
    /// Whether the whole hold-out was scored.
    pub whole: bool,
    /// As it was run, in the work folder.
    pub command: String,
    /// When, UTC.
    pub date: String,
    /// What it said.
    pub report: Report,
}

/// The part of `esolm ppl --json` that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub device: String,
    /// Windows scored.
    pub windows: u64,
    /// Tokens of a window.
    pub length: u64,
    /// Tokens scored.
    pub tokens: u64,
    /// Bytes of the text.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Orders of the exact likelihood.
    #[serde(default)]
    pub orders: Option<u64>,
    /// Noise draws of the NELBO.
    #[serde(default)]
    pub draws: Option<u64>,
    /// The bound; AR has none.
    pub nelbo: Option<Nelbo>,
    /// The exact likelihood; MDLM has none.
    pub exact: Option<Figure>,
    /// Time, without loading.
    pub seconds: f64,
}

/// The bound and its parts, nats a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nelbo {
    /// Diffusion part.
    #[serde(default)]
    pub diffusion: Option<f64>,
    /// Sequential part.
    #[serde(default)]
    pub sequential: Option<f64>,
    /// Their sum.
    pub total: Figure,
}

/// A likelihood in its units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Nats a token.
    pub nats_per_token: f64,
    /// Its standard error over windows, NaN where there is but one.
    #[serde(default)]
    pub standard_error: Option<f64>,
    /// Bits a byte of text.
    #[serde(default)]
    pub bits_per_byte: Option<f64>,
    /// exp(nats a token).
    pub ppl: f64,
}

impl Figure {
    /// Standard error of nats a token; 0 where none is known.
    pub fn error(&self) -> f64 {
        self.standard_error.unwrap_or(0.0)
    }
}

/// `samples.json`: one line a setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Name in the plan.
    pub name: String,
    /// alpha_0 at evaluation, for an Eso-LM.
    pub alpha_0: Option<f64>,
    /// T; none for AR.
    pub steps: Option<usize>,
    /// Schedule; none for AR.
    pub schedule: Option<String>,
    /// As it was run, in the work folder.
    pub command: String,
    /// How the judge was asked.
    pub judge_command: String,
    /// When, UTC.
    pub date: String,
    /// Where it ran.
    pub device: String,
    /// Samples drawn as one batch.
    pub batch: usize,
    /// Tokens of a sample.
    pub length: usize,
    /// Passes through the network for the batch.
    pub nfe: u64,
    /// Seconds a sample: those of the batch over their number, without loading.
    pub seconds_per_sample: f64,
    /// Seconds of a sample drawn alone, the shortest of a few.
    #[serde(default)]
    pub seconds_alone: Option<f64>,
    /// The judge's likelihood of the samples.
    pub judge: Figure,
    /// Mean entropy of the token counts inside a sample, nats.
    pub entropy: f64,
    /// Its standard error.
    pub entropy_error: f64,
    /// The beginning of sample 0.
    pub text: String,
}

/// `model.json`: two models on the same text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// When, UTC.
    pub date: String,
    /// The command that made it.
    pub command: String,
    /// What the judge is.
    pub judge: String,
    /// Settings of the samples, in words.
    pub sampling: String,
    /// Samples of each model.
    pub samples: usize,
    /// Words that distinct-n counts, the same number for each.
    pub distinct_words: usize,
    /// Held-out middles: how many, and their sizes in words.
    pub middles: usize,
    /// Words of a middle.
    pub middle_words: usize,
    /// Words before and after it.
    pub around_words: usize,
    /// Documents that the copied n-grams are looked up in.
    pub train: Extent,
    /// Documents that likelihoods and middles are taken from.
    pub holdout: Extent,
    /// The older and the newer model.
    pub models: Vec<Compared>,
    /// Hold-out texts, measured as if they were samples.
    pub baseline: TextFigures,
}

/// One model of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Name in tables.
    pub name: String,
    /// Shape in words.
    pub shape: String,
    /// Parameters.
    pub parameters: Option<u64>,
    /// Exact likelihood of the hold-out: alpha_0, tokens of a window, figure.
    pub exact: Vec<ExactAt>,
    /// Exact likelihood of the held-out middles.
    pub middles: MiddleFigures,
    /// Its samples.
    pub texts: TextFigures,
    /// The beginnings of some samples.
    pub examples: Vec<String>,
    /// Every command that was run for it.
    pub commands: Vec<String>,
}

/// Exact likelihood under one setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExactAt {
    /// alpha_0 at evaluation; none for AR.
    pub alpha_0: Option<f64>,
    /// Tokens of a window.
    pub length: u64,
    /// The figure.
    pub figure: Figure,
}

/// Likelihood of held-out middles given both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MiddleFigures {
    /// Nats a token of the model's own tokenizer.
    pub nats_per_token: f64,
    /// Bits a byte, which does not depend on the tokenizer.
    pub bits_per_byte: f64,
    /// Its standard error over middles.
    pub bits_per_byte_error: f64,
}

/// What is measured on texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextFigures {
    /// The judge's perplexity a token of its own tokenizer.
    pub judge_ppl: f64,
    /// The judge's bits a byte.
    pub judge_bits_per_byte: f64,
    /// Distinct-1, -2, -3.
    pub distinct: [f64; 3],
    /// Share of the word 8-grams that occur in the training text.
    pub copied: f64,
    /// Words in all.
    pub words: usize,
    /// Mean entropy of the word counts inside a text, nats.
    pub entropy: f64,
}

/// Everything in docs/results.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// `setup.json`.
    pub setup: Option<Setup>,
    /// `train-NAME.json`, in the order of the plan.
    pub training: Vec<Training>,
    /// `likelihood.json`.
    pub likelihood: Vec<Likelihood>,
    /// `samples.json`.
    pub samples: Vec<Samples>,
    /// `model.json`.
    pub model: Option<Comparison>,
}

impl Records {
    /// Reads what is there.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Json`].
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let setup: Option<Setup> = read(&folder.join("setup.json"))?;
        let mut training = Vec::new();
        if let Some(setup) = &setup {
            for model in setup.plan.all() {
                training.extend(read(&folder.join(training_file(&model.name)))?);
            }
        }
        Ok(Self {
            training,
            likelihood: read(&folder.join(LIKELIHOOD))?.unwrap_or_default(),
            samples: read(&folder.join(SAMPLES))?.unwrap_or_default(),
            model: read(&folder.join(MODEL))?,
            setup,
        })
    }
}

/// File of the likelihoods.
pub const LIKELIHOOD: &str = "likelihood.json";
/// File of the samples.
pub const SAMPLES: &str = "samples.json";
/// File of the comparison of two models.
pub const MODEL: &str = "model.json";

/// File of one training run.
pub fn training_file(name: &str) -> String {
    format!("train-{name}.json")
}

/// Reads a JSON file, if it is there.
///
/// # Errors
/// [`Error::File`] and [`Error::Json`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::reading(path)(error)),
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|source| Error::Json {
            what: path.display().to_string(),
            source,
        })
}

/// Writes a JSON file: beside the old one first, so that a crash leaves one of the two. An array gets a line an entry.
///
/// # Errors
/// [`Error::File`].
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let json = |source| Error::Json {
        what: path.display().to_string(),
        source,
    };
    let value = serde_json::to_value(value).map_err(json)?;
    let text = match &value {
        Value::Array(entries) => {
            let lines: Result<Vec<String>, _> = entries.iter().map(serde_json::to_string).collect();
            format!("[\n{}\n]\n", lines.map_err(json)?.join(",\n"))
        }
        other => serde_json::to_string_pretty(other).map_err(json)? + "\n",
    };
    replace(path, &text)
}

/// Writes a text file by way of a neighbour.
///
/// # Errors
/// [`Error::File`].
pub fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    fs::write(beside, text).map_err(Error::writing(beside))?;
    fs::rename(beside, path).map_err(Error::writing(path))
}
