//! Errors of checkpoints. Each message is one sentence that names the thing, what was found, and what was expected. It
//! includes the remedy if that is the same for every program; a remedy that involves a program's options is left to the
//! program.

use std::path::PathBuf;

use esolm_checkpoint::Dtype;
use thiserror::Error;

use super::lightning::LightningError;
use super::tokenizer::TokenizerError;
use crate::config::{ConfigError, Family, Grid};

/// Why a checkpoint could not be read or written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file of weights, or one that accompanies it, could not be read or written.
    #[error(transparent)]
    File(#[from] esolm_checkpoint::Error),
    /// There is nothing at the given path.
    #[error(
        "there is no file or folder {spec:?}; give a folder with config.json and model.safetensors, a .safetensors file, \
         a Lightning .ckpt, or hf:owner/name"
    )]
    NotFound {
        /// What was given.
        spec: String,
    },
    /// The folder has no weights.
    #[error(
        "the folder {} holds no model.safetensors, no model.safetensors.index.json and no pytorch_model.bin; give the folder that has one, beside config.json",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The index of sharded weights is inconsistent, with itself or with the files.
    #[error("{}: {problem}; download the folder again", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A shard could not be read.
    #[error("{file}: {source}")]
    Shard {
        /// Its name.
        file: String,
        /// What is wrong with it.
        source: esolm_checkpoint::Error,
    },
    /// The weights come without a configuration.
    #[error("{} comes without a configuration", path.display())]
    NoConfig {
        /// The weights.
        path: PathBuf,
    },
    /// Raw weights were requested from a format that has only one set of weights.
    #[error("raw weights can be chosen in a Lightning .ckpt only")]
    RawWeightsNotApplicable,
    /// The configuration is unusable.
    #[error("{origin}: {source}")]
    Config {
        /// Where the configuration comes from.
        origin: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A tokenizer that might name the mask token could not be read, and nothing else says which token it is.
    #[error(
        "which token is the mask cannot be found out from {tokenizer}, and the configuration has no \"{field}\""
    )]
    MaskUnknown {
        /// The tokenizer, described.
        tokenizer: String,
        /// The field that could name it.
        field: &'static str,
    },
    /// Several indices have no token, and nothing says which one is the mask.
    #[error(
        "which token is the mask is not known: the vocabulary of {vocab_size} is padded beyond the tokenizer's {tokens} tokens, and the \
         configuration has no \"mask_index\""
    )]
    PaddedMask {
        /// Largest token index of the tokenizer, plus one.
        tokens: usize,
        /// V of the model.
        vocab_size: usize,
    },
    /// A file given as a tokenizer is not one.
    #[error("the tokenizer {} {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The file is intact but not a Lightning checkpoint of the published code.
    #[error("the checkpoint is not one of the published code: {0}")]
    Lightning(#[from] LightningError),
    /// A tensor that the family needs is missing.
    #[error(
        "tensor {name} is missing: {family} with this configuration needs it with shape {expected:?}; give the weights that belong to the configuration"
    )]
    MissingTensor {
        /// Name without `backbone.`.
        name: String,
        /// Family that needs it.
        family: Family,
        /// Shape that it must have.
        expected: Vec<usize>,
    },
    /// A tensor does not belong to the family.
    #[error(
        "tensor {name} is not a part of {family} with {n_blocks} blocks; give the configuration that belongs to the weights"
    )]
    UnexpectedTensor {
        /// Name as found.
        name: String,
        /// Family of the configuration.
        family: Family,
        /// Number of blocks of the configuration.
        n_blocks: usize,
    },
    /// A tensor's shape differs from the one in the configuration.
    #[error(
        "tensor {name} has shape {found:?}, the configuration makes it {expected:?}; give the configuration that belongs to the weights"
    )]
    Shape {
        /// Name without `backbone.`.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape from the configuration.
        expected: Vec<usize>,
    },
    /// The file's rotary frequencies are not those of the network.
    #[error(
        "tensor {name} holds {found} at index {index}, but {computed} is computed there, as for all networks of this family (base 10000); \
         give a model with that rotary embedding"
    )]
    Rotary {
        /// Name without `backbone.`.
        name: &'static str,
        /// Index of the pair of columns.
        index: usize,
        /// The value in the file.
        found: f64,
        /// The value that the network computes.
        computed: f32,
    },
    /// A quantised matrix is incomplete, or does not match the configuration.
    #[error(
        "the weights of {module} are not usable: {fault}; give the configuration that belongs to the weights, or convert them again"
    )]
    Quantised {
        /// Name of the module without `backbone.`, as in the names of its tensors.
        module: String,
        /// What is wrong.
        fault: QuantisedError,
    },
    /// There is no parameter of this name in the checkpoint.
    #[error("this checkpoint has no tensor {name}; its tensors are those of {family}")]
    NoSuchTensor {
        /// The name requested.
        name: String,
        /// Family of the checkpoint.
        family: Family,
    },
    /// A weight is NaN or infinite.
    #[error(
        "tensor {name} holds {value} at index {index}, where every weight must be a finite number; its training went wrong, or it was \
         saved in a type of too small a range, so give another checkpoint"
    )]
    NotFinite {
        /// Name without `backbone.`.
        name: String,
        /// The value.
        value: f32,
        /// Its flat index.
        index: usize,
    },
    /// A weight is out of range for f16.
    #[error(
        "tensor {name} holds {value} at index {index}, which f16 cannot hold (largest 65504); write it as f32"
    )]
    F16Overflow {
        /// Name without `backbone.`.
        name: String,
        /// The value.
        value: f32,
        /// Its flat index.
        index: usize,
    },
    /// The hub did not deliver a file.
    #[error("{file} of {repo} could not be fetched from {endpoint}: {source}")]
    Hub {
        /// owner/name.
        repo: String,
        /// File in the repository.
        file: String,
        /// Address of the hub.
        endpoint: String,
        /// The cause.
        source: HubError,
    },
    /// `hf:` is followed by something that is not `owner/name`.
    #[error(
        "{spec:?} is not a hub name; write hf:owner/name, for a certain revision hf:owner/name@revision"
    )]
    HubName {
        /// What was given.
        spec: String,
    },
}

