//! Log-probabilities of given tokens on the device: `shaders/score.wgsl`, so that logits are never read back. Its twin is
//! [`esolm_core::passes::log_probability`].

use esolm_shaders::{Form, SCORE};

use super::runtime::{Buffer, Gpu};
use super::work::{ENTRY, Extent};
use crate::adapter::AdapterKind;

/// What a launch reads and writes. Tables cover the whole pass; logits only the scored rows `first..first + count`.
pub struct Score<'a> {
    /// [count, stride].
    pub logits: &'a Buffer,
    /// Floats per row of logits.
    pub stride: usize,
    /// Tokens [scored rows], each below `vocab`.
    pub wanted: &'a Buffer,
    /// Log-probabilities [scored rows], written.
    pub scores: &'a Buffer,
    /// First scored row of this launch.
    pub first: usize,
    /// Scored rows of this launch.
    pub count: usize,
    /// V, the mask column included.
    pub vocab: usize,
    /// The mask token, whose logit counts as -1e6.
    pub mask_index: u32,
}

/// Writes the log-probability of each row's wanted token, or NaN if the row's logits are not finite.
pub fn score(gpu: &Gpu, io: &Score) {
    let wg = if gpu.info.kind == AdapterKind::Software {
        32
    } else {
        256
    };
    let vocab = io.vocab as u32;
    let kernel = gpu.kernel(&SCORE, vec![wg, vocab], wg, || Form {
        constants: vec![("WG", wg), ("VOCAB", vocab)],
        ..Default::default()
    });
    let info = [
        io.first as u32,
        io.count as u32,
        io.stride as u32,
        io.mask_index,
    ];
    let buffers = [io.logits, io.wanted, io.scores];
    gpu.launch(&kernel, &extent(io.count, io.vocab), &buffers, &info);
}

/// One workgroup per row: one pass for the largest logit and one for the mass.
pub(super) fn extent(rows: usize, vocab: usize) -> Extent {
    Extent::line(rows, 2 * ENTRY * vocab as u64)
}
