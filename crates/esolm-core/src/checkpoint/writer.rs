//! Writing weights, and a Hugging Face folder of them: config.json, model.safetensors or several files with their index, and, when there are
//! any, tokenizer.json and settings to sample with.

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
use super::{ChatFiles, chat};
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

/// Bytes of values of a file of weights, where nobody wants another number: browsers and file systems take such files.
pub const SHARD_BYTES: u64 = 2_000_000_000;
/// transformers refuses a file that does not say this.
const METADATA: [(&str, &str); 1] = [("format", "pt")];
/// Values that are in memory at once, but for rows that have more.
const AT_ONCE: usize = 1 << 22;

/// Writes the weights of `checkpoint` as one safetensors file, names with the published prefix `backbone.` (decoders have none), in the order
/// of [`crate::config::ModelConfig::parameters`]. Some rows of a tensor at a time are held in memory.
///
/// # Errors
/// What the sink answers; a tensor that cannot be read; a value beyond f16.
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

/// Writes what [`specs`] says; `path` is what errors call the sink.
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

/// Writes `checkpoint` as a Hugging Face folder that [`Checkpoint::open`] reads, the folder made if need be. A tokenizer that
/// stands beside the checkpoint or inside it comes along. The mask index is left out where [`Checkpoint::mask_told`] is false, so that the
/// folder names it no more than the checkpoint does. Weights of more than `shard_bytes` are several files, each of at most so many bytes of
/// values, beside an index.
///
/// Every file is written under a temporary name, brought to the disk, and renamed when all of them are whole, so that an error
/// leaves no half-written file and no new folder behind, and files that stood there before as they were. Other files in the folder stay. The
/// names of the files of weights come back, with that of their index.
///
/// # Errors
/// [`FileError::Io`] from the disk, [`CheckpointError::F16Overflow`], and what [`Checkpoint::f32`] finds.
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

/// What is written as the weights of a folder.
#[cfg(not(target_family = "wasm"))]
pub struct FolderWeights<'a> {
    /// The tensors, in their order.
    pub tensors: &'a [TensorSpec],
    /// How its matrices are quantised.
    pub quantization: Option<&'a Quantization>,
    /// Most bytes of values of a file.
    pub shard_bytes: u64,
}

/// As [`write_hf_folder`], of a network that was made of `checkpoint`: its configuration, its tensors, and what writes the values of these, one
/// after the other, to a sink that errors call by the path given.
///
/// # Errors
/// As there, and those of `values`.
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

/// As [`std::fs::create_dir_all`], and adds to `made` the folders that were not there, the outermost first.
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
        // Another process was faster.
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
    // Errors name the file, or of several the folder.
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
    texts.extend(tokenizer.map(|text| ("tokenizer.json", text)));
    let ChatFiles {
        template,
        tokenizer_config,
    } = checkpoint.chat_files().clone();
    let tells = |config: &String| template.is_some() || config.contains("\"chat_template\"");
    let tokenizer_config = tokenizer_config.filter(tells);
    texts.extend(tokenizer_config.map(|text| (chat::TOKENIZER_CONFIG, text.into_bytes())));
    texts.extend(template.map(|text| (chat::TEMPLATE, text.into_bytes())));
    let settings = checkpoint.recommended().to_json();
    texts.extend(settings.map(|text| (recommended::FILE, text.into_bytes())));
    for (name, text) in texts {
        let mut file = create(name)?;
        file.write_all(&text).map_err(io(file.path()))?;
        files.push(file);
    }
    // A full disk shows itself before any file is replaced.
    atomic::commit_all(files).map_err(|(path, error)| io(&path)(error))?;
    Ok(names)
}
