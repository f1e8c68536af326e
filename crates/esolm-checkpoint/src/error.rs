//! Errors of tensor files, one sentence each.

use std::path::{Path, PathBuf};

use crate::message::shorten;
use crate::pickle::PickleError;
use crate::tensor::Dtype;
use crate::zip::ZipError;

/// Maximum length of a tensor's name, far above any in a real network.
const MAX_NAME: usize = 200;

/// Why a tensor file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operating system error.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is neither safetensors nor a zip.
    #[error("this is neither a safetensors file nor a checkpoint of torch.save (a zip file): {0}")]
    UnknownFormat(Unrecognized),
    /// The safetensors header is inconsistent, with itself or with the file.
    #[error("the safetensors file is not usable: {0}; download or convert it again")]
    Safetensors(String),
    /// The zip container of `torch.save` is unusable.
    #[error("the checkpoint's zip container is not usable: {0}")]
    Zip(#[from] ZipError),
    /// The pickle inside the zip is unusable.
    #[error("the checkpoint's data.pkl is not usable: {0}")]
    Pickle(#[from] PickleError),
    /// Container and pickle are intact, but do not describe a directory of dense tensors.
    #[error("the checkpoint is not usable: {0}")]
    Contents(String),
    /// A tensor's name is empty, too long or contains control characters.
    #[error(
        "a tensor is named \"{name}\" ({length} bytes), which is not the name of a parameter; the file is damaged, copy it again"
    )]
    TensorName {
        /// The name, shortened and escaped.
        name: String,
        /// Its full length in bytes.
        length: usize,
    },
    /// Two tensors have the same name.
    #[error(
        "the file holds tensor {name} twice, and nothing tells which one counts; write the file again"
    )]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// A tensor to be read as f32 has a type other than f32, f16 or bf16.
    #[error(
        "tensor {name} is stored as {found}; only f32, f16 and bf16 weights can be read, convert it first"
    )]
    Dtype {
        /// Name of the tensor.
        name: String,
        /// Type in the file.
        found: Dtype,
    },
    /// The source of a file's bytes failed.
    #[error("the checkpoint could not be read: {0}; download it again")]
    Source(String),
    /// Values of a file that is read in parts were requested before they were fetched.
    #[error("tensor {name} was not fetched; fetch it before it is read")]
    NotFetched {
        /// Name of the tensor.
        name: String,
    },
    /// A file that has to be read whole is too large.
    #[error(
        "the checkpoint has {} MiB, but one of torch.save is read whole, and at most {} MiB are taken here",
        bytes >> 20, limit >> 20
    )]
    TooLarge {
        /// Size of the file in bytes.
        bytes: u64,
        /// Maximum size.
        limit: u64,
    },
}

impl Error {
    /// An operating system error while trying to `action` ("read", "write", ...) `path`.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source,
        }
    }
}

/// What a file in an unknown format seems to be, judging by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unrecognized {
    /// The file is empty.
    #[error("the file is empty; download it again")]
    Empty,
    /// `torch.save` before PyTorch 1.6: a bare pickle.
    #[error(
        "it is a checkpoint in the format before PyTorch 1.6; load it and torch.save it again with a newer version"
    )]
    OldPyTorch,
    /// A Git LFS pointer file.
    #[error("it is a Git LFS pointer; fetch the file itself with git lfs pull")]
    LfsPointer,
    /// An HTML page, usually from a failed download.
    #[error("it is a web page; download the file itself")]
    WebPage,
    /// Anything else.
    #[error("it begins with other bytes; check the path, or download it again")]
    Other,
}

impl Unrecognized {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else if bytes.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") {
            Self::OldPyTorch
        } else if bytes.starts_with(b"version https://git-lfs") {
            Self::LfsPointer
        } else if bytes.starts_with(b"<!DOCTYPE") || bytes.starts_with(b"<html") {
            Self::WebPage
        } else {
            Self::Other
        }
    }
}

/// Rejects names that would flood or control the terminal when shown in a message.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Error::TensorName {
            name: shorten(name),
            length: name.len(),
        });
    }
    Ok(())
}
