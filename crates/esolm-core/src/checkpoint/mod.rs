//! Checkpoints: every form in which the published weights come, read from an untrusted file.
//!
//! | form | configuration | weights |
//! |---|---|---|
//! | Hugging Face folder | `config.json` | `model.safetensors` |
//! | bare `.safetensors` | `--config`, or `config.json` beside it | the file |
//! | Lightning `.ckpt` of the published code | `hyper_parameters.config` in the pickle | `ema.shadow_params`, or `state_dict` |
//! | `hf:owner/name` | as a folder, fetched to the usual cache | |
//! | a [`ByteSource`] | text of a `config.json`, or of the `.ckpt` | read in parts, see [`Checkpoint::from_source`] |
//!
//! The file is mapped, not read: a [`Checkpoint`] is a checked directory of tensors over it, and [`Checkpoint::f32`] converts one
//! tensor at a time. At opening every tensor is checked against [`ModelConfig::parameters`], so that what opens is complete.

mod error;
#[cfg(all(feature = "hub", not(target_family = "wasm")))]
mod hub;
mod lightning;
mod pickle;
mod remote;
mod safetensors;
mod writer;
mod zip;

#[cfg(not(target_family = "wasm"))]
mod open;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

pub use error::CheckpointError;
pub use pickle::PickleError;
pub use remote::{ByteSource, Movable, Reading};
#[cfg(not(target_family = "wasm"))]
pub use writer::write_hf_folder;
pub use writer::{StoreDtype, write_safetensors};
pub use zip::ZipError;

use crate::config::{ModelConfig, PartialConfig};
use crate::message::shorten;

/// The published module that holds the network is called `backbone`.
const PREFIX: &str = "backbone.";
/// A buffer that is computed anew; older files carry it, newer ones may not.
const ROTARY_BUFFER: &str = "rotary_emb.inv_freq";
/// No tensor of the published networks has more than two dimensions, and no name comes near this length; with both bounded, no
/// message can be flooded from a hostile file.
const MAX_RANK: usize = 8;
const MAX_NAME: usize = 200;

/// How to open a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// A `config.json` to use instead of the one that the checkpoint brings.
    pub config: Option<PathBuf>,
    /// Take `state_dict` of a Lightning checkpoint instead of the EMA weights.
    pub raw_weights: bool,
}

/// Element types of stored tensors. Weights are read from the first three; the others are known so that they can be named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Any other type, by the name it has in the file, with its size in bytes where that is known.
    Other(String, Option<usize>),
}

impl Dtype {
    fn from_safetensors(name: String) -> Self {
        match name.as_str() {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "F64" | "I64" | "U64" => Self::Other(name, Some(8)),
            "I32" | "U32" => Self::Other(name, Some(4)),
            "I16" | "U16" => Self::Other(name, Some(2)),
            "I8" | "U8" | "BOOL" => Self::Other(name, Some(1)),
            _ => Self::Other(shorten(&name), None),
        }
    }

    /// Size of an element in bytes, where it is known.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(_, size) => *size,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Other(name, _) => name,
        })
    }
}

/// One parameter of an open checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name without the prefix `backbone.`.
    pub name: String,
    /// Shape, outermost dimension first; `Linear` weights are `[out, in]`.
    pub shape: Vec<usize>,
    /// Element type in the file.
    pub dtype: Dtype,
    /// Length in the file in bytes.
    pub bytes: u64,
}

/// Which form a checkpoint had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A folder with `config.json` and `model.safetensors`, local or from the hub.
    HfFolder,
    /// A `.safetensors` file with a configuration from elsewhere.
    Safetensors,
    /// A Lightning checkpoint; `ema` tells which weights were taken.
    Lightning {
        /// True for the EMA weights, false for `state_dict`.
        ema: bool,
    },
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::HfFolder => "Hugging Face folder",
            Self::Safetensors => "safetensors file",
            Self::Lightning { ema: true } => "Lightning checkpoint, EMA weights",
            Self::Lightning { ema: false } => "Lightning checkpoint, raw weights",
        })
    }
}

/// A tensor as a reader found it, before it is checked against the configuration.
#[derive(Debug, Clone)]
struct RawTensor {
    /// Name as in the file.
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where its values lie in the file; inside the file, as long as shape and dtype say.
    range: Range<usize>,
    /// The zip entry that holds it and must match its checksum before it is used.
    guard: Option<Guard>,
}

/// A stretch of the file with its CRC-32.
#[derive(Debug, Clone)]
struct Guard {
    entry: String,
    range: Range<usize>,
    crc: u32,
}

