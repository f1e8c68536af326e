//! How much of the machine's own memory a GPU takes, counting what the other files here allocate.

use esolm_core::config::ModelConfig;
use esolm_core::rows::Layout;

use super::MLP_ROWS;
use super::load::is_tied;
use crate::adapter::{AdapterInfo, AdapterKind};
use crate::device::Precision;
use crate::kernels::residual::STREAM_ROWS;
use crate::network::fold::TOKENS;
use crate::weights::Weights;

/// Bytes that the driver of a software adapter takes while it compiles kernels; it crashes if they are refused.
const COMPILER: u64 = 256 << 20;

/// Bytes of the machine's own memory that loading takes. A software adapter keeps the weights there too.
pub(super) fn model(config: &ModelConfig, weights: Weights, adapter: &AdapterInfo) -> u64 {
    let kept = match adapter.kind {
        AdapterKind::Software => weight_bytes(config, weights) + COMPILER,
        _ => 0,
    };
    passing(config, weights, adapter.max_binding_bytes()) + kept
}

/// Peak bytes of weights that pass through the machine's own memory while a model loads: a block as stored, folded, reordered and in
/// flight, or one binding's share of the embedding or the output matrix, packed and in flight, and some of its tokens as floats.
pub(super) fn passing(config: &ModelConfig, weights: Weights, binding: u64) -> u64 {
    let (d, vocab) = (config.hidden as u64, config.vocab_size as u64);
    let Sizes { q, kv, inner, up } = Sizes::of(config);
    let block = d * (q + 2 * kv) + q * d + d * up + inner * d;
    let slice = vocab * weights.at_the_ends().column_bytes(d);
    let tokens = 3 * 4 * vocab.min(TOKENS as u64) * d;
    (2 * slice.min(binding) + tokens).max(3 * 4 * block)
}

/// Bytes of the weights on the device.
pub(super) fn weight_bytes(config: &ModelConfig, weights: Weights) -> u64 {
    let (d, vocab) = (config.hidden as u64, config.vocab_size as u64);
    let Sizes { q, kv, inner, up } = Sizes::of(config);
    let ends = vocab * weights.at_the_ends().column_bytes(d);
    let ends = if is_tied(config) { ends } else { 2 * ends };
    let from_d = (q + 2 * kv + up) * weights.column_bytes(d);
    let to_d = d * (weights.column_bytes(q) + weights.column_bytes(inner));
    ends + (from_d + to_d) * config.n_blocks as u64
}

/// Bytes of a batch on a software adapter, whose memory is the machine's: its cache and the activations of its `largest` pass, given as
/// the number of rows and the number of rows whose logits are held at once.
pub(super) fn batch(
    config: &ModelConfig,
    layout: &Layout,
    largest: [usize; 2],
    cache: Precision,
) -> u64 {
    let [rows, sampled] = largest.map(|n| n as u64);
    let (d, vocab) = (config.hidden as u64, config.vocab_size as u64);
    let Sizes { q, kv, inner, .. } = Sizes::of(config);
    let slots = (layout.sequences as u64).saturating_mul(layout.slots as u64);
    let cached = slots.saturating_mul(2 * kv * config.n_blocks as u64 * cache.bytes());
    let stream = rows.max(STREAM_ROWS as u64) * d;
    // The buffer for heads to be normalised is counted for every decoder, even if it needs none.
    let stored = if config.decoder.is_some() {
        q + 2 * kv
    } else {
        0
    };
    let activations = stream + rows * (d + 2 * q) + rows.min(MLP_ROWS as u64) * (inner + stored);
    let pass = 4 * (activations + sampled * (d + vocab));
    cached.saturating_add(pass)
}

/// Widths of a block, other than that of the residual stream.
struct Sizes {
    /// Width of all heads of q.
    q: u64,
    /// Width of all heads of k, and of v.
    kv: u64,
    /// Inner width of the MLP.
    inner: u64,
    /// Columns of the MLP's first matrix, which in decoders include gates.
    up: u64,
}

impl Sizes {
    fn of(config: &ModelConfig) -> Self {
        let [q, kv, inner] =
            [config.q_width(), config.kv_width(), config.inner()].map(|n| n as u64);
        let up = if config.decoder.is_some() {
            2 * inner
        } else {
            inner
        };
        Self { q, kv, inner, up }
    }
}
