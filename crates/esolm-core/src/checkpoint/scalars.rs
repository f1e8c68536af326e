//! Scalars that files of block diffusion models carry beside the weights: the range of noise that they were trained with, which training
//! may have moved away from where its configuration began.

use std::collections::HashMap;

use esolm_checkpoint::{TensorFile, TensorInfo};

use super::CheckpointError;
use crate::config::{ConfigError, Family, ModelConfig, noise_range};

/// The names of both ends of the range, also in configurations.
pub(super) const NOISE_RANGE: [&str; 2] = ["sampling_eps_min", "sampling_eps_max"];

/// What is known of a noise range before its tensors were fetched.
#[derive(Default)]
pub(super) struct NoiseRange {
    /// By the configuration.
    said: [Option<f64>; 2],
    /// Tensors, each with the number of its file.
    stored: [Option<(usize, TensorInfo)>; 2],
}

impl NoiseRange {
    /// Takes the tensors out of those that were found.
    pub fn new(said: [Option<f64>; 2], found: &mut HashMap<String, (usize, TensorInfo)>) -> Self {
        Self {
            said,
            stored: NOISE_RANGE.map(|name| found.remove(name)),
        }
    }

    /// The tensors that must be fetched.
    pub fn tensors(&self) -> impl Iterator<Item = &(usize, TensorInfo)> {
        self.stored.iter().flatten()
    }

    /// The names of the tensors that are there.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let there = NOISE_RANGE.into_iter().zip(&self.stored);
        there.filter_map(|(name, stored)| stored.as_ref().map(|_| name.to_string()))
    }

    /// Gives a BD3-LM the range of the tensors where its configuration is silent, and compares where it is not. Networks of other families
    /// that were trained by the same code carry it without a use.
    pub fn settle(
        &self,
        files: &[TensorFile],
        config: &mut ModelConfig,
    ) -> Result<(), CheckpointError> {
        if config.family != Family::Bd3Lm || config.decoder.is_some() {
            return Ok(());
        }
        let mut ends = self.said;
        for ((end, name), stored) in ends.iter_mut().zip(NOISE_RANGE).zip(&self.stored) {
            let Some((file, tensor)) = stored else {
                continue;
            };
            let stored = scalar(&files[*file], tensor)?;
            match *end {
                Some(said) if said as f32 != stored => {
                    let contradiction = ConfigError::Contradiction {
                        first: format!("the configuration's field \"{name}\" is {said}"),
                        second: format!("the tensor of that name is {stored}"),
                        remedy: "remove the field if the tensor is right, or give the configuration that belongs to these weights"
                            .into(),
                    };
                    return Err(CheckpointError::config("the noise range", contradiction));
                }
                Some(_) => {}
                // The number that was meant by the one that its precision left.
                None => *end = stored.to_string().parse().ok(),
            }
        }
        config.noise_range = noise_range(ends);
        config
            .validate()
            .map_err(|error| CheckpointError::config("the noise range of the weights", error))
    }
}

fn scalar(file: &TensorFile, tensor: &TensorInfo) -> Result<f32, CheckpointError> {
    match file.f32(tensor)?[..] {
        [value] => Ok(value),
        _ => Err(CheckpointError::Shape {
            name: tensor.name.clone(),
            found: tensor.shape.clone(),
            expected: Vec::new(),
        }),
    }
}
