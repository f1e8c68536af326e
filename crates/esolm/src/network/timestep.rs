//! Embedding of the noise level (`TimestepEmbedder`, models/dit.py).

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Tensor, activation::silu};
use esolm_core::config::TIMESTEP_EMBEDDING;

/// Largest period of the sinusoids.
const MAX_PERIOD: f64 = 10000.0;

/// Angular frequencies of the sinusoidal embedding, one for each pair of its entries.
pub(super) fn frequencies() -> impl Iterator<Item = f64> {
    let half = TIMESTEP_EMBEDDING / 2;
    (0..half).map(move |i| (-MAX_PERIOD.ln() * i as f64 / half as f64).exp())
}

/// Sinusoids of sigma, cosines before sines, through Linear, SiLU, Linear.
#[derive(Module, Debug)]
pub struct TimestepEmbedder {
    /// `mlp.0`, 256 to `cond_dim`.
    pub mlp_in: Linear,
    /// `mlp.2`, `cond_dim` to `cond_dim`.
    pub mlp_out: Linear,
}

impl TimestepEmbedder {
    /// sigma `[B]` to `[B, cond_dim]`.
    pub fn forward(&self, sigma: Tensor<1>) -> Tensor<2> {
        let frequencies: Vec<f32> = frequencies().map(|f| f as f32).collect();
        let frequencies = Tensor::<1>::from_floats(frequencies.as_slice(), &sigma.device());
        let angles = sigma.unsqueeze_dim::<2>(1) * frequencies.unsqueeze_dim(0);
        let embedding = Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1);
        self.mlp_out.forward(silu(self.mlp_in.forward(embedding)))
    }
}
