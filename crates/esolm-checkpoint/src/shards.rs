//! Writing safetensors in several files with an index, as `save_pretrained` of transformers does.

use std::collections::VecDeque;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::writer::{SafetensorsWriter, TensorSpec};

/// The name of weights that are one file.
const ONE: &str = "model.safetensors";

/// Writes tensors one after the other, into one safetensors file or, where they have more than so many bytes together, into several. No
/// tensor is cut: one that has more is a file of its own. Values come as in [`SafetensorsWriter`], of all tensors in their order.
pub struct ShardedWriter<W, F> {
    /// Makes the file of a name.
    create: F,
    metadata: Vec<(String, String)>,
    /// What is still to be begun.
    files: VecDeque<(String, Vec<TensorSpec>)>,
    current: Option<SafetensorsWriter<W>>,
    written: Vec<W>,
    index: Option<String>,
}

impl<W: Write, F: FnMut(&str) -> io::Result<W>> ShardedWriter<W, F> {
    /// Deals the tensors out to files of at most `most` bytes of values. `create` makes the file of a name when its turn comes:
    /// `model.safetensors`, or `model-00001-of-00003.safetensors` and so on.
    ///
    /// # Errors
    /// What `create` and the sink answer; what [`SafetensorsWriter::new`] refuses.
    pub fn new(
        metadata: &[(&str, &str)],
        tensors: &[TensorSpec],
        most: u64,
        create: F,
    ) -> io::Result<Self> {
        let mut shards: Vec<Vec<TensorSpec>> = vec![Vec::new()];
        let (mut size, mut total) = (0u64, 0u64);
        for tensor in tensors {
            // One without a size is refused where its file begins.
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

    /// The text of the `model.safetensors.index.json` that belongs to several files.
    pub fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }

    /// Gives the files back once all values were written.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when values are missing; what the sinks answer when they are flushed.
    pub fn finish(mut self) -> io::Result<Vec<W>> {
        while !self.files.is_empty() {
            self.begin()?;
        }
        if let Some(current) = self.current {
            self.written.push(current.finish()?);
        }
        Ok(self.written)
    }

    /// Ends the file that is whole and begins the next.
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

/// Values as they lie in the files.
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
