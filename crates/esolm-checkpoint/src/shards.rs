//! Writes safetensors as several files with an index, like `save_pretrained` of transformers.

use std::collections::VecDeque;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::writer::{SafetensorsWriter, TensorSpec};

/// File name of weights in a single file.
const ONE: &str = "model.safetensors";

/// Writes tensors in order, into one safetensors file or, if they exceed a given size, into several. No tensor is
/// split; a larger one gets a file of its own. Values are written as in [`SafetensorsWriter`], for all tensors in
/// order.
pub struct ShardedWriter<W, F> {
    /// Creates the file with a given name.
    create: F,
    metadata: Vec<(String, String)>,
    /// The files that have not been started.
    files: VecDeque<(String, Vec<TensorSpec>)>,
    current: Option<SafetensorsWriter<W>>,
    written: Vec<W>,
    index: Option<String>,
}

impl<W: Write, F: FnMut(&str) -> io::Result<W>> ShardedWriter<W, F> {
    /// Distributes the tensors over files of at most `most` bytes of values. `create` creates each file when it is
    /// needed: `model.safetensors`, or `model-00001-of-00003.safetensors` and so on.
    ///
    /// # Errors
    /// Errors of `create` and the sinks; errors of [`SafetensorsWriter::new`].
    pub fn new(
        metadata: &[(&str, &str)],
        tensors: &[TensorSpec],
        most: u64,
        create: F,
    ) -> io::Result<Self> {
        let mut shards: Vec<Vec<TensorSpec>> = vec![Vec::new()];
        let (mut size, mut total) = (0u64, 0u64);
        for tensor in tensors {
            // A tensor of unknown size is rejected when its file is started.
            let bytes = tensor.bytes().unwrap_or(0);
            total = total.saturating_add(bytes);
            if size > 0 && size.saturating_add(bytes) > most {
                shards.push(Vec::new());
                size = 0;
            }
            size = size.saturating_add(bytes);
            if let Some(shard) = shards.last_mut() {
                shard.push(tensor.clone());
            }
        }
        let count = shards.len();
        let name = |number: usize| match count {
            1 => ONE.to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let files: VecDeque<_> = (shards.into_iter().enumerate())
            .map(|(number, shard)| (name(number), shard))
            .collect();
        let pairs = files.iter().flat_map(|(file, shard)| {
            let pair = move |tensor: &TensorSpec| (tensor.name.clone(), Value::from(&file[..]));
            shard.iter().map(pair)
        });
        let index = (count > 1).then(|| {
            let map: Map<String, Value> = pairs.collect();
            format!(
                "{:#}\n",
                json!({ "metadata": { "total_size": total }, "weight_map": map })
            )
        });
        let pair = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        let mut writer = Self {
            create,
            metadata: metadata.iter().map(pair).collect(),
            files,
            current: None,
            written: Vec::new(),
            index,
        };
        writer.begin()?;
        Ok(writer)
    }

    /// The text of the `model.safetensors.index.json`, if there are several files.
    pub fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }

    /// Returns the files once all values have been written.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if values are missing; errors of the sinks when they are flushed.
    pub fn finish(mut self) -> io::Result<Vec<W>> {
        while !self.files.is_empty() {
            self.begin()?;
        }
        if let Some(current) = self.current {
            self.written.push(current.finish()?);
        }
        Ok(self.written)
    }

    /// Finishes the complete file and starts the next.
    fn begin(&mut self) -> io::Result<()> {
        if let Some(current) = self.current.take() {
            self.written.push(current.finish()?);
        }
        if let Some((name, tensors)) = self.files.pop_front() {
            let metadata: Vec<(&str, &str)> = (self.metadata.iter())
                .map(|(key, value)| (&key[..], &value[..]))
                .collect();
            let sink = (self.create)(&name)?;
            self.current = Some(SafetensorsWriter::new(sink, &metadata, &tensors)?);
        }
        Ok(())
    }
}

/// Writes raw values as stored in the files.
impl<W: Write, F: FnMut(&str) -> io::Result<W>> Write for ShardedWriter<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_whole = |current: &SafetensorsWriter<W>| current.left() == 0;
        while self.current.as_ref().is_some_and(is_whole) && !self.files.is_empty() {
            self.begin()?;
        }
        match &mut self.current {
            None => Ok(0),
            Some(current) => {
                let fits = current.left().clamp(1, bytes.len().max(1) as u64) as usize;
                current.write(&bytes[..fits.min(bytes.len())])
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current.as_mut().map_or(Ok(()), Write::flush)
    }
}
