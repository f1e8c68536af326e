//! Writing them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use esolm_core::checkpoint::{
    Checkpoint, CheckpointError, Dtype, FileError, FolderWeights, TensorSpec, write_f32,
    write_folder,
};
use esolm_core::config::{Grid, ModelConfig, Quantization};
use esolm_core::quantise::{GROUP, Q4, Q8};
use half::f16;

use super::layout::{Layout, Matrix, Tensor};
use crate::error::EngineError;
use crate::memory::{self, MemoryUse};
use crate::network::fold::{
    EmbeddingRows, FoldedBlock, Folding, HeadRows, Linear, TOKENS, check_range, parts, transpose,
};
use crate::weights::Weights;

/// Writes the folded network of `ckpt` with weights of 8 or 4 bits as a folder that [`Checkpoint::open`] reads, in MLX's convention. The
/// embedding and the output matrix have 8 bits. A matrix whose inputs are not whole groups of 32 stays f32, since the engine's last group
/// is short and the files know no such. Files are replaced when all of them are whole, and there are several where the weights have more than
/// `shard_bytes`, as by [`esolm_core::checkpoint::write_hf_folder`], which also says what is given back. A block at a time is in memory.
///
/// # Errors
/// Weights that are not quantised or that the form does not hold, a tensor that cannot be read, too little memory, and the disk's.
pub fn write_quantised(
    ckpt: &Checkpoint,
    out: &Path,
    weights: Weights,
    shard_bytes: u64,
) -> Result<Vec<String>, EngineError> {
    if !weights.are_quantised() {
        return Err(EngineError::Option {
            option: "form of quantised weights",
            value: weights.to_string(),
            allowed: "q8 or q4",
        });
    }
    let config = ckpt.config();
    let layout = Layout::of(ckpt);
    let block: usize = layout.block.iter().map(Matrix::values).sum();
    let (tokens, width) = (TOKENS.min(config.vocab_size), config.hidden);
    // A block as read, folded and transposed; or some tokens of the ends, with the scales of all.
    let ends = 12 * tokens * width + 8 * config.vocab_size * width.div_ceil(GROUP);
    memory::ask(MemoryUse::Model, (12 * block).max(ends) as u64)?;
    let ends = weights.at_the_ends();
    let has_groups = width.is_multiple_of(GROUP);
    let exceptions = (layout.ends()).map(|matrix| (matrix.module.clone(), Some(grid(ends))));
    let quantization = Quantization {
        rest: grid(weights),
        modules: match ends != weights && has_groups {
            true => exceptions.collect(),
            false => BTreeMap::new(),
        },
    };
    let folded = ModelConfig {
        cond_dim: 0,
        ..config.clone()
    };
    let all = layout.tensors(config);
    let specs: Vec<TensorSpec> = (all.iter())
        .flat_map(|tensor| match tensor {
            Tensor::End(matrix) => specs(matrix, ends),
            Tensor::OfBlock(matrix) => specs(matrix, weights),
            Tensor::Floats(name, width) => vec![TensorSpec::new(name, Dtype::F32, [*width])],
        })
        .collect();
    let folder = FolderWeights {
        tensors: &specs,
        quantization: Some(&quantization),
        shard_bytes,
    };
    write_folder(ckpt, out, &folded, &folder, |sink, path| {
        let io = |error| CheckpointError::from(FileError::io("write", path, error)).into();
        let mut writer = Writer { sink, io: &io };
        // So that gates and ups are columns of their own.
        let folding = Folding::new(ckpt)?.with_stretch(config.inner());
        writer.embedding(&folding.embedding_rows()?, &layout.embedding, ends)?;
        for index in 0..config.n_blocks {
            let block = folding.block(index)?;
            writer.block(&block, &layout.block, weights)?;
            if let Some(norm) = &block.qk_norm {
                writer.floats(&norm.q)?;
                writer.floats(&norm.k)?;
            }
            // What is folded.
            writer.floats(&vec![1.0; 2 * width])?;
        }
        if let Some(head) = &layout.head {
            writer.head(&folding.open_head_rows()?, head, ends)?;
        }
        let last = folding.head_scale()?;
        writer.floats(&last.unwrap_or_else(|| vec![1.0; width]))
    })
}

fn grid(weights: Weights) -> Grid {
    Grid {
        bits: if weights == Weights::Q4 { 4 } else { 8 },
        group: GROUP,
    }
}

/// The tensors of a matrix.
fn specs(matrix: &Matrix, weights: Weights) -> Vec<TensorSpec> {
    let Matrix {
        module,
        n_in,
        n_out,
        ..
    } = matrix;
    let mut specs = Vec::new();
    let mut add = |name: String, dtype, shape: &[usize]| {
        specs.push(TensorSpec::new(name, dtype, shape));
    };
    if n_in.is_multiple_of(GROUP) {
        let words = n_in * grid(weights).bits / 32;
        add(format!("{module}.weight"), Dtype::U32, &[*n_out, words]);
        for beside in ["scales", "biases"] {
            let shape = [*n_out, n_in / GROUP];
            add(format!("{module}.{beside}"), Dtype::F16, &shape);
        }
    } else {
        add(matrix.floats.clone(), Dtype::F32, &[*n_out, *n_in]);
    }
    if matrix.has_bias {
        add(format!("{module}.bias"), Dtype::F32, &[*n_out]);
    }
    specs
}

