//! Destinations of q, k and v, and the RMS norm over each head of q and k that some networks apply before rotary embedding:
//! `shaders/heads.wgsl`.

use std::ops::Range;

use esolm_shaders::{FINISH_GROUPED, Form, HEADS};

use super::norm::{Norm, norm_twin};
use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};
use super::{Precision, cache_snippet};

/// Invocations per workgroup.
const WG: u32 = 64;

/// Destinations of q, k and v.
pub struct Qkv<'a> {
    /// q [rows, heads, head_dim].
    pub q: &'a Buffer,
    /// The row table.
    pub rows: &'a Buffer,
    /// (cos, sin) pairs [positions, head_dim / 2].
    pub rotary: &'a Buffer,
    /// The k cache [sequences, slots, kv_heads, head_dim].
    pub k: &'a Buffer,
    /// The v cache, of the same shape.
    pub v: &'a Buffer,
    /// Slots per sequence.
    pub slots: usize,
    /// Heads of q, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of k and of v.
    pub kv_heads: usize,
    /// Width of a head, a multiple of four up to 128.
    pub head_dim: usize,
    /// Precision of the cache.
    pub cache: Precision,
}

impl Qkv<'_> {
    /// Heads of q, k and v together.
    fn all_heads(&self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    /// Constants for the code that rotates q and k and stores all three.
    pub(super) fn constants(&self) -> [(&'static str, u32); 3] {
        let head_dim = self.head_dim as u32;
        let width = self.kv_heads as u32 * head_dim;
        [
            ("D4", width / 4),
            ("HALF", head_dim / 2),
            ("HEAD_DIM", head_dim),
        ]
    }

    /// Column groups of q, for kernels that allow k and v another width.
    pub(super) fn q4(&self) -> (&'static str, u32) {
        ("Q4", (self.heads * self.head_dim / 4) as u32)
    }
}

/// Divides each head of q and k in `x` [rows, heads of q, k and v, head_dim], pair-ordered, by its root mean square and multiplies it by
/// `gains` [2, head_dim], one for q and one for k and pair-ordered too; then rotates q and k, and stores q, k and v. `rows` are the rows
/// of the pass that `x` holds.
pub fn heads(gpu: &Gpu, x: &Buffer, rows: Range<usize>, gains: &Buffer, eps: f32, to: &Qkv) {
    let lanes = lanes(to.head_dim);
    let sizes = [to.heads, to.kv_heads, to.head_dim, to.cache as usize];
    let params = sizes.map(|size| size as u32).into_iter();
    let params = params.chain([eps.to_bits()]).collect();
    let kernel = gpu.kernel(&HEADS, params, WG, || Form {
        constants: [("WG", WG), ("LANES", lanes), to.q4()]
            .into_iter()
            .chain(to.constants())
            .collect(),
        floats: vec![("EPS", eps)],
        snippets: vec![&FINISH_GROUPED, cache_snippet(to.cache)],
        flags: vec![],
    });
    gpu.launch(
        &kernel,
        &extent(rows.len(), to.all_heads(), to.head_dim),
        &[x, gains, to.q, to.rows, to.rotary, to.k, to.v],
        &[to.slots as u32, rows.start as u32, 0, 0],
    );
}

/// Lanes per head, each with one column group or none.
fn lanes(head_dim: usize) -> u32 {
    (head_dim as u32 / 4).next_power_of_two()
}

/// Workgroups of as many heads of a row as they have lanes for. Each float is read and written once.
pub(super) fn extent(rows: usize, heads: usize, head_dim: usize) -> Extent {
    let each = (WG / lanes(head_dim)) as usize;
    Extent {
        grid: [heads.div_ceil(each), rows, 1],
        each: 2 * 16 * BYTE * u64::from(WG),
    }
}

/// The twin of the norm, applied to the heads of q, k and v of one row; v is left as it is.
pub fn heads_twin(row: &mut [f32], heads: usize, kv_heads: usize, gains: &[f32], eps: f32) {
    let head_dim = gains.len() / 2;
    let turned = row.chunks_mut(head_dim).take(heads + kv_heads);
    for (head, values) in turned.enumerate() {
        let gains = match head < heads {
            true => &gains[..head_dim],
            false => &gains[head_dim..],
        };
        let normed = norm_twin(Norm::Rms { eps }, values);
        for ((value, normed), gain) in values.iter_mut().zip(normed).zip(gains) {
            *value = normed * gain;
        }
    }
}
