//! What can go wrong with a checkpoint, one sentence each: the thing, what was found, what was expected. What to do about it is said
//! where it is the same for every program; what needs an option of a program is left to the program.

use std::path::PathBuf;

use esolm_checkpoint::Dtype;
use thiserror::Error;

use super::lightning::LightningError;
use super::tokenizer::TokenizerError;
use crate::config::{ConfigError, Family, Grid};

/// Why a checkpoint cannot be read or written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file of weights, or one beside it, cannot be read or written.
    #[error(transparent)]
    File(#[from] esolm_checkpoint::Error),
    /// Nothing stands at the given place.
    #[error(
        "there is no file or folder {spec:?}; give a folder with config.json and model.safetensors, a .safetensors file, \
         a Lightning .ckpt, or hf:owner/name"
    )]
    NotFound {
        /// What was given.
        spec: String,
    },
    /// A folder without weights.
    #[error(
        "the folder {} holds no model.safetensors, no model.safetensors.index.json and no pytorch_model.bin; give the folder that has one, beside config.json",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The index of weights in several files contradicts itself or them.
    #[error("{}: {problem}; download the folder again", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// One of several files of weights cannot be read.
    #[error("{file}: {source}")]
    Shard {
        /// Its name.
        file: String,
        /// What is wrong with it.
        source: esolm_checkpoint::Error,
    },
    /// Weights without a configuration.
    #[error("{} comes without a configuration", path.display())]
    NoConfig {
        /// The weights.
        path: PathBuf,
    },
    /// Raw weights were asked of a form that holds one set of weights.
    #[error("raw weights can be chosen in a Lightning .ckpt only")]
    RawWeightsNotApplicable,
    /// The configuration cannot be used.
    #[error("{origin}: {source}")]
    Config {
        /// Where the configuration stands.
        origin: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A tokenizer that may name the mask token cannot be read, and nothing else says which token it is.
    #[error(
        "which token is the mask cannot be found out from {tokenizer}, and the configuration has no \"{field}\""
    )]
    MaskUnknown {
        /// What it is.
        tokenizer: String,
        /// The field that could say it.
        field: &'static str,
    },
    /// Nothing says which of several indices without a token is the mask.
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
    /// A file that was given as a tokenizer is not one.
    #[error("the tokenizer {} {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The file is sound but does not hold what a Lightning checkpoint of the published code holds.
    #[error("the checkpoint is not one of the published code: {0}")]
    Lightning(#[from] LightningError),
    /// A tensor that the family needs is absent.
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
    /// A tensor that the family does not have.
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
    /// A tensor has another shape than the configuration says.
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
        /// What the file holds.
        found: f64,
        /// What the network computes.
        computed: f32,
    },
    /// A quantised matrix is incomplete, or not what the configuration says.
    #[error(
        "the weights of {module} are not usable: {fault}; give the configuration that belongs to the weights, or convert them again"
    )]
    Quantised {
        /// Name of the module without `backbone.`, as part of its tensors' names.
        module: String,
        /// What is wrong.
        fault: QuantisedError,
    },
    /// A name that is not a parameter of this checkpoint.
    #[error("this checkpoint has no tensor {name}; its tensors are those of {family}")]
    NoSuchTensor {
        /// The name asked for.
        name: String,
        /// Family of the checkpoint.
        family: Family,
    },
    /// A weight is not a number, or infinite.
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
    /// A weight has no finite f16 value.
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
    /// The hub did not deliver.
    #[error("{file} of {repo} could not be fetched from {endpoint}: {source}")]
    Hub {
        /// owner/name.
        repo: String,
        /// File in the repository.
        file: String,
        /// Address of the hub.
        endpoint: String,
        /// What happened.
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

/// What is wrong with a quantised matrix, or one that should be.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum QuantisedError {
    /// Scales without a word on their meaning.
    #[error(
        "they have scales, but the configuration has no \"quantization\" that says how many bits and which groups they are of"
    )]
    NoSettings,
    /// Scales where the configuration says that there are none.
    #[error(
        "they have scales, but \"quantization\" of the configuration says that they are not quantised"
    )]
    NotToBe,
    /// Floats where the configuration says that there are codes.
    #[error(
        "\"quantization\" of the configuration says that they are quantised, but they are floats without scales"
    )]
    Floats,
    /// One of three tensors is absent.
    #[error("they are quantised, but the tensor {part} is missing")]
    Missing {
        /// The last part of its name.
        part: &'static str,
    },
    /// A tensor has another type.
    #[error("the tensor {part} holds {found}, where {expected} is expected")]
    Dtype {
        /// The last part of its name.
        part: &'static str,
        /// What it holds.
        found: Dtype,
        /// What it should hold.
        expected: &'static str,
    },
    /// Codes that are not a matrix of whole groups.
    #[error("codes of shape {found:?} are not a matrix of {grid}")]
    Codes {
        /// The shape of the words that hold them.
        found: Vec<usize>,
        /// What the configuration says.
        grid: Grid,
    },
    /// A tensor does not fit the codes.
    #[error("the tensor {part} has shape {found:?}, where codes of {grid} make it {expected:?}")]
    Shape {
        /// The last part of its name.
        part: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What it should be.
        expected: Vec<usize>,
        /// What the configuration says.
        grid: Grid,
    },
}

/// Why the hub did not deliver a file.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum HubError {
    /// The hub's address cannot be one.
    #[error("HF_ENDPOINT must begin with https:// or http://")]
    Endpoint,
    /// The network is not to be used, and the file is not in the cache.
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
    /// Any other status of a failure.
    #[error("the hub answered with status {0}; try again later")]
    Status(u16),
    /// Another download is at work in the cache, or one left its lock behind.
    #[error("another download holds {}; wait for it, or remove that file when there is none", .0.display())]
    Locked(PathBuf),
    /// A download that was cut off cannot go on.
    #[error("a partial download in the cache is damaged; remove the model's folder from the cache")]
    Partial,
    /// The answer does not look like a hub's.
    #[error(
        "the answer lacks the header {0}, so it does not come from a model hub; check HF_ENDPOINT"
    )]
    Header(String),
    /// Anything else, most often that nobody answers.
    #[error("{0}; check the network, or download the files and give their folder")]
    Network(String),
    /// The crate was built without its feature `hub`.
    #[error(
        "this build has no hub support; build with the feature \"hub\", or download the folder and give its path"
    )]
    NotBuilt,
}
