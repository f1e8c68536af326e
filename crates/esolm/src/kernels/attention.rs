//! Prefix attention over the any-order KV cache: `shaders/attention_split.wgsl` for few rows, and for many `attention_tile.wgsl`, or
//! `attention_rows.wgsl` on a software adapter. Every mask of the model family is a prefix plus a range around the row's own slot
//! (docs/architecture.md).

use std::sync::Arc;

use esolm_core::rows::Row;
use esolm_shaders::{ATTENTION_ROWS, ATTENTION_SPLIT, ATTENTION_TILE, Form, Shader};
use serde::{Deserialize, Serialize};

use super::Precision;
use super::cache_snippet;
use super::runtime::{Buffer, Gpu, Kernel};
use super::work::{BYTE, Extent};
use crate::adapter::AdapterKind;

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionVariant {
    /// One workgroup per row and head, which splits the prefix: few rows.
    Split,
    /// Several rows per workgroup, which share keys and values through workgroup memory: many rows of a sequence.
    Tile,
    /// One invocation per row and head, without barriers: several rows of a sequence on a software adapter. A head is kept in registers.
    Rows,
}

/// The shape of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Heads of q, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of k and of v. Head h of q reads head h / (heads / kv_heads) of them.
    pub kv_heads: usize,
    /// Width of a head, a multiple of four.
    pub head_dim: usize,
    /// Cache slots per sequence.
    pub slots: usize,
    /// Precision of the cache.
    pub cache: Precision,
    /// The kind of adapter that workgroups are sized for.
    pub kind: AdapterKind,
}

