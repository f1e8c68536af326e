//! Checkpoints: reads untrusted files in every format in which the published weights come.
//!
//! | format | configuration | weights |
//! |---|---|---|
//! | Hugging Face folder | `config.json` | `model.safetensors`, or the files of its `.index.json`, or `pytorch_model.bin` |
//! | bare `.safetensors`, `.pt` or `.bin` | [`OpenOptions::config`], or `config.json` next to it | the file |
//! | Lightning `.ckpt` of the published code | `hyper_parameters.config` in the pickle | `ema.shadow_params`, or `state_dict` |
//! | `hf:owner/name` | as a folder, fetched to the usual cache | |
//! | [`Weights`] read in parts | text of a `config.json`, or in the `.ckpt` | see [`Checkpoint::from_source`] |
//!
//! Tokenizers come as `tokenizer.json` next to the weights, or in other forms there and in the pickle of a `.ckpt`
//! ([`TokenizerForm`]). In every case [`Checkpoint::tokenizer_json`] returns the text of a `tokenizer.json`, or
//! [`Checkpoint::tokenizer_form`] says why there is none.
//!
//! The crate `esolm_checkpoint` reads the files; this module knows the models. Files are memory-mapped, and
//! [`Checkpoint::f32`] converts one tensor at a time. Every tensor is checked against [`ModelConfig::parameters`] on
//! opening, so an open checkpoint is complete.

mod assemble;
#[cfg(not(target_family = "wasm"))]
mod beside;
mod chat;
mod decoder;
mod error;
#[cfg(all(feature = "hub", not(target_family = "wasm")))]
mod hub;
mod lightning;
mod parameter;
mod reading;
mod rotary;
mod scalars;
mod shards;
mod tokenizer;
mod writer;

#[cfg(not(target_family = "wasm"))]
mod open;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use esolm_checkpoint::{Format, TensorFile};

pub use chat::{ChatFiles, TOKENIZER_CONFIG};
pub use error::{CheckpointError, HubError, QuantisedError};
pub use esolm_checkpoint::{
    ByteSource, Dtype, Error as FileError, Reading, SafetensorsWriter, TensorInfo, TensorSpec,
    write_f32,
};
pub use lightning::LightningError;
pub use parameter::{Form, Parameter};
pub use reading::{Rows, Values};
#[cfg(not(target_family = "wasm"))]
pub use tokenizer::read_tokenizer;
#[cfg(not(target_family = "wasm"))]
pub use writer::{BESIDE, FolderWeights, write_folder, write_hf_folder, written_beside};
pub use writer::{SHARD_BYTES, StoreDtype, write_safetensors};

use crate::config::{ModelConfig, PartialConfig, Quantization, ReadAs};
use crate::recommended::Recommended;
use assemble::Parts;
use scalars::NoiseRange;
use shards::{INDEX, Index};
#[cfg(feature = "text")]
pub(crate) use tokenizer::{MAX_PIECE_BYTES, check_charsmap};
pub use tokenizer::{TokenizerError, TokenizerForm};

/// The published module that contains the network is called `backbone`.
const PREFIX: &str = "backbone.";
/// Name components added by wrappers: `torch.compile`, `DistributedDataParallel`, Fabric and FSDP.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "module",
    "_forward_module",
    "_fsdp_wrapped_module",
];
/// A mask that some files contain as a buffer; the engine does not need it.
const STATIC_MASK: &str = "static_attention_mask";
/// Name of the weights in a folder, and in messages about weights without a path.
const WEIGHTS: &str = "model.safetensors";
/// Name of the tokenizer in a folder.
const TOKENIZER: &str = "tokenizer.json";

/// Options for opening a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// A `config.json` to use instead of the checkpoint's own.
    pub config: Option<PathBuf>,
    /// Use `state_dict` of a Lightning checkpoint instead of the EMA weights.
    pub raw_weights: bool,
    /// Show the progress of downloads on stderr, if that is a terminal.
    pub progress: bool,
    /// The user's answers to what the configuration leaves open.
    pub read_as: ReadAs,
}

/// Weights to be read in parts.
pub enum Weights {
    /// A single file: a `model.safetensors`, or a Lightning `.ckpt`.
    File(Box<dyn ByteSource>),
    /// Several files, and the text of the `model.safetensors.index.json` that lists them ([`shard_names`]).
    Shards {
        /// Text of the index.
        index: String,
        /// The files, by name.
        files: BTreeMap<String, Box<dyn ByteSource>>,
    },
}

