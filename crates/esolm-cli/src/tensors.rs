//! Safetensors files read and written by `forward`, `replay` and `ppl`, checked name by name.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};

use esolm::checkpoint::CheckpointError;
use esolm_checkpoint::{Dtype, Error, Format, SafetensorsWriter, TensorFile, TensorSpec};

use crate::failure::Failure;
use crate::files::Pending;

/// An input file.
pub struct Input {
    path: PathBuf,
    file: TensorFile,
}

impl Input {
    /// Reads a whole file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path).map_err(|error| {
            Failure::failed(format!(
                "cannot read {}: {error}; check the path",
                path.display()
            ))
        })?;
        let file = TensorFile::from_bytes(bytes, Format::Safetensors).map_err(|error| {
            let why = match error {
                Error::Safetensors(why) => why,
                other => other.to_string(),
            };
            Failure::failed(format!(
                "{} is not a safetensors file ({why}); write it with safetensors.torch.save_file",
                path.display()
            ))
        })?;
        Ok(Self {
            path: path.into(),
            file,
        })
    }

    /// Whether there is a tensor with this name.
    pub fn has(&self, name: &str) -> bool {
        self.file.get(name).is_some()
    }

    /// The shape and values of a tensor.
    fn tensor<const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        layout: [&str; N],
    ) -> Result<([usize; N], Cow<'_, [u8]>), Failure> {
        let path = self.path.display();
        let wanted = format!("{} [{}]", type_name(&dtype), layout.join(", "));
        let tensor = self.file.get(name).ok_or_else(|| {
            Failure::failed(format!("{path} has no tensor {name}; add it, as {wanted}"))
        })?;
        match <[usize; N]>::try_from(tensor.shape.as_slice()) {
            Ok(shape) if tensor.dtype == dtype => Ok((
                shape,
                self.file.bytes(tensor).map_err(CheckpointError::from)?,
            )),
            _ => Err(Failure::failed(format!(
                "{name} in {path} is {} {:?}; it must be {wanted}",
                type_name(&tensor.dtype),
                tensor.shape
            ))),
        }
    }

    /// The rows of an int32 matrix of non-negative numbers. `layout` names its two dimensions in messages.
    pub fn rows(&self, name: &str, layout: [&str; 2]) -> Result<Vec<Vec<u32>>, Failure> {
        let ([height, width], bytes) = self.tensor(name, Dtype::I32, layout)?;
        let values: Vec<u32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&word| u32::try_from(i32::from_le_bytes(word)).ok())
            .collect::<Option<_>>()
            .ok_or_else(|| {
                Failure::failed(format!(
                    "{name} in {} holds a negative number; its entries count from 0",
                    self.path.display()
                ))
            })?;
        if width == 0 {
            return Ok(vec![Vec::new(); height.min(1)]);
        }
        Ok(values.chunks_exact(width).map(<[u32]>::to_vec).collect())
    }

    /// An f64 tensor of exactly this shape.
    pub fn f64(&self, name: &str, shape: [usize; 3]) -> Result<Vec<f64>, Failure> {
        let (found, bytes) = self.tensor(name, Dtype::F64, ["B", "L", "V"])?;
        if found != shape {
            return Err(Failure::failed(format!(
                "{name} in {} has shape {found:?}; with sort_idx and this model it must be {shape:?}",
                self.path.display(),
            )));
        }
        let words = bytes.as_chunks().0.iter();
        Ok(words.map(|&word| f64::from_le_bytes(word)).collect())
    }
}

/// The type's name in messages, as in PyTorch.
fn type_name(dtype: &Dtype) -> String {
    let name = dtype.to_string();
    match name.split_at(1) {
        ("i", bits) => format!("int{bits}"),
        ("f", bits) => format!("float{bits}"),
        _ => name,
    }
}

/// A tensor to write.
pub struct Output<'a> {
    spec: TensorSpec,
    bytes: &'a [u8],
}

impl<'a> Output<'a> {
    /// A float32 tensor.
    pub fn f32(name: &'static str, shape: &[usize], values: &'a [f32]) -> Self {
        Self {
            spec: TensorSpec::new(name, Dtype::F32, shape),
            bytes: bytemuck::cast_slice(values),
        }
    }

    /// An int32 tensor.
    pub fn i32(name: &'static str, shape: &[usize], values: &'a [i32]) -> Self {
        Self {
            spec: TensorSpec::new(name, Dtype::I32, shape),
            bytes: bytemuck::cast_slice(values),
        }
    }
}

/// Writes a safetensors file, completely or not at all.
pub fn write(mut pending: Pending, tensors: Vec<Output>) -> Result<(), Failure> {
    let (specs, values): (Vec<_>, Vec<_>) = tensors
        .into_iter()
        .map(|tensor| (tensor.spec, tensor.bytes))
        .unzip();
    pending.fill(|file| {
        let mut writer = SafetensorsWriter::new(file, &[], &specs)?;
        values
            .iter()
            .try_for_each(|bytes| writer.write_all(bytes))?;
        writer.finish().map(drop)
    })?;
    pending.commit()
}
