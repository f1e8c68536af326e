//! Checkpoints: every form in which the published weights come, read from an untrusted file.
//!
//! | form | configuration | weights |
//! |---|---|---|
//! | Hugging Face folder | `config.json` | `model.safetensors`, or the files of its `.index.json`, or `pytorch_model.bin` |
//! | bare `.safetensors`, `.pt` or `.bin` | [`OpenOptions::config`], or `config.json` beside it | the file |
//! | Lightning `.ckpt` of the published code | `hyper_parameters.config` in the pickle | `ema.shadow_params`, or `state_dict` |
//! | `hf:owner/name` | as a folder, fetched to the usual cache | |
//! | [`Weights`] that are read in parts | text of a `config.json`, or of the `.ckpt` | see [`Checkpoint::from_source`] |
//!
//! Tokenizers come as `tokenizer.json` beside the weights, or in other forms there and in the pickle of a `.ckpt` ([`TokenizerForm`]); whatever
//! the form, [`Checkpoint::tokenizer_json`] gives the text of a `tokenizer.json`, or [`Checkpoint::tokenizer_form`] says why there is none.
//!
//! The crate `esolm_checkpoint` reads the files; this module knows the model. The file is mapped, not read, and [`Checkpoint::f32`]
//! converts one tensor at a time. At opening every tensor is checked against [`ModelConfig::parameters`], so that what opens is complete.

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

use std::borrow::Cow;
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
pub use writer::{FolderWeights, write_folder, write_hf_folder};
pub use writer::{SHARD_BYTES, StoreDtype, write_safetensors};

use crate::config::{
    Claims, ConfigError, Family, ModelConfig, Open, PartialConfig, Quantization, ReadAs,
};
use crate::recommended::Recommended;
use scalars::NoiseRange;
use shards::{INDEX, Index};
#[cfg(feature = "text")]
pub(crate) use tokenizer::MAX_PIECE_BYTES;
use tokenizer::TokenizerJson;
pub use tokenizer::{TokenizerError, TokenizerForm};

/// The published module that holds the network is called `backbone`.
const PREFIX: &str = "backbone.";
/// What wraps a module, as a part of the names in it: `torch.compile`, `DistributedDataParallel`, Fabric and FSDP.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "module",
    "_forward_module",
    "_fsdp_wrapped_module",
];
/// A mask that some files carry as a buffer; the engine makes none.
const STATIC_MASK: &str = "static_attention_mask";
/// The name of the weights in a folder, and in messages about those that come without a path.
const WEIGHTS: &str = "model.safetensors";
/// The name of the tokenizer in a folder.
const TOKENIZER: &str = "tokenizer.json";

/// How to open a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// A `config.json` to use instead of the one that the checkpoint brings.
    pub config: Option<PathBuf>,
    /// Take `state_dict` of a Lightning checkpoint instead of the EMA weights.
    pub raw_weights: bool,
    /// Show on a terminal's stderr how far downloads are.
    pub progress: bool,
    /// What the configuration leaves open.
    pub read_as: ReadAs,
}

