//! What can go wrong with a checkpoint, one sentence each: the thing, what was found, what was expected, what to do.

use std::path::PathBuf;

use thiserror::Error;

use super::pickle::PickleError;
use super::zip::ZipError;
use crate::config::{ConfigError, Family};

/// Why a checkpoint cannot be read or written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
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
    #[error("the folder {path} holds no model.safetensors{hint}", path = path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What stands there instead, and the remedy; starts with "; ".
        hint: String,
    },
    /// Weights without a configuration.
    #[error("{path} comes without a configuration; give one with --config FILE, or put config.json beside it", path = path.display())]
    NoConfig {
        /// The weights.
        path: PathBuf,
    },
    /// Neither safetensors nor a zip.
    #[error(
        "this is neither a safetensors file nor a checkpoint of torch.save (a zip file): {found}; {remedy}"
    )]
    UnknownFormat {
        /// What the first bytes look like.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// The option has no meaning for this form.
    #[error(
        "raw weights can be chosen in a Lightning .ckpt only; leave --raw-weights out, {what} holds one set of weights"
    )]
    RawWeightsNotApplicable {
        /// The form that was opened.
        what: &'static str,
    },
    /// The configuration cannot be used.
    #[error("{origin}: {source}")]
    Config {
        /// Where the configuration stands.
        origin: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The safetensors header contradicts itself or the file.
    #[error("the safetensors file is not usable: {0}; download or convert it again")]
    Safetensors(String),
    /// The zip container of a `.ckpt` is unusable.
    #[error("the checkpoint's zip container is not usable: {0}")]
    Zip(#[from] ZipError),
    /// The pickle inside a `.ckpt` is unusable.
    #[error("the checkpoint's data.pkl is not usable: {0}")]
    Pickle(#[from] PickleError),
    /// The pickle is sound but does not hold what a Lightning checkpoint of the published code holds.
    #[error("the checkpoint is not one of the published code: {0}")]
    Lightning(String),
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
    /// A tensor's name is empty, endless or holds control characters.
    #[error(
        "a tensor is named \"{name}\" ({length} bytes), which is no name of a parameter; the file is damaged, copy it again"
    )]
    TensorName {
        /// The name, shortened and escaped.
        name: String,
        /// Its full length in bytes.
        length: usize,
    },
    /// A tensor stands in the file twice.
    #[error(
        "tensor {name} stands in the file twice; it cannot be told which one counts, write the file again"
    )]
    DuplicateTensor {
        /// Name without `backbone.`.
        name: String,
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
    /// A tensor holds something else than f32, f16 or bf16.
    #[error(
        "tensor {name} is stored as {found}; only f32, f16 and bf16 weights can be read, convert it first"
    )]
    Dtype {
        /// Name without `backbone.`.
        name: String,
        /// Type in the file.
        found: String,
    },
    /// A name that is no parameter of this checkpoint was asked for.
    #[error("this checkpoint has no tensor {name}; its tensors are those of {family}")]
    NoSuchTensor {
        /// The name asked for.
        name: String,
        /// Family of the checkpoint.
        family: Family,
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
    #[error("{file} of {repo} could not be fetched from {endpoint}: {reason}")]
    Hub {
        /// owner/name.
        repo: String,
        /// File in the repository.
        file: String,
        /// Address of the hub.
        endpoint: String,
        /// What happened and what to do.
        reason: String,
    },
    /// What should deliver the bytes of a checkpoint did not.
    #[error("the checkpoint could not be read: {0}; download it again")]
    Source(String),
    /// A parameter of a checkpoint that is read in parts was asked for before it was fetched.
    #[error("tensor {name} was not fetched; fetch it before it is read")]
    NotFetched {
        /// Name without `backbone.`.
        name: String,
    },
    /// A file that must be held whole is too large for it.
    #[error(
        "the checkpoint has {} MiB, but a .ckpt is read whole and at most {} MiB are taken here; convert it with `esolm convert` and give the folder",
        bytes >> 20, limit >> 20
    )]
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
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

    /// What a file is that begins with `bytes` and is no checkpoint.
    pub(super) fn unknown_format(bytes: &[u8]) -> Self {
        let (found, remedy) = if bytes.is_empty() {
            ("the file is empty", "download it again")
        } else if bytes.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") {
            (
                "it is a checkpoint in the format before PyTorch 1.6",
                "load it and torch.save it again with a newer version",
            )
        } else if bytes.starts_with(b"version https://git-lfs") {
            (
                "it is a Git LFS pointer",
                "fetch the file itself with git lfs pull",
            )
        } else if bytes.starts_with(b"<!DOCTYPE") || bytes.starts_with(b"<html") {
            ("it is a web page", "download the file itself")
        } else {
            (
                "it begins with other bytes",
                "check the path, or download it again",
            )
        };
        Self::UnknownFormat {
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}
