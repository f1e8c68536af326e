//! Folded networks, quantised, as a folder of files, and in what form such are run.
//!
//! What is rounded are the folded matrices, so these are what is stored: a network without adaLN whose layer norms have weights of one. The
//! files hold the codes that the engine holds, and nothing is rounded a second time when they are loaded.

use esolm_core::checkpoint::{Checkpoint, Form};
use esolm_core::config::Grid;
use esolm_core::quantise::GROUP;

use crate::error::EngineError;
use crate::weights::Weights;

#[cfg(not(target_family = "wasm"))]
mod write;

#[cfg(not(target_family = "wasm"))]
pub use write::write_quantised;

/// The matrices of a block.
const MATRICES: [&str; 4] = ["attn_qkv", "attn_out", "mlp.0", "mlp.2"];

/// How the weights of a checkpoint are held where nothing else is asked for: floats in f32, and integers as they are stored if that can be
/// done without rounding them again. It cannot where groups are not of 32 weights, or where adaLN or the weights of layer norms are still to
/// be folded in; these are held in f16.
///
/// # Errors
/// When a tensor cannot be read.
pub async fn stored_form(ckpt: &Checkpoint) -> Result<Weights, EngineError> {
    let Some(quantization) = ckpt.quantization() else {
        return Ok(Weights::F32);
    };
    let grids: Vec<Grid> = ckpt
        .parameters()
        .filter_map(|parameter| match parameter.form() {
            Form::Codes(grid) => Some((parameter.name.as_str(), grid)),
            Form::Float(_) => None,
        })
        .filter(|(name, _)| MATRICES.iter().any(|matrix| name.contains(matrix)))
        .map(|(_, grid)| grid)
        .collect();
    // In a network too narrow for any group, the configuration tells alone.
    let grids = match grids.is_empty() {
        true => vec![quantization.rest],
        false => grids,
    };
    let is_folded = ckpt.config().cond_dim == 0 && has_plain_norms(ckpt).await?;
    Ok(
        match is_folded && grids.iter().all(|grid| grid.group == GROUP) {
            false => Weights::F16,
            true if grids.iter().all(|grid| grid.bits == 4) => Weights::Q4,
            true => Weights::Q8,
        },
    )
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
