//! An open file of tensors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::{Error, Unrecognized};
use crate::pickle::Value;
use crate::pytorch::PyTorch;
use crate::source::{ByteSource, Remote, exactly};
use crate::tensor::{Dtype, TensorInfo};
use crate::{safetensors, zip};

/// Maximum size of a `torch.save` file from a source: it is read whole, since its directory is at the end, and there
/// must be room for the model as well.
const MAX_WHOLE: u64 = 1 << 30;
/// Maximum size of a header; a model of ten thousand tensors has about a megabyte.
const MAX_HEADER: usize = 64 << 20;
/// Bytes needed to detect the format.
const FIRST: u64 = 64;

/// The supported formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON header followed by the values.
    Safetensors,
    /// Files written by `torch.save` of PyTorch 1.6 or newer, including Lightning's: a zip with a pickle.
    PyTorch,
}

impl Format {
    /// The format of a file that begins with `first`, which has 64 bytes or the whole file.
    ///
    /// # Errors
    /// [`Error::UnknownFormat`].
    pub fn detect(first: &[u8]) -> Result<Self, Error> {
        if zip::looks_like(first) {
            Ok(Self::PyTorch)
        } else if safetensors::looks_like(first) {
            Ok(Self::Safetensors)
        } else {
            Err(Error::UnknownFormat(Unrecognized::of(first)))
        }
    }
}

/// An open file: a checked directory of its tensors over bytes that are mapped, in memory, or read in parts.
pub struct TensorFile {
    bytes: Bytes,
    tensors: Vec<TensorInfo>,
    beside: Beside,
}

/// What a file contains besides tensors.
enum Beside {
    Metadata(BTreeMap<String, String>),
    PyTorch(PyTorch),
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorFile")
            .field("format", &self.format())
            .field("tensors", &self.tensors.len())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl TensorFile {
    /// Opens a file of either format. If its first bytes are unknown, it is treated as a damaged safetensors file if it
    /// has that extension.
    ///
    /// The file is memory-mapped and must not be changed while it is in use: on most systems, reading a mapped file
    /// that another process has truncated ends the program.
    ///
    /// # Errors
    /// If the file is incomplete or inconsistent; see [`Error`].
    #[cfg(not(target_family = "wasm"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = Bytes::map(path).map_err(|error| Error::io("read", path, error))?;
        let named = path.extension().is_some_and(|name| name == "safetensors");
        let format = match Format::detect(bytes.whole()) {
            Err(Error::UnknownFormat(Unrecognized::Other)) if named => Format::Safetensors,
            found => found?,
        };
        Self::new(bytes, format)
    }

    /// Opens the bytes of a file; use [`Format::detect`] if the format is unknown.
    ///
    /// # Errors
    /// See [`TensorFile::open`].
    pub fn from_bytes(bytes: Vec<u8>, format: Format) -> Result<Self, Error> {
        Self::new(Bytes::Owned(bytes), format)
    }

    fn new(bytes: Bytes, format: Format) -> Result<Self, Error> {
        let (tensors, beside) = match format {
            Format::Safetensors => {
                let contents = safetensors::read(bytes.whole())?;
                (contents.tensors, Beside::Metadata(contents.metadata))
            }
            Format::PyTorch => {
                let file = PyTorch::read(bytes.whole())?;
                (file.tensors()?, Beside::PyTorch(file))
            }
        };
        Ok(Self {
            bytes,
            tensors,
            beside,
        })
    }

    /// Opens a file that is read in parts. Of a safetensors file only the header is read; the values of a tensor must
    /// be [fetched](Self::fetch) before they are read. A `torch.save` file is read whole, up to 1 GiB.
    ///
    /// # Errors
    /// See [`TensorFile::open`]; also if the source fails.
    pub async fn from_source(source: Box<dyn ByteSource>) -> Result<Self, Error> {
        let size = source.size();
        let too_large = |limit| Error::TooLarge { bytes: size, limit };
        let first = exactly(&*source, 0..size.min(FIRST)).await?;
        if Format::detect(&first)? == Format::PyTorch {
            if size > MAX_WHOLE {
                return Err(too_large(MAX_WHOLE));
            }
            let bytes = exactly(&*source, 0..size).await?;
            return Self::from_bytes(bytes, Format::PyTorch);
        }
        let size = usize::try_from(size).map_err(|_| too_large(usize::MAX as u64))?;
        let header = safetensors::header(&first, size)?;
        if header.len() > MAX_HEADER {
            return Err(Error::Safetensors(format!(
                "its header of {} bytes is longer than that of any model",
                header.len()
            )));
        }
        let text = exactly(&*source, header.start as u64..header.end as u64).await?;
        let contents = safetensors::contents(&text, size)?;
        Ok(Self {
            bytes: Bytes::Remote(Remote::new(source, size)),
            tensors: contents.tensors,
            beside: Beside::Metadata(contents.metadata),
        })
    }

