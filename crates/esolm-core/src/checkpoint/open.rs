//! Finding out what a path or a hub name is, and what belongs to it. Native only.

use std::path::{Path, PathBuf};

use esolm_checkpoint::{Error, Format, TensorFile};

use super::{Checkpoint, CheckpointError, OpenOptions, OtherWeights, Parts, SourceKind, WEIGHTS};
use crate::config::{ConfigError, PartialConfig};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// No real config.json or tokenizer.json comes near this; a larger one is a mistaken path.
const MAX_JSON_BYTES: u64 = 256 << 20;

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
    open_parts(path, options, kind, beside(CONFIG), beside(TOKENIZER))
}

/// Opens a file of weights with the files that belong to it: a `config.json`, which a `.ckpt` has no use for, and a `tokenizer.json`.
fn open_parts(
    path: &Path,
    options: &OpenOptions,
    kind: SourceKind,
    own: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
) -> Result<Checkpoint, CheckpointError> {
    let file = TensorFile::open(path)?;
    let safetensors = file.format() == Format::Safetensors;
    let own = own.filter(|_| safetensors);
    let config = match (&options.config, own) {
        (Some(given), own) => {
            let mut config = read_config(given, "the configuration")?;
            // Beside weights of another name it may belong to other weights.
            let belongs = path.file_name().is_some_and(|name| name == WEIGHTS);
            if let Some(own) = own.filter(|own| belongs && own != given) {
                add_own(&mut config, &own)?;
            }
            Some(config)
        }
        (None, own) => own
            .map(|own| read_config(&own, "the configuration"))
            .transpose()?,
    };
    let text = tokenizer.as_deref().map(read_text).transpose()?;
    let mut checkpoint = Checkpoint::new(Parts {
        config,
        tokenizer_json: text.map(Into::into),
        raw_weights: options.raw_weights,
        kind,
        path,
        ..Parts::new(file)
    })?;
    checkpoint.tokenizer = tokenizer;
    Ok(checkpoint)
}

/// What the config.json beside the weights says also counts where another one is given; it may be unusable, and be replaced for that.
fn add_own(
    (config, origin): &mut (PartialConfig, String),
    own: &Path,
) -> Result<(), CheckpointError> {
    match read_config(own, "the config.json beside the weights") {
        Ok((own, _)) => {
            (config.add_own(own)).map_err(|error| CheckpointError::config(&*origin, error))
        }
        Err(CheckpointError::Config {
            source: ConfigError::Json(_),
            ..
        }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(feature = "hub")]
fn open_hub(name: &str, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    let files = super::hub::fetch(name, options.config.is_none())?;
    open_parts(
        &files.weights,
        options,
        SourceKind::HfFolder,
        files.config,
        files.tokenizer,
    )
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

/// A configuration, which messages call `source`, and where it stands.
fn read_config(path: &Path, source: &str) -> Result<(PartialConfig, String), CheckpointError> {
    let text = read_text(path)?;
    let origin = path.display().to_string();
    match PartialConfig::from_json(&text, source) {
        Ok(config) => Ok((config, origin)),
        Err(error) => Err(CheckpointError::config(origin, error)),
    }
}

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    let io = |source| Error::io("read", path, source);
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_JSON_BYTES {
        return Err(io(std::io::Error::other(format!(
            "it has {length} bytes, too many for a file of its name; check the path"
        )))
        .into());
    }
    Ok(std::fs::read_to_string(path).map_err(io)?)
}