impl Weights {
    async fn open(self) -> Result<Vec<TensorFile>, CheckpointError> {
        let (index, mut files) = match self {
            Self::File(source) => return Ok(vec![TensorFile::from_source(source).await?]),
            Self::Shards { index, files } => (Index::read(INDEX.as_ref(), &index)?, files),
        };
        let mut opened = Vec::new();
        for name in index.files() {
            let source = files.remove(name).ok_or_else(|| index.missing(name))?;
            opened.push(index.shard(name, TensorFile::from_source(source).await)?);
        }
        Ok(opened)
    }
}

/// Names of a folder's safetensors weight files, including the index if there are several. If the index cannot be read,
/// only its name.
#[cfg(not(target_family = "wasm"))]
pub fn weights_in(folder: &Path) -> Vec<String> {
    let is_there = |name: &String| folder.join(name).symlink_metadata().is_ok();
    let index = open::read_text(&folder.join(INDEX));
    let shards = index.and_then(|text| shard_names(&text));
    let mut names = shards.unwrap_or_default();
    names.extend([WEIGHTS, INDEX].map(String::from));
    names.retain(is_there);
    names.dedup();
    names
}

/// The files listed in the text of a `model.safetensors.index.json`, each a plain name, for callers that have to
/// provide them.
///
/// # Errors
/// [`CheckpointError::Index`].
pub fn shard_names(index: &str) -> Result<Vec<String>, CheckpointError> {
    let index = Index::read(INDEX.as_ref(), index)?;
    Ok(index.files().map(String::from).collect())
}

/// The format of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A folder with `config.json` and `model.safetensors`, local or from the hub.
    HfFolder,
    /// A `.safetensors` file with a separate configuration.
    Safetensors,
    /// A Lightning checkpoint; `ema` says which weights are used.
    Lightning {
        /// True for the EMA weights, false for `state_dict`.
        ema: bool,
    },
    /// A Lightning checkpoint without EMA weights, for which the raw ones are used by default.
    LightningWithoutEma,
    /// A module's `state_dict()` saved with `torch.save`, with a separate configuration.
    StateDict,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::HfFolder => "Hugging Face folder",
            Self::Safetensors => "safetensors file",
            Self::Lightning { ema: true } => "Lightning checkpoint, EMA weights",
            Self::Lightning { ema: false } => "Lightning checkpoint, raw weights",
            Self::LightningWithoutEma => "Lightning checkpoint without EMA weights, raw weights",
            Self::StateDict => "PyTorch state dict",
        })
    }
}

/// An open checkpoint: its configuration, and a complete, checked directory of its parameters in the mapped files.
pub struct Checkpoint {
    config: ModelConfig,
    files: Vec<TensorFile>,
    /// In the order of [`ModelConfig::parameters`], followed by biases that the published network does not have.
    parameters: Vec<Parameter>,
    by_name: HashMap<String, usize>,
    quantization: Option<Quantization>,
    /// The buffer of rotary frequencies, if a file contains it.
    rotary: Option<(usize, TensorInfo)>,
    /// The noise range of a BD3-LM, which files may contain along with the weights.
    noise_range: NoiseRange,
    /// Tensors in the files that are not used.
    ignored: Vec<String>,
    source: SourceKind,
    tokenizer: Option<PathBuf>,
    /// A tokenizer.json contained in the checkpoint (Lightning pickles the tokenizer), or given with its bytes.
    tokenizer_json: Option<String>,
    /// The form of the tokenizer, or why it is unusable; `None` if there is none, or it was replaced.
    tokenizer_form: Option<Result<TokenizerForm, TokenizerError>>,
    mask_told: bool,
    unused: Vec<u32>,
    recommended: Recommended,
    chat: ChatFiles,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("config", &self.config)
            .field("source", &self.source)
            .field("parameters", &self.parameters.len())
            .field("bytes", &self.file_bytes())
            .finish_non_exhaustive()
    }
}

impl Checkpoint {
    /// Opens a folder, a `.safetensors` file, a Lightning `.ckpt`, or `hf:owner/name`.
    ///
    /// Files are memory-mapped and must not be changed while the checkpoint is in use.
    ///
    /// # Errors
    /// If the checkpoint is incomplete or inconsistent; see [`CheckpointError`].
    #[cfg(not(target_family = "wasm"))]
    pub fn open(spec: &str, options: &OpenOptions) -> Result<Self, CheckpointError> {
        open::open(spec, options)
    }

    /// Opens the bytes of a `.safetensors` file, with the text of its `config.json`.
    ///
    /// # Errors
    /// See [`Checkpoint::open`].
    pub fn from_safetensors_bytes(
        config_json: &str,
        bytes: Vec<u8>,
    ) -> Result<Self, CheckpointError> {
        Self::new(Parts {
            config: Some(from_json(config_json)?),
            ..Parts::new(vec![TensorFile::from_bytes(bytes, Format::Safetensors)?])
        })
    }

