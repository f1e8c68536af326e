//! Finding out what a path or a hub name is, and what belongs to it. Native only.

use std::path::Path;

use esolm_checkpoint::{Error, Format, TensorFile};

use super::{Checkpoint, CheckpointError, OpenOptions, OtherWeights, SourceKind, WEIGHTS};
use crate::config::PartialConfig;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// No real config.json comes near this; a larger one is a mistaken path.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

pub(super) fn open(spec: &str, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    if let Some(name) = spec.strip_prefix("hf:") {
        return open_hub(name, options);
    }
    let path = Path::new(spec);
    let Ok(metadata) = std::fs::metadata(path) else {
        return Err(CheckpointError::NotFound { spec: spec.into() });
    };
    if metadata.is_dir() {
        open_folder(path, options)
    } else {
        open_weights(path, options, SourceKind::Safetensors)
    }
}

fn open_folder(folder: &Path, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    let weights = folder.join(WEIGHTS);
    if !weights.is_file() {
        return Err(CheckpointError::NoWeights {
            path: folder.into(),
            instead: other_weights(folder),
        });
    }
    open_weights(&weights, options, SourceKind::HfFolder)
}

fn other_weights(folder: &Path) -> OtherWeights {
    if folder.join("model.safetensors.index.json").is_file() {
        OtherWeights::Shards
    } else if folder.join("pytorch_model.bin").is_file() {
        OtherWeights::PyTorch
    } else {
        OtherWeights::Nothing
    }
}

/// Opens a file of weights with what stands beside it; a `.ckpt` brings its own configuration.
fn open_weights(
    path: &Path,
    options: &OpenOptions,
    kind: SourceKind,
) -> Result<Checkpoint, CheckpointError> {
    let beside = |name: &str| Some(path.with_file_name(name)).filter(|file| file.is_file());
    let file = TensorFile::open(path)?;
    let config = match file.format() {
        Format::PyTorch => options.config.clone(),
        Format::Safetensors => options.config.clone().or_else(|| beside(CONFIG)),
    };
    let config = config.map(|file| read_config(&file)).transpose()?;
    let mut checkpoint = Checkpoint::new(file, config, options.raw_weights, kind, path)?;
    checkpoint.tokenizer = beside(TOKENIZER);
    Ok(checkpoint)
}

#[cfg(feature = "hub")]
fn open_hub(name: &str, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    let files = super::hub::fetch(name, options.config.is_none())?;
    let options = OpenOptions {
        config: options.config.clone().or(files.config),
        ..*options
    };
    let mut checkpoint = open_weights(&files.weights, &options, SourceKind::HfFolder)?;
    checkpoint.tokenizer = files.tokenizer;
    Ok(checkpoint)
}

#[cfg(not(feature = "hub"))]
fn open_hub(name: &str, _: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    Err(CheckpointError::Hub {
        repo: name.into(),
        file: WEIGHTS.into(),
        endpoint: "the hub".into(),
        source: super::HubError::NotBuilt,
    })
}

/// A configuration and where it stands.
fn read_config(path: &Path) -> Result<(PartialConfig, String), CheckpointError> {
    let io = |source| Error::io("read", path, source);
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_CONFIG_BYTES {
        return Err(io(std::io::Error::other(format!(
            "it has {length} bytes, too many for a config.json; check the path"
        )))
        .into());
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let origin = path.display().to_string();
    match PartialConfig::from_json(&text) {
        Ok(config) => Ok((config, origin)),
        Err(error) => Err(CheckpointError::config(origin, error)),
    }
}