/// Weights that are read in parts.
pub enum Weights {
    /// One file: a `model.safetensors`, or a Lightning `.ckpt`.
    File(Box<dyn ByteSource>),
    /// Several files and the text of the `model.safetensors.index.json` that names them ([`shard_names`]).
    Shards {
        /// Text of the index.
        index: String,
        /// The files by their names.
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

/// The names of the safetensors files of weights that a folder holds, with their index where they are several. Of an index that cannot be
/// read, that alone.
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

/// The files that the text of a `model.safetensors.index.json` names, each a plain name, for who has to bring them.
///
/// # Errors
/// [`CheckpointError::Index`].
pub fn shard_names(index: &str) -> Result<Vec<String>, CheckpointError> {
    let index = Index::read(INDEX.as_ref(), index)?;
    Ok(index.files().map(String::from).collect())
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
    /// A Lightning checkpoint that holds no EMA weights, so that the raw ones were taken unasked.
    LightningWithoutEma,
    /// What `torch.save` wrote of a module's `state_dict()`, with a configuration from elsewhere.
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

/// An open checkpoint: its configuration and a complete, checked directory of its parameters over the mapped file.
pub struct Checkpoint {
    config: ModelConfig,
    files: Vec<TensorFile>,
    /// In the order of [`ModelConfig::parameters`], then biases that the published network does not have.
    parameters: Vec<Parameter>,
    by_name: HashMap<String, usize>,
    quantization: Option<Quantization>,
    /// The buffer of rotary frequencies, if a file carries it.
    rotary: Option<(usize, TensorInfo)>,
    /// The noise range of a BD3-LM, which files may carry beside the weights.
    noise_range: NoiseRange,
    /// Tensors of the files that nothing is computed with.
    ignored: Vec<String>,
    source: SourceKind,
    tokenizer: Option<PathBuf>,
    /// A tokenizer.json that the checkpoint itself carries (Lightning pickles the tokenizer), or that came beside its bytes.
    tokenizer_json: Option<String>,
    /// The form in which the tokenizer came, or why it cannot be used; `None` without one, and where one was put in its place.
    tokenizer_form: Option<Result<TokenizerForm, TokenizerError>>,
    mask_told: bool,
    unused: Vec<u32>,
    recommended: Recommended,
    chat: ChatFiles,
}

/// What a checkpoint is made of.
struct Parts<'a> {
    /// One, or several that together are the weights.
    files: Vec<TensorFile>,
    /// A configuration from outside of the file, with its origin.
    config: Option<(PartialConfig, String)>,
    /// The text of a tokenizer.json from outside of the file.
    tokenizer_json: Option<Cow<'a, str>>,
    /// The name of the file that it was made of.
    tokenizer_name: &'a str,
    /// What smaller files say of the mask, and which of them could not be made use of.
    mask: (Claims, Option<String>),
    /// The tokens of a tokenizer without tokenizer.json, as far as they are known.
    table: TokenizerJson,
    raw_weights: bool,
    read_as: ReadAs,
    /// What a safetensors file stands for.
    kind: SourceKind,
    /// The name of the file.
    path: &'a Path,
}

impl Parts<'_> {
    /// Files alone.
    fn new(files: Vec<TensorFile>) -> Self {
        Self {
            files,
            config: None,
            tokenizer_json: None,
            tokenizer_name: TOKENIZER,
            mask: Default::default(),
            table: TokenizerJson::default(),
            raw_weights: false,
            read_as: ReadAs::default(),
            kind: SourceKind::Safetensors,
            path: WEIGHTS.as_ref(),
        }
    }
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
        Self::new(Parts {
            config: Some(from_json(config_json)?),
            ..Parts::new(vec![TensorFile::from_bytes(bytes, Format::Safetensors)?])
        })
    }

