//! The records of measurements: small JSON files in docs/results, from which docs/results.md is rendered. Commands are as they were run in
//! the work folder, dates are in UTC, likelihoods in nats per token and entropies in nats.
#![allow(missing_docs)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use esolm_checkpoint::atomic;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::corpus::Extent;
use crate::error::Error;
use crate::plan::{Plan, Setting};
use crate::reports::{Figure, Perplexity};

/// An answer that is kept in the work folder: the command line, when it was run (UTC), and what it printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Answer<T> {
    pub command: String,
    pub date: String,
    pub report: T,
}

/// `setup.json`: what was run, on what, where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// When the last run began.
    pub date: String,
    /// What `esolm --version` says.
    pub version: String,
    /// The processor and how many threads it runs.
    pub machine: String,
    pub command: String,
    /// What the models learn from.
    pub train: Extent,
    /// What the judge learns from.
    pub judge_train: Extent,
    /// What nobody learns from.
    pub holdout: Extent,
    /// The recipe that all models start from.
    pub recipe: String,
    pub plan: Plan,
}

/// `train-NAME.json`: one training run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Name in the plan.
    pub name: String,
    pub command: String,
    /// When it ended.
    pub date: String,
    pub parameters: Option<u64>,
    pub steps: u64,
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

/// A point of a loss curve, after a number of training tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub tokens: u64,
    pub loss: f64,
}

/// A line of `likelihood.json`: one measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// Name in the plan.
    pub name: String,
    /// alpha_0 at evaluation, for an Eso-LM.
    pub alpha_0: Option<f64>,
    /// Whether the whole hold-out was scored.
    pub whole: bool,
    #[serde(flatten)]
    pub answer: Answer<Perplexity>,
}

/// A line of `samples.json`: one setting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    #[serde(flatten)]
    pub setting: Setting,
    pub command: String,
    pub judge_command: String,
    pub date: String,
    /// Where it ran.
    pub device: String,
    /// Samples drawn as one batch.
    pub batch: usize,
    /// Tokens of a sample.
    pub length: usize,
    /// Passes through the network for the batch.
    pub nfe: u64,
    /// Seconds of the batch over the number of its samples, without loading.
    pub seconds_per_sample: f64,
    /// Seconds of a sample drawn alone, the shortest of a few.
    pub seconds_alone: Option<f64>,
    /// The judge's likelihood of the samples.
    pub judge: Figure,
    /// Mean entropy of the token counts inside a sample, and its standard error.
    pub entropy: f64,
    pub entropy_error: f64,
    /// The beginning of sample 0.
    pub text: String,
}

/// `model.json`: two models on the same text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub date: String,
    pub command: String,
    /// What the judge is.
    pub judge: String,
    /// Settings of the samples, in words.
    pub sampling: String,
    /// Samples of each model.
    pub samples: usize,
    /// Words that distinct-n counts, the same number for each.
    pub distinct_words: usize,
    /// Held-out middles: how many, how many words each has, and the text on either side of it.
    pub middles: usize,
    pub middle_words: usize,
    pub around_words: usize,
    /// What the copied n-grams are looked up in.
    pub train: Extent,
    /// What likelihoods and middles are taken from.
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
    pub parameters: Option<u64>,
    /// Exact likelihood of the hold-out.
    pub exact: Vec<ExactAt>,
    /// Exact likelihood of the held-out middles.
    pub middles: MiddleFigures,
    /// How it was sampled, in words.
    #[serde(default)]
    pub sampling: String,
    /// Its samples.
    pub texts: TextFigures,
    /// The beginnings of some samples.
    pub examples: Vec<String>,
    /// Every command that was run for it.
    pub commands: Vec<String>,
}

/// Exact likelihood at an alpha_0, none for AR, and a number of tokens per window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExactAt {
    pub alpha_0: Option<f64>,
    pub length: u64,
    pub figure: Figure,
}

/// Likelihood of held-out middles given both sides. Tokens are those of the model's own tokenizer, the error is over middles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MiddleFigures {
    pub nats_per_token: f64,
    pub bits_per_byte: f64,
    pub bits_per_byte_error: f64,
}