impl Geometry {
    /// Width of q and of the output.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of k and of v.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Heads of q that share one head of k and v. The kernels treat each as a row of its own, so row counts are multiplied by this.
    pub fn sharing(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Column groups per head, of four columns each.
    fn groups(&self) -> u32 {
        self.head_dim as u32 / 4
    }

    /// Lanes, a power of two, among which the column groups of a head are distributed so that each holds at most `most` of them:
    /// holding a whole head would take most of a lane's registers.
    fn parts(&self, most: u32) -> u32 {
        self.groups().div_ceil(most).next_power_of_two()
    }

    /// The kernel for workgroups of `wg` invocations.
    fn kernel(
        &self,
        gpu: &Gpu,
        shader: &'static Shader,
        wg: u32,
        further: &[(&'static str, u32)],
    ) -> Arc<Kernel> {
        let sizes = [self.width(), self.heads, self.cache as usize];
        let mut params = sizes.map(|size| size as u32).to_vec();
        params.push(wg);
        let grouped = (self.sharing() > 1).then_some(self.kv_heads as u32);
        params.extend(grouped);
        gpu.kernel(shader, params, wg, || Form {
            constants: [
                ("WG", wg),
                ("D4", self.kv_width() as u32 / 4),
                ("HEAD4", self.groups()),
            ]
            .into_iter()
            .chain(further.iter().copied())
            .chain(grouped.map(|_| ("GROUP", self.sharing() as u32)))
            .collect(),
            floats: vec![("SCALE", 1.0 / (self.head_dim as f32).sqrt())],
            snippets: vec![cache_snippet(self.cache)],
            flags: grouped.map(|_| "GROUPED").into_iter().collect(),
        })
    }

    /// Invocations per workgroup and lanes per head in the split variant, and slots per block.
    fn split(&self, workgroups: usize) -> ([u32; 2], u32) {
        let parts = self.parts(SPLIT_GROUPS);
        match self.kind {
            // On such an adapter a barrier costs as much as a few slots per vector of lanes, so both are kept few.
            AdapterKind::Software => {
                let wg = self.groups().next_power_of_two().max(8);
                ([wg, parts], (512 / parts).min(128))
            }
            _ if workgroups < WIDE_BELOW => ([WIDE_WG, parts], WIDE_WG),
            _ => ([WG, parts], WG),
        }
    }
}

/// Constants for shaders in which `parts` lanes share a head of `groups` column groups.
fn shared(parts: u32, groups: u32) -> [(&'static str, u32); 2] {
    [("PARTS", parts), ("OWN", groups.div_ceil(parts))]
}

/// Invocations per workgroup, except in the split variant with few workgroups or on a software adapter.
const WG: u32 = 64;
/// Invocations per workgroup of the split variant, and slots per block, when there are few workgroups.
const WIDE_WG: u32 = 256;
/// From this many workgroups on, small ones are faster on hardware (measured on an H100).
pub const WIDE_BELOW: usize = 2048;
/// Column groups of q that a lane of the split variant holds.
const SPLIT_GROUPS: u32 = 4;
/// Scores that a lane of the split variant computes at once.
const SPLIT_AT_ONCE: u32 = 4;
/// Column groups of q, and of the sum, that a lane of the tile variant holds for each of its rows.
const TILE_GROUPS: u32 = 2;
/// Rows per lane of the tile variant.
const TILE_ROWS: u32 = 2;
/// Slots that the rows variant processes at once.
const ROWS_KEYS: u32 = 4;

/// Buffers that a launch reads and writes.
pub struct Attention<'a> {
    /// q [rows, heads, head_dim], pair-ordered like k.
    pub q: &'a Buffer,
    /// The k cache [sequences, slots, kv_heads, head_dim].
    pub k: &'a Buffer,
    /// The v cache, of the same shape.
    pub v: &'a Buffer,
    /// The row table.
    pub rows: &'a Buffer,
    /// Rows of the pass.
    pub count: usize,
    /// out [rows, heads, head_dim].
    pub out: &'a Buffer,
}

/// Spans of adjacent rows of one sequence in the row table, for the tile and rows variants.
#[derive(Clone, Copy)]
pub struct Spans<'a> {
    /// (first row, number of rows) of each span.
    pub table: &'a Buffer,
    /// Number of spans.
    pub count: usize,
    /// Rows of the longest span.
    pub longest: usize,
}

/// Attention of many rows, none of which sees more than `seen` slots.
pub fn attention_tile(gpu: &Gpu, geometry: &Geometry, io: &Attention, spans: &Spans, seen: usize) {
    let parts = geometry.parts(TILE_GROUPS);
    let kernel = geometry.kernel(gpu, &ATTENTION_TILE, WG, &shared(parts, geometry.groups()));
    let rows = TILE_ROWS * WG / parts;
    attend(gpu, geometry, io, spans, &kernel, rows, seen);
}

/// Same as [`attention_tile`], with the rows variant.
pub fn attention_rows(gpu: &Gpu, geometry: &Geometry, io: &Attention, spans: &Spans, seen: usize) {
    let kernel = geometry.kernel(gpu, &ATTENTION_ROWS, WG, &[("KEYS", ROWS_KEYS)]);
    attend(gpu, geometry, io, spans, &kernel, WG, seen);
}

/// Launches `kernel`, whose workgroups process `rows` rows each.
fn attend(
    gpu: &Gpu,
    geometry: &Geometry,
    io: &Attention,
    spans: &Spans,
    kernel: &Kernel,
    rows: u32,
    seen: usize,
) {
    gpu.launch(
        kernel,
        &rows_extent(geometry, rows as usize, spans.count, spans.longest, seen),
        &[io.q, io.k, io.v, io.rows, spans.table, io.out],
        &[geometry.slots as u32, 0, 0, 0],
    );
}

/// Workgroups of `rows` rows for each span and head of k and v. Rows share the keys that they read, so arithmetic is what counts.
pub(super) fn rows_extent(
    geometry: &Geometry,
    rows: usize,
    spans: usize,
    longest: usize,
    seen: usize,
) -> Extent {
    Extent {
        grid: [
            (longest * geometry.sharing()).div_ceil(rows),
            geometry.kv_heads,
            spans,
        ],
        // Beyond their prefixes, the rows read all that their own ranges span together.
        each: 4 * (rows * (seen + rows) * geometry.head_dim) as u64,
    }
}

/// Attention of few rows, none of which sees more than `seen` slots.
pub fn attention_split(gpu: &Gpu, geometry: &Geometry, io: &Attention, seen: usize) {
    let extent = split_extent(geometry, io.count, seen);
    let [across, down, _] = extent.grid;
    let ([wg, parts], block) = geometry.split(across * down);
    let [lanes, own] = shared(parts, geometry.groups());
    let at_once = ("AT_ONCE", SPLIT_AT_ONCE.min(parts));
    let constants = [lanes, own, at_once, ("BLOCK", block)];
    gpu.launch(
        &geometry.kernel(gpu, &ATTENTION_SPLIT, wg, &constants),
        &extent,
        &[io.q, io.k, io.v, io.rows, io.out],
        &[geometry.slots as u32, 0, 0, 0],
    );
}

/// One workgroup per head of each row, each reading its own keys and values.
pub(super) fn split_extent(geometry: &Geometry, rows: usize, seen: usize) -> Extent {
    let read = 2 * geometry.head_dim as u64 * geometry.cache.bytes();
    Extent {
        grid: [geometry.kv_heads, rows * geometry.sharing(), 1],
        each: seen as u64 * read * BYTE,
    }
}

/// The twin of all variants: out [rows, heads, head_dim], computed in f64, with k and v [sequences, slots, kv_heads, head_dim].
pub fn attention_twin(
    geometry: &Geometry,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    rows: &[Row],
) -> Vec<f32> {
    let (all, width) = (geometry.width(), geometry.head_dim);
    let mut out = vec![0.0; rows.len() * all];
    for (r, row) in rows.iter().enumerate() {
        let slots: Vec<usize> = row.slots().collect();
        for head in 0..geometry.heads {
            let kv_head = head / geometry.sharing();
            let place = |slot: usize| {
                let slot = row.sequence as usize * geometry.slots + slot;
                slot * geometry.kv_width() + kv_head * width
            };
            let query = &q[r * all + head * width..][..width];
            let scores: Vec<f64> = slots
                .iter()
                .map(|&slot| {
                    query
                        .iter()
                        .zip(&k[place(slot)..])
                        .map(|(a, b)| f64::from(*a) * f64::from(*b))
                        .sum::<f64>()
                        / (width as f64).sqrt()
                })
                .collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let mass: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for c in 0..width {
                let sum: f64 = slots
                    .iter()
                    .zip(&scores)
                    .map(|(&slot, s)| (s - top).exp() * f64::from(v[place(slot) + c]))
                    .sum();
                out[r * all + head * width + c] = (sum / mass) as f32;
            }
        }
    }
    out
}
