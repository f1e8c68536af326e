//! Constant folding of the conditioning.
//!
//! The published code always passes sigma = 0 to the network, so every adaLN vector is a constant of the checkpoint,
//! and a block (`DDiTBlock`, models/dit.py) becomes a plain pre-norm block. With n the normalised input (x - mean) /
//! sqrt(var + 1e-5) before its weight w, and W, b the matrix and bias that follow,
//!
//! ```text
//! W (n w (1 + scale) + shift) + b  =  (W diag(w (1 + scale))) n  +  (W shift + b)
//! gate (W h + b)                   =  (diag(gate) W) h           +  gate b
//! ```
//!
//! so the norm's weight and the scale are folded into the columns of the next matrix, the shift into a bias, and the
//! gate into the rows of `attn_out` and of the second MLP matrix. Products that sum many terms are computed in f64,
//! since their result is used for every token. Networks without adaLN are folded in the same way, with shift 0, scale 0
//! and gate 1; a norm's bias is part of the shift. If there is nothing to fold, as in a network that was stored folded,
//! a matrix keeps the groups in which it is quantised.
//!
//! Decoders of the Qwen3, Qwen2 and Llama kinds fold into the same blocks (`fold/decoder.rs`).
//!
//! Weights are produced block by block, so that a loader can upload a block and drop it before reading the next.

use esolm_core::checkpoint::{Checkpoint, CheckpointError, Values};
use esolm_core::config::{DECODER_EMBEDDING, ModelConfig};
use esolm_core::finite::first_beyond;
use esolm_core::quantise::{GROUP, Groups, Q4, Q8};

mod decoder;
mod ends;

pub use ends::{Embedding, EmbeddingRows, HeadRows, TOKENS, parts};

use super::timestep::frequencies;
use crate::error::EngineError;
use crate::weights::Weights;

/// A folded matrix with its bias: y = x weight + bias.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The tensor that the weight comes from.
    pub name: String,
    /// `[n_in, n_out]`, row major (the transpose of PyTorch's).
    pub weight: Vec<f32>,
    /// `[n_out]`; zeros if the published layer has no bias and nothing was folded in.
    pub bias: Vec<f32>,
    /// Width of the input.
    pub n_in: usize,
    /// Width of the output.
    pub n_out: usize,
    /// The groups `[n_out, groups]` in which the weights were stored, if they have the engine's format and nothing was
    /// folded in.
    pub groups: Option<Groups>,
}

impl Linear {
    /// A matrix that was not stored in groups: `weight` `[n_in, n_out]`, `bias` `[n_out]`, with at least one column.
    pub fn new(name: &str, weight: Vec<f32>, bias: Vec<f32>) -> Self {
        Self {
            name: name.into(),
            n_in: weight.len() / bias.len(),
            n_out: bias.len(),
            weight,
            bias,
            groups: None,
        }
    }

    /// A group of a column in 8 bits, as stored or rounded.
    pub fn q8(&self, column: usize, group: usize) -> Q8 {
        match &self.groups {
            Some(Groups::Q8(groups)) => groups[column * self.n_in.div_ceil(GROUP) + group],
            _ => self.rounded(column, group, Q8::new),
        }
    }

    /// A group of a column in 4 bits, as stored or rounded.
    pub fn q4(&self, column: usize, group: usize) -> Q4 {
        match &self.groups {
            Some(Groups::Q4(groups)) => groups[column * self.n_in.div_ceil(GROUP) + group],
            _ => self.rounded(column, group, Q4::new),
        }
    }

    fn rounded<T>(&self, column: usize, group: usize, round: impl Fn(&[f32]) -> T) -> T {
        let inputs = group * GROUP..self.n_in.min((group + 1) * GROUP);
        let mut weights = [0.0; GROUP];
        for (to, input) in weights.iter_mut().zip(inputs.clone()) {
            *to = self.weight[input * self.n_out + column];
        }
        round(&weights[..inputs.len()])
    }

    /// The matrix with its columns reordered.
    #[must_use]
    pub fn with_columns(&self, order: &[usize]) -> Self {
        let rows = self.weight.chunks(self.n_out);
        let groups = self.n_in.div_ceil(GROUP);
        Self {
            name: self.name.clone(),
            weight: rows.flat_map(|row| order.iter().map(|&c| row[c])).collect(),
            bias: order.iter().map(|&c| self.bias[c]).collect(),
            n_in: self.n_in,
            n_out: self.n_out,
            groups: self.groups.as_ref().map(|all| match all {
                Groups::Q8(all) => Groups::Q8(ordered(all, groups, order)),
                Groups::Q4(all) => Groups::Q4(ordered(all, groups, order)),
            }),
        }
    }
}

