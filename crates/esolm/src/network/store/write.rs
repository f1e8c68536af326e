//! Writing them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use esolm_core::checkpoint::{
    Checkpoint, CheckpointError, Dtype, FileError, SafetensorsWriter, TensorSpec, write_folder,
};
use esolm_core::config::{Grid, ModelConfig, Quantization};
use esolm_core::quantise::{GROUP, Q4, Q8};
use half::f16;

use crate::error::EngineError;
use crate::memory::{self, MemoryUse};
use crate::network::fold::{Embedding, Folding, Linear, check_range, transpose};
use crate::weights::Weights;

/// The published module that holds the network.
const NETWORK: &str = "backbone";
const EMBEDDING: &str = "vocab_embed";
const HEAD: &str = "output_layer.linear";

/// Writes the folded network of `ckpt` with weights of 8 or 4 bits as a folder that [`Checkpoint::open`] reads, in MLX's convention. The
/// embedding and the output matrix have 8 bits. A matrix whose inputs are not whole groups of 32 stays f32, since the engine's last group
/// is short and the files know no such. Files are replaced when all of them are whole, as by
/// [`esolm_core::checkpoint::write_hf_folder`].
///
/// # Errors
/// Weights that are not quantised or that the form does not hold, a decoder, a tensor that cannot be read, too little memory, and the disk's.
pub fn write_quantised(ckpt: &Checkpoint, out: &Path, weights: Weights) -> Result<(), EngineError> {
    if !weights.are_quantised() {
        return Err(EngineError::Option {
            option: "form of quantised weights",
            value: weights.to_string(),
            allowed: "q8 or q4",
        });
    }
    let config = ckpt.config();
    if config.decoder.is_some() {
        return Err(EngineError::Option {
            option: "form of a decoder's files",
            value: weights.to_string(),
            allowed: "f32 or f16, which can be rounded when they are loaded",
        });
    }
    let largest = config.hidden * config.vocab_size.max(4 * config.hidden);
    // As read, as folded and transposed, and as groups.
    memory::ask(MemoryUse::Model, 12 * largest as u64)?;
    let ends = weights.at_the_ends();
    let has_groups = config.hidden.is_multiple_of(GROUP);
    let exceptions = [EMBEDDING, HEAD].map(|module| {
        let name = format!("{NETWORK}.{module}");
        (name, Some(grid(ends)))
    });
    let quantization = Quantization {
        rest: grid(weights),
        modules: match ends != weights && has_groups {
            true => BTreeMap::from(exceptions),
            false => BTreeMap::new(),
        },
    };
    let folded = ModelConfig {
        cond_dim: 0,
        ..config.clone()
    };
    let path = out.join("model.safetensors");
    let io = |error| CheckpointError::from(FileError::io("write", &path, error)).into();
    write_folder(ckpt, out, &folded, Some(&quantization), |sink| {
        let network = Network {
            ckpt,
            weights,
            ends,
        };
        let specs = network.specs();
        let writer = SafetensorsWriter::new(sink, &[("format", "pt")], &specs).map_err(io)?;
        network.write(writer, &io)
    })
}

fn grid(weights: Weights) -> Grid {
    Grid {
        bits: if weights == Weights::Q4 { 4 } else { 8 },
        group: GROUP,
    }
}

/// What the tensors of a file are, and what they hold, in the same order.
struct Network<'a> {
    ckpt: &'a Checkpoint,
    weights: Weights,
    ends: Weights,
}

impl Network<'_> {
    fn specs(&self) -> Vec<TensorSpec> {
        let config = self.ckpt.config();
        let (d, vocab) = (config.hidden, config.vocab_size);
        let mut specs = Vec::new();
        let mut add = |name: String, dtype, shape: &[usize]| {
            specs.push(TensorSpec::new(format!("{NETWORK}.{name}"), dtype, shape));
        };
        let mut matrix = |module: &str, n_in: usize, n_out: usize, weights, has_bias| {
            let float = match module {
                EMBEDDING => Embedding::NAME.into(),
                module => format!("{module}.weight"),
            };
            if n_in.is_multiple_of(GROUP) {
                let words = n_in * grid(weights).bits / 32;
                add(format!("{module}.weight"), Dtype::U32, &[n_out, words]);
                for beside in ["scales", "biases"] {
                    let name = format!("{module}.{beside}");
                    add(name, Dtype::F16, &[n_out, n_in / GROUP]);
                }
            } else {
                add(float, Dtype::F32, &[n_out, n_in]);
            }
            if has_bias {
                add(format!("{module}.bias"), Dtype::F32, &[n_out]);
            }
        };
        matrix(EMBEDDING, d, vocab, self.ends, false);
        for block in 0..config.n_blocks {
            for layer in LAYERS {
                let name = format!("blocks.{block}.{}", layer.name);
                let has_bias = self.has_bias(layer.norm, layer.name);
                let sizes = [layer.n_in * d, layer.n_out * d];
                matrix(&name, sizes[0], sizes[1], self.weights, has_bias);
            }
        }
        let has_bias = self.has_output_bias();
        matrix(HEAD, d, vocab, self.ends, has_bias);
        for block in 0..config.n_blocks {
            for norm in ["norm1", "norm2"] {
                add(format!("blocks.{block}.{norm}.weight"), Dtype::F32, &[d]);
            }
        }
        add("output_layer.norm_final.weight".into(), Dtype::F32, &[d]);
        specs
    }

    /// Whether a layer of the blocks has a bias, or gets one from what is folded into it.
    fn has_bias(&self, norm: Option<&str>, layer: &str) -> bool {
        let has = |name: &str| self.ckpt.has(&format!("blocks.0.{name}.bias"));
        let is_shifted = |norm| self.ckpt.config().cond_dim > 0 || has(norm);
        has(layer) || norm.is_some_and(is_shifted)
    }

    fn has_output_bias(&self) -> bool {
        let has = |name: &str| self.ckpt.has(&format!("output_layer.{name}.bias"));
        self.ckpt.config().cond_dim > 0 || has("norm_final") || has("linear")
    }

    fn write<W: Write>(
        &self,
        mut writer: SafetensorsWriter<W>,
        io: &impl Fn(std::io::Error) -> EngineError,
    ) -> Result<(), EngineError> {
        let config = self.ckpt.config();
        let folding = Folding::new(self.ckpt)?;
        let embedding = folding.embedding()?;
        check_range(Embedding::NAME, &embedding.values, self.ends)?;
        match config.hidden.is_multiple_of(GROUP) {
            true => write_q8(Embedding::NAME, embedding.all_q8(), &mut writer, io)?,
            false => writer.f32(&embedding.values).map_err(io)?,
        }
        drop(embedding);
        for block in 0..config.n_blocks {
            let block = folding.block(block)?;
            for (layer, linear) in LAYERS.into_iter().zip(block.matrices()) {
                let has_bias = self.has_bias(layer.norm, layer.name);
                write_linear(linear, self.weights, has_bias, &mut writer, io)?;
            }
        }
        let head = folding.open_head()?;
        write_linear(&head, self.ends, self.has_output_bias(), &mut writer, io)?;
        for _ in 0..2 * config.n_blocks + 1 {
            writer.f32(&vec![1.0; config.hidden]).map_err(io)?;
        }
        writer.finish().map_err(io)?;
        Ok(())
    }
}

