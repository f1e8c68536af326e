//! The buffer of rotary frequencies that some files contain. The network computes its own, so the buffer is only
//! compared: different frequencies mean a different network.

use esolm_checkpoint::{Dtype, Error, TensorFile, TensorInfo};

use super::CheckpointError;
use crate::config::{ModelConfig, rotary_frequencies};

/// Its name without `backbone.`; newer files may not contain it.
pub(super) const BUFFER: &str = "rotary_emb.inv_freq";

/// Relative difference between frequencies computed in single precision in different ways.
const COMPUTED: f64 = 1e-5;

/// Compares `buffer`, which must have been fetched, with the frequencies that will be computed.
pub(super) fn check(
    file: &TensorFile,
    buffer: &TensorInfo,
    config: &ModelConfig,
) -> Result<(), CheckpointError> {
    let expected = vec![config.head_dim() / 2];
    if buffer.shape != expected {
        return Err(CheckpointError::Shape {
            name: BUFFER.into(),
            found: buffer.shape.clone(),
            expected,
        });
    }
    // Half a unit in the last place of its type, for the smallest significand.
    let (values, rounding): (Vec<f64>, f64) = match buffer.dtype {
        Dtype::F64 => {
            let bytes = file.bytes(buffer)?;
            let words = bytes.as_chunks().0.iter();
            (words.map(|&word| f64::from_le_bytes(word)).collect(), 0.0)
        }
        Dtype::F16 => (single(file, buffer)?, 2f64.powi(-11)),
        Dtype::Bf16 => (single(file, buffer)?, 2f64.powi(-8)),
        _ => (single(file, buffer)?, 0.0),
    };
    let pairs = values
        .into_iter()
        .zip(rotary_frequencies(config.head_dim(), config.rotary_base()));
    for (index, (found, computed)) in pairs.enumerate() {
        let expected = f64::from(computed);
        let is_near = (found - expected).abs() <= expected * (COMPUTED + rounding);
        if !is_near {
            return Err(CheckpointError::Rotary {
                name: BUFFER,
                index,
                found,
                computed,
            });
        }
    }
    Ok(())
}

fn single(file: &TensorFile, buffer: &TensorInfo) -> Result<Vec<f64>, Error> {
    Ok(file.f32(buffer)?.into_iter().map(f64::from).collect())
}
