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

/// A file of `torch.save` is read whole from a source, since what it holds where stands at its end; beside it there must be room for
/// the model.
const MAX_WHOLE: u64 = 1 << 30;
/// The header of a model of ten thousand tensors has about a megabyte.
const MAX_HEADER: usize = 64 << 20;
/// Enough to tell one format from another.
const FIRST: u64 = 64;

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON header, then the values.
    Safetensors,
    /// What `torch.save` of PyTorch 1.6 or newer writes, and with it Lightning: a zip with a pickle.
    PyTorch,
}

impl Format {
    /// The format of a file that begins with `first`, 64 bytes or all it has.
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

/// An open file: a checked directory of its tensors over bytes that are mapped, held in memory, or read in parts.
pub struct TensorFile {
    bytes: Bytes,
    tensors: Vec<TensorInfo>,
    beside: Beside,
}

/// What a file holds beside tensors.
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
    /// Opens a file of either format. One whose first bytes are those of nothing known is taken for a damaged safetensors file if it is
    /// named so.
    ///
    /// It is mapped into memory and must not be changed while it is in use: on most systems, reading a mapped file that another
    /// process has cut short ends the program.
    ///
    /// # Errors
    /// Everything that keeps the file from being complete and consistent; see [`Error`].
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

    /// Opens the bytes of a file; [`Format::detect`] tells its format where it is not known.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
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

    /// Opens a file that is read in parts. Of a safetensors file only the header is read; before the values of a tensor are read it
    /// must be [fetched](Self::fetch). A file of `torch.save` is read whole, up to 1 GiB.
    ///
    /// # Errors
    /// As [`TensorFile::open`], and when the source does not deliver.
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

    /// The tensors with names, in the order of the file. In a file of `torch.save`, those of the dictionary `state_dict`, or, where
    /// there is none, those that stand directly in its root; others are found through [`TensorFile::root`].
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name. Looks through all of them.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The metadata of a safetensors file; empty for one of `torch.save`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match &self.beside {
            Beside::Metadata(metadata) => metadata,
            Beside::PyTorch(_) => &NONE,
        }
    }

    /// The object that `torch.save` was given; `None` for a safetensors file.
    pub fn root(&self) -> Option<Value<'_>> {
        match &self.beside {
            Beside::Metadata(_) => None,
            Beside::PyTorch(file) => Some(file.root()),
        }
    }

    /// The tensor that a value of [`TensorFile::root`] describes, under a name of the caller's.
    ///
    /// # Errors
    /// [`Error::Contents`] when it does not describe a dense tensor without gaps that lies in the file.
    pub fn tensor(&self, name: &str, value: Value<'_>) -> Result<TensorInfo, Error> {
        match &self.beside {
            Beside::Metadata(_) => Err(Error::Contents(format!(
                "{name} is described by a pickle, which a safetensors file does not have"
            ))),
            Beside::PyTorch(file) => file.tensor(name, value),
        }
    }

    /// Brings the values of a tensor into memory, where they stay until they are read once. Does nothing for a file that is mapped or
    /// was given whole.
    ///
    /// # Errors
    /// [`Error::Source`] when the source does not deliver.
    pub async fn fetch(&self, tensor: &TensorInfo) -> Result<(), Error> {
        match &self.bytes {
            Bytes::Remote(remote) => remote.fetch(&tensor.range).await,
            _ => Ok(()),
        }
    }

    /// The values of a tensor of this file as they are stored: little-endian, outermost dimension first.
    ///
    /// # Errors
    /// [`Error::Zip`] when the bytes in a file of `torch.save` do not match their checksum, or [`Error::NotFetched`].
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

    /// Begins to read the values of a tensor of this file, a stretch at a time. Those that were fetched are given up with the reader, and
    /// so is the memory of a mapped file, which a stretch gives back when it was read.
    ///
    /// # Errors
    /// As [`TensorFile::bytes`], and [`Error::Dtype`] for a type of unknown size.
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
    /// As [`TensorFile::bytes`], and [`Error::Dtype`] for other types.
    pub fn f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, Error> {
        let reader = self.reader(tensor)?;
        reader.f32(0..reader.len())
    }
}

/// The values of a tensor, read a stretch at a time ([`TensorFile::reader`]).
pub struct TensorReader<'a> {
    file: &'a TensorFile,
    tensor: &'a TensorInfo,
    /// Bytes of a value.
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

    /// What `read` makes of some of the values as they are stored.
    ///
    /// # Panics
    /// When there are fewer.
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
    /// When there are fewer.
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
        // What the checksum was made of.
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

/// The file gives no alignment.
fn convert<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&word| value(word))
        .collect()
}