/// A matrix of a block, in the order of `FoldedBlock::matrices`, with its sizes in widths of the network.
#[derive(Clone, Copy)]
struct LayerOf {
    name: &'static str,
    /// The norm that is folded into it.
    norm: Option<&'static str>,
    n_in: usize,
    n_out: usize,
}

const LAYERS: [LayerOf; 4] = {
    const fn layer(
        name: &'static str,
        norm: Option<&'static str>,
        n_in: usize,
        n_out: usize,
    ) -> LayerOf {
        LayerOf {
            name,
            norm,
            n_in,
            n_out,
        }
    }
    [
        layer("attn_qkv", Some("norm1"), 1, 3),
        layer("attn_out", None, 1, 1),
        layer("mlp.0", Some("norm2"), 1, 4),
        layer("mlp.2", None, 4, 1),
    ]
};

fn write_linear<W: Write>(
    linear: &Linear,
    weights: Weights,
    has_bias: bool,
    writer: &mut SafetensorsWriter<W>,
    io: &impl Fn(std::io::Error) -> EngineError,
) -> Result<(), EngineError> {
    check_range(&linear.name, &linear.weight, weights)?;
    let places = (0..linear.n_out)
        .flat_map(|column| (0..linear.n_in / GROUP).map(move |group| (column, group)));
    if !linear.n_in.is_multiple_of(GROUP) {
        let rows = transpose(&linear.weight, linear.n_in, linear.n_out);
        writer.f32(&rows).map_err(io)?;
    } else if weights == Weights::Q4 {
        let groups = places.map(|(column, group)| linear.q4(column, group));
        write_q4(groups.collect(), writer, io)?;
    } else {
        let groups = places.map(|(column, group)| linear.q8(column, group));
        write_q8(&linear.name, groups.collect(), writer, io)?;
    }
    match has_bias {
        true => writer.f32(&linear.bias).map_err(io),
        false => Ok(()),
    }
}

/// Codes without a sign, then scales, then what a code of 0 stands for.
fn write_q8<W: Write>(
    tensor: &str,
    groups: Vec<Q8>,
    writer: &mut SafetensorsWriter<W>,
    io: &impl Fn(std::io::Error) -> EngineError,
) -> Result<(), EngineError> {
    let lowest = |group: &Q8| f16::from_f32(-f32::from(Q8::STORED_ZERO) * group.scale.to_f32());
    if let Some(group) = groups.iter().find(|group| !lowest(group).is_finite()) {
        return Err(EngineError::Overflow {
            tensor: tensor.into(),
            value: group.scale.to_f32() * 127.0,
            weights: Weights::Q8,
        });
    }
    let unsigned = |group: &Q8| group.codes.map(|code| code as u8 ^ Q8::STORED_ZERO);
    write_each(&groups, unsigned, writer).map_err(io)?;
    write_each(&groups, |group| group.scale.to_le_bytes(), writer).map_err(io)?;
    write_each(&groups, |group| lowest(group).to_le_bytes(), writer).map_err(io)
}

fn write_q4<W: Write>(
    groups: Vec<Q4>,
    writer: &mut SafetensorsWriter<W>,
    io: &impl Fn(std::io::Error) -> EngineError,
) -> Result<(), EngineError> {
    let pairs = |group: &Q4| -> [u8; GROUP / 2] {
        std::array::from_fn(|i| group.codes[2 * i] | group.codes[2 * i + 1] << 4)
    };
    write_each(&groups, pairs, writer).map_err(io)?;
    write_each(&groups, |group| group.scale.to_le_bytes(), writer).map_err(io)?;
    write_each(&groups, |group| group.offset.to_le_bytes(), writer).map_err(io)
}

/// A few bytes of each group.
fn write_each<G, const N: usize>(
    groups: &[G],
    bytes: impl Fn(&G) -> [u8; N],
    writer: &mut impl Write,
) -> std::io::Result<()> {
    for groups in groups.chunks(1 << 12) {
        let bytes: Vec<u8> = groups.iter().flat_map(&bytes).collect();
        writer.write_all(&bytes)?;
    }
    Ok(())
}