/// Reorders stretches of `width` values.
fn ordered<T: Copy>(values: &[T], width: usize, order: &[usize]) -> Vec<T> {
    let stretch = |&c: &usize| &values[c * width..(c + 1) * width];
    order.iter().flat_map(stretch).copied().collect()
}

/// Weights of the norms applied to q and k of every head before the rotary embedding, `[head_dim]` each. The cache
/// holds the normalised k.
#[derive(Debug, Clone)]
pub struct QkNorm {
    /// For query heads.
    pub q: Vec<f32>,
    /// For key heads.
    pub k: Vec<f32>,
}

/// The matrices of one block. `qkv` and `up` take the normalised input without a weight; `out` and `down` produce what
/// is added to the residual. The normalised input is (x - mean) / sqrt(var + 1e-5) in the networks of models/dit.py,
/// and x / sqrt(mean(x^2) + eps) in decoders.
#[derive(Debug, Clone)]
pub struct FoldedBlock {
    /// `[d, (heads + 2 kv_heads) head_dim]`, columns (q heads, k heads, v heads), each head_dim wide; `[d, 3d]` if
    /// there are as many key-value heads as query heads.
    pub qkv: Linear,
    /// `None` if q and k are not normalised.
    pub qk_norm: Option<QkNorm>,
    /// `[heads head_dim, d]`.
    pub out: Linear,
    /// `[d, 4d]`, before GELU. In decoders gate and up in one matrix, `[d, 2 inner]`: `stretch` gate columns alternate
    /// with `stretch` up columns ([`Folding::with_stretch`]), with the last stretches zero-padded if the inner width is
    /// not a multiple of `stretch`. Gate i and up i yield silu(gate i) up i, which is input i of `down`.
    pub up: Linear,
    /// `[inner, d]`; inner is 4d in the networks of models/dit.py.
    pub down: Linear,
}

impl FoldedBlock {
    /// All four, in the order in which a pass uses them.
    pub fn matrices(&self) -> [&Linear; 4] {
        [&self.qkv, &self.out, &self.up, &self.down]
    }
}

/// A checkpoint whose weights are folded on demand.
pub struct Folding<'a> {
    ckpt: &'a Checkpoint,
    /// Conditioning vector at sigma = 0, `[cond_dim]`, after the outer SiLU; `None` without adaLN.
    condition: Option<Vec<f64>>,
    /// Number of adjacent gate columns, and of up columns.
    stretch: usize,
}

/// A part that can be fetched separately, see [`Checkpoint::fetch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The tensors that the conditioning is computed from; needed before [`Folding::new`].
    Condition,
    /// The embedding.
    Embedding,
    /// The last norm and the output matrix. If a decoder's output matrix is tied, this fetches the embedding.
    Head,
    /// A block.
    Block(usize),
}

/// Brings the tensors of a part into memory, where each stays until it is first read. Loading can be given up before each
/// part.
///
/// # Errors
/// See [`Checkpoint::fetch`].
pub async fn fetch(ckpt: &Checkpoint, part: Part) -> Result<(), CheckpointError> {
    crate::turn::pause().await;
    let decoder = &ckpt.config().decoder;
    let prefixes: Vec<String> = match (part, decoder) {
        (Part::Condition, None) => vec!["sigma_map.".into()],
        (Part::Embedding, None) => vec!["vocab_embed.".into()],
        (Part::Head, None) => vec!["output_layer.".into()],
        (Part::Block(index), None) => vec![format!("blocks.{index}.")],
        (Part::Condition, Some(_)) => Vec::new(),
        (Part::Embedding, Some(_)) => vec![DECODER_EMBEDDING.into()],
        (Part::Head, Some(decoder)) if decoder.tied => {
            vec!["model.norm.".into(), DECODER_EMBEDDING.into()]
        }
        (Part::Head, Some(_)) => vec!["model.norm.".into(), "lm_head.".into()],
        (Part::Block(index), Some(_)) => vec![format!("model.layers.{index}.")],
    };
    for prefix in prefixes {
        ckpt.fetch(&prefix).await?;
    }
    Ok(())
}

