//! Folded networks, quantised, as a folder of files, and in what form such are run.
//!
//! What is rounded are the folded matrices, so these are what is stored: a network without adaLN whose layer norms have weights of one. The
//! files hold the codes that the engine holds, and nothing is rounded a second time when they are loaded.

use esolm_core::checkpoint::{Checkpoint, Form};
use esolm_core::quantise::{GROUP, Q4, Q8};

use crate::error::EngineError;
use crate::weights::Weights;

#[cfg(not(target_family = "wasm"))]
mod write;

#[cfg(not(target_family = "wasm"))]
pub use write::write_quantised;

/// How the weights of a checkpoint are held where nothing else is asked for: floats in f32, and integers as they are stored if nothing has
/// to be rounded for it. It has where groups are not of 32 weights, where matrices stayed floats that have such groups, and where adaLN or
/// the weights of layer norms are still to be folded in; these are held in f16.
///
/// # Errors
/// When a tensor cannot be read.
pub async fn stored_form(ckpt: &Checkpoint) -> Result<Weights, EngineError> {
    let Some(quantization) = ckpt.quantization() else {
        return Ok(Weights::F32);
    };
    // The norms of decoders never have weights of one alone.
    if ckpt.config().cond_dim > 0 || ckpt.config().decoder.is_some() {
        return Ok(Weights::F16);
    }
    let mut in_blocks = Vec::new();
    for parameter in ckpt.parameters() {
        match (parameter.form(), &parameter.shape[..]) {
            (Form::Codes(grid), _) if grid.group != GROUP => return Ok(Weights::F16),
            (Form::Codes(grid), _) if parameter.name.starts_with("blocks.") => {
                in_blocks.push(grid);
            }
            (Form::Float(_), [_, inputs]) if inputs.is_multiple_of(GROUP) => {
                return Ok(Weights::F16);
            }
            _ => {}
        }
    }
    if in_blocks.is_empty() {
        // The network is too narrow for any group.
        in_blocks.push(quantization.rest);
    }
    Ok(match has_plain_norms(ckpt).await? {
        false => Weights::F16,
        true if in_blocks.iter().all(|grid| grid.bits == 4) => Weights::Q4,
        true => Weights::Q8,
    })
}

/// Whether the weights of all layer norms are one.
async fn has_plain_norms(ckpt: &Checkpoint) -> Result<bool, EngineError> {
    let in_blocks = (0..ckpt.config().n_blocks)
        .flat_map(|block| ["norm1", "norm2"].map(|norm| format!("blocks.{block}.{norm}.weight")));
    for norm in in_blocks.chain(["output_layer.norm_final.weight".into()]) {
        ckpt.fetch(&norm).await?;
        if ckpt.f32(&norm)?.iter().any(|&weight| weight != 1.0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Bytes of the groups of the largest matrix that is stored in such, which are held beside its floats while it is read.
pub(crate) fn group_bytes(ckpt: &Checkpoint) -> u64 {
    let sizes = ckpt
        .parameters()
        .filter_map(|parameter| match parameter.form() {
            Form::Codes(_) => Some(parameter.shape.iter().map(|&n| n as u64).product::<u64>()),
            Form::Float(_) => None,
        });
    let weights = sizes.max().unwrap_or(0);
    weights.div_ceil(GROUP as u64) * size_of::<Q4>().max(size_of::<Q8>()) as u64
}
