//! How much memory a model and a batch take on the CPU. What is counted is what [`super`] allocates; where the two differ, a batch ends in a
//! crash instead of a sentence, so keep them in step.

use esolm_core::config::ModelConfig;
use esolm_core::rows::Layout;

use super::attention::{self, Heads};
use super::product::padded;
use super::{LOGIT_ROWS, MLP_ROWS};

/// Bytes of a value.
const VALUE: u64 = 4;
/// Bytes of the tables that describe a row to a pass: the row, its key, its target, and what reports it.
const ROW: u64 = 160;

/// Sizes of the largest pass of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Largest {
    pub(super) rows: usize,
    pub(super) sampled: usize,
}

/// Bytes of loading a model: its weights, and what is held beside them while the last are read.
pub(super) fn model(config: &ModelConfig) -> u64 {
    let (d, vocab) = (config.hidden as u64, config.vocab_size as u64);
    let matrix = |n_in: u64, n_out: u64| (n_in + 1) * padded(n_out as usize) as u64;
    let block = matrix(d, 3 * d) + matrix(d, d) + matrix(d, 4 * d) + matrix(4 * d, d);
    let blocks = block * config.n_blocks as u64;
    let weights = matrix(d, vocab) + vocab * d + blocks;
    // Of the head, read first: as it is stored, then transposed. Of a block, read last: folded, and one matrix as it is stored.
    let first = matrix(d, vocab) + 2 * vocab * d;
    let last = weights + 12 * d * d + 4 * d * d;
    VALUE * first.max(last)
}

/// Bytes of a batch's cache.
pub(super) fn cache(config: &ModelConfig, layout: &Layout, heads: Heads) -> u64 {
    attention::cache_bytes(layout, heads)
        .saturating_mul(config.n_blocks as u64)
        .saturating_add(layout.tokens as u64 * 3 * VALUE)
}

/// Bytes that a pass takes beside the cache.
pub(super) fn pass(config: &ModelConfig, slots: usize, largest: Largest, heads: Heads) -> u64 {
    let (rows, sampled) = (largest.rows as u64, largest.sampled as u64);
    let d = config.hidden as u64;
    let wide = |n: u64| padded(n as usize) as u64;
    // x and q, k, v, with the normalised x and the product that they come from.
    let attention_in = rows * (5 * d + wide(3 * d));
    // x, q, k, v and what was attended, with one product after another.
    let mlp = rows.min(MLP_ROWS as u64) * (d + 2 * wide(4 * d) + wide(d));
    let after = rows * 5 * d + (rows * wide(d)).max(mlp);
    let rotary = rows * heads.head_dim as u64;
    // Scores of the rows that share a product.
    let scores = 128 * (heads.heads as u64 * slots as u64 + 2 * d);
    let logits = (2 * LOGIT_ROWS as u64).min(sampled + 1) * wide(config.vocab_size as u64);
    // Of the sampled rows, x before and after the last norm.
    let drawing = 2 * sampled * d + logits;
    let values = (attention_in.max(after) + rotary + scores).max(drawing);
    values.saturating_mul(VALUE).saturating_add(rows * ROW)
}
