//! Saved states: everything that a training needs to continue as if it had not stopped.
//!
//! A state is one safetensors file with weights, averaged weights and both moments, in f32, by parameter path, and with
//! its progress in the metadata. Random numbers and the order of the text follow from the seed and the number of
//! tokens, so nothing else has to be stored. Files are written atomically ([`esolm_checkpoint::atomic`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use esolm_checkpoint::{AtomicFile, Dtype, Format, TensorFile, atomic};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::optimizer::Moments;
use crate::recipe::Recipe;
use crate::weights::{Weights, write_f32};

/// Metadata key of [`Progress`].
const KEY: &str = "esolm_train";
/// Number of newest states to keep.
const KEPT: usize = 2;

/// How far a training has progressed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Steps done, of any size.
    pub step: u64,
    /// Tokens trained on. Everything that depends on the amount of training depends on this: which text comes next, the
    /// schedule, the end.
    pub tokens: u64,
    /// Tokens trained on during the warm-up of the learning rate.
    pub warmup_tokens: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// The recipe of the last step, as TOML.
    pub recipe: String,
    /// Digest of the training text ([`crate::data::digest`]); `None` for states saved by older versions.
    pub text: Option<String>,
    /// Digest of the tokenizer.json ([`crate::data::tokenizer_digest`]); `None` for states saved by older versions.
    pub tokenizer: Option<String>,
    /// The network's configuration as the text of a config.json, if its weights came from a checkpoint. In this case
    /// vocabulary, mask and end-of-text tokens do not follow from the recipe.
    pub config: Option<String>,
}

/// Progress as stored in a file. Optional fields were not written by older versions.
#[derive(Deserialize)]
struct Saved {
    step: u64,
    tokens: Option<u64>,
    warmup_tokens: Option<u64>,
    seconds: f64,
    recipe: String,
    text: Option<String>,
    tokenizer: Option<String>,
    config: Option<String>,
}

impl Progress {
    /// Counts a step of the recipe.
    pub fn advance(&mut self, recipe: &Recipe) {
        let tokens = recipe.step_tokens();
        if self.step < recipe.optimizer.warmup_steps {
            self.warmup_tokens += tokens;
        }
        self.step += 1;
        self.tokens += tokens;
    }

    /// Validates the progress; an error is part of a sentence.
    fn check(saved: Saved) -> Result<Self, String> {
        let Saved { step, seconds, .. } = saved;
        // Texts are numbered in 32 bits, so no recipe has more steps; larger numbers would overflow when tokens are
        // counted.
        if step > u64::from(u32::MAX) {
            return Err(format!("its step is {step}"));
        }
        // Also rejects numbers that do not fit a duration.
        if std::time::Duration::try_from_secs_f64(seconds).is_err() {
            return Err(format!("its time is {seconds} s"));
        }
        let (tokens, warmup_tokens) = match (saved.tokens, saved.warmup_tokens) {
            (Some(tokens), Some(warmup)) => (tokens, warmup),
            // All steps are assumed to have had the size of the last one.
            _ => {
                let recipe = Recipe::parse_saved(&saved.recipe, &[])
                    .map_err(|error| format!("it does not say its tokens, and {error}"))?;
                let tokens = |steps: u64| steps.saturating_mul(recipe.step_tokens());
                let warmup = recipe.optimizer.warmup_steps.min(step);
                (tokens(step), tokens(warmup))
            }
        };
        // The maximum number of texts of maximum length.
        if tokens > u64::from(u32::MAX) << 16 || warmup_tokens > tokens {
            return Err(format!(
                "it counts {tokens} tokens, {warmup_tokens} of them in the warm-up"
            ));
        }
        Ok(Self {
            step,
            tokens,
            warmup_tokens,
            seconds,
            recipe: saved.recipe,
            text: saved.text,
            tokenizer: saved.tokenizer,
            config: saved.config,
        })
    }
}

/// A saved or loaded state.
pub struct State {
    /// Its progress.
    pub progress: Progress,
    /// The weights being trained.
    pub raw: Weights,
    /// Their moving average.
    pub ema: Weights,
    /// The optimizer's state.
    pub moments: BTreeMap<String, Moments>,
}

/// Writes a file atomically.
///
/// # Errors
/// [`TrainError::Io`]; no incomplete file is left, and an existing file is unchanged.
pub fn write_whole(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), TrainError> {
    atomic::write(path, bytes).map_err(|error| TrainError::write(path, error))
}

