//! A checkpoint that is not all there: its header was read, its tensors come when they are fetched and go when they are read.
//!
//! So a browser loads a model in the memory of one block, whatever the size of the file.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use super::{Bytes, Checkpoint, CheckpointError, SourceKind, safetensors, zip};
use crate::config::PartialConfig;

/// A `.ckpt` is read whole, since what it holds where stands at its end; beside it there must be room for the model.
const MAX_WHOLE: u64 = 1 << 30;
/// The header of a model of ten thousand tensors has about a megabyte.
const MAX_HEADER: usize = 64 << 20;
/// Enough to tell one form from another.
const FIRST: u64 = 64;

/// On a machine with threads, a source that a checkpoint owns must be able to go with it to another one.
#[cfg(not(target_family = "wasm"))]
pub trait Movable: Send + Sync {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send + Sync> Movable for T {}
/// A browser's values stay in their thread.
#[cfg(target_family = "wasm")]
pub trait Movable {}
#[cfg(target_family = "wasm")]
impl<T> Movable for T {}

/// The bytes of a range of a source, or why they do not come.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + 'a>>;

/// Bytes that are read in parts: a file of a browser, an archive, a server.
pub trait ByteSource: Movable {
    /// How many there are.
    fn size(&self) -> u64;
    /// Those of a range inside the size.
    fn read(&self, range: Range<u64>) -> Reading<'_>;
}

/// Where the bytes come from, and those that were fetched, by where they begin.
pub(super) struct Remote {
    source: Box<dyn ByteSource>,
    size: usize,
    fetched: Mutex<HashMap<usize, Vec<u8>>>,
}

impl Remote {
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The bytes of a tensor, which are then given up.
    pub(super) fn take(&self, range: &Range<usize>) -> Option<Vec<u8>> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.remove(&range.start)
    }

    async fn fetch(&self, range: &Range<usize>) -> Result<(), CheckpointError> {
        let bytes = exactly(&*self.source, range.start as u64..range.end as u64).await?;
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.insert(range.start, bytes);
        Ok(())
    }
}

/// Reads a range and checks that all of it came.
async fn exactly(source: &dyn ByteSource, range: Range<u64>) -> Result<Vec<u8>, CheckpointError> {
    let wanted = range.end - range.start;
    let bytes = source.read(range).await.map_err(CheckpointError::Source)?;
    if bytes.len() as u64 != wanted {
        return Err(CheckpointError::Source(format!(
            "{} of {wanted} bytes came",
            bytes.len()
        )));
    }
    Ok(bytes)
}

impl Checkpoint {
    /// Opens a checkpoint that is read in parts: the bytes of a `model.safetensors` with the text of its `config.json`, or a Lightning
    /// `.ckpt`, which brings its own configuration and is read whole. Before a parameter is read it must be [fetched](Self::fetch).
    ///
    /// # Errors
    /// As [`Checkpoint::from_safetensors_bytes`] and [`Checkpoint::from_ckpt_bytes`], and when the source does not deliver.
    pub async fn from_source(
        config_json: Option<&str>,
        source: Box<dyn ByteSource>,
        raw_weights: bool,
    ) -> Result<Self, CheckpointError> {
        let size = source.size();
        let first = exactly(&*source, 0..size.min(FIRST)).await?;
        let config = config_json
            .map(PartialConfig::from_json)
            .transpose()
            .map_err(|e| CheckpointError::config("config.json", e))?;
        if zip::looks_like(&first) {
            if size > MAX_WHOLE {
                return Err(CheckpointError::TooLarge {
                    bytes: size,
                    limit: MAX_WHOLE,
                });
            }
            let bytes = exactly(&*source, 0..size).await?;
            let config = config.map(|config| (config, "config.json".into()));
            return Self::from_ckpt(config, Bytes::Owned(bytes), raw_weights);
        }
        if !safetensors::looks_like(&first) {
            return Err(CheckpointError::unknown_format(&first));
        }
        if raw_weights {
            return Err(CheckpointError::RawWeightsNotApplicable {
                what: "a safetensors file",
            });
        }
        let config = config.ok_or_else(|| CheckpointError::NoConfig {
            path: "model.safetensors".into(),
        })?;
        let size = usize::try_from(size).map_err(|_| CheckpointError::TooLarge {
            bytes: size,
            limit: usize::MAX as u64,
        })?;
        let header = safetensors::header(&first, size)?;
        if header.len() > MAX_HEADER {
            return Err(CheckpointError::Safetensors(format!(
                "its header of {} bytes is longer than that of any model",
                header.len()
            )));
        }
        let text = exactly(&*source, header.start as u64..header.end as u64).await?;
        let tensors = safetensors::tensors(&text, size)?;
        let bytes = Bytes::Remote(Remote {
            source,
            size,
            fetched: Mutex::default(),
        });
        Self::assemble(
            config,
            "config.json",
            bytes,
            tensors,
            SourceKind::Safetensors,
        )
    }

    /// Brings the parameters whose names begin with `prefix` into memory, where each stays until it is read once. Does nothing for a
    /// checkpoint that is a file or was given whole.
    ///
    /// # Errors
    /// [`CheckpointError::Source`] when the source does not deliver.
    pub async fn fetch(&self, prefix: &str) -> Result<(), CheckpointError> {
        let Bytes::Remote(remote) = &self.bytes else {
            return Ok(());
        };
        let wanted = (self.tensors.iter()).filter(|tensor| tensor.info.name.starts_with(prefix));
        for tensor in wanted {
            remote.fetch(&tensor.range).await?;
        }
        Ok(())
    }
}
