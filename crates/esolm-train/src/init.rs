//! Random weights to start training from, distributed as the published code's (models/dit.py and PyTorch's defaults).

use esolm::checkpoint::{Checkpoint, CheckpointError};
use esolm::config::{ModelConfig, TIMESTEP_EMBEDDING};
use esolm::rng::Stream;

use crate::purpose;
use crate::weights::assemble;

/// A network of the given shape with random weights.
///
/// Matrices, their biases and the embedding are uniform in +-1 / sqrt(width of the input); norms are one; adaLN and the output layer
/// are zero, so that training starts from a network that passes its input through (`DDiTBlock`, `DDiTFinalLayer`).
///
/// # Errors
/// When the configuration contradicts itself.
pub fn random(config: &ModelConfig, seed: u64) -> Result<Checkpoint, CheckpointError> {
    let tensors = config
        .parameters()
        .into_iter()
        .zip(0..)
        .map(|(parameter, index)| {
            let mut stream = Stream::new(seed, index, purpose::INIT);
            let bound = bound(&parameter.name, &parameter.shape, config);
            let mut value = || match bound {
                Bound::Constant(value) => value,
                Bound::Uniform(bound) => ((2.0 * stream.uniform() - 1.0) * bound) as f32,
            };
            let values = (0..parameter.elements()).map(|_| value()).collect();
            (parameter, values)
        });
    assemble(&tensors.collect::<Vec<_>>(), config)
}

enum Bound {
    Constant(f32),
    Uniform(f64),
}

fn bound(name: &str, shape: &[usize], config: &ModelConfig) -> Bound {
    let zero = name.contains("adaLN_modulation") || name.starts_with("output_layer.linear");
    if zero {
        return Bound::Constant(0.0);
    }
    if name.contains("norm") {
        return Bound::Constant(1.0);
    }
    let n_in = match shape {
        [_, n_in] => *n_in,
        // The biases that are left: both of the timestep embedder and both of the MLP.
        _ if name.starts_with("sigma_map.mlp.0") => TIMESTEP_EMBEDDING,
        _ if name.starts_with("sigma_map") => config.cond_dim,
        _ if name.ends_with("mlp.0.bias") => config.hidden,
        _ => 4 * config.hidden,
    };
    Bound::Uniform(1.0 / (n_in as f64).sqrt())
}