impl CheckpointError {
    pub(crate) fn config(origin: impl Into<String>, source: ConfigError) -> Self {
        Self::Config {
            origin: origin.into(),
            source,
        }
    }
}

/// What is wrong with a quantised matrix, or one that should be quantised.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum QuantisedError {
    /// There are scales, but no settings that explain them.
    #[error(
        "they have scales, but the configuration has no \"quantization\" that says how many bits and which groups they are of"
    )]
    NoSettings,
    /// There are scales, but the configuration says that the matrix is not quantised.
    #[error(
        "they have scales, but \"quantization\" of the configuration says that they are not quantised"
    )]
    NotToBe,
    /// There are floats, but the configuration says that the matrix is quantised.
    #[error(
        "\"quantization\" of the configuration says that they are quantised, but they are floats without scales"
    )]
    Floats,
    /// One of the three tensors is missing.
    #[error("they are quantised, but the tensor {part} is missing")]
    Missing {
        /// The last component of its name.
        part: &'static str,
    },
    /// A tensor has the wrong type.
    #[error("the tensor {part} holds {found}, where {expected} is expected")]
    Dtype {
        /// The last component of its name.
        part: &'static str,
        /// The type found.
        found: Dtype,
        /// The type expected.
        expected: &'static str,
    },
    /// The codes are not a matrix of whole groups.
    #[error("codes of shape {found:?} are not a matrix of {grid}")]
    Codes {
        /// Shape of the words that contain them.
        found: Vec<usize>,
        /// The format in the configuration.
        grid: Grid,
    },
    /// A tensor's shape does not match the codes.
    #[error("the tensor {part} has shape {found:?}, where codes of {grid} make it {expected:?}")]
    Shape {
        /// The last component of its name.
        part: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape expected.
        expected: Vec<usize>,
        /// The format in the configuration.
        grid: Grid,
    },
}

/// Why the hub did not deliver a file.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum HubError {
    /// The hub's address is invalid.
    #[error("HF_ENDPOINT must begin with https:// or http://")]
    Endpoint,
    /// Network access is disabled, and the file is not in the cache.
    #[error(
        "it is not in the cache, and HF_HUB_OFFLINE keeps it from being downloaded; unset that variable once"
    )]
    Offline,
    /// Status 404.
    #[error("there is no such repository, revision or file; check the name")]
    NotFound,
    /// Status 401 or 403.
    #[error(
        "access is refused (status {0}); check the name, and for a private repository set HF_TOKEN"
    )]
    Refused(u16),
    /// Any other error status.
    #[error("the hub answered with status {0}; try again later")]
    Status(u16),
    /// Another download is using the cache, or left its lock behind.
    #[error("another download holds {}; wait for it, or remove that file when there is none", .0.display())]
    Locked(PathBuf),
    /// An interrupted download cannot be resumed.
    #[error("a partial download in the cache is damaged; remove the model's folder from the cache")]
    Partial,
    /// The response does not look like a hub's.
    #[error(
        "the answer lacks the header {0}, so it does not come from a model hub; check HF_ENDPOINT"
    )]
    Header(String),
    /// Any other error, usually that the server cannot be reached.
    #[error("{0}; check the network, or download the files and give their folder")]
    Network(String),
    /// The crate was built without the feature `hub`.
    #[error(
        "this build has no hub support; build with the feature \"hub\", or download the folder and give its path"
    )]
    NotBuilt,
}
