//! Saved states: everything that a training needs to go on as if it had not stopped.
//!
//! One safetensors file a state: weights, averaged weights and both moments, f32, by the parameters' paths, with the step and the
//! recipe in its metadata. Random numbers and the order of the text follow from (seed, step), so nothing else is to be kept. A file
//! is written under another name, flushed and renamed: it is whole or not there.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::optimizer::Moments;
use crate::weights::{Weights, host};

/// Key of the metadata that holds [`Progress`].
const KEY: &str = "esolm_train";
/// States that are kept, the newest ones.
const KEPT: usize = 2;

/// How far a training is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Seconds spent on them.
    pub seconds: f64,
    /// The recipe, as TOML.
    pub recipe: String,
}

/// A saved or loaded state.
pub struct State {
    /// How far it is.
    pub progress: Progress,
    /// The weights that are trained.
    pub raw: Weights,
    /// Their moving average.
    pub ema: Weights,
    /// What the optimizer remembers.
    pub moments: BTreeMap<String, Moments>,
}

/// Writes a file whole or not at all.
///
/// # Errors
/// [`TrainError::Io`]; nothing half-written is left, and a file that was there stays as it was.
pub fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| {
        fill(&mut file)?;
        // Without this, a full disk could show itself only after the rename.
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| {
            let _ = fs::remove_file(&temporary);
            TrainError::write(path, error)
        })
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

impl State {
    /// Writes the state into `folder`, which is made if need be, and removes all but the newest ones.
    ///
    /// # Errors
    /// [`TrainError::Io`]; older states are untouched then.
    pub fn save(&self, folder: &Path) -> Result<PathBuf, TrainError> {
        fs::create_dir_all(folder).map_err(|e| TrainError::write(folder, e))?;
        let path = folder.join(format!("step-{:08}.safetensors", self.progress.step));
        let mut tensors: Vec<(String, Vec<f32>)> = Vec::new();
        for (kind, weights) in [("raw", &self.raw), ("ema", &self.ema)] {
            for (name, values) in weights {
                tensors.push((format!("{kind}.{name}"), host(values.clone())));
            }
        }
        for (name, moments) in &self.moments {
            tensors.push((format!("moment_1.{name}"), host(moments.first.clone())));
            tensors.push((format!("moment_2.{name}"), host(moments.second.clone())));
        }
        let views = tensors.iter().map(|(name, values)| {
            let bytes = bytemuck::cast_slice(values);
            let view = TensorView::new(Dtype::F32, vec![values.len()], bytes);
            (
                name,
                view.expect("a flat tensor has as many values as it has"),
            )
        });
        let progress = serde_json::to_string(&self.progress).expect("numbers and text are JSON");
        let metadata = HashMap::from([(KEY.to_string(), progress)]);
        let bytes =
            safetensors::serialize(views, Some(metadata)).expect("flat tensors are writable");
        write_whole(&path, |file| file.write_all(&bytes))?;
        let states = list(folder);
        for (_, old) in states.iter().take(states.len().saturating_sub(KEPT)) {
            // A state too many does no harm.
            let _ = fs::remove_file(old);
        }
        Ok(path)
    }

    /// Reads a state onto a device.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or holds no training.
    pub fn load(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let unusable = |reason: String| TrainError::State {
            path: path.into(),
            reason,
            remedy: "remove it; the state before it is taken where there is one",
        };
        let bytes = fs::read(path).map_err(|e| TrainError::read(path, e))?;
        let damaged = |e: safetensors::SafeTensorError| unusable(e.to_string());
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let progress: Progress = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(KEY))
            .and_then(|json| serde_json::from_str(json).ok())
            .ok_or_else(|| unusable("it holds no step".into()))?;
        // Texts are numbered in 32 bits, so no recipe has more steps; what is beyond would overflow where tokens are counted.
        if progress.step > u64::from(u32::MAX) {
            return Err(unusable(format!("its step is {}", progress.step)));
        }
        // Also no number that a duration cannot hold.
        if std::time::Duration::try_from_secs_f64(progress.seconds).is_err() {
            return Err(unusable(format!("its time is {} s", progress.seconds)));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let mut all: BTreeMap<&str, Weights> = BTreeMap::new();
        for (name, view) in file.iter() {
            let (kind, parameter) = name
                .split_once('.')
                .ok_or_else(|| unusable(format!("it holds a tensor {name:?}")))?;
            if view.dtype() != Dtype::F32 {
                return Err(unusable(format!("{name:?} is not f32")));
            }
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
            let tensor = Tensor::<1>::from_floats(values.as_slice(), device);
            all.entry(kind)
                .or_default()
                .insert(parameter.into(), tensor);
        }
        let mut take = |kind: &str| all.remove(kind).unwrap_or_default();
        let (first, mut second) = (take("moment_1"), take("moment_2"));
        // A moment that is lost would silently start from zero.
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