    /// Opens the bytes of a Lightning `.ckpt`; `raw_weights` selects `state_dict` instead of the EMA weights.
    ///
    /// # Errors
    /// See [`Checkpoint::open`].
    pub fn from_ckpt_bytes(bytes: Vec<u8>, raw_weights: bool) -> Result<Self, CheckpointError> {
        Self::new(Parts {
            raw_weights,
            ..Parts::new(vec![TensorFile::from_bytes(bytes, Format::PyTorch)?])
        })
    }

    /// Opens a checkpoint that is read in parts: safetensors with the text of their `config.json`, or a Lightning
    /// `.ckpt`, which contains its own configuration and is read whole; in both cases with the text of a
    /// `tokenizer.json`, if there is one. Parameters must be [fetched](Self::fetch) before they are read. `read_as`
    /// answers what the configuration leaves open.
    ///
    /// # Errors
    /// See [`Checkpoint::from_safetensors_bytes`] and [`Checkpoint::from_ckpt_bytes`]; also if the source fails.
    pub async fn from_source(
        config_json: Option<&str>,
        tokenizer_json: Option<&str>,
        weights: Weights,
        raw_weights: bool,
        read_as: ReadAs,
    ) -> Result<Self, CheckpointError> {
        let files = weights.open().await?;
        let checkpoint = Self::assemble(Parts {
            config: config_json.map(from_json).transpose()?,
            tokenizer_json: tokenizer_json.map(Into::into),
            raw_weights,
            read_as,
            ..Parts::new(files)
        })?;
        let beside = checkpoint.rotary.iter();
        for (file, buffer) in beside.chain(checkpoint.noise_range.tensors()) {
            checkpoint.files[*file].fetch(buffer).await?;
        }
        checkpoint.checked()
    }

    /// Adds the text of the checkpoint's `generation_config.json`, which errors call `origin`.
    ///
    /// # Errors
    /// If it contains unusable settings for this engine.
    pub fn with_generation_config(
        mut self,
        json: &str,
        origin: &str,
    ) -> Result<Self, CheckpointError> {
        let wrong = |error| CheckpointError::config(origin, error);
        self.recommended = Recommended::from_json(json).map_err(wrong)?;
        self.config.add_ends(json).map_err(wrong)?;
        Ok(self)
    }

    /// The recommended sampling settings.
    pub fn recommended(&self) -> &Recommended {
        &self.recommended
    }

    /// Adds the texts of the files that define the chat format.
    #[must_use]
    pub fn with_chat_files(self, chat: ChatFiles) -> Self {
        Self { chat, ..self }
    }

    /// The texts of the files that define the chat format, unchecked.
    pub fn chat_files(&self) -> &ChatFiles {
        &self.chat
    }

