//! Writes weights, and Hugging Face folders: config.json, model.safetensors or several files with an index, and, if
//! there are any, tokenizer.json and sampling settings.

use std::io::Write;
use std::path::Path;
#[cfg(not(target_family = "wasm"))]
use std::path::PathBuf;

use esolm_checkpoint::{Dtype, SafetensorsWriter, TensorSpec, write_f32};

#[cfg(not(target_family = "wasm"))]
use super::shards::INDEX;
#[cfg(not(target_family = "wasm"))]
use super::tokenizer::read_tokenizer;
#[cfg(not(target_family = "wasm"))]
use super::{ChatFiles, TOKENIZER, chat};
use super::{Checkpoint, CheckpointError, FileError, PREFIX, Parameter, WEIGHTS};
#[cfg(not(target_family = "wasm"))]
use crate::config::{ModelConfig, Quantization};
use crate::finite::first_beyond;
#[cfg(not(target_family = "wasm"))]
use crate::recommended;

/// Element type of written weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision, rounded to nearest even.
    F16,
}

/// Default maximum bytes of values per weights file, which browsers and file systems can handle.
pub const SHARD_BYTES: u64 = 2_000_000_000;
/// transformers rejects a file without this.
const METADATA: [(&str, &str); 1] = [("format", "pt")];
/// Maximum values in memory at once, except for longer rows.
const AT_ONCE: usize = 1 << 22;

/// Writes the weights of `checkpoint` as one safetensors file, in the order of
/// [`crate::config::ModelConfig::parameters`], with the published prefix `backbone.` in the names (except for
/// decoders). Only some rows of a tensor are held in memory at a time.
///
/// # Errors
/// If the sink fails, a tensor cannot be read, or a value is out of range for f16.
pub fn write_safetensors(
    checkpoint: &Checkpoint,
    sink: &mut dyn Write,
    dtype: StoreDtype,
) -> Result<(), CheckpointError> {
    let io = |error| FileError::io("write", WEIGHTS.as_ref(), error);
    let specs = specs(checkpoint, dtype);
    let mut writer = SafetensorsWriter::new(sink, &METADATA, &specs).map_err(io)?;
    write_values(checkpoint, &mut writer, dtype, WEIGHTS.as_ref())?;
    writer.finish().map_err(io)?;
    Ok(())
}

fn specs(checkpoint: &Checkpoint, dtype: StoreDtype) -> Vec<TensorSpec> {
    let stored = match dtype {
        StoreDtype::F32 => Dtype::F32,
        StoreDtype::F16 => Dtype::F16,
    };
    let spec = |info: &Parameter| {
        let name = match checkpoint.config().decoder {
            None => format!("{PREFIX}{}", info.name),
            Some(_) => info.name.clone(),
        };
        TensorSpec::new(name, stored.clone(), info.shape.as_slice())
    };
    checkpoint.parameters().map(spec).collect()
}

/// Writes the values that [`specs`] describes; errors call the sink `path`.
fn write_values(
    checkpoint: &Checkpoint,
    sink: &mut dyn Write,
    dtype: StoreDtype,
    path: &Path,
) -> Result<(), CheckpointError> {
    let io = |error| FileError::io("write", path, error);
    for info in checkpoint.parameters() {
        let rows = checkpoint.rows(&info.name)?;
        let columns: usize = info.shape.iter().skip(1).product();
        let step = (AT_ONCE / columns.max(1)).max(1);
        for first in (0..rows.count()).step_by(step) {
            let values = rows.read(first..rows.count().min(first + step))?.floats;
            if dtype == StoreDtype::F32 {
                write_f32(sink, &values).map_err(io)?;
                continue;
            }
            if let Some(index) = first_beyond(&values, half::f16::MAX.to_f32()) {
                return Err(CheckpointError::F16Overflow {
                    name: info.name.clone(),
                    value: values[index],
                    index: first * columns + index,
                });
            }
            for values in values.chunks(1 << 14) {
                let halves = values.iter().map(|&value| half::f16::from_f32(value));
                let bytes: Vec<u8> = halves.flat_map(half::f16::to_le_bytes).collect();
                sink.write_all(&bytes).map_err(io)?;
            }
        }
    }
    Ok(())
}

