//! Finding out what a path or a hub name is, and what belongs to it. Native only.

use std::path::{Path, PathBuf};

use esolm_checkpoint::{Error, TensorFile};

use super::beside::{self, Beside};
use super::shards::{self, INDEX, PYTORCH_INDEX};
use super::tokenizer::{OTHER_FORMS, TokenizerError, TokenizerForm, TokenizerJson, read_tokenizer};
use super::{
    ChatFiles, Checkpoint, CheckpointError, OpenOptions, Parts, SourceKind, TOKENIZER, WEIGHTS,
    lightning,
};
use crate::config::{ConfigError, PartialConfig};
use crate::recommended;

/// The names of the weights in a folder, the one that is preferred first.
pub(super) const OWN_WEIGHTS: [&str; 4] = [WEIGHTS, INDEX, "pytorch_model.bin", PYTORCH_INDEX];
const CONFIG: &str = "config.json";
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
    let weights = OWN_WEIGHTS.iter().map(|name| folder.join(name));
    let weights = weights.into_iter().find(|path| path.is_file());
    let weights = weights.ok_or_else(|| CheckpointError::NoWeights {
        path: folder.into(),
    })?;
    open_weights(&weights, options, SourceKind::HfFolder)
}

/// Opens a file of weights with what stands beside it; a `.ckpt` brings its own configuration.
fn open_weights(
    path: &Path,
    options: &OpenOptions,
    kind: SourceKind,
) -> Result<Checkpoint, CheckpointError> {
    let config = beside_weights(path, CONFIG);
    let tokenizer = tokenizer_beside(path);
    open_parts(path, options, kind, config, tokenizer)
}

fn beside_weights(weights: &Path, name: &str) -> Option<PathBuf> {
    Some(weights.with_file_name(name)).filter(|file| file.is_file())
}

/// The `tokenizer.json` beside weights, or else a tokenizer in another form.
fn tokenizer_beside(weights: &Path) -> Option<PathBuf> {
    let names = [TOKENIZER].into_iter().chain(OTHER_FORMS);
    names
        .into_iter()
        .find_map(|name| beside_weights(weights, name))
}

/// Opens a file of weights, or the index of several, with the files that belong to it: a `config.json`, which a `.ckpt` of Lightning
/// has no use for, and a `tokenizer.json`.
fn open_parts(
    path: &Path,
    options: &OpenOptions,
    kind: SourceKind,
    own: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
) -> Result<Checkpoint, CheckpointError> {
    let name = path.file_name().unwrap_or_default();
    let files = match name.to_str() {
        Some(name) if name.ends_with(".index.json") => shards::open(path, &read_text(path)?)?,
        _ => vec![TensorFile::open(path)?],
    };
    let own = own.filter(|_| !files.iter().any(lightning::has_config));
    let config = match (&options.config, own) {
        (Some(given), own) => {
            let mut config = read_config(given, "the configuration")?;
            // Beside weights of another name it may belong to other weights.
            let belongs = OWN_WEIGHTS.iter().any(|own| name == *own);
            if let Some(own) = own.filter(|own| belongs && own != given) {
                add_own(&mut config, &own)?;
            }
            Some(config)
        }
        (None, own) => own
            .map(|own| read_config(&own, "the configuration"))
            .transpose()?,
    };
    let found = tokenizer.as_deref().map(read_own).transpose()?;
    let (text, form) = match found {
        None => (None, None),
        Some(Ok((text, form))) => (Some(text), Some(Ok(form))),
        Some(Err(error)) => (None, Some(Err(error))),
    };
    let parsed = text.as_deref().and_then(TokenizerJson::parse);
    let Beside {
        claims,
        mut unread,
        table,
    } = beside::read(path, parsed)?;
    if matches!(form, Some(Err(_))) && !tokenizer.as_deref().is_some_and(beside::is_table) {
        // It may name the mask.
        unread = unread.or(Some(name_of(tokenizer.as_deref()).into()));
    }
    let mut checkpoint = Checkpoint::new(Parts {
        config,
        mask: (claims, unread),
        table,
        tokenizer_json: text.map(Into::into),
        tokenizer_name: name_of(tokenizer.as_deref()),
        raw_weights: options.raw_weights,
        read_as: options.read_as,
        kind,
        path,
        files,
    })?;
    if let Some(form) = form {
        checkpoint.tokenizer = tokenizer.filter(|_| form.is_ok());
        checkpoint.tokenizer_form = Some(form);
    }
    let settings = path.with_file_name(recommended::FILE);
    if settings.is_file() {
        let origin = settings.display().to_string();
        checkpoint = checkpoint.with_generation_config(&read_text(&settings)?, &origin)?;
    }
    let chat = ChatFiles::beside(path).map_err(|(path, error)| Error::io("read", &path, error))?;
    Ok(checkpoint.with_chat_files(chat))
}

fn name_of(tokenizer: Option<&Path>) -> &str {
    let name = tokenizer.and_then(|path| path.file_name()?.to_str());
    name.unwrap_or(TOKENIZER)
}

/// A tokenizer beside weights. One in a form that cannot be used is no error: text is not all that a model is used for.
#[allow(clippy::type_complexity)] // two kinds of errors, each handled by itself
fn read_own(
    path: &Path,
) -> Result<Result<(String, TokenizerForm), TokenizerError>, CheckpointError> {
    if path.ends_with(TOKENIZER) {
        return Ok(Ok((read_text(path)?, TokenizerForm::Fast)));
    }
    let read = read_tokenizer(path, read_bytes(path)?);
    Ok(read.map(|(json, form)| (String::from_utf8_lossy(&json).into_owned(), form)))
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
    let files = super::hub::fetch(name, options)?;
    open_parts(
        &files.weights,
        options,
        SourceKind::HfFolder,
        files.config,
        files.tokenizer.or_else(|| tokenizer_beside(&files.weights)),
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

pub(super) fn read_text(path: &Path) -> Result<String, CheckpointError> {
    String::from_utf8(read_bytes(path)?).map_err(|_| {
        let text = std::io::Error::other("it is not UTF-8 text; check the path");
        Error::io("read", path, text).into()
    })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| Error::io("read", path, source);
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_JSON_BYTES {
        return Err(io(std::io::Error::other(format!(
            "it has {length} bytes, too many for a file of its name; check the path"
        )))
        .into());
    }
    Ok(std::fs::read(path).map_err(io)?)
}
