//! Finding out what a path or a hub name is, and mapping it. Native only.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{Bytes, Checkpoint, CheckpointError, OpenOptions, SourceKind, safetensors};
use crate::config::PartialConfig;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
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
        open_file(path, options)
    }
}

fn open_folder(folder: &Path, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    let weights = folder.join(WEIGHTS);
    if !weights.is_file() {
        return Err(CheckpointError::NoWeights {
            path: folder.into(),
            hint: what_else(folder),
        });
    }
    let config = options
        .config
        .clone()
        .unwrap_or_else(|| folder.join(CONFIG));
    if !config.is_file() && options.config.is_none() {
        return Err(CheckpointError::NoConfig { path: weights });
    }
    let tokenizer = folder.join(TOKENIZER);
    open_safetensors(
        &weights,
        &config,
        tokenizer.is_file().then_some(tokenizer),
        SourceKind::HfFolder,
        options,
    )
}

/// What to say about a folder without `model.safetensors`.
fn what_else(folder: &Path) -> String {
    if folder.join("model.safetensors.index.json").is_file() {
        "; its weights are split into several files, save them as one (save_pretrained with a large max_shard_size)".into()
    } else if folder.join("pytorch_model.bin").is_file() {
        "; it holds pytorch_model.bin, save it with safe_serialization=True".into()
    } else {
        "; give the folder that has it, beside config.json".into()
    }
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    let bytes = map(path)?;
    let beside = |name: &str| {
        path.parent()
            .map(|folder| folder.join(name))
            .filter(|file| file.is_file())
    };
    let first = bytes.whole().unwrap_or_default();
    if super::zip::looks_like(first) {
        let config = match &options.config {
            Some(file) => Some((read_config(file)?, file.display().to_string())),
            None => None,
        };
        let mut checkpoint = Checkpoint::from_ckpt(config, bytes, options.raw_weights)?;
        checkpoint.tokenizer = beside(TOKENIZER);
        return Ok(checkpoint);
    }
    if !safetensors::looks_like(first)
        && path
            .extension()
            .is_none_or(|extension| extension != "safetensors")
    {
        return Err(CheckpointError::unknown_format(first));
    }
    let Some(config) = options.config.clone().or_else(|| beside(CONFIG)) else {
        return Err(CheckpointError::NoConfig { path: path.into() });
    };
    drop(bytes);
    open_safetensors(
        path,
        &config,
        beside(TOKENIZER),
        SourceKind::Safetensors,
        options,
    )
}

fn open_safetensors(
    weights: &Path,
    config: &Path,
    tokenizer: Option<PathBuf>,
    source: SourceKind,
    options: &OpenOptions,
) -> Result<Checkpoint, CheckpointError> {
    if options.raw_weights {
        return Err(CheckpointError::RawWeightsNotApplicable {
            what: "a safetensors file",
        });
    }
    let bytes = map(weights)?;
    let mut checkpoint = Checkpoint::from_safetensors(
        read_config(config)?,
        &config.display().to_string(),
        bytes,
        source,
    )?;
    checkpoint.tokenizer = tokenizer;
    Ok(checkpoint)
}

#[cfg(feature = "hub")]
fn open_hub(name: &str, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    let files = super::hub::fetch(name, options.config.is_none())?;
    let config = options
        .config
        .clone()
        .or(files.config)
        .expect("fetched unless a configuration was given");
    open_safetensors(
        &files.weights,
        &config,
        files.tokenizer,
        SourceKind::HfFolder,
        options,
    )
}

#[cfg(not(feature = "hub"))]
fn open_hub(name: &str, _: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    Err(CheckpointError::Hub {
        repo: name.into(),
        file: WEIGHTS.into(),
        endpoint: "the hub".into(),
        reason: "this build has no hub support; build with the feature \"hub\", or download the folder and give its path".into(),
    })
}

fn read_config(path: &Path) -> Result<PartialConfig, CheckpointError> {
    let io = |source| CheckpointError::Io {
        action: "read",
        path: path.into(),
        source,
    };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_CONFIG_BYTES {
        return Err(io(std::io::Error::other(format!(
            "it has {length} bytes, too many for a config.json; check the path"
        ))));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    PartialConfig::from_json(&text)
        .map_err(|e| CheckpointError::config(path.display().to_string(), e))
}

fn map(path: &Path) -> Result<Bytes, CheckpointError> {
    let io = |source| CheckpointError::Io {
        action: "read",
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(Bytes::Owned(Vec::new())); // an empty file cannot be mapped everywhere
    }
    // SAFETY: the map is private to this process and only read. As with every mapped file, another process that truncates it
    // while it is in use ends this one with a signal; the documentation of `Checkpoint::open` says so.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Bytes::Mapped(map))
}