/// Writes `checkpoint` as a Hugging Face folder that [`Checkpoint::open`] can read, creating the folder if necessary. A
/// tokenizer next to the checkpoint or inside it is included. The mask index is omitted if [`Checkpoint::mask_told`] is
/// false, so that the folder does not claim more than the checkpoint. Weights of more than `shard_bytes` are split into
/// several files of at most that many bytes of values, with an index.
///
/// Every file is written under a temporary name, flushed to disk, and renamed once all of them are complete. An error
/// therefore leaves no incomplete file and no new folder behind, and existing files unchanged. Other files in the
/// folder are kept. Returns the names of the weight files, including the index.
///
/// # Errors
/// [`FileError::Io`] from the disk, [`CheckpointError::F16Overflow`], and errors of [`Checkpoint::f32`].
#[cfg(not(target_family = "wasm"))]
pub fn write_hf_folder(
    checkpoint: &Checkpoint,
    out: &Path,
    dtype: StoreDtype,
    shard_bytes: u64,
) -> Result<Vec<String>, CheckpointError> {
    let weights = FolderWeights {
        tensors: &specs(checkpoint, dtype),
        quantization: None,
        shard_bytes,
    };
    write_folder(
        checkpoint,
        out,
        checkpoint.config(),
        &weights,
        |sink, path| write_values(checkpoint, sink, dtype, path),
    )
}

/// The weights to write to a folder.
#[cfg(not(target_family = "wasm"))]
pub struct FolderWeights<'a> {
    /// The tensors, in order.
    pub tensors: &'a [TensorSpec],
    /// How the matrices are quantised.
    pub quantization: Option<&'a Quantization>,
    /// Maximum bytes of values per file.
    pub shard_bytes: u64,
}

/// The files of a folder that [`Checkpoint::open`] takes for the model's own, besides its weights and its `config.json`.
#[cfg(not(target_family = "wasm"))]
pub const BESIDE: [&str; 11] = [
    TOKENIZER,
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    chat::TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    chat::TEMPLATE,
    recommended::FILE,
];

/// Those of [`BESIDE`] that [`write_hf_folder`] writes for a checkpoint.
#[cfg(not(target_family = "wasm"))]
pub fn written_beside(checkpoint: &Checkpoint) -> Vec<&'static str> {
    let has_tokenizer =
        checkpoint.tokenizer_path().is_some() || checkpoint.tokenizer_json().is_some();
    let has = [
        (TOKENIZER, has_tokenizer),
        (chat::TOKENIZER_CONFIG, told_config(checkpoint).is_some()),
        (chat::TEMPLATE, checkpoint.chat_files().template.is_some()),
        (
            recommended::FILE,
            checkpoint.recommended().to_json().is_some(),
        ),
    ];
    let written = has.into_iter().filter(|(_, has)| *has);
    written.map(|(name, _)| name).collect()
}

/// The tokenizer's configuration, if a chat template is in it or needs it.
#[cfg(not(target_family = "wasm"))]
fn told_config(checkpoint: &Checkpoint) -> Option<&String> {
    let ChatFiles {
        template,
        tokenizer_config,
    } = checkpoint.chat_files();
    let tells = |config: &&String| template.is_some() || config.contains("\"chat_template\"");
    tokenizer_config.as_ref().filter(tells)
}

/// Like [`write_hf_folder`], for a network derived from `checkpoint`: takes its configuration, its tensors, and a
/// function that writes their values in order to a sink, which errors call by the given path.
///
/// # Errors
/// See [`write_hf_folder`]; also errors of `values`.
#[cfg(not(target_family = "wasm"))]
pub fn write_folder<E: From<CheckpointError>>(
    checkpoint: &Checkpoint,
    out: &Path,
    config: &ModelConfig,
    weights: &FolderWeights<'_>,
    values: impl FnOnce(&mut dyn Write, &Path) -> Result<(), E>,
) -> Result<Vec<String>, E> {
    let config = config.json(checkpoint.mask_told(), weights.quantization);
    let mut made = Vec::new();
    let written = create_folder(out, &mut made)
        .map_err(|error| E::from(FileError::io("create", out, error).into()))
        .and_then(|()| write_files(checkpoint, out, config, weights, values));
    if written.is_err() {
        for folder in made.iter().rev() {
            let _ = std::fs::remove_dir(folder); // only succeeds while empty
        }
    }
    written
}

