//! How much memory a model and a batch take on the CPU. What is counted is what [`super`] allocates; where the two differ, a batch ends in a
//! crash instead of a sentence, so keep them in step.

use esolm_core::config::ModelConfig;
use esolm_core::quantise::GROUP;
use esolm_core::rows::Layout;

use super::attention::{self, Heads};
use super::inputs::Inputs;
use super::pass::{LOGIT_ROWS, ROWS};
use super::shape::Shape;
use super::stream::padded;
use crate::network::fold::TOKENS;
use crate::weights::Weights;

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
pub(super) fn model(config: &ModelConfig, weights: Weights) -> u64 {
    let (d, vocab) = (config.hidden as u64, config.vocab_size as u64);
    let ends = weights.at_the_ends();
    let matrix = |n_in: u64, n_out: u64, weights: Weights| {
        padded(n_out as usize) as u64 * (column(n_in, weights) + VALUE)
    };
    let matrices = Shape::of(config)
        .matrices()
        .map(|sizes| sizes.map(|n| n as u64));
    let block: u64 = (matrices.iter())
        .map(|&[n_in, n_out]| matrix(n_in, n_out, weights))
        .sum();
    let blocks = block * config.n_blocks as u64;
    let values = matrices.map(|[n_in, n_out]| n_in * n_out);
    let (all, largest) = (
        values.iter().sum::<u64>(),
        values.iter().max().copied().unwrap_or(0),
    );
    let head = matrix(d, vocab, ends);
    // One that is tied is read out of the output matrix.
    let embedding = match config.decoder {
        Some(decoder) if decoder.tied => 0,
        _ => vocab * column(d, ends),
    };
    // Of the head and the embedding, read first: some tokens as floats, twice while they are transposed. Of a block, read last: folded, and
    // one matrix as it is stored.
    let first = head + embedding + 2 * vocab.min(TOKENS as u64) * d * VALUE;
    let last = head + embedding + blocks + (all + largest) * VALUE;
    first.max(last)
}

/// Bytes of `n_in` weights of one output.
fn column(n_in: u64, weights: Weights) -> u64 {
    let groups = n_in.div_ceil(GROUP as u64);
    match weights {
        Weights::F32 => groups * GROUP as u64 * VALUE,
        Weights::F16 => groups * 2 * GROUP as u64,
        Weights::Q8 => groups * (GROUP as u64 + 2),
        Weights::Q4 => groups * (GROUP as u64 / 2 + 4),
    }
}

/// Bytes of a batch's cache.
pub(super) fn cache(config: &ModelConfig, layout: &Layout, heads: Heads) -> u64 {
    attention::cache_bytes(layout, heads)
        .saturating_mul(config.n_blocks as u64)
        .saturating_add(layout.tokens as u64 * 3 * VALUE)
}

/// Bytes that a pass takes beside the cache: what [`super::pass::Scratch`] holds.
pub(super) fn pass(config: &ModelConfig, largest: Largest, heads: Heads) -> u64 {
    let (shape, vocab) = (Shape::of(config), config.vocab_size);
    let (rows, sampled) = (largest.rows as u64, largest.sampled as u64);
    // Rows that are in a product at once, and logits.
    let (some, drawn) = (rows.min(ROWS as u64), sampled.min(LOGIT_ROWS as u64));
    let joined = (heads.heads * heads.wide()) as u64;
    let keys = some * (heads.kv_heads * heads.wide()) as u64;
    let row = padded(shape.hidden) as u64 + 2 * joined + heads.head_dim as u64;
    let stream = rows * row + keys;
    let wide = (some * shape.widest_product() as u64).max(drawn * padded(vocab) as u64);
    let values = stream + wide + drawn * vocab as u64;
    let inputs = some.max(drawn) * Inputs::row_bytes(shape.widest_input());
    (values.saturating_mul(VALUE))
        .saturating_add(inputs)
        .saturating_add(rows * ROW)
}