/// What is measured on texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextFigures {
    /// The judge's perplexity per token of its own tokenizer.
    pub judge_ppl: f64,
    pub judge_bits_per_byte: f64,
    /// Distinct-1, -2, -3.
    pub distinct: [f64; 3],
    /// Share of the word 8-grams that occur in the training text.
    pub copied: f64,
    /// Words in all.
    pub words: usize,
    /// Mean entropy of the word counts inside a text.
    pub entropy: f64,
}

/// Everything in docs/results.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Records {
    pub setup: Option<Setup>,
    /// In the order of the plan.
    pub training: Vec<Training>,
    pub likelihood: Vec<Likelihood>,
    pub samples: Vec<Samples>,
    pub model: Option<Comparison>,
}

/// Names of files.
pub const SETUP: &str = "setup.json";
pub const LIKELIHOOD: &str = "likelihood.json";
pub const SAMPLES: &str = "samples.json";
pub const MODEL: &str = "model.json";

/// File of one training run.
pub fn training_file(name: &str) -> String {
    format!("train-{name}.json")
}

impl Records {
    /// Reads what is there.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Json`].
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let mut records = Self {
            setup: read(&folder.join(SETUP))?,
            likelihood: read(&folder.join(LIKELIHOOD))?.unwrap_or_default(),
            samples: read(&folder.join(SAMPLES))?.unwrap_or_default(),
            model: read(&folder.join(MODEL))?,
            training: Vec::new(),
        };
        for model in records.setup.iter().flat_map(|setup| setup.plan.all()) {
            let training = read(&folder.join(training_file(&model.name)))?;
            records.training.extend(training);
        }
        Ok(records)
    }
}

/// Now, as `2026-11-24 13:17` in UTC.
pub fn now() -> String {
    stamp(Timestamp::now())
}

pub fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M").to_string()
}

/// Reads a JSON file, if it is there.
///
/// # Errors
/// [`Error::File`] and [`Error::Json`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let value = serde_json::from_str(&text);
            value.map(Some).map_err(Error::json(path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// Reads the entries of an array that [`write_lines`] wrote, each with its line: a number that is read and written again may have another last digit.
///
/// # Errors
/// [`Error::File`] and [`Error::Json`].
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(T, String)>, Error> {
    let entries: Vec<T> = read(path)?.unwrap_or_default();
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(|line| line.trim_end_matches(','));
    let lines: Vec<&str> = lines.filter(|line| line.starts_with('{')).collect();
    match lines.len() == entries.len() {
        true => Ok(entries
            .into_iter()
            .zip(lines.into_iter().map(String::from))
            .collect()),
        false => Err(Error::Data(format!(
            "{} has not an entry a line, as it was written; restore it",
            path.display()
        ))),
    }
}

/// An entry as JSON, its keys in alphabetical order.
///
/// # Errors
/// [`Error::Json`].
pub fn line<T: Serialize>(entry: &T) -> Result<String, Error> {
    let value = serde_json::to_value(entry).map_err(Error::json("an entry"))?;
    Ok(value.to_string())
}

/// Writes an array, an entry a line.
///
/// # Errors
/// [`Error::File`].
pub fn write_lines(path: &Path, lines: &[String]) -> Result<(), Error> {
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    replace(path, text.as_bytes()).map(|_| ())
}

/// Writes a JSON file, its keys in alphabetical order, an array with a line per entry.
///
/// # Errors
/// [`Error::File`].
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let value = serde_json::to_value(value).map_err(Error::json(path.display()))?;
    match value.as_array() {
        Some(entries) => {
            let lines: Vec<String> = entries.iter().map(Value::to_string).collect();
            write_lines(path, &lines)
        }
        None => replace(path, format!("{value:#}\n").as_bytes()).map(|_| ()),
    }
}

/// Removes a file, if there is one.
///
/// # Errors
/// [`Error::File`].
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::file("remove", path)),
    }
}

/// Writes a file, and the folders above it, unless it already has this content; says whether it was written. The old file is replaced as
/// a whole, so that a crash leaves one of the two.
///
/// # Errors
/// [`Error::File`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<bool, Error> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    atomic::write(path, bytes).map_err(Error::file("write", path))?;
    Ok(true)
}