/// Writes values in the order of their tensors.
struct Writer<'a> {
    sink: &'a mut dyn Write,
    io: &'a dyn Fn(io::Error) -> EngineError,
}

impl Writer<'_> {
    fn floats(&mut self, values: &[f32]) -> Result<(), EngineError> {
        write_f32(self.sink, values).map_err(self.io)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.sink.write_all(bytes).map_err(self.io)
    }

    fn embedding(
        &mut self,
        rows: &EmbeddingRows,
        matrix: &Matrix,
        weights: Weights,
    ) -> Result<(), EngineError> {
        let mut beside = Beside::default();
        for tokens in parts(0..matrix.n_out) {
            let part = rows.part(tokens)?;
            check_range(part.name, &part.values, weights)?;
            match matrix.n_in.is_multiple_of(GROUP) {
                true => self.q8(part.name, part.all_q8(), &mut beside)?,
                false => self.floats(&part.values)?,
            }
        }
        self.beside(beside)
    }

    fn head(
        &mut self,
        rows: &HeadRows,
        matrix: &Matrix,
        weights: Weights,
    ) -> Result<(), EngineError> {
        let (mut beside, mut bias) = (Beside::default(), Vec::new());
        for tokens in parts(0..matrix.n_out) {
            let part = rows.linear(tokens)?;
            self.columns(&part, 0..part.n_out, weights, &mut beside)?;
            bias.extend(part.bias);
        }
        self.beside(beside)?;
        match matrix.has_bias {
            true => self.floats(&bias),
            false => Ok(()),
        }
    }

    /// The matrices of a block, some of which are columns of one.
    fn block(
        &mut self,
        block: &FoldedBlock,
        matrices: &[Matrix],
        weights: Weights,
    ) -> Result<(), EngineError> {
        let mut matrices = matrices.iter();
        for linear in block.matrices() {
            let mut first = 0;
            while first < linear.n_out
                && let Some(matrix) = matrices.next()
            {
                let columns = first..first + matrix.n_out;
                let mut beside = Beside::default();
                self.columns(linear, columns.clone(), weights, &mut beside)?;
                self.beside(beside)?;
                if matrix.has_bias {
                    self.floats(&linear.bias[columns.clone()])?;
                }
                first = columns.end;
            }
        }
        Ok(())
    }

    /// The codes of some columns, or their values where they have no whole groups.
    fn columns(
        &mut self,
        linear: &Linear,
        columns: Range<usize>,
        weights: Weights,
        beside: &mut Beside,
    ) -> Result<(), EngineError> {
        check_range(&linear.name, &linear.weight, weights)?;
        let of_column = |column| (0..linear.n_in / GROUP).map(move |group| (column, group));
        let places = columns.clone().flat_map(of_column);
        if !linear.n_in.is_multiple_of(GROUP) {
            let rows = transpose(&linear.weight, linear.n_in, linear.n_out);
            self.floats(&rows[columns.start * linear.n_in..columns.end * linear.n_in])
        } else if weights == Weights::Q4 {
            self.q4(
                places.map(|(column, group)| linear.q4(column, group)),
                beside,
            )
        } else {
            let groups = places.map(|(column, group)| linear.q8(column, group));
            self.q8(&linear.name, groups, beside)
        }
    }

    /// Codes without a sign; what a code of 0 stands for is an offset.
    fn q8(
        &mut self,
        tensor: &str,
        groups: impl Iterator<Item = Q8>,
        beside: &mut Beside,
    ) -> Result<(), EngineError> {
        let mut codes = Vec::new();
        for group in groups {
            let scale = group.scale.to_f32();
            let lowest = f16::from_f32(-f32::from(Q8::STORED_ZERO) * scale);
            if !lowest.is_finite() {
                return Err(EngineError::Overflow {
                    tensor: tensor.into(),
                    value: scale * 127.0,
                    weights: Weights::Q8,
                });
            }
            codes.extend(group.codes.map(|code| code as u8 ^ Q8::STORED_ZERO));
            beside.push(group.scale, lowest);
        }
        self.bytes(&codes)
    }

    fn q4(
        &mut self,
        groups: impl Iterator<Item = Q4>,
        beside: &mut Beside,
    ) -> Result<(), EngineError> {
        let mut codes = Vec::new();
        for group in groups {
            let (pairs, _) = group.codes.as_chunks::<2>();
            codes.extend(pairs.iter().map(|[low, high]| low | high << 4));
            beside.push(group.scale, group.offset);
        }
        self.bytes(&codes)
    }

    fn beside(&mut self, beside: Beside) -> Result<(), EngineError> {
        self.bytes(&beside.scales)?;
        self.bytes(&beside.offsets)
    }
}

/// Scales and offsets of groups, which follow the codes of all of them.
#[derive(Default)]
struct Beside {
    scales: Vec<u8>,
    offsets: Vec<u8>,
}

impl Beside {
    fn push(&mut self, scale: f16, offset: f16) {
        self.scales.extend(scale.to_le_bytes());
        self.offsets.extend(offset.to_le_bytes());
    }
}