/// The bytes of a checkpoint.
enum Bytes {
    Owned(Vec<u8>),
    #[cfg(not(target_family = "wasm"))]
    Mapped(memmap2::Mmap),
    /// Not all there.
    Remote(remote::Remote),
}

impl Bytes {
    /// Length of the file.
    fn len(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.len(),
            #[cfg(not(target_family = "wasm"))]
            Self::Mapped(map) => map.len(),
            Self::Remote(remote) => remote.size(),
        }
    }

    /// All of them, but for a file that is read in parts.
    fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Owned(bytes) => Some(bytes),
            #[cfg(not(target_family = "wasm"))]
            Self::Mapped(map) => Some(map),
            Self::Remote(_) => None,
        }
    }

    /// The bytes of a tensor; `None` when they are not there.
    fn of(&self, range: &Range<usize>) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Remote(remote) => remote.take(range).map(Cow::Owned),
            _ => self.whole()?.get(range.clone()).map(Cow::Borrowed),
        }
    }

    /// Gives back the memory of a stretch that was read, so that a checkpoint of any size loads in that of its largest tensor.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the map is read-only and backed by a file; a page that is dropped is read again when it is asked for.
            // A refusal costs memory only.
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

struct Located {
    info: TensorInfo,
    range: Range<usize>,
    guard: Option<Guard>,
}

/// An open checkpoint: its configuration and a complete, checked directory of its parameters over the mapped file.
pub struct Checkpoint {
    config: ModelConfig,
    bytes: Bytes,
    /// In the order of [`ModelConfig::parameters`].
    tensors: Vec<Located>,
    by_name: HashMap<String, usize>,
    source: SourceKind,
    tokenizer: Option<PathBuf>,
    /// A tokenizer.json that the checkpoint itself carries (Lightning pickles the tokenizer), or that came beside its bytes.
    tokenizer_json: Option<String>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("config", &self.config)
            .field("source", &self.source)
            .field("tensors", &self.tensors.len())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Refuses names that would flood or control the terminal when a message shows them.
fn check_name(name: &str) -> Result<(), CheckpointError> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(CheckpointError::TensorName {
            name: shorten(name),
            length: name.len(),
        });
    }
    Ok(())
}

impl Checkpoint {
    /// Opens what `spec` names: a folder, a `.safetensors` file, a Lightning `.ckpt`, or `hf:owner/name`.
    ///
    /// The file is mapped into memory and must not be changed while the checkpoint is in use.
    ///
    /// # Errors
    /// Everything that keeps the checkpoint from being complete and consistent; see [`CheckpointError`].
    #[cfg(not(target_family = "wasm"))]
    pub fn open(spec: &str, options: &OpenOptions) -> Result<Self, CheckpointError> {
        open::open(spec, options)
    }

