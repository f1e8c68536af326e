//! Multi-head attention with rotary positions (arXiv 2104.09864, half-split form) under a dense mask.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Bool, Int, Tensor, activation::softmax};

use esolm_core::config::rotary_frequencies;

use super::Context;

/// Score of excluded columns. Finite, since some devices do not support infinities.
pub(super) const EXCLUDED: f32 = -1e30;

/// Cosines and sines of the rows' rotary angles, each `[B, 1, R, head_dim / 2]`.
pub struct Rotary {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotary {
    /// Angles for the natural positions `[B, R]`, independent of the sorted order, with frequencies derived from
    /// `base`.
    pub fn new(positions: Tensor<2, Int>, head_dim: usize, base: f64) -> Self {
        let frequencies: Vec<f32> = rotary_frequencies(head_dim, base).collect();
        let frequencies = Tensor::<1>::from_floats(frequencies.as_slice(), &positions.device());
        let angles = positions.float().unsqueeze_dim::<3>(2) * frequencies.unsqueeze();
        let angles = angles.unsqueeze_dim::<4>(1);
        Self {
            cos: angles.clone().cos(),
            sin: angles.sin(),
        }
    }

    /// Rotates each pair (i, i + head_dim / 2) of `x` `[B, heads, R, head_dim]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let a = x.clone().narrow(3, 0, half);
        let b = x.narrow(3, half, half);
        let first = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
        let second = b * self.cos.clone() + a * self.sin.clone();
        Tensor::cat(vec![first, second], 3)
    }
}

/// softmax(q kT / sqrt(head_dim)) v between two projections without bias.
#[derive(Module, Debug)]
pub struct Attention {
    /// `attn_qkv`, d to (three, head, head_dim).
    pub qkv: Linear,
    /// `attn_out`, d to d.
    pub out: Linear,
    /// Number of heads.
    pub n_heads: usize,
}

impl Attention {
    /// Attends within `x` `[B, R, d]`.
    pub fn forward(&self, x: Tensor<3>, context: &Context) -> Tensor<3> {
        let [batch, rows, hidden] = x.dims();
        let head_dim = hidden / self.n_heads;
        // [B, R, 3d] -> [3, B, heads, R, head_dim]
        let qkv = self
            .qkv
            .forward(x)
            .reshape([batch, rows, 3, self.n_heads, head_dim])
            .permute([2, 0, 3, 1, 4]);
        let part = |i: usize| qkv.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
        let q = context.rotary.apply(part(0));
        let k = context.rotary.apply(part(1));
        let v = part(2);

        let mut scores = q.matmul(k.swap_dims(2, 3)) / (head_dim as f64).sqrt();
        if let Some(mask) = &context.mask {
            let excluded: Tensor<4, Bool> = mask.clone().bool_not().unsqueeze_dim(1);
            scores = scores.mask_fill(excluded.expand([batch, self.n_heads, rows, rows]), EXCLUDED);
        }
        let attended = softmax(scores, 3).matmul(v);
        self.out
            .forward(attended.swap_dims(1, 2).reshape([batch, rows, hidden]))
    }
}