    /// Opens the bytes of a Lightning `.ckpt`; `raw_weights` takes `state_dict` instead of the EMA weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_ckpt_bytes(bytes: Vec<u8>, raw_weights: bool) -> Result<Self, CheckpointError> {
        Self::new(Parts {
            raw_weights,
            ..Parts::new(vec![TensorFile::from_bytes(bytes, Format::PyTorch)?])
        })
    }

    /// Opens a checkpoint that is read in parts: safetensors with the text of their `config.json`, or a Lightning `.ckpt`, which brings
    /// its own configuration and is read whole; either with the text of a `tokenizer.json`. Before a parameter is read it must be
    /// [fetched](Self::fetch). `read_as` says what the configuration leaves open.
    ///
    /// # Errors
    /// As [`Checkpoint::from_safetensors_bytes`] and [`Checkpoint::from_ckpt_bytes`], and when the source does not deliver.
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

    /// A checkpoint whose files are all there.
    fn new(parts: Parts<'_>) -> Result<Self, CheckpointError> {
        Self::assemble(parts)?.checked()
    }

    /// Compares what the files carry beside parameters with what will be computed.
    fn checked(mut self) -> Result<Self, CheckpointError> {
        self.noise_range.settle(&self.files, &mut self.config)?;
        if let Some((file, buffer)) = &self.rotary {
            rotary::check(&self.files[*file], buffer, &self.config)?;
        }
        Ok(self)
    }

    /// Chooses the weights of a file, completes the configuration from them and checks every one against it.
    fn assemble(parts: Parts<'_>) -> Result<Self, CheckpointError> {
        let Parts {
            files,
            config,
            tokenizer_json,
            tokenizer_name,
            mask: (claims, unread),
            mut table,
            raw_weights,
            read_as,
            kind,
            path,
        } = parts;
        let (mut source, mut unread_tokenizer, mut pickled) = (kind, unread, None);
        let mut tokenizer_form = None;
        let lightning = match &files[..] {
            [file] => lightning::root(file).map(|root| (file, root)),
            _ => None,
        };
        let ((mut partial, origin), raw) = match lightning {
            Some((file, root)) => {
                let lightning = lightning::read(file, root, raw_weights, config.is_some())?;
                source = lightning.source;
                unread_tokenizer = lightning.unread_tokenizer.or(unread_tokenizer);
                if let Some(own) = lightning.tokenizer {
                    tokenizer_form = Some(own.as_ref().map(|own| own.1).map_err(Clone::clone));
                    pickled = own.ok().map(|own| own.0);
                }
                if lightning.table.count() > 0 {
                    table = lightning.table;
                }
                let config = match config {
                    None => (lightning.config, lightning::CONFIG.into()),
                    Some((mut given, origin)) => {
                        let added = given.add_own(lightning.config);
                        added.map_err(|error| CheckpointError::config(&origin, error))?;
                        (given, origin)
                    }
                };
                (
                    config,
                    lightning
                        .tensors
                        .into_iter()
                        .map(|tensor| (0, tensor))
                        .collect(),
                )
            }
            None if raw_weights => return Err(CheckpointError::RawWeightsNotApplicable),
            None => {
                let none = || CheckpointError::NoConfig { path: path.into() };
                if kind == SourceKind::Safetensors && files[0].root().is_some() {
                    source = SourceKind::StateDict;
                }
                let of = |(number, file): (usize, &TensorFile)| {
                    file.tensors()
                        .to_vec()
                        .into_iter()
                        .map(move |tensor| (number, tensor))
                };
                let tensors: Vec<_> = files.iter().enumerate().flat_map(of).collect();
                (config.ok_or_else(none)?, tensors)
            }
        };
        partial
            .read_as(&read_as)
            .map_err(|e| CheckpointError::config(&origin, e))?;
        partial.claims.extend(claims);
        let text = tokenizer_json.as_deref().or(pickled.as_deref());
        let tokenizer = text.and_then(TokenizerJson::parse);
        if tokenizer_json.is_some() {
            match &tokenizer {
                Some(tokenizer) => {
                    let unclear = tokenizer.tell_masks(tokenizer_name, &mut partial.claims);
                    unread_tokenizer = unclear.or(unread_tokenizer);
                }
                None => unread_tokenizer = Some(tokenizer_name.into()),
            }
            tokenizer_form = None;
        }
        let told = (partial.claims.mask()).map_err(|e| CheckpointError::config(&origin, e))?;
        let told = told.is_some();
        let open = partial.left_open(told);
        // A tokenizer that may name the mask is the better thing to say.
        let is_mask_alone = |error: &ConfigError| {
            matches!(
                error,
                ConfigError::Open(Open {
                    model_type: None,
                    block_size: false,
                    ..
                })
            )
        };
        match (open, unread_tokenizer) {
            (Some(error), Some(tokenizer)) if is_mask_alone(&error) => {
                return Err(CheckpointError::MaskUnknown {
                    tokenizer,
                    field: "mask_token_id",
                });
            }
            (Some(error), _) => return Err(CheckpointError::config(&origin, error)),
            (None, Some(tokenizer)) if !told && partial.decoder.is_none() => {
                return Err(CheckpointError::MaskUnknown {
                    tokenizer,
                    field: "mask_index",
                });
            }
            _ => {}
        }
        let mut found: HashMap<String, (usize, TensorInfo)> = HashMap::with_capacity(raw.len());
        for (number, mut tensor) in raw {
            tensor.name = plain_name(&tensor.name);
            if let Some((_, twin)) = found.insert(tensor.name.clone(), (number, tensor)) {
                return Err(FileError::DuplicateTensor { name: twin.name }.into());
            }
        }
        let rotary = found.remove(rotary::BUFFER);
        let noise_range = NoiseRange::new(partial.noise_range, &mut found);
        let mut ignored: Vec<String> = found
            .remove(STATIC_MASK)
            .map(|_| STATIC_MASK.into())
            .into_iter()
            .collect();
        if partial.decoder.is_some() {
            ignored.extend(decoder::take_ignored(&partial, &mut found));
        }
        let rotary_shape = rotary.as_ref().map(|(_, buffer)| buffer.shape.as_slice());
        let mut found = parameter::gather(found, partial.quantization.as_ref())?;
        let shape = |name: &str| match name {
            rotary::BUFFER => rotary_shape,
            name => found.get(name).map(|parameter| parameter.shape.as_slice()),
        };
        let quantization = partial.quantization.clone();
        partial
            .reconcile(shape)
            .map_err(|e| CheckpointError::config(&origin, e))?;
        let config = partial
            .complete()
            .map_err(|e| CheckpointError::config(&origin, e))?;
        let tokenizer = tokenizer.filter(|tokenizer| tokenizer.count() > 0);
        let tokenizer = tokenizer.or_else(|| Some(table).filter(|table| table.count() > 0));
        let unused = match &tokenizer {
            Some(tokenizer)
                if !told
                    && config.decoder.is_none()
                    && tokenizer.count() + 1 < config.vocab_size =>
            {
                return Err(CheckpointError::PaddedMask {
                    tokens: tokenizer.count(),
                    vocab_size: config.vocab_size,
                });
            }
            Some(tokenizer) => tokenizer.unused(config.vocab_size, config.mask_index),
            None => Vec::new(),
        };

        if config.family != Family::Bd3Lm || config.decoder.is_some() {
            ignored.extend(noise_range.names());
        }
        let parameters = parameter::choose(&mut found, &config, quantization.as_ref())?;
        if let Some(name) = found.into_keys().min() {
            return Err(CheckpointError::UnexpectedTensor {
                name,
                family: config.family,
                n_blocks: config.n_blocks,
            });
        }
        let names = parameters.iter().map(|parameter| parameter.name.clone());
        Ok(Self {
            by_name: names.zip(0..).collect(),
            config,
            files,
            parameters,
            quantization,
            rotary,
            noise_range,
            ignored,
            source,
            tokenizer: None,
            tokenizer_json: tokenizer_json.map(Cow::into_owned).or(pickled),
            tokenizer_form,
            mask_told: told,
            unused,
            recommended: Recommended::default(),
            chat: ChatFiles::default(),
        })
    }

    /// The checkpoint with the text of the `generation_config.json` that belongs to it, which errors call `origin`.
    ///
    /// # Errors
    /// When settings of this engine stand in it that it cannot use.
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

    /// How it recommends to sample.
    pub fn recommended(&self) -> &Recommended {
        &self.recommended
    }

    /// The checkpoint with the texts of the files that say how it is talked to.
    #[must_use]
    pub fn with_chat_files(self, chat: ChatFiles) -> Self {
        Self { chat, ..self }
    }

    /// The texts of the files that say how it is talked to; nobody has looked at them yet.
    pub fn chat_files(&self) -> &ChatFiles {
        &self.chat
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters in the order of [`ModelConfig::parameters`], then the [biases](ModelConfig::biases) that are not among those.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter()
    }

    /// Number of values of all parameters.
    pub fn count(&self) -> u64 {
        let size =
            |parameter: &Parameter| parameter.shape.iter().map(|&n| n as u64).product::<u64>();
        self.parameters.iter().map(size).sum()
    }

    /// Whether there is a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// How the configuration says that matrices are stored, where they are integers in groups.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// The values of one parameter, flat, outermost dimension first, all of them finite; f16 and bf16 values are exact in f32.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`], [`CheckpointError::NotFinite`], or of [`FileError`], `Zip` when the bytes of a `.ckpt` do not match their checksum, and
    /// `NotFetched`.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        Ok(self.values(name)?.floats)
    }

    /// As [`Checkpoint::f32`], with the groups of a matrix that is stored as the engine holds such.
    ///
    /// # Errors
    /// As there.
    pub fn values(&self, name: &str) -> Result<Values, CheckpointError> {
        let rows = self.rows(name)?;
        rows.read(0..rows.count())
    }

    /// Begins to read one parameter, some of its rows at a time.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`], but for values that are not finite, which show when they are read.
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

    /// Hands over the bytes of one of the [parameters](Self::parameters) as they are stored, a stretch at a time; a quantised matrix has three tensors.
    ///
    /// # Errors
    /// Of [`FileError`], `Zip` when the bytes of a `.ckpt` do not match their checksum, and `NotFetched`.
    pub fn stored(
        &self,
        parameter: &Parameter,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), CheckpointError> {
        /// Values that are handed over at a time.
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

    /// Brings the parameters whose names begin with `prefix` into memory, where each stays until it is read once. Does nothing for a
    /// checkpoint that is a file or was given whole.
    ///
    /// # Errors
    /// [`FileError::Source`] when the source does not deliver.
    pub async fn fetch(&self, prefix: &str) -> Result<(), CheckpointError> {
        let wanted =
            (self.parameters.iter()).filter(|parameter| parameter.name.starts_with(prefix));
        for (file, tensor) in wanted.flat_map(Parameter::places) {
            self.files[*file].fetch(tensor).await?;
        }
        Ok(())
    }

    /// Length of the weights file in bytes; of several, all of them.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(TensorFile::file_bytes).sum()
    }

    /// The `tokenizer.json` that stands beside the weights, if there is one, or a file in another form that stands for one
    /// ([`read_tokenizer`]).
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer.clone()
    }

    /// The text of a `tokenizer.json` that the checkpoint itself carries: Lightning checkpoints pickle their tokenizer. Or of the one from
    /// [`Checkpoint::with_tokenizer_json`].
    pub fn tokenizer_json(&self) -> Option<&str> {
        self.tokenizer_json.as_deref()
    }

    /// The form in which the checkpoint's own tokenizer came, or why no text can be encoded with it; `None` where it has none, or
    /// another one was put in its place.
    pub fn tokenizer_form(&self) -> Option<&Result<TokenizerForm, TokenizerError>> {
        self.tokenizer_form.as_ref()
    }

    /// The checkpoint with the text of its `tokenizer.json`, where the weights came as bytes.
    #[must_use]
    pub fn with_tokenizer_json(self, json: &str) -> Self {
        Self {
            tokenizer_json: Some(json.into()),
            ..self.without_tokenizer()
        }
    }

    /// The checkpoint with this `tokenizer.json` in the place of its own.
    #[must_use]
    pub fn with_tokenizer_file(self, path: &Path) -> Self {
        Self {
            tokenizer: Some(path.into()),
            ..self.without_tokenizer()
        }
    }

    /// The checkpoint without its tokenizer.
    #[must_use]
    pub fn without_tokenizer(self) -> Self {
        Self {
            tokenizer: None,
            tokenizer_json: None,
            tokenizer_form: None,
            ..self
        }
    }

    /// Whether anything in the checkpoint says which token is the mask; otherwise the last one is taken, as the published code does for
    /// tokenizers without a mask token.
    pub fn mask_told(&self) -> bool {
        self.mask_told || self.config.mask().is_none()
    }

    /// The indices of the vocabulary that neither have a token in the checkpoint's tokenizer nor are the mask. Nothing trained them, and
    /// they must not be drawn.
    pub fn unused_tokens(&self) -> &[u32] {
        &self.unused
    }

    /// The checkpoint with the indices that another tokenizer has no token for.
    #[must_use]
    pub fn with_unused_tokens(mut self, unused: Vec<u32>) -> Self {
        self.unused = unused;
        self
    }

    /// The names of tensors that are in the files without a use: an attention mask, which is computed here, and the noise range of
    /// another family.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Which form the checkpoint had, and which weights were taken.
    pub fn source(&self) -> SourceKind {
        self.source
    }
}

/// Whether a tensor's plain name is that of a buffer, which is not a parameter and has no average.
fn is_buffer(name: &str) -> bool {
    name == rotary::BUFFER || name == STATIC_MASK || scalars::NOISE_RANGE.contains(&name)
}

/// A tensor's name as the network has it, without the prefix `backbone.` and without those of modules that were wrapped around.
fn plain_name(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    let name = parts.collect::<Vec<_>>().join(".");
    name.strip_prefix(PREFIX).map_or(name.clone(), String::from)
}

/// A configuration from the text of a `config.json`.
fn from_json(text: &str) -> Result<(PartialConfig, String), CheckpointError> {
    let config = PartialConfig::from_json(text, "config.json")
        .map_err(|e| CheckpointError::config("config.json", e))?;
    Ok((config, "config.json".into()))
}