/// The states in a folder with their steps, oldest first.
pub fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut states: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let step = name.strip_prefix("step-")?.strip_suffix(".safetensors")?;
            Some((step.parse().ok()?, entry.path()))
        })
        .collect();
    states.sort();
    states
}

/// The error for a state that cannot be resumed.
pub(crate) fn unusable(path: &Path, reason: String) -> TrainError {
    TrainError::State {
        path: path.into(),
        reason,
        remedy: "remove it; the state before it is taken where there is one",
    }
}

fn open(path: &Path) -> Result<(TensorFile, Progress), TrainError> {
    let unusable = |reason: String| unusable(path, reason);
    let bytes = fs::read(path).map_err(|e| TrainError::read(path, e))?;
    let file = TensorFile::from_bytes(bytes, Format::Safetensors)
        .map_err(|error| unusable(error.to_string()))?;
    let saved: Saved = (file.metadata().get(KEY))
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or_else(|| unusable("it holds no step".into()))?;
    let progress = Progress::check(saved).map_err(unusable)?;
    Ok((file, progress))
}

impl Progress {
    /// Reads the progress of a state, without its tensors.
    ///
    /// # Errors
    /// See [`State::load`].
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        open(path).map(|(_, progress)| progress)
    }
}

impl State {
    /// Writes the state into `folder`, creating it if necessary, and removes all but the newest states.
    ///
    /// # Errors
    /// [`TrainError::Io`]; in this case older states are untouched.
    pub fn save(&self, folder: &Path) -> Result<PathBuf, TrainError> {
        fs::create_dir_all(folder).map_err(|e| TrainError::write(folder, e))?;
        let path = folder.join(format!("step-{:08}.safetensors", self.progress.step));
        let mut tensors: Vec<(String, &Tensor<1>)> = Vec::new();
        for (kind, weights) in [("raw", &self.raw), ("ema", &self.ema)] {
            for (name, values) in weights {
                tensors.push((format!("{kind}.{name}"), values));
            }
        }
        for (name, moments) in &self.moments {
            tensors.push((format!("moment_1.{name}"), &moments.first));
            tensors.push((format!("moment_2.{name}"), &moments.second));
        }
        let progress = serde_json::to_string(&self.progress).expect("numbers and text are JSON");
        let write = || {
            let file = AtomicFile::create(&path)?;
            write_f32(file, &[(KEY, &progress)], &tensors)?.commit()
        };
        write().map_err(|error| TrainError::write(&path, error))?;
        let states = list(folder);
        for (_, old) in states.iter().take(states.len().saturating_sub(KEPT)) {
            // An extra state does no harm.
            let _ = fs::remove_file(old);
        }
        Ok(path)
    }

    /// Reads a state onto a device.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is not a training state.
    pub fn load(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let unusable = |reason: String| unusable(path, reason);
        let damaged = |error: esolm_checkpoint::Error| unusable(error.to_string());
        let (file, progress) = open(path)?;
        let mut all: BTreeMap<&str, Weights> = BTreeMap::new();
        for info in file.tensors() {
            let (kind, parameter) = info
                .name
                .split_once('.')
                .ok_or_else(|| unusable(format!("it holds a tensor {:?}", info.name)))?;
            if info.dtype != Dtype::F32 {
                return Err(unusable(format!("{:?} is not f32", info.name)));
            }
            let values = file.f32(info).map_err(damaged)?;
            let tensor = Tensor::<1>::from_floats(values.as_slice(), device);
            all.entry(kind)
                .or_default()
                .insert(parameter.into(), tensor);
        }
        let mut take = |kind: &str| all.remove(kind).unwrap_or_default();
        let (first, mut second) = (take("moment_1"), take("moment_2"));
        // A lost moment would silently start from zero.
        let half = |name: &str| unusable(format!("it holds one moment of {name:?}, not both"));
        let mut moments = BTreeMap::new();
        for (name, first) in first {
            let second = second.remove(&name).ok_or_else(|| half(&name))?;
            moments.insert(name, Moments { first, second });
        }
        if let Some(name) = second.keys().next() {
            return Err(half(name));
        }
        Ok(Self {
            progress,
            raw: take("raw"),
            ema: take("ema"),
            moments,
        })
    }
}
