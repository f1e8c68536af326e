//! Writing a Hugging Face folder: config.json, model.safetensors and, when there is one, tokenizer.json.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{Checkpoint, CheckpointError, PREFIX};
use crate::config::ParamSpec;

/// Element type of written weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision, rounded to nearest even.
    F16,
}

impl StoreDtype {
    fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
        }
    }
}

/// What [`write_safetensors`] stopped at.
pub(super) enum WriteError {
    Io(io::Error),
    Checkpoint(CheckpointError),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes the weights of `checkpoint` as one safetensors file, names with the published prefix `backbone.`, in the order of
/// [`crate::config::ModelConfig::parameters`]. One tensor at a time is held in memory.
///
/// # Errors
/// What the sink answers, as [`CheckpointError::Io`] without a path; a tensor that cannot be read; a value beyond f16.
pub fn write_safetensors(
    checkpoint: &Checkpoint,
    sink: &mut dyn Write,
    dtype: StoreDtype,
) -> Result<(), CheckpointError> {
    write_tensors(checkpoint, sink, dtype).map_err(|error| match error {
        WriteError::Io(source) => CheckpointError::Io {
            action: "write",
            path: "model.safetensors".into(),
            source,
        },
        WriteError::Checkpoint(error) => error,
    })
}

pub(super) fn write_tensors(
    checkpoint: &Checkpoint,
    sink: &mut dyn Write,
    dtype: StoreDtype,
) -> Result<(), WriteError> {
    let parameters = checkpoint.config().parameters();
    sink.write_all(&header(&parameters, dtype))?;
    for ParamSpec { name, .. } in parameters {
        let values = checkpoint.f32(&name).map_err(WriteError::Checkpoint)?;
        let mut bytes = Vec::with_capacity(1 << 16);
        for (chunk, values) in values.chunks(1 << 14).enumerate() {
            bytes.clear();
            match dtype {
                StoreDtype::F32 => values
                    .iter()
                    .for_each(|value| bytes.extend_from_slice(&value.to_le_bytes())),
                StoreDtype::F16 => {
                    for (i, &value) in values.iter().enumerate() {
                        if value.abs() > half::f16::MAX.to_f32() {
                            let index = (chunk << 14) + i;
                            return Err(WriteError::Checkpoint(CheckpointError::F16Overflow {
                                name,
                                value,
                                index,
                            }));
                        }
                        bytes.extend_from_slice(&half::f16::from_f32(value).to_le_bytes());
                    }
                }
            }
            sink.write_all(&bytes)?;
        }
    }
    Ok(())
}

/// Length, then JSON, padded with spaces so that the data begins at a multiple of 8.
fn header(parameters: &[ParamSpec], dtype: StoreDtype) -> Vec<u8> {
    let mut map = Map::new();
    // transformers refuses a file that does not name its framework.
    map.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for parameter in parameters {
        let end = offset + parameter.elements() * dtype.size();
        map.insert(
            format!("{PREFIX}{}", parameter.name),
            json!({ "dtype": dtype.name(), "shape": parameter.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}

#[cfg(not(target_family = "wasm"))]
pub use native::write_hf_folder;

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::fs::{self, File};
    use std::io::{BufWriter, Write};
    use std::path::{Path, PathBuf};

    use super::{StoreDtype, WriteError, write_tensors};
    use crate::checkpoint::{Checkpoint, CheckpointError};

    /// Writes `checkpoint` as a Hugging Face folder that [`Checkpoint::open`] reads, the folder made if need be. A tokenizer that
    /// stands beside the checkpoint or inside it comes along.
    ///
    /// Every file is written under a temporary name, flushed to the disk, and renamed when all of them are whole, so that an error
    /// leaves no half-written file behind, and files that stood there before as they were.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] from the disk, [`CheckpointError::F16Overflow`], and what [`Checkpoint::f32`] finds.
    pub fn write_hf_folder(
        checkpoint: &Checkpoint,
        out: &Path,
        dtype: StoreDtype,
    ) -> Result<(), CheckpointError> {
        let io = |action, path: &Path, source| CheckpointError::Io {
            action,
            path: path.into(),
            source,
        };
        let made = !out.exists();
        fs::create_dir_all(out).map_err(|e| io("create", out, e))?;
        let mut pending = Pending {
            files: Vec::new(),
            folder: made.then(|| out.into()),
        };

        let weights = out.join("model.safetensors");
        pending.write(&weights, |sink| write_tensors(checkpoint, sink, dtype))?;
        let config = checkpoint.config().to_json();
        pending.write(&out.join("config.json"), |sink| {
            Ok(sink.write_all(config.as_bytes())?)
        })?;
        let tokenizer = match (checkpoint.tokenizer_path(), checkpoint.tokenizer_json()) {
            (Some(path), _) => Some(fs::read(&path).map_err(|e| io("read", &path, e))?),
            (None, json) => json.map(|text| text.as_bytes().to_vec()),
        };
        if let Some(tokenizer) = tokenizer {
            pending.write(&out.join("tokenizer.json"), |sink| {
                Ok(sink.write_all(&tokenizer)?)
            })?;
        }
        pending.commit()
    }

    /// Files under temporary names; what is not committed is removed when this goes out of scope.
    struct Pending {
        /// Temporary and final path.
        files: Vec<(PathBuf, PathBuf)>,
        /// A folder that was made for them.
        folder: Option<PathBuf>,
    }

    impl Pending {
        fn write(
            &mut self,
            path: &Path,
            fill: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>,
        ) -> Result<(), CheckpointError> {
            let io = |source| CheckpointError::Io {
                action: "write",
                path: path.into(),
                source,
            };
            let name = path
                .file_name()
                .expect("the callers give file names")
                .to_string_lossy();
            let temporary = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
            let file = File::create(&temporary).map_err(io)?;
            self.files.push((temporary, path.into()));
            let mut sink = BufWriter::new(file);
            fill(&mut sink).map_err(|error| match error {
                WriteError::Io(source) => io(source),
                WriteError::Checkpoint(error) => error,
            })?;
            // Without the flush to the disk, a full disk could show itself only after the rename.
            sink.into_inner()
                .map_err(|e| io(e.into_error()))?
                .sync_all()
                .map_err(io)
        }

        fn commit(mut self) -> Result<(), CheckpointError> {
            while let Some((temporary, path)) = self.files.first() {
                fs::rename(temporary, path).map_err(|source| CheckpointError::Io {
                    action: "write",
                    path: path.clone(),
                    source,
                })?;
                self.files.remove(0);
            }
            self.folder = None;
            Ok(())
        }
    }

    impl Drop for Pending {
        fn drop(&mut self) {
            // Nothing can be done about a failure here; the error that led here is the one to report.
            for (temporary, _) in &self.files {
                let _ = fs::remove_file(temporary);
            }
            if let Some(folder) = &self.folder {
                let _ = fs::remove_dir(folder); // only succeeds while empty
            }
        }
    }
}
