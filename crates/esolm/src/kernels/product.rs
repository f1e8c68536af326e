//! Matrix products with what comes before and after fused in: `shaders/product_rows.wgsl`, `product_split.wgsl` and
//! `product_tile.wgsl`, ended by one of `shaders/lib/finish_*.wgsl`.

use std::ops::Range;

use esolm_core::config::rotary_frequencies;
use esolm_shaders::{
    FINISH_ADD, FINISH_GELU, FINISH_QKV, FINISH_STORE, Form, PRODUCT_ROWS, PRODUCT_SPLIT,
    PRODUCT_TILE, Snippet, WEIGHT_F16, WEIGHT_F32, WEIGHT_Q4, WEIGHT_Q8,
};
use serde::{Deserialize, Serialize};

use super::Precision;
use super::cache_snippet;
use super::norm::norm_twin;
use super::packed::{GROUP4, pack_matrix};
use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};
use crate::error::EngineError;
use crate::network::fold::Linear;
use crate::weights::Weights;

/// Rows to which activations are padded, so that a block of rows never reads past its buffer.
pub const ROW_PAD: usize = 16;

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProductVariant {
    /// Register blocks without barriers: software adapters, any number of rows.
    Rows,
    /// The inner dimension split over a workgroup: few rows on a GPU.
    Split,
    /// Tiles in workgroup memory: many rows on a GPU. Takes input that is already normalised.
    Tile,
}

/// A matrix [k, n] with its bias, on the device in slices of columns that fit a binding; columns are padded to four.
pub struct Matrix {
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    weights: Weights,
    slices: Vec<Slice>,
}

struct Slice {
    /// First column group and number of groups.
    first4: usize,
    n4: usize,
    weight: Buffer,
    /// Bias [n4], then column sums [n4], each four floats.
    affine: Buffer,
}

impl Matrix {
    /// Uploads a folded matrix, in the groups that it was stored in where these are those of `weights`.
    ///
    /// # Errors
    /// When its number of inputs is not a multiple of four, or one column group does not fit a binding.
    pub fn upload(gpu: &Gpu, linear: &Linear, weights: Weights) -> Result<Self, EngineError> {
        let (k, n) = (linear.n_in, linear.n_out);
        if !k.is_multiple_of(4) {
            return Err(EngineError::Shape(format!(
                "a product over {k} inputs (not a multiple of four)"
            )));
        }
        let total4 = n.div_ceil(4);
        let group_bytes = 4 * weights.column_bytes(k as u64);
        let fit4 = ((gpu.info.max_binding_bytes() / 16 * 16 / group_bytes) as usize).max(1);
        let mut slices = Vec::new();
        for first4 in (0..total4).step_by(fit4) {
            let n4 = fit4.min(total4 - first4);
            let columns = first4 * 4..((first4 + n4) * 4).min(n);
            let (words, values) = pack_matrix(linear, columns.clone(), weights);
            let mut affine = vec![0.0; n4 * 8];
            affine[..columns.len()].copy_from_slice(&linear.bias[columns]);
            // Sums of what the kernel will multiply with, so of the rounded weights.
            let mut sums = vec![0.0f64; n4 * 4];
            for row in values.chunks(n4 * 4) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, &value)| *sum += f64::from(value));
            }
            affine[n4 * 4..]
                .iter_mut()
                .zip(sums)
                .for_each(|(a, sum)| *a = sum as f32);
            slices.push(Slice {
                first4,
                n4,
                weight: gpu.words(words)?,
                affine: gpu.floats(affine)?,
            });
        }
        Ok(Self {
            k,
            n,
            weights,
            slices,
        })
    }

    /// Whether it is in one piece. Only [`Finish::Store`] takes a matrix in several.
    pub fn is_whole(&self) -> bool {
        self.slices.len() == 1
    }

    /// Outputs padded to four.
    pub fn padded(&self) -> usize {
        self.n.div_ceil(4) * 4
    }

    /// Bytes of the weights as stored.
    pub fn weight_bytes(&self) -> u64 {
        self.slices.iter().map(|s| s.weight.bytes()).sum()
    }

    /// The buffers, to check that they were allocated.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.slices.iter().flat_map(|s| [&s.weight, &s.affine])
    }
}

