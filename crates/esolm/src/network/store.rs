//! Folded networks, quantised, as a folder of files, and in what form such are run.
//!
//! What is rounded are the folded matrices, so these are what is stored: a network without adaLN, or a decoder, whose norms have weights of one
//! where they are folded into a matrix. The files hold the codes that the engine holds, and nothing is rounded a second time when they are loaded.

use esolm_core::checkpoint::{Checkpoint, Form};
use esolm_core::config::ModelConfig;
use esolm_core::quantise::{GROUP, Q4, Q8};

use super::fold::TOKENS;
use crate::error::EngineError;
use crate::weights::Weights;

#[cfg(not(target_family = "wasm"))]
mod layout;
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
    if ckpt.config().cond_dim > 0 {
        return Ok(Weights::F16);
    }
    let mut in_blocks = Vec::new();
    for parameter in ckpt.parameters() {
        match (parameter.form(), &parameter.shape[..]) {
            (Form::Codes(grid), _) if grid.group != GROUP => return Ok(Weights::F16),
            (Form::Codes(grid), _) if is_in_block(&parameter.name) => {
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

/// Whether a parameter belongs to a block.
fn is_in_block(name: &str) -> bool {
    name.starts_with("blocks.") || name.starts_with("model.layers.")
}

/// The norms that are folded into the matrices after them, by the names of their weights.
fn folded_norms(config: &ModelConfig) -> Vec<String> {
    let (block, norms, last) = match &config.decoder {
        None => (
            "blocks",
            ["norm1", "norm2"],
            Some("output_layer.norm_final"),
        ),
        Some(decoder) => (
            "model.layers",
            ["input_layernorm", "post_attention_layernorm"],
            // Before an output matrix that is the embedding it stays as it is.
            (!decoder.tied).then_some("model.norm"),
        ),
    };
    let in_blocks = (0..config.n_blocks)
        .flat_map(|index| norms.map(|norm| format!("{block}.{index}.{norm}.weight")));
    in_blocks
        .chain(last.map(|norm| format!("{norm}.weight")))
        .collect()
}

/// Whether the weights of all norms that are folded are one.
async fn has_plain_norms(ckpt: &Checkpoint) -> Result<bool, EngineError> {
    for norm in folded_norms(ckpt.config()) {
        ckpt.fetch(&norm).await?;
        if ckpt.f32(&norm)?.iter().any(|&weight| weight != 1.0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Bytes of the groups of matrices that are stored in such, which are held beside their floats while they are read: those of a block, twice
/// where matrices are joined, or of some tokens.
pub(crate) fn group_bytes(ckpt: &Checkpoint) -> u64 {
    let (mut block, mut tokens) = (0, 0);
    let first = ["blocks.0.", "model.layers.0."];
    for parameter in ckpt.parameters() {
        if let (Form::Codes(_), &[rows, columns]) = (parameter.form(), &parameter.shape[..]) {
            let groups = |rows: usize| rows as u64 * columns.div_ceil(GROUP) as u64;
            if first.iter().any(|first| parameter.name.starts_with(first)) {
                block += 2 * groups(rows);
            } else if !is_in_block(&parameter.name) {
                tokens = groups(rows.min(TOKENS)).max(tokens);
            }
        }
    }
    block.max(tokens) * size_of::<Q4>().max(size_of::<Q8>()) as u64
}
