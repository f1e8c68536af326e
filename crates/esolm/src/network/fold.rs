//! Folding of the constant conditioning.
//!
//! The published code hands the network sigma = 0 always, so every adaLN vector is a constant of the checkpoint, and a block
//! (`DDiTBlock`, models/dit.py) becomes a plain pre-norm one. With n the normalised input (x - mean) / sqrt(var + 1e-5) before
//! its weight w, and W, b the matrix and bias that follow,
//!
//! ```text
//! W (n w (1 + scale) + shift) + b  =  (W diag(w (1 + scale))) n  +  (W shift + b)
//! gate (W h + b)                   =  (diag(gate) W) h           +  gate b
//! ```
//!
//! so the norm's weight and the scale go into the columns of the next matrix, the shift into a bias, the gate into the rows of
//! `attn_out` and of the second MLP matrix. Products that sum many terms are formed in f64, since their result serves every token.
//!
//! Weights come block by block, so that a loader can hand one to its device and drop it before the next is read.

use esolm_core::checkpoint::{Checkpoint, CheckpointError};
use esolm_core::config::ModelConfig;
use esolm_core::finite::first_beyond;

use super::timestep::frequencies;
use crate::error::EngineError;
use crate::weights::Weights;

/// A folded matrix with its bias: y = x weight + bias.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The tensor that the weight is made of.
    pub name: String,
    /// `[n_in, n_out]`, row major (PyTorch's transposed).
    pub weight: Vec<f32>,
    /// `[n_out]`; zeros where the published layer has none and nothing was folded in.
    pub bias: Vec<f32>,
    /// Width of the input.
    pub n_in: usize,
    /// Width of the output.
    pub n_out: usize,
}

/// The matrices of one block. `qkv` and `up` take the plain normalised input, `out` and `down` give what is added to the residual.
#[derive(Debug, Clone)]
pub struct FoldedBlock {
    /// `[d, 3d]`, columns (three, head, head_dim).
    pub qkv: Linear,
    /// `[d, d]`.
    pub out: Linear,
    /// `[d, 4d]`, before GELU.
    pub up: Linear,
    /// `[4d, d]`.
    pub down: Linear,
}

/// The logit of a token that must not be drawn: finite at any temperature, and below any that a network computes.
const NEVER: f32 = -1e30;

/// A checkpoint whose weights are folded as they are asked for.
pub struct Folding<'a> {
    ckpt: &'a Checkpoint,
    /// Conditioning vector at sigma = 0, `[cond_dim]`, after the outer SiLU; `None` for AR.
    condition: Option<Vec<f64>>,
}

impl<'a> Folding<'a> {
    /// Computes the conditioning vector of sigma = 0.
    ///
    /// # Errors
    /// When a tensor cannot be read.
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
        Ok(Self { ckpt, condition })
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        self.ckpt.config()
    }

    /// The conditioning vector of sigma = 0, `[cond_dim]`; `None` for AR.
    pub fn condition(&self) -> Option<&[f64]> {
        self.condition.as_deref()
    }

    /// The token embedding `[V, d]`, as it is.
    ///
    /// # Errors
    /// When the tensor cannot be read.
    pub fn embedding(&self) -> Result<Vec<f32>, CheckpointError> {
        self.ckpt.f32("vocab_embed.embedding")
    }

    /// The matrices of block `index`.
    ///
    /// # Errors
    /// When a tensor cannot be read, or the folded weights overflow.
    pub fn block(&self, index: usize) -> Result<FoldedBlock, EngineError> {
        let d = self.config().hidden;
        let at = format!("blocks.{index}");
        let name = |rest: &str| format!("{at}.{rest}");
        // shift, scale, gate of attention, then of the MLP
        let chunks = self.modulation(&at)?;
        let chunk = |i: usize| chunks.as_ref().map(|all| &all[i * d..(i + 1) * d]);
        let before =
            |norm: &str, first: usize| self.before(&name(norm), chunk(first), chunk(first + 1));
        let attention = before("norm1.weight", 0)?;
        let mlp = before("norm2.weight", 3)?;
        let up_bias = self.ckpt.f32(&name("mlp.0.bias"))?;
        let down_bias = self.ckpt.f32(&name("mlp.2.bias"))?;
        let weight = |rest: &str| {
            let name = name(rest);
            let values = self.ckpt.f32(&name)?;
            Ok::<_, EngineError>(Weight { name, values })
        };
        Ok(FoldedBlock {
            qkv: attention.fold(weight("attn_qkv.weight")?, None)?,
            out: gate(weight("attn_out.weight")?, None, chunk(2), d)?,
            up: mlp.fold(weight("mlp.0.weight")?, Some(up_bias))?,
            down: gate(weight("mlp.2.weight")?, Some(down_bias), chunk(5), d)?,
        })
    }

    /// The output matrix `[d, V]`, which takes the plain normalised hidden state.
    ///
    /// # Errors
    /// When a tensor cannot be read, or the folded weights overflow.
    pub fn head(&self) -> Result<Linear, EngineError> {
        let d = self.config().hidden;
        let chunks = self.modulation("output_layer")?;
        let chunk = |i: usize| chunks.as_ref().map(|all| &all[i * d..(i + 1) * d]);
        let before = self.before("output_layer.norm_final.weight", chunk(0), chunk(1))?;
        let mut bias = self.ckpt.f32("output_layer.linear.bias")?;
        for &token in self.ckpt.unused_tokens() {
            bias[token as usize] = NEVER;
        }
        let name = String::from("output_layer.linear.weight");
        let values = self.ckpt.f32(&name)?;
        before.fold(Weight { name, values }, Some(bias))
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
        let weight = self.ckpt.f32(norm)?;
        let scale = |i: usize| scale.map_or(1.0, |s| 1.0 + s[i]);
        Ok(Before {
            factor: weight
                .iter()
                .enumerate()
                .map(|(i, &w)| f64::from(w) * scale(i))
                .collect(),
            shift: shift.map(<[f64]>::to_vec),
        })
    }
}

