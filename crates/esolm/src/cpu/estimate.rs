//! Estimated memory of a model and a batch on the CPU. The estimates count what [`super`] allocates. Keep them in step:
//! if they are too low, a large batch aborts the program instead of returning an error.

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
/// Bytes of the tables that describe a row: the row itself, its key, its target, and its report.
const ROW: u64 = 160;

/// Sizes of the largest pass of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Largest {
    pub(super) rows: usize,
    pub(super) sampled: usize,
}

/// Bytes for loading a model: its weights, and temporaries while the last of them are read.
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
    // A tied embedding is read from the output matrix.
    let embedding = match config.decoder {
        Some(decoder) if decoder.tied => 0,
        _ => vocab * column(d, ends),
    };
    // Head and embedding are read first, some tokens at a time as floats, held twice during the transpose. A block,
    // read last, is held folded, plus one matrix as stored.
    let first = head + embedding + 2 * vocab.min(TOKENS as u64) * d * VALUE;
    let last = head + embedding + blocks + (all + largest) * VALUE;
    first.max(last)
}

/// Bytes of one output's `n_in` weights.
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

/// Bytes of a pass besides the cache, all in [`super::pass::Scratch`].
pub(super) fn pass(config: &ModelConfig, largest: Largest, heads: Heads) -> u64 {
    let (shape, vocab) = (Shape::of(config), config.vocab_size);
    let (rows, sampled) = (largest.rows as u64, largest.sampled as u64);
    // Rows in a product at once, and rows of logits at once.
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