impl<'a> Folding<'a> {
    /// Computes the conditioning vector for sigma = 0.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn new(ckpt: &'a Checkpoint) -> Result<Self, CheckpointError> {
        let condition = if ckpt.config().cond_dim == 0 {
            None
        } else {
            // cos(0 f) then sin(0 f)
            let cosines = frequencies().map(|f| (0.0 * f).cos());
            let sines = frequencies().map(|f| (0.0 * f).sin());
            let embedding: Vec<f64> = cosines.chain(sines).collect();
            let mut hidden = affine(ckpt, "sigma_map.mlp.0", &embedding)?;
            hidden.iter_mut().for_each(silu);
            let mut condition = affine(ckpt, "sigma_map.mlp.2", &hidden)?;
            condition.iter_mut().for_each(silu);
            Some(condition)
        };
        Ok(Self {
            ckpt,
            condition,
            stretch: 1,
        })
    }

    /// Places this many gate columns of a decoder next to each other (at least 1), followed by as many up columns, so
    /// that a product that holds both of a pair can multiply them. By default they alternate.
    #[must_use]
    pub fn with_stretch(self, stretch: usize) -> Self {
        Self { stretch, ..self }
    }

    /// The network's configuration.
    pub fn config(&self) -> &ModelConfig {
        self.ckpt.config()
    }

    /// The conditioning vector for sigma = 0, `[cond_dim]`; `None` without adaLN.
    pub fn condition(&self) -> Option<&[f64]> {
        self.condition.as_deref()
    }

    /// The matrices of block `index`.
    ///
    /// # Errors
    /// If a tensor cannot be read, or the folded weights overflow.
    pub fn block(&self, index: usize) -> Result<FoldedBlock, EngineError> {
        if let Some(decoder) = &self.config().decoder {
            return self.decoder_block(index, decoder);
        }
        let d = self.config().hidden;
        let at = format!("blocks.{index}");
        let name = |rest: &str| format!("{at}.{rest}");
        // Shift, scale and gate of attention, then of the MLP.
        let chunks = self.modulation(&at)?;
        let chunk = |i: usize| chunks.as_ref().map(|all| &all[i * d..(i + 1) * d]);
        let before =
            |norm: &str, first: usize| self.before(&name(norm), chunk(first), chunk(first + 1));
        let (attention, mlp) = (before("norm1", 0)?, before("norm2", 3)?);
        let layer = |layer: &str| self.layer(&name(layer));
        Ok(FoldedBlock {
            qkv: attention.fold(layer("attn_qkv")?)?,
            qk_norm: None,
            out: gate(layer("attn_out")?, chunk(2), d)?,
            up: mlp.fold(layer("mlp.0")?)?,
            down: gate(layer("mlp.2")?, chunk(5), d)?,
        })
    }

    /// A matrix and its bias, if it has one.
    fn layer(&self, name: &str) -> Result<Layer, CheckpointError> {
        Ok(Layer {
            bias: self.optional(&format!("{name}.bias"))?,
            name: format!("{name}.weight"),
            values: self.ckpt.values(&format!("{name}.weight"))?,
        })
    }

    fn optional(&self, name: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let there = self.ckpt.has(name);
        there.then(|| self.ckpt.f32(name)).transpose()
    }

    /// All adaLN chunks of a block or of the output layer.
    fn modulation(&self, at: &str) -> Result<Option<Vec<f64>>, CheckpointError> {
        let Some(condition) = &self.condition else {
            return Ok(None);
        };
        affine(self.ckpt, &format!("{at}.adaLN_modulation"), condition).map(Some)
    }

    fn before(
        &self,
        norm: &str,
        shift: Option<&[f64]>,
        scale: Option<&[f64]>,
    ) -> Result<Before, CheckpointError> {
        let scaled = |values: Vec<f32>| -> Vec<f64> {
            let scale = |i: usize| scale.map_or(1.0, |s| 1.0 + s[i]);
            let values = values.into_iter().enumerate();
            values
                .map(|(i, value)| f64::from(value) * scale(i))
                .collect()
        };
        let bias = self.optional(&format!("{norm}.bias"))?.map(scaled);
        Ok(Before {
            factor: scaled(self.ckpt.f32(&format!("{norm}.weight"))?),
            shift: match (bias, shift) {
                (Some(bias), Some(shift)) => {
                    Some(bias.iter().zip(shift).map(|(a, b)| a + b).collect())
                }
                (bias, shift) => bias.or(shift.map(<[f64]>::to_vec)),
            },
        })
    }
}

