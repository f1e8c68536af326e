//! Chooses on the device which drawn tokens are revealed: `shaders/confidence.wgsl`, then `shaders/reveal.wgsl`. Their twins are
//! [`esolm_core::reveal::confidence`] and [`esolm_core::reveal::choose`].

use esolm_core::reveal::BROKEN;
use esolm_core::sampler::NO_TOKEN;
use esolm_core::sampler::kept::{FAR, Filter};
use esolm_shaders::{CONFIDENCE, Form, REVEAL};

use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, ENTRY, Extent};
use crate::adapter::AdapterKind;

/// What a launch of [`confidence`] reads and writes. Tables cover the whole pass; logits only the sampled rows `first..first + count`.
pub struct Confidences<'a> {
    /// [count, stride].
    pub logits: &'a Buffer,
    /// Floats per row of logits.
    pub stride: usize,
    /// The row table, which begins with the rows that are sampled.
    pub rows: &'a Buffer,
    /// The token buffer.
    pub tokens: &'a Buffer,
    /// What was drawn for each place of the token buffer.
    pub drawn: &'a Buffer,
    /// [sampled rows], written.
    pub confidences: &'a Buffer,
    /// First sampled row of this launch.
    pub first: usize,
    /// Sampled rows of this launch.
    pub count: usize,
    /// V, the mask column included.
    pub vocab: usize,
    /// The mask token.
    pub mask_index: u32,
}

/// Writes the network's confidence in each row's drawn token: its share of the mass that `filter` keeps, [`BROKEN`] if the row's logits
/// are not finite, and 0 if its place is already known.
pub fn confidence(gpu: &Gpu, filter: &Filter, io: &Confidences) {
    let wg = match gpu.info.kind {
        AdapterKind::Software => 32,
        _ => 256,
    };
    let vocab = io.vocab as u32;
    let leaves_out = filter.top_k > 0 || filter.top_p > 0 || filter.reach < FAR;
    let params = vec![wg, vocab, u32::from(leaves_out)];
    let kernel = gpu.kernel(&CONFIDENCE, params, wg, || Form {
        constants: vec![
            ("WG", wg),
            ("VOCAB", vocab),
            ("NO_TOKEN", NO_TOKEN),
            ("BROKEN", BROKEN),
        ],
        flags: leaves_out.then_some("FILTER").into_iter().collect(),
        ..Default::default()
    });
    // The same block as for a draw; fields that only a draw reads are 0.
    let info = [
        io.first as u32,
        io.count as u32,
        io.stride as u32,
        vocab,
        0,
        0,
        io.mask_index,
        filter.mask_logit.to_bits(),
        0,
        filter.rate.to_bits(),
        filter.top_k,
        filter.top_p,
        filter.reach,
        0,
        0,
        u32::from(filter.drops_crossing),
        0,
        0,
        0,
        0,
    ];
    let buffers = [io.logits, io.rows, io.tokens, io.drawn, io.confidences];
    let extent = confidence_extent(io.count, io.vocab, filter);
    gpu.launch(&kernel, &extent, &buffers, &info);
}

/// What a launch of [`reveal`] reads and writes.
pub struct Reveal<'a> {
    /// The row table, which begins with the rows that are sampled.
    pub rows: &'a Buffer,
    /// What was drawn for each place of the token buffer.
    pub drawn: &'a Buffer,
    /// [sampled rows].
    pub confidences: &'a Buffer,
    /// `[groups]` of four words: the first sampled row, the number of rows, the minimum number to reveal, and an unused one. Every sampled
    /// row is in exactly one group.
    pub groups: &'a Buffer,
    /// The token buffer.
    pub tokens: &'a Buffer,
    /// [groups + sampled rows], written: the number of masks left in each group, then the revealed token of each row.
    pub outcome: &'a Buffer,
    /// Number of groups.
    pub count: usize,
    /// Rows of the largest group.
    pub longest: usize,
    /// The mask token.
    pub mask_index: u32,
    /// A confidence that is enough by itself for a token to be revealed.
    pub bound: u32,
}

/// Chooses which drawn tokens are revealed, and writes them to the token buffer.
pub fn reveal(gpu: &Gpu, io: &Reveal) {
    let wg = match gpu.info.kind {
        AdapterKind::Software => 32,
        _ => 64,
    };
    let kernel = gpu.kernel(&REVEAL, vec![wg], wg, || Form {
        constants: vec![("WG", wg), ("NO_TOKEN", NO_TOKEN), ("BROKEN", BROKEN)],
        ..Default::default()
    });
    let info = [io.count as u32, io.mask_index, io.bound, 0];
    let buffers = [
        io.rows,
        io.drawn,
        io.confidences,
        io.groups,
        io.tokens,
        io.outcome,
    ];
    gpu.launch(&kernel, &extent(io.count, io.longest), &buffers, &info);
}

/// One workgroup per row: the passes of the filter, and one for the mass, whose 64-bit integers are built from smaller ones.
pub(super) fn confidence_extent(rows: usize, vocab: usize, filter: &Filter) -> Extent {
    const MASS: u64 = 64;
    Extent::line(rows, (filter.passes() * ENTRY + MASS) * vocab as u64)
}

/// One workgroup per group: seven passes over four words of each of its rows.
pub(super) fn extent(groups: usize, longest: usize) -> Extent {
    Extent::line(groups, 7 * 16 * BYTE * longest as u64)
}