    /// Opens the bytes of a `.safetensors` file with the text of its `config.json`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_safetensors_bytes(
        config_json: &str,
        bytes: Vec<u8>,
    ) -> Result<Self, CheckpointError> {
        let config = PartialConfig::from_json(config_json)
            .map_err(|e| CheckpointError::config("config.json", e))?;
        Self::from_safetensors(
            config,
            "config.json",
            Bytes::Owned(bytes),
            SourceKind::Safetensors,
        )
    }

    /// Opens the bytes of a Lightning `.ckpt`; `raw_weights` takes `state_dict` instead of the EMA weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_ckpt_bytes(bytes: Vec<u8>, raw_weights: bool) -> Result<Self, CheckpointError> {
        Self::from_ckpt(None, Bytes::Owned(bytes), raw_weights)
    }

    fn from_safetensors(
        config: PartialConfig,
        origin: &str,
        bytes: Bytes,
        source: SourceKind,
    ) -> Result<Self, CheckpointError> {
        let raw = safetensors::read(bytes.whole().unwrap_or_default())?;
        Self::assemble(config, origin, bytes, raw, source)
    }

    fn from_ckpt(
        config: Option<(PartialConfig, String)>,
        bytes: Bytes,
        raw_weights: bool,
    ) -> Result<Self, CheckpointError> {
        let lightning = lightning::read(
            bytes.whole().unwrap_or_default(),
            raw_weights,
            config.is_none(),
        )?;
        let (config, origin) =
            config.unwrap_or((lightning.config, "hyper_parameters.config".into()));
        let source = SourceKind::Lightning { ema: !raw_weights };
        let mut checkpoint = Self::assemble(config, &origin, bytes, lightning.tensors, source)?;
        checkpoint.tokenizer_json = lightning.tokenizer_json;
        Ok(checkpoint)
    }

    /// Completes the configuration from the tensors and checks every tensor against it.
    fn assemble(
        mut partial: PartialConfig,
        origin: &str,
        bytes: Bytes,
        raw: Vec<RawTensor>,
        source: SourceKind,
    ) -> Result<Self, CheckpointError> {
        let mut found: HashMap<String, RawTensor> = HashMap::with_capacity(raw.len());
        for mut tensor in raw {
            let name = tensor
                .name
                .strip_prefix(PREFIX)
                .unwrap_or(&tensor.name)
                .to_string();
            tensor.name.clone_from(&name);
            if found.insert(name.clone(), tensor).is_some() {
                return Err(CheckpointError::DuplicateTensor { name });
            }
        }
        partial
            .reconcile(|name| found.get(name).map(|tensor| tensor.shape.as_slice()))
            .map_err(|e| CheckpointError::config(origin, e))?;
        let config = partial
            .complete()
            .map_err(|e| CheckpointError::config(origin, e))?;
        found.remove(ROTARY_BUFFER);

        let mut tensors = Vec::new();
        let mut by_name = HashMap::new();
        for spec in config.parameters() {
            let Some(RawTensor {
                name,
                dtype,
                shape,
                range,
                guard,
            }) = found.remove(&spec.name)
            else {
                return Err(CheckpointError::MissingTensor {
                    name: spec.name,
                    family: config.family,
                    expected: spec.shape,
                });
            };
            if shape != spec.shape {
                return Err(CheckpointError::Shape {
                    name,
                    found: shape,
                    expected: spec.shape,
                });
            }
            if let Dtype::Other(other, _) = dtype {
                return Err(CheckpointError::Dtype { name, found: other });
            }
            by_name.insert(name.clone(), tensors.len());
            let info = TensorInfo {
                name,
                shape,
                dtype,
                bytes: range.len() as u64,
            };
            tensors.push(Located { info, range, guard });
        }
        if let Some(name) = found.into_keys().min() {
            return Err(CheckpointError::UnexpectedTensor {
                name,
                family: config.family,
                n_blocks: config.n_blocks,
            });
        }
        Ok(Self {
            config,
            bytes,
            tensors,
            by_name,
            source,
            tokenizer: None,
            tokenizer_json: None,
        })
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters in the order of [`ModelConfig::parameters`].
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter().map(|tensor| &tensor.info)
    }

    /// The values of one parameter, flat, outermost dimension first; f16 and bf16 values are exact in f32.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`], [`CheckpointError::Zip`] when the bytes of a `.ckpt` do not match their checksum, or
    /// [`CheckpointError::NotFetched`].
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let Some(&index) = self.by_name.get(name) else {
            return Err(CheckpointError::NoSuchTensor {
                name: name.into(),
                family: self.config.family,
            });
        };
        let Located { info, range, guard } = &self.tensors[index];
        let not_fetched = || CheckpointError::NotFetched {
            name: info.name.clone(),
        };
        if let Some(guard) = guard {
            let entry = self.bytes.of(&guard.range).ok_or_else(not_fetched)?;
            zip::check_crc(&guard.entry, &entry, guard.crc)?;
        }
        let bytes = self.bytes.of(range).ok_or_else(not_fetched)?;
        // The file is little-endian and gives no alignment.
        let halves = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let values = match info.dtype {
            Dtype::F16 => halves()
                .map(|b| half::f16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::Bf16 => halves()
                .map(|b| half::bf16::from_le_bytes(b).to_f32())
                .collect(),
            // Other types were refused at opening.
            _ => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        };
        self.bytes
            .release(guard.as_ref().map_or(range, |guard| &guard.range).clone());
        Ok(values)
    }

    /// Length of the weights file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The `tokenizer.json` that stands beside the weights, if there is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer.clone()
    }

    /// The text of a `tokenizer.json` that the checkpoint itself carries: Lightning checkpoints pickle their tokenizer. Or of the one from
    /// [`Checkpoint::with_tokenizer_json`].
    pub fn tokenizer_json(&self) -> Option<&str> {
        self.tokenizer_json.as_deref()
    }

    /// The checkpoint with the text of its `tokenizer.json`, where the weights came as bytes.
    #[must_use]
    pub fn with_tokenizer_json(mut self, json: &str) -> Self {
        self.tokenizer_json = Some(json.into());
        self
    }

    /// Which form the checkpoint had, and which weights were taken.
    pub fn source(&self) -> SourceKind {
        self.source
    }
}