/// Like [`std::fs::create_dir_all`], but adds the folders that it creates to `made`, outermost first.
#[cfg(not(target_family = "wasm"))]
fn create_folder(path: &Path, made: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let mut answer = std::fs::create_dir(path);
    if let Err(error) = &answer
        && error.kind() == std::io::ErrorKind::NotFound
        && let Some(parent) = path.parent()
    {
        create_folder(parent, made)?;
        answer = std::fs::create_dir(path);
    }
    match answer {
        Ok(()) => made.push(path.into()),
        // Another process created it first.
        Err(_) if path.is_dir() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(not(target_family = "wasm"))]
fn write_files<E: From<CheckpointError>>(
    checkpoint: &Checkpoint,
    out: &Path,
    config: String,
    weights: &FolderWeights<'_>,
    values: impl FnOnce(&mut dyn Write, &Path) -> Result<(), E>,
) -> Result<Vec<String>, E> {
    use esolm_checkpoint::{AtomicFile, ShardedWriter, atomic};

    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |error| CheckpointError::from(FileError::io("write", &path, error))
    };
    let create = |name: &str| {
        let path = out.join(name);
        AtomicFile::create(&path).map_err(io(&path))
    };
    let mut names = Vec::new();
    let open = |name: &str| {
        names.push(name.to_string());
        AtomicFile::create(out.join(name))
    };
    // Errors name the file, or the folder if there are several files.
    let one = out.join(WEIGHTS);
    let writer = ShardedWriter::new(&METADATA, weights.tensors, weights.shard_bytes, open);
    let mut writer = writer.map_err(io(&one))?;
    let index = writer.index().map(String::from);
    let path = if index.is_some() { out } else { &one };
    values(&mut writer, path)?;
    let mut files = writer.finish().map_err(io(path))?;

    let mut texts = vec![("config.json", config.into_bytes())];
    if let Some(text) = index {
        names.push(INDEX.into());
        texts.push((INDEX, text.into_bytes()));
    }
    let tokenizer = match (checkpoint.tokenizer_path(), checkpoint.tokenizer_json()) {
        (Some(path), _) => {
            let read = std::fs::read(&path).map_err(|e| FileError::io("read", &path, e));
            let bytes = read.map_err(CheckpointError::from)?;
            let (json, _) =
                read_tokenizer(&path, bytes).map_err(|source| CheckpointError::Tokenizer {
                    path: path.clone(),
                    source,
                })?;
            Some(json)
        }
        (None, json) => json.map(|text| text.as_bytes().to_vec()),
    };
    texts.extend(tokenizer.map(|text| (TOKENIZER, text)));
    let tokenizer_config = told_config(checkpoint).cloned();
    texts.extend(tokenizer_config.map(|text| (chat::TOKENIZER_CONFIG, text.into_bytes())));
    let template = checkpoint.chat_files().template.clone();
    texts.extend(template.map(|text| (chat::TEMPLATE, text.into_bytes())));
    let settings = checkpoint.recommended().to_json();
    texts.extend(settings.map(|text| (recommended::FILE, text.into_bytes())));
    for (name, text) in texts {
        let mut file = create(name)?;
        file.write_all(&text).map_err(io(file.path()))?;
        files.push(file);
    }
    // A full disk is noticed before any file is replaced.
    atomic::commit_all(files).map_err(|(path, error)| io(&path)(error))?;
    Ok(names)
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use super::super::beside::{NAMING, TABLES};
    use super::super::tokenizer::OTHER_FORMS;
    use super::*;

    #[test]
    fn everything_that_is_read_beside_weights_is_listed() {
        for name in NAMING.into_iter().chain(TABLES).chain(OTHER_FORMS) {
            assert!(BESIDE.contains(&name), "{name}");
        }
    }
}
