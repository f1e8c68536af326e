//! Scalars that files of block diffusion models contain along with the weights: the noise range that they were trained
//! with, which may differ from the initial one in the configuration.

use std::collections::HashMap;

use esolm_checkpoint::{TensorFile, TensorInfo};

use super::CheckpointError;
use crate::config::{ConfigError, Family, ModelConfig, noise_range};

/// Names of both ends of the range, also in configurations.
pub(super) const NOISE_RANGE: [&str; 2] = ["sampling_eps_min", "sampling_eps_max"];

/// What is known about a noise range before its tensors are fetched.
#[derive(Default)]
pub(super) struct NoiseRange {
    /// From the configuration.
    said: [Option<f64>; 2],
    /// The tensors, each with the index of its file.
    stored: [Option<(usize, TensorInfo)>; 2],
}

impl NoiseRange {
    /// Removes the tensors from those found.
    pub fn new(said: [Option<f64>; 2], found: &mut HashMap<String, (usize, TensorInfo)>) -> Self {
        Self {
            said,
            stored: NOISE_RANGE.map(|name| found.remove(name)),
        }
    }

    /// The tensors to fetch.
    pub fn tensors(&self) -> impl Iterator<Item = &(usize, TensorInfo)> {
        self.stored.iter().flatten()
    }

    /// Names of the tensors that exist.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let there = NOISE_RANGE.into_iter().zip(&self.stored);
        there.filter_map(|(name, stored)| stored.as_ref().map(|_| name.to_string()))
    }

    /// Sets a BD3-LM's range from the tensors if its configuration does not specify one, and compares otherwise. Models
    /// of other families trained with the same code contain the tensors but do not use them.
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
                // The decimal number that was rounded to the stored precision.
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