    /// The file's format.
    pub fn format(&self) -> Format {
        match self.beside {
            Beside::Metadata(_) => Format::Safetensors,
            Beside::PyTorch(_) => Format::PyTorch,
        }
    }

    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The named tensors, in the order of the file. For a `torch.save` file, those of the dictionary `state_dict` or,
    /// if there is none, those directly in its root; others can be found through [`TensorFile::root`].
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name, found by linear search.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The metadata of a safetensors file; empty for a `torch.save` file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match &self.beside {
            Beside::Metadata(metadata) => metadata,
            Beside::PyTorch(_) => &NONE,
        }
    }

    /// The object passed to `torch.save`; `None` for a safetensors file.
    pub fn root(&self) -> Option<Value<'_>> {
        match &self.beside {
            Beside::Metadata(_) => None,
            Beside::PyTorch(file) => Some(file.root()),
        }
    }

    /// The tensor described by a value in [`TensorFile::root`], under a name chosen by the caller.
    ///
    /// # Errors
    /// [`Error::Contents`] if it does not describe a dense, contiguous tensor inside the file.
    pub fn tensor(&self, name: &str, value: Value<'_>) -> Result<TensorInfo, Error> {
        match &self.beside {
            Beside::Metadata(_) => Err(Error::Contents(format!(
                "{name} is described by a pickle, which a safetensors file does not have"
            ))),
            Beside::PyTorch(file) => file.tensor(name, value),
        }
    }

    /// Brings the values of a tensor into memory, where they stay until they are first read. Does nothing for a file
    /// that is mapped or was given whole.
    ///
    /// # Errors
    /// [`Error::Source`] if the source fails.
    pub async fn fetch(&self, tensor: &TensorInfo) -> Result<(), Error> {
        match &self.bytes {
            Bytes::Remote(remote) => remote.fetch(&tensor.range).await,
            _ => Ok(()),
        }
    }

    /// The stored values of a tensor of this file: little-endian, outermost dimension first.
    ///
    /// # Errors
    /// [`Error::Zip`] if bytes in a `torch.save` file do not match their checksum; [`Error::NotFetched`].
    pub fn bytes(&self, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>, Error> {
        let not_fetched = || Error::NotFetched {
            name: tensor.name.clone(),
        };
        if let Some(guard) = &tensor.guard {
            let entry = self.bytes.of(&guard.range).ok_or_else(not_fetched)?;
            zip::check_crc(&guard.entry, &entry, guard.crc)?;
        }
        self.bytes.of(&tensor.range).ok_or_else(not_fetched)
    }

    /// Starts reading the values of a tensor of this file, in pieces. Fetched values are freed along with the reader;
    /// the memory of a mapped file is released piece by piece as it is read.
    ///
    /// # Errors
    /// See [`TensorFile::bytes`]; also [`Error::Dtype`] for a type of unknown size.
    pub fn reader<'a>(&'a self, tensor: &'a TensorInfo) -> Result<TensorReader<'a>, Error> {
        let size = tensor.dtype.size().ok_or_else(|| wrong_type(tensor))?;
        Ok(TensorReader {
            file: self,
            tensor,
            size,
            bytes: self.bytes(tensor)?,
        })
    }

    /// The values of a tensor of this file; f16 and bf16 values are exact in f32.
    ///
    /// # Errors
    /// See [`TensorFile::bytes`]; also [`Error::Dtype`] for other types.
    pub fn f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, Error> {
        let reader = self.reader(tensor)?;
        reader.f32(0..reader.len())
    }
}

/// The values of a tensor, read in pieces ([`TensorFile::reader`]).
pub struct TensorReader<'a> {
    file: &'a TensorFile,
    tensor: &'a TensorInfo,
    /// Bytes per value.
    size: usize,
    bytes: Cow<'a, [u8]>,
}

impl TensorReader<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Calls `read` with some of the stored values and returns its result.
    ///
    /// # Panics
    /// If the range is out of bounds.
    pub fn with_bytes<T>(&self, values: Range<usize>, read: impl FnOnce(&[u8]) -> T) -> T {
        let stretch = values.start * self.size..values.end * self.size;
        let made = read(&self.bytes[stretch.clone()]);
        let first = self.tensor.range.start;
        let used = first + stretch.start..first + stretch.end;
        self.file.bytes.release(used);
        made
    }

    /// Some of the values; f16 and bf16 values are exact in f32.
    ///
    /// # Errors
    /// [`Error::Dtype`] for other types.
    ///
    /// # Panics
    /// If the range is out of bounds.
    pub fn f32(&self, values: Range<usize>) -> Result<Vec<f32>, Error> {
        let half = |half| half::f16::from_le_bytes(half).to_f32();
        let upper_half = |half| half::bf16::from_le_bytes(half).to_f32();
        match &self.tensor.dtype {
            Dtype::F32 => Ok(self.with_bytes(values, |bytes| convert(bytes, f32::from_le_bytes))),
            Dtype::F16 => Ok(self.with_bytes(values, |bytes| convert(bytes, half))),
            Dtype::Bf16 => Ok(self.with_bytes(values, |bytes| convert(bytes, upper_half))),
            _ => Err(wrong_type(self.tensor)),
        }
    }
}

impl Drop for TensorReader<'_> {
    fn drop(&mut self) {
        // The bytes covered by the checksum.
        if let Some(guard) = &self.tensor.guard {
            self.file.bytes.release(guard.range.clone());
        }
    }
}

fn wrong_type(tensor: &TensorInfo) -> Error {
    Error::Dtype {
        name: tensor.name.clone(),
        found: tensor.dtype.clone(),
    }
}

/// The file does not guarantee any alignment.
fn convert<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&word| value(word))
        .collect()
}
