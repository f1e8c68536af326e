//! Safetensors files that `forward` and `replay` read and write, checked name by name.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::failure::Failure;
use crate::files::{Pending, cannot_write};

/// An input file.
pub struct Input {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Input {
    /// Reads a file whole.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path).map_err(|error| {
            Failure::failed(format!(
                "cannot read {}: {error}; check the path",
                path.display()
            ))
        })?;
        let input = Self {
            path: path.into(),
            bytes,
        };
        input.directory()?;
        Ok(input)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.directory().is_ok_and(|file| file.tensor(name).is_ok())
    }

    fn directory(&self) -> Result<SafeTensors<'_>, Failure> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| {
            Failure::failed(format!(
                "{} is no safetensors file ({error}); write it with safetensors.torch.save_file",
                self.path.display()
            ))
        })
    }

    fn tensor(&self, name: &str, dtype: Dtype, layout: &[&str]) -> Result<TensorView<'_>, Failure> {
        let path = self.path.display();
        let wanted = format!("{} [{}]", type_name(dtype), layout.join(", "));
        let tensor = self.directory()?.tensor(name).map_err(|_| {
            Failure::failed(format!("{path} has no tensor {name}; add it, as {wanted}"))
        })?;
        if tensor.dtype() != dtype || tensor.shape().len() != layout.len() {
            return Err(Failure::failed(format!(
                "{name} in {path} is {} {:?}; it must be {wanted}",
                type_name(tensor.dtype()),
                tensor.shape()
            )));
        }
        Ok(tensor)
    }

    /// An int32 matrix of numbers that are not negative, as rows. `layout` names its two dimensions for messages.
    pub fn rows(&self, name: &str, layout: [&str; 2]) -> Result<Vec<Vec<u32>>, Failure> {
        let tensor = self.tensor(name, Dtype::I32, &layout)?;
        let width = tensor.shape()[1];
        let values: Vec<u32> = tensor
            .data()
            .chunks_exact(4)
            .map(|b| u32::try_from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok())
            .collect::<Option<_>>()
            .ok_or_else(|| {
                Failure::failed(format!(
                    "{name} in {} holds a negative number; its entries count from 0",
                    self.path.display()
                ))
            })?;
        if width == 0 {
            return Ok(vec![Vec::new(); tensor.shape()[0].min(1)]);
        }
        Ok(values.chunks_exact(width).map(<[u32]>::to_vec).collect())
    }

    /// A f64 tensor of exactly this shape.
    pub fn f64(&self, name: &str, shape: [usize; 3]) -> Result<Vec<f64>, Failure> {
        let tensor = self.tensor(name, Dtype::F64, &["B", "L", "V"])?;
        if tensor.shape() != shape {
            return Err(Failure::failed(format!(
                "{name} in {} has shape {:?}; with sort_idx and this model it must be {shape:?}",
                self.path.display(),
                tensor.shape()
            )));
        }
        Ok(tensor
            .data()
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect())
    }
}

/// The name that messages and PyTorch use.
fn type_name(dtype: Dtype) -> String {
    match dtype {
        Dtype::I32 => "int32".into(),
        Dtype::I64 => "int64".into(),
        Dtype::F32 => "float32".into(),
        Dtype::F64 => "float64".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// A tensor to write.
pub struct Output<'a> {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> Output<'a> {
    /// A float32 tensor.
    pub fn f32(name: &'static str, shape: &[usize], values: &'a [f32]) -> Self {
        Self {
            name,
            dtype: Dtype::F32,
            shape: shape.into(),
            bytes: bytemuck::cast_slice(values),
        }
    }

    /// An int32 tensor.
    pub fn i32(name: &'static str, shape: &[usize], values: &'a [i32]) -> Self {
        Self {
            name,
            dtype: Dtype::I32,
            shape: shape.into(),
            bytes: bytemuck::cast_slice(values),
        }
    }
}

/// Writes a safetensors file, whole or not at all.
pub fn write(pending: Pending, tensors: Vec<Output>) -> Result<(), Failure> {
    let views: Vec<_> = tensors
        .into_iter()
        .map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape, tensor.bytes);
            view.map(|view| (tensor.name, view))
        })
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::failed(format!("the result has a wrong shape: {error}")))?;
    safetensors::serialize_to_file(views, None, pending.temporary()).map_err(
        |error| match error {
            safetensors::SafeTensorError::IoError(error) => cannot_write(pending.path(), &error),
            error => Failure::failed(format!(
                "cannot write {}: {error}",
                pending.path().display()
            )),
        },
    )?;
    pending.commit()
}