/// What happens to a product's output y.
pub enum Finish<'a> {
    /// `out` [rows, padded n] = y.
    Store(&'a Buffer),
    /// `out` [rows, n] = gelu(y), tanh form.
    Gelu(&'a Buffer),
    /// `out` [rows, n] += y.
    Add(&'a Buffer),
    /// Rotary embedding; q to a buffer, k and v to the cache.
    Qkv(Qkv<'a>),
}

/// Where q, k and v go.
pub struct Qkv<'a> {
    /// q [rows, hidden].
    pub q: &'a Buffer,
    /// The row table.
    pub rows: &'a Buffer,
    /// [positions, head_dim / 2] pairs (cos, sin).
    pub rotary: &'a Buffer,
    /// Cache of k [sequences, slots, hidden].
    pub k: &'a Buffer,
    /// Cache of v.
    pub v: &'a Buffer,
    /// Slots a sequence.
    pub slots: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Precision of the cache.
    pub cache: Precision,
}

/// Computes `rows` of x [.., k] times `matrix`, ended by `finish`. With `norm` the rows are
/// normalised on the way (not in the tile variant).
pub fn product(
    gpu: &Gpu,
    variant: ProductVariant,
    norm: bool,
    x: &Buffer,
    rows: Range<usize>,
    matrix: &Matrix,
    finish: &Finish,
) {
    assert!(
        !(norm && variant == ProductVariant::Tile),
        "the tile variant takes normalised rows"
    );
    for slice in &matrix.slices {
        launch(gpu, variant, norm, x, &rows, matrix, slice, finish);
    }
}

#[allow(clippy::too_many_arguments)]
fn launch(
    gpu: &Gpu,
    variant: ProductVariant,
    norm: bool,
    x: &Buffer,
    range: &Range<usize>,
    matrix: &Matrix,
    slice: &Slice,
    finish: &Finish,
) {
    let (row0, rows) = (range.start, range.len());
    let (k4, n4) = (matrix.k as u32 / 4, slice.n4 as u32);
    let block = Block::new(variant, matrix.weights, rows);
    // (id, snippet, output and further buffers)
    let (id, snippet, mut buffers) = match finish {
        Finish::Store(out) => (0, &FINISH_STORE, vec![*out]),
        Finish::Gelu(out) => (1, &FINISH_GELU, vec![*out]),
        Finish::Add(out) => (2, &FINISH_ADD, vec![*out]),
        Finish::Qkv(to) => (3, &FINISH_QKV, vec![to.q, to.rows, to.rotary, to.k, to.v]),
    };
    let mut all = vec![x, &slice.weight, &slice.affine];
    all.append(&mut buffers);
    let (slots, head_dim, cache) = match finish {
        Finish::Qkv(to) => (to.slots as u32, to.head_dim as u32, to.cache),
        _ => (0, 0, Precision::F32),
    };
    let (shader, dim) = match variant {
        ProductVariant::Rows => (&PRODUCT_ROWS, block.columns4 / block.groups),
        ProductVariant::Split => (&PRODUCT_SPLIT, WG),
        ProductVariant::Tile => (&PRODUCT_TILE, WG),
    };
    let params = vec![
        k4,
        n4,
        id,
        u32::from(norm),
        block.rows as u32,
        block.groups,
        matrix.weights as u32,
        head_dim,
        cache as u32,
    ];
    let group4 = match matrix.weights {
        Weights::F32 | Weights::F16 => k4,
        Weights::Q8 | Weights::Q4 => GROUP4,
    };
    let kernel = gpu.kernel(shader, params, dim, || {
        let mut form = Form {
            constants: vec![
                ("WG", dim),
                ("K4", k4),
                ("N4", n4),
                ("GROUP4", group4),
                ("ROWS", block.rows as u32),
            ],
            snippets: vec![weight_snippet(matrix.weights), snippet],
            flags: if norm { vec!["NORM"] } else { vec![] },
            ..Default::default()
        };
        form.constants.push(("GROUPS", block.groups));
        if variant == ProductVariant::Split {
            let split = [("COLS", COLS), ("LANES", dim / COLS)];
            form.constants.extend(split);
        }
        if id == 3 {
            form.constants.extend([
                ("D4", n4 / 3),
                ("HALF", head_dim / 2),
                ("HEAD_DIM", head_dim),
            ]);
            form.snippets.push(cache_snippet(cache));
        }
        form
    });
    let info = [
        rows as u32,
        row0 as u32,
        matrix.padded() as u32 / 4,
        slice.first4 as u32,
        slots,
        block.rows as u32,
        0,
        0,
    ];
    let extent = extent(variant, matrix.weights, rows, matrix.k, slice.n4);
    gpu.launch(&kernel, &extent, &all, &info);
}

/// The snippet that reads weights.
fn weight_snippet(weights: Weights) -> &'static Snippet {
    match weights {
        Weights::F32 => &WEIGHT_F32,
        Weights::F16 => &WEIGHT_F16,
        Weights::Q8 => &WEIGHT_Q8,
        Weights::Q4 => &WEIGHT_Q4,
    }
}

/// Column groups of a workgroup of the rows variant where an invocation holds one of them.
const ROWS_COLUMNS: u32 = 32;
/// Invocations of a workgroup of the other variants.
const WG: u32 = 256;
/// Column groups of a workgroup of the split variant.
const COLS: u32 = 8;

/// What a workgroup computes of a product.
struct Block {
    /// Rows.
    rows: usize,
    /// Column groups an invocation of the rows variant holds.
    groups: u32,
    /// Column groups of the workgroup.
    columns4: u32,
}

impl Block {
    /// Of a product of `rows` rows.
    fn new(variant: ProductVariant, weights: Weights, rows: usize) -> Self {
        let up_to = |most| rows.next_power_of_two().min(most);
        let (rows, groups, columns4) = match variant {
            ProductVariant::Tile => (64, 1, 16),
            ProductVariant::Split => (up_to(8), 1, COLS),
            // A load brings four times as many weights as activations, so that the loads of x cost most: each serves four column groups.
            // The workgroup is small instead, for the work to be shared out well where a matrix is narrow.
            ProductVariant::Rows if weights.are_quantised() => (up_to(4), 4, ROWS_COLUMNS),
            ProductVariant::Rows if rows < 16 => (up_to(4), 1, ROWS_COLUMNS),
            // Each load of x then serves two. Sixteen rows pay only while weights cost a load each: packed f16 has half as many.
            ProductVariant::Rows if weights == Weights::F32 => (up_to(16), 2, 2 * ROWS_COLUMNS),
            ProductVariant::Rows => (up_to(8), 2, 2 * ROWS_COLUMNS),
        };
        Self {
            rows,
            groups,
            columns4,
        }
    }
}

/// The blocks of a product of `rows` rows of `k` inputs with `n4` column groups.
pub(super) fn extent(
    variant: ProductVariant,
    weights: Weights,
    rows: usize,
    k: usize,
    n4: usize,
) -> Extent {
    let block = Block::new(variant, weights, rows);
    let down = rows.div_ceil(block.rows);
    let across = n4.div_ceil(block.columns4 as usize);
    let columns = 4 * u64::from(block.columns4);
    // A weight in integers is made a float once for all rows.
    let decoding = if weights.are_quantised() { 4 } else { 0 };
    let operations = (2 * block.rows as u64 + decoding) * columns * k as u64;
    Extent {
        grid: match variant {
            ProductVariant::Rows => [down, across, 1],
            ProductVariant::Split | ProductVariant::Tile => [across, down, 1],
        },
        each: operations.max(columns * weights.column_bytes(k as u64) * BYTE),
    }
}

/// The twin: y [rows, n] = x w + bias in f64, rows normalised first with `norm`.
pub fn product_twin(x: &[f32], k: usize, weight: &[f32], bias: &[f32], norm: bool) -> Vec<f32> {
    let n = bias.len();
    let mut out = Vec::with_capacity(x.len() / k * n);
    for row in x.chunks(k) {
        let row = if norm { norm_twin(row) } else { row.to_vec() };
        let mut y: Vec<f64> = bias.iter().map(|&b| f64::from(b)).collect();
        for (value, weights) in row.iter().zip(weight.chunks(n)) {
            y.iter_mut()
                .zip(weights)
                .for_each(|(y, &w)| *y += f64::from(*value) * f64::from(w));
        }
        out.extend(y.iter().map(|&y| y as f32));
    }
    out
}

/// GELU, tanh form (Hendrycks and Gimpel, arXiv 1606.08415, equation 2).
pub fn gelu_twin(y: f32) -> f32 {
    let y = f64::from(y);
    (0.5 * y * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y.powi(3))).tanh()))
        as f32
}

