//! Writing safetensors files.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::tensor::Dtype;

/// A tensor to be written.
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
    /// A tensor with this name, type and shape.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
        }
    }

    /// Its size in bytes; `None` for a type of unknown size, or on overflow.
    pub fn bytes(&self) -> Option<u64> {
        let size = self.dtype.size()? as u64;
        let mut shape = self.shape.iter();
        shape.try_fold(size, |bytes, &n| bytes.checked_mul(n as u64))
    }
}

/// Writes a safetensors file to a sink: the header immediately, then the values of all tensors in the order of the
/// header, in pieces of any size. Only one piece is ever in memory.
///
/// Use an [`AtomicFile`](crate::AtomicFile) for files on disk, so that an incomplete file cannot be mistaken for a
/// complete one.
#[derive(Debug)]
pub struct SafetensorsWriter<W> {
    sink: W,
    /// Bytes of values still to be written.
    left: u64,
}

impl<W: Write> SafetensorsWriter<W> {
    /// Starts a file with its header. transformers rejects files whose metadata do not name a framework: `("format",
    /// "pt")`.
    ///
    /// # Errors
    /// Errors of the sink; [`io::ErrorKind::InvalidInput`] for a duplicate name or a type of unknown size.
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
        // Aligns the values to 8 bytes.
        text.resize(text.len().next_multiple_of(8), b' ');
        sink.write_all(&(text.len() as u64).to_le_bytes())?;
        sink.write_all(&text)?;
        Ok(Self { sink, left: end })
    }

    /// Writes the next values of f32 tensors.
    ///
    /// # Errors
    /// See [`Write::write`].
    pub fn f32(&mut self, values: &[f32]) -> io::Result<()> {
        write_f32(self, values)
    }

    /// Bytes of values still to be written.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Returns the sink once all values have been written.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if values are missing; errors of the sink when it is flushed.
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

/// Writes raw values as stored in the file: little-endian, outermost dimension first.
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

/// Writes values in the format of an f32 tensor.
///
/// # Errors
/// Errors of the sink.
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
