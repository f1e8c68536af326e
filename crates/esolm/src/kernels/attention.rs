//! Prefix attention over the any-order kv_cache: `shaders/attention_rows.wgsl`, and for few rows `attention_chunks.wgsl`
//! with `attention_merge.wgsl`. Every mask of the model family is a prefix (docs/architecture.md).

use std::sync::Arc;

use esolm_core::rows::Row;
use esolm_shaders::{ATTENTION_CHUNKS, ATTENTION_MERGE, ATTENTION_ROWS, Form, Shader};
use serde::{Deserialize, Serialize};

use super::Precision;
use super::cache_snippet;
use super::runtime::{Buffer, Gpu, Kernel};
use super::work::{BYTE, Extent};

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionVariant {
    /// An invocation a row and head: many rows.
    Rows,
    /// The prefix split over several invocations and merged: few rows.
    Chunks,
}

/// Shape of the attention.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Width of the model.
    pub hidden: usize,
    /// Heads.
    pub heads: usize,
    /// Cache slots a sequence.
    pub slots: usize,
    /// Precision of the cache.
    pub cache: Precision,
}

impl Geometry {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    fn kernel(&self, gpu: &Gpu, shader: &'static Shader, wg: u32) -> Arc<Kernel> {
        let params = vec![self.hidden as u32, self.heads as u32, self.cache as u32];
        gpu.kernel(shader, params, wg, || Form {
            constants: vec![
                ("WG", wg),
                ("D4", self.hidden as u32 / 4),
                ("HEADS", self.heads as u32),
                ("HEAD4", self.head_dim() as u32 / 4),
                ("KEYS", KEYS),
            ],
            floats: vec![("SCALE", 1.0 / (self.head_dim() as f32).sqrt())],
            snippets: vec![cache_snippet(self.cache)],
            flags: vec![],
        })
    }
}

const KEYS: u32 = 4;
const ROWS_WG: u32 = 64;
const CHUNKS_WG: u32 = 32;
const MERGE_WG: u32 = 64;

/// Most chunks a prefix is split into; scratch is sized for it.
pub const MAX_CHUNKS: usize = 64;

/// What a launch reads and writes.
pub struct Attention<'a> {
    /// q [rows, hidden], pair-ordered like k.
    pub q: &'a Buffer,
    /// Cache of k [sequences, slots, hidden].
    pub k: &'a Buffer,
    /// Cache of v.
    pub v: &'a Buffer,
    /// The row table.
    pub rows: &'a Buffer,
    /// Rows of the pass.
    pub count: usize,
    /// out [rows, hidden].
    pub out: &'a Buffer,
}

/// Many rows: `spans` holds (first row, rows) of each of `sequences` sequences, `longest` the most rows of one, `prefix` the
/// largest prefix.
pub fn attention_rows(
    gpu: &Gpu,
    geometry: &Geometry,
    io: &Attention,
    spans: &Buffer,
    sequences: usize,
    longest: usize,
    prefix: usize,
) {
    let kernel = geometry.kernel(gpu, &ATTENTION_ROWS, ROWS_WG);
    gpu.launch(
        &kernel,
        &rows_extent(geometry, sequences, longest, prefix),
        &[io.q, io.k, io.v, io.rows, spans, io.out],
        &[geometry.slots as u32, prefix as u32, 0, 0],
    );
}

/// A workgroup for each [`ROWS_WG`] rows of a sequence and each head. Its rows share the keys that they walk, so arithmetic counts.
pub(super) fn rows_extent(
    geometry: &Geometry,
    sequences: usize,
    longest: usize,
    prefix: usize,
) -> Extent {
    Extent {
        grid: [
            longest.div_ceil(ROWS_WG as usize),
            geometry.heads,
            sequences,
        ],
        each: 4 * u64::from(ROWS_WG) * ((prefix + 1) * geometry.head_dim()) as u64,
    }
}

/// Chunks for a largest prefix: about sixteen slots each, a power of two so that few uniform blocks differ.
pub fn chunks_for(prefix: usize) -> usize {
    prefix.div_ceil(16).next_power_of_two().clamp(1, MAX_CHUNKS)
}

/// Floats of the scratch `parts` and `stats` for `rows` rows.
pub fn scratch_len(geometry: &Geometry, rows: usize) -> (usize, usize) {
    (
        rows * MAX_CHUNKS * geometry.hidden,
        rows * geometry.heads * MAX_CHUNKS * 2,
    )
}

/// Few rows: the prefix in chunks, then the merge. `parts` and `stats` are scratch of [`scratch_len`].
pub fn attention_chunks(
    gpu: &Gpu,
    geometry: &Geometry,
    io: &Attention,
    prefix: usize,
    parts: &Buffer,
    stats: &Buffer,
) {
    let chunks = chunks_for(prefix + 1) as u32;
    let [split, merge] = chunks_extents(geometry, io.count, prefix);
    gpu.launch(
        &geometry.kernel(gpu, &ATTENTION_CHUNKS, CHUNKS_WG),
        &split,
        &[io.q, io.k, io.v, io.rows, parts, stats],
        &[io.count as u32, geometry.slots as u32, chunks, 0],
    );
    gpu.launch(
        &geometry.kernel(gpu, &ATTENTION_MERGE, MERGE_WG),
        &merge,
        &[parts, stats, io.out],
        &[io.count as u32, chunks, 0, 0],
    );
}

/// Of the chunks and of their merge. Each row reads its keys and values for itself, and the merge what the chunks left of each.
pub(super) fn chunks_extents(geometry: &Geometry, rows: usize, prefix: usize) -> [Extent; 2] {
    let chunks = chunks_for(prefix + 1);
    let groups = chunks.div_ceil(CHUNKS_WG as usize);
    let slots = (prefix + 1).div_ceil(groups) as u64;
    let read = 2 * geometry.head_dim() as u64 * geometry.cache.bytes();
    let split = Extent {
        grid: [groups, geometry.heads, rows],
        each: slots * read * BYTE,
    };
    let invocations = rows * geometry.hidden / 4;
    // Two statistics, one of them twice, and four floats of a chunk.
    let each = u64::from(MERGE_WG) * chunks as u64 * (4 + 8 + 16) * BYTE;
    [
        split,
        Extent::line(invocations.div_ceil(MERGE_WG as usize), each),
    ]
}

/// The twin of both: out [rows, hidden] in f64, with k and v [sequences, slots, hidden].
pub fn attention_twin(
    geometry: &Geometry,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    rows: &[Row],
) -> Vec<f32> {
    let (hidden, width) = (geometry.hidden, geometry.head_dim());
    let mut out = vec![0.0; rows.len() * hidden];
    for (r, row) in rows.iter().enumerate() {
        let slots: Vec<usize> = row.slots().collect();
        for head in 0..geometry.heads {
            let place = |slot: usize| {
                (row.sequence as usize * geometry.slots + slot) * hidden + head * width
            };
            let query = &q[r * hidden + head * width..][..width];
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
                out[r * hidden + head * width + c] = (sum / mass) as f32;
            }
        }
    }
    out
}
