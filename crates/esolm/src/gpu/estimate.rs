//! How much of the machine's own memory a GPU takes. What is counted is what the other files here allocate.

use esolm_core::config::ModelConfig;
use esolm_core::rows::Layout;

use super::MLP_ROWS;
use crate::adapter::AdapterKind;
use crate::device::Precision;
use crate::kernels::residual::STREAM_ROWS;
use crate::weights::Weights;

/// What the driver of a software adapter takes while it compiles kernels; it crashes where that is refused.
const COMPILER: u64 = 256 << 20;

/// Bytes of the machine's own memory that loading takes: a block, or the head, as it is stored, folded, reordered and on its way. A
/// software adapter keeps the weights there as well.
pub(super) fn model(config: &ModelConfig, weights: Weights, kind: AdapterKind) -> u64 {
    let (d, vocab) = (config.hidden as u64, config.vocab_size as u64);
    let block = 12 * d * d;
    let passing = 4 * (4 * vocab * d).max(3 * block);
    let kept = match kind {
        AdapterKind::Software => {
            let ends = vocab * weights.at_the_ends().column_bytes(d);
            let inner = 8 * d * weights.column_bytes(d) + d * weights.column_bytes(4 * d);
            2 * ends + inner * config.n_blocks as u64 + COMPILER
        }
        _ => 0,
    };
    passing + kept
}

/// Bytes of a batch on a software adapter, whose memory is the machine's: its cache and the activations of its `largest` pass, which has so
/// many rows, and so many whose logits are held at once.
pub(super) fn batch(
    config: &ModelConfig,
    layout: &Layout,
    largest: [usize; 2],
    cache: Precision,
) -> u64 {
    let [rows, sampled] = largest.map(|n| n as u64);
    let (d, vocab) = (config.hidden as u64, config.vocab_size as u64);
    let slots = (layout.sequences as u64).saturating_mul(layout.slots as u64);
    let cached = slots.saturating_mul(2 * d * config.n_blocks as u64 * cache.bytes());
    let stream = rows.max(STREAM_ROWS as u64) * d;
    let activations = stream + rows * 3 * d + rows.min(MLP_ROWS as u64) * 4 * d;
    let pass = 4 * (activations + sampled * (d + vocab));
    cached.saturating_add(pass)
}