/// Puts the columns of a rotary pair (i, i + head_dim / 2) side by side within each head: the order in which the qkv product
/// stores q and k. `columns` holds q, k and v of `hidden` columns each; v stays.
pub fn pair_order(hidden: usize, head_dim: usize) -> Vec<usize> {
    let paired = |c: usize| {
        let (head, within) = (c / head_dim * head_dim, c % head_dim);
        head + within / 2 + within % 2 * (head_dim / 2)
    };
    (0..3 * hidden)
        .map(|c| {
            if c < 2 * hidden {
                c / hidden * hidden + paired(c % hidden)
            } else {
                c
            }
        })
        .collect()
}

/// Rotary angles (cos, sin) [positions, head_dim / 2], base 10000, computed as the published code does: frequencies and
/// angles in f32.
pub fn rotary_table(positions: usize, head_dim: usize) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        for frequency in rotary_frequencies(head_dim) {
            let angle = f64::from(position as f32 * frequency);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    table
}

/// The twin of the rotary part of the q, k, v finish, on pair-ordered columns of one head row.
pub fn rotary_twin(row: &mut [f32], position: usize, head_dim: usize, table: &[f32]) {
    for (c, pair) in row.chunks_mut(2).enumerate() {
        let i = c % (head_dim / 2);
        let at = (position * head_dim / 2 + i) * 2;
        let (cos, sin) = (table[at], table[at + 1]);
        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
    }
}