    /// The network's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters in the order of [`ModelConfig::parameters`], followed by any [biases](ModelConfig::biases) that
    /// are not among those.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter()
    }

    /// Total number of values in all parameters. For a quantised (and perhaps folded) network it is that of the original one, if the
    /// configuration gives it.
    pub fn count(&self) -> u64 {
        let told = self.quantization.as_ref().and_then(|q| q.parameters);
        told.unwrap_or_else(|| self.stored_count())
    }

    /// Number of values of the parameters that are stored.
    pub fn stored_count(&self) -> u64 {
        let size =
            |parameter: &Parameter| parameter.shape.iter().map(|&n| n as u64).product::<u64>();
        self.parameters.iter().map(size).sum()
    }

    /// Whether there is a parameter with this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// How the configuration says that matrices are quantised, if they are.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// The values of one parameter, flat, outermost dimension first, all of them finite; f16 and bf16 values are exact
    /// in f32.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`], [`CheckpointError::NotFinite`], and these [`FileError`]s: `Zip` if the bytes
    /// of a `.ckpt` do not match their checksum, and `NotFetched`.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        Ok(self.values(name)?.floats)
    }

    /// Like [`Checkpoint::f32`], along with the groups of a matrix that is stored in the engine's own format.
    ///
    /// # Errors
    /// See [`Checkpoint::f32`].
    pub fn values(&self, name: &str) -> Result<Values, CheckpointError> {
        let rows = self.rows(name)?;
        rows.read(0..rows.count())
    }

    /// Starts reading one parameter, some rows at a time.
    ///
    /// # Errors
    /// See [`Checkpoint::f32`], except that values that are not finite are found only when they are read.
    pub fn rows(&self, name: &str) -> Result<Rows<'_>, CheckpointError> {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let Some(&index) = self.by_name.get(name) else {
            return Err(CheckpointError::NoSuchTensor {
                name: name.into(),
                family: self.config.family,
            });
        };
        self.parameters[index].rows(&self.files)
    }

    /// Passes on the stored bytes of one of the [parameters](Self::parameters), in pieces. A quantised matrix has three
    /// tensors.
    ///
    /// # Errors
    /// These [`FileError`]s: `Zip` if the bytes of a `.ckpt` do not match their checksum, and `NotFetched`.
    pub fn stored(
        &self,
        parameter: &Parameter,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), CheckpointError> {
        /// Values per piece.
        const STRETCH: usize = 1 << 20;
        for (file, tensor) in parameter.places() {
            let reader = self.files[*file].reader(tensor)?;
            let values: usize = tensor.shape.iter().product();
            for start in (0..values).step_by(STRETCH) {
                reader.with_bytes(start..values.min(start + STRETCH), &mut *take);
            }
        }
        Ok(())
    }

    /// Brings the parameters whose names begin with `prefix` into memory, where each stays until it is first read. Does
    /// nothing for a checkpoint that is a file or was given whole.
    ///
    /// # Errors
    /// [`FileError::Source`] if the source fails.
    pub async fn fetch(&self, prefix: &str) -> Result<(), CheckpointError> {
        let wanted =
            (self.parameters.iter()).filter(|parameter| parameter.name.starts_with(prefix));
        for (file, tensor) in wanted.flat_map(Parameter::places) {
            self.files[*file].fetch(tensor).await?;
        }
        Ok(())
    }

    /// Total length of the weight files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(TensorFile::file_bytes).sum()
    }

    /// Path of the `tokenizer.json` next to the weights, or of a tokenizer in another form ([`read_tokenizer`]), if
    /// there is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer.clone()
    }

    /// The text of the `tokenizer.json` contained in the checkpoint (Lightning checkpoints pickle their tokenizer), or
    /// set with [`Checkpoint::with_tokenizer_json`].
    pub fn tokenizer_json(&self) -> Option<&str> {
        self.tokenizer_json.as_deref()
    }

    /// The form of the checkpoint's own tokenizer, or why it cannot encode text; `None` if there is none, or it was
    /// replaced.
    pub fn tokenizer_form(&self) -> Option<&Result<TokenizerForm, TokenizerError>> {
        self.tokenizer_form.as_ref()
    }

    /// Sets the text of the `tokenizer.json`, for weights given as bytes.
    #[must_use]
    pub fn with_tokenizer_json(self, json: &str) -> Self {
        Self {
            tokenizer_json: Some(json.into()),
            ..self.without_tokenizer()
        }
    }

    /// Replaces the tokenizer with this `tokenizer.json`.
    #[must_use]
    pub fn with_tokenizer_file(self, path: &Path) -> Self {
        Self {
            tokenizer: Some(path.into()),
            ..self.without_tokenizer()
        }
    }

    /// Removes the tokenizer.
    #[must_use]
    pub fn without_tokenizer(self) -> Self {
        Self {
            tokenizer: None,
            tokenizer_json: None,
            tokenizer_form: None,
            ..self
        }
    }

    /// Whether anything in the checkpoint says which token is the mask. If not, it is assumed to be the last one, as in
    /// the published code for tokenizers without a mask token.
    pub fn mask_told(&self) -> bool {
        self.mask_told || self.config.mask().is_none()
    }

    /// Vocabulary indices that have no token in the checkpoint's tokenizer and are not the mask. They are untrained,
    /// and must not be drawn.
    pub fn unused_tokens(&self) -> &[u32] {
        &self.unused
    }

    /// Sets the indices for which another tokenizer has no token.
    #[must_use]
    pub fn with_unused_tokens(mut self, unused: Vec<u32>) -> Self {
        self.unused = unused;
        self
    }

    /// Names of tensors in the files that are not used: an attention mask, which is computed here, and the noise range
    /// of another family.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// The format of the checkpoint, and which weights are used.
    pub fn source(&self) -> SourceKind {
        self.source
    }
}

/// Whether a tensor's plain name is that of a buffer, which is not a parameter and has no average.
fn is_buffer(name: &str) -> bool {
    name == rotary::BUFFER || name == STATIC_MASK || scalars::NOISE_RANGE.contains(&name)
}

/// A tensor's name in the network, without the prefix `backbone.` and the names of wrapper modules.
fn plain_name(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    let name = parts.collect::<Vec<_>>().join(".");
    name.strip_prefix(PREFIX).map_or(name.clone(), String::from)
}

/// The configuration in the text of a `config.json`.
fn from_json(text: &str) -> Result<(PartialConfig, String), CheckpointError> {
    let config = PartialConfig::from_json(text, "config.json")
        .map_err(|e| CheckpointError::config("config.json", e))?;
    Ok((config, "config.json".into()))
}