/// A matrix `[n_out, n_in]` and its bias, as read.
struct Layer {
    name: String,
    values: Values,
    bias: Option<Vec<f32>>,
}

impl Layer {
    /// Converts it to its final, transposed form.
    fn finish(self, n_in: usize) -> Result<Linear, EngineError> {
        let Self { name, values, bias } = self;
        for values in [Some(&values.floats), bias.as_ref()] {
            check_range(&name, values.map_or(&[], Vec::as_slice), Weights::F32)?;
        }
        let n_out = values.floats.len() / n_in;
        let bias = bias.unwrap_or_else(|| vec![0.0; n_out]);
        Ok(Linear {
            name,
            weight: transpose(&values.floats, n_out, n_in),
            bias,
            n_in,
            n_out,
            groups: values.groups,
        })
    }
}

/// Checks that weights made from `tensor` can be represented.
///
/// # Errors
/// [`EngineError::Overflow`] for the first that cannot.
pub fn check_range(tensor: &str, values: &[f32], weights: Weights) -> Result<(), EngineError> {
    match first_beyond(values, weights.largest()) {
        Some(index) => Err(EngineError::Overflow {
            tensor: tensor.into(),
            value: values[index],
            weights,
        }),
        None => Ok(()),
    }
}

/// What is applied between the normalised input and a matrix: times `factor`, plus `shift`.
struct Before {
    factor: Vec<f64>,
    shift: Option<Vec<f64>>,
}

impl Before {
    /// Folds it into a matrix `[n_out, n_in]` and its bias.
    fn fold(&self, layer: Layer) -> Result<Linear, EngineError> {
        self.put_into(layer).finish(self.factor.len())
    }

    /// Like [`Before::fold`], without the final transpose.
    fn put_into(&self, mut layer: Layer) -> Layer {
        let n_in = self.factor.len();
        let n_out = layer.values.floats.len() / n_in;
        if let Some(shift) = &self.shift {
            let bias = layer.bias.get_or_insert_with(|| vec![0.0; n_out]);
            for (row, bias) in layer.values.floats.chunks_exact(n_in).zip(bias) {
                *bias = (f64::from(*bias) + dot(row, shift)) as f32;
            }
        }
        if self.factor.iter().any(|&factor| factor != 1.0) {
            layer.values.groups = None;
            for row in layer.values.floats.chunks_exact_mut(n_in) {
                for (w, factor) in row.iter_mut().zip(&self.factor) {
                    *w = (f64::from(*w) * factor) as f32;
                }
            }
        }
        layer
    }
}

/// Folds a gate into a matrix `[n_out, n_in]` and its bias.
fn gate(mut layer: Layer, gate: Option<&[f64]>, n_out: usize) -> Result<Linear, EngineError> {
    let n_in = layer.values.floats.len() / n_out;
    if let Some(gate) = gate {
        layer.values.groups = None;
        for (bias, &gate) in layer.bias.iter_mut().flatten().zip(gate) {
            *bias = (f64::from(*bias) * gate) as f32;
        }
        for (row, &gate) in layer.values.floats.chunks_exact_mut(n_in).zip(gate) {
            for w in row {
                *w = (f64::from(*w) * gate) as f32;
            }
        }
    }
    layer.finish(n_in)
}

/// `NAME.weight` x + `NAME.bias`.
fn affine(ckpt: &Checkpoint, name: &str, x: &[f64]) -> Result<Vec<f64>, CheckpointError> {
    let weight = ckpt.f32(&format!("{name}.weight"))?;
    let bias = ckpt.f32(&format!("{name}.bias"))?;
    let rows = weight.chunks_exact(x.len()).zip(&bias);
    Ok(rows.map(|(row, &b)| f64::from(b) + dot(row, x)).collect())
}

fn dot(row: &[f32], x: &[f64]) -> f64 {
    row.iter().zip(x).map(|(&w, &x)| f64::from(w) * x).sum()
}

fn silu(x: &mut f64) {
    *x /= 1.0 + (-*x).exp();
}

/// Transposes a row-major `[rows, columns]` matrix, in tiles so that both sides stay in cache.
pub fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..columns).step_by(TILE) {
            for r in r0..(r0 + TILE).min(rows) {
                for c in c0..(c0 + TILE).min(columns) {
                    out[c * rows + r] = values[r * columns + c];
                }
            }
        }
    }
    out
}
