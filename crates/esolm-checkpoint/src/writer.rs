//! Writing safetensors files.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::tensor::Dtype;

/// What a tensor to be written is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this name, type and shape.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
        }
    }

    /// Its size in bytes; `None` for a type of unknown size, and where there is no such number.
    pub fn bytes(&self) -> Option<u64> {
        let size = self.dtype.size()? as u64;
        let mut shape = self.shape.iter();
        shape.try_fold(size, |bytes, &n| bytes.checked_mul(n as u64))
    }
}

/// Writes a safetensors file to a sink: the header at once, then the values of all tensors in the order of the header, in pieces of
/// any size. So no more than a piece is ever in memory.
///
/// A file on the disk belongs into an [`AtomicFile`](crate::AtomicFile), so that no half-written one can be taken for whole.
#[derive(Debug)]
pub struct SafetensorsWriter<W> {
    sink: W,
    /// Bytes of values that are still to come.
    left: u64,
}

impl<W: Write> SafetensorsWriter<W> {
    /// Begins a file with its header. transformers refuses a file whose metadata do not name a framework: `("format", "pt")`.
    ///
    /// # Errors
    /// What the sink answers; [`io::ErrorKind::InvalidInput`] for a name that occurs twice or a type of unknown size.
    pub fn new(mut sink: W, metadata: &[(&str, &str)], tensors: &[TensorSpec]) -> io::Result<Self> {
        let mut header = Map::new();
        if !metadata.is_empty() {
            let pairs = metadata
                .iter()
                .map(|(key, value)| (key.to_string(), json!(value)));
            header.insert("__metadata__".into(), Value::Object(pairs.collect()));
        }
        let mut end = 0u64;
        for tensor in tensors {
            let start = end;
            let bytes = tensor.bytes().and_then(|bytes| start.checked_add(bytes));
            end = bytes.ok_or_else(|| invalid(&tensor.name, "has no size that can be written"))?;
            let entry = json!({
                "dtype": tensor.dtype.to_string().to_ascii_uppercase(),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            });
            if header.insert(tensor.name.clone(), entry).is_some() {
                return Err(invalid(&tensor.name, "is to be written twice"));
            }
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        // So that the values begin at a multiple of 8.
        text.resize(text.len().next_multiple_of(8), b' ');
        sink.write_all(&(text.len() as u64).to_le_bytes())?;
        sink.write_all(&text)?;
        Ok(Self { sink, left: end })
    }

    /// Writes the next values of f32 tensors.
    ///
    /// # Errors
    /// As [`Write::write`].
    pub fn f32(&mut self, values: &[f32]) -> io::Result<()> {
        write_f32(self, values)
    }

    /// Bytes of values that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Gives the sink back once all values were written.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when values are missing; what the sink answers when it is flushed.
    pub fn finish(mut self) -> io::Result<W> {
        if self.left > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} bytes of tensors are missing", self.left),
            ));
        }
        self.sink.flush()?;
        Ok(self.sink)
    }
}

/// Values as they lie in the file: little-endian, outermost dimension first.
impl<W: Write> Write for SafetensorsWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "there are more values than the shapes say",
            ));
        }
        let written = self.sink.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Writes values as an f32 tensor holds them.
///
/// # Errors
/// What the sink answers.
pub fn write_f32(sink: &mut (impl Write + ?Sized), values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1 << 16);
    for values in values.chunks(1 << 14) {
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        sink.write_all(&bytes)?;
    }
    Ok(())
}

fn invalid(name: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("tensor {name} {what}"))
}