/// A matrix `[n_out, n_in]` as it was read.
struct Weight {
    name: String,
    values: Vec<f32>,
}

impl Weight {
    /// What became of it, transposed, with its bias.
    fn finish(self, bias: Vec<f32>, n_in: usize) -> Result<Linear, EngineError> {
        let Self { name, values } = self;
        for values in [&values, &bias] {
            check_range(&name, values, Weights::F32)?;
        }
        let n_out = bias.len();
        Ok(Linear {
            name,
            weight: transpose(&values, n_out, n_in),
            bias,
            n_in,
            n_out,
        })
    }
}

/// Checks that the weights made of `tensor` can be held.
///
/// # Errors
/// [`EngineError::Overflow`] with the first that it does not.
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

/// What stands between the normalised input and a matrix: times `factor`, plus `shift`.
struct Before {
    factor: Vec<f64>,
    shift: Option<Vec<f64>>,
}

impl Before {
    /// Folds it into a matrix `[n_out, n_in]` with its bias.
    fn fold(&self, mut weight: Weight, bias: Option<Vec<f32>>) -> Result<Linear, EngineError> {
        let n_in = self.factor.len();
        let n_out = weight.values.len() / n_in;
        let mut bias = bias.unwrap_or_else(|| vec![0.0; n_out]);
        for (row, bias) in weight.values.chunks_exact_mut(n_in).zip(&mut bias) {
            if let Some(shift) = &self.shift {
                *bias = (f64::from(*bias) + dot(row, shift)) as f32;
            }
            for (w, factor) in row.iter_mut().zip(&self.factor) {
                *w = (f64::from(*w) * factor) as f32;
            }
        }
        weight.finish(bias, n_in)
    }
}

/// Folds a gate into a matrix `[n_out, n_in]` and its bias.
fn gate(
    mut weight: Weight,
    bias: Option<Vec<f32>>,
    gate: Option<&[f64]>,
    n_out: usize,
) -> Result<Linear, EngineError> {
    let n_in = weight.values.len() / n_out;
    let mut bias = bias.unwrap_or_else(|| vec![0.0; n_out]);
    if let Some(gate) = gate {
        let rows = weight.values.chunks_exact_mut(n_in).zip(&mut bias);
        for ((row, bias), &gate) in rows.zip(gate) {
            *bias = (f64::from(*bias) * gate) as f32;
            for w in row {
                *w = (f64::from(*w) * gate) as f32;
            }
        }
    }
    weight.finish(bias, n_in)
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

/// A row-major `[rows, columns]` matrix as `[columns, rows]`, in tiles so that both sides stay in cache.
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
