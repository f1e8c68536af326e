//! Matrix products fused with what comes before and after: `shaders/product_rows.wgsl`, `product_split.wgsl` and
//! `product_tile.wgsl`, each with one of `shaders/lib/finish_*.wgsl`.

use std::ops::Range;

use esolm_shaders::{
    FINISH_ADD, FINISH_GELU, FINISH_GROUPED, FINISH_QKV, FINISH_SILU, FINISH_STORE, Form,
    PRODUCT_ROWS, PRODUCT_SPLIT, PRODUCT_TILE, Snippet, WEIGHT_F16, WEIGHT_F32, WEIGHT_Q4,
    WEIGHT_Q8,
};
use serde::{Deserialize, Serialize};

use super::cache_snippet;
use super::heads::Qkv;
use super::norm::{Norm, norm_twin};
use super::packed::{GROUP4, Packing};
use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};
use crate::error::EngineError;
use crate::network::fold::{HeadRows, Linear, check_range, parts as parts_of};
use crate::weights::Weights;

/// Activations are padded to a multiple of this many rows, so that a block of rows never reads past its buffer.
pub const ROW_PAD: usize = 16;

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProductVariant {
    /// Register blocks without barriers: software adapters, any number of rows.
    Rows,
    /// The inner dimension split over one workgroup, or over several for narrow matrices: few rows on a GPU.
    Split,
    /// Tiles in workgroup memory: many rows on a GPU. The input must already be normalised.
    Tile,
}

/// A matrix [k, n] with its bias, on the device in slices of columns that each fit a binding; columns are padded to a multiple of four.
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
    /// Bias [n4], then column sums [n4], in groups of four floats.
    affine: Buffer,
}

impl Matrix {
    /// Uploads a folded matrix, keeping its stored groups if they are in the format of `weights`.
    ///
    /// # Errors
    /// If its number of inputs is not a multiple of four, or one column group does not fit a binding.
    pub fn upload(gpu: &Gpu, linear: &Linear, weights: Weights) -> Result<Self, EngineError> {
        let sizes = [linear.n_in, linear.n_out];
        Self::new(gpu, sizes, weights, |packing, bias, columns| {
            bias.copy_from_slice(&linear.bias[columns.clone()]);
            packing.push(linear, columns, 0);
            Ok(())
        })
    }

    /// Same as [`Matrix::upload`], for the output matrix, some tokens at a time.
    ///
    /// # Errors
    /// As there, and if a weight cannot be read or represented.
    pub fn upload_head(gpu: &Gpu, rows: &HeadRows, weights: Weights) -> Result<Self, EngineError> {
        Self::new(gpu, rows.sizes(), weights, |packing, bias, columns| {
            // Queued uploads are held in host memory as well.
            gpu.submit()?;
            let first = columns.start;
            for part in parts_of(columns) {
                let at = part.start - first;
                let linear = rows.linear(part)?;
                check_range(&linear.name, &linear.weight, weights)?;
                packing.push(&linear, 0..linear.n_out, at);
                bias[at..at + linear.n_out].copy_from_slice(&linear.bias);
            }
            Ok(())
        })
    }

    /// Builds a matrix `[k, n]`; `fill` packs the columns of a slice and writes their bias.
    fn new(
        gpu: &Gpu,
        [k, n]: [usize; 2],
        weights: Weights,
        mut fill: impl FnMut(&mut Packing, &mut [f32], Range<usize>) -> Result<(), EngineError>,
    ) -> Result<Self, EngineError> {
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
            let mut packing = Packing::new(k, columns.len(), weights);
            let mut affine = vec![0.0; n4 * 8];
            fill(&mut packing, &mut affine[..columns.len()], columns)?;
            // Sums of the values that the kernel multiplies by: the rounded weights.
            let (words, sums) = packing.finish();
            for (sum, to) in sums.into_iter().zip(&mut affine[n4 * 4..]) {
                *to = sum as f32;
            }
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

    /// Whether it is a single slice. Only [`Finish::Store`] supports several.
    pub fn is_whole(&self) -> bool {
        self.slices.len() == 1
    }

    /// Number of parts into which a product of `rows` rows splits its sums when they are added to the residual stream.
    pub fn parts(&self, variant: ProductVariant, rows: usize) -> usize {
        if !self.is_whole() {
            return 1;
        }
        parts(variant, self.weights, rows, self.k, self.padded() / 4)
    }

    /// Outputs, padded to a multiple of four.
    pub fn padded(&self) -> usize {
        self.n.div_ceil(4) * 4
    }

    /// Bytes of the weights as stored.
    pub fn weight_bytes(&self) -> u64 {
        self.slices.iter().map(|s| s.weight.bytes()).sum()
    }

    /// First column, number of columns (padded to a multiple of four) and weights of each slice.
    pub(super) fn slices(&self) -> impl Iterator<Item = (usize, usize, &Buffer)> {
        let slices = self.slices.iter();
        slices.map(|s| (4 * s.first4, 4 * s.n4, &s.weight))
    }

    /// The format of the weights.
    pub(super) fn weights(&self) -> Weights {
        self.weights
    }

    /// The buffers, to check that they were allocated.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.slices.iter().flat_map(|s| [&s.weight, &s.affine])
    }
}

/// What to do with a product's output y.
pub enum Finish<'a> {
    /// `out` [rows, padded n] = y.
    Store(&'a Buffer),
    /// `out` [rows, n] = gelu(y), tanh form.
    Gelu(&'a Buffer),
    /// `out` [rows, n / 2] = silu(gate) up, with columns in pairs (gate, up).
    Silu(&'a Buffer),
    /// `out` [rows, n] += y.
    Add(&'a Buffer),
    /// This many parts that add up to y, each a block of [`ROW_PAD`] rows [.., n], after the first two such blocks of `out` (only the split
    /// variant, and up to [`ROW_PAD`] rows).
    Parts(&'a Buffer, usize),
    /// Applies rotary embedding and stores q in a buffer, k and v in the cache.
    Qkv(Qkv<'a>),
}

/// The activation between the two matrices of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU, tanh form.
    Gelu,
    /// SiLU of the gate, times the gated value.
    Silu,
}

impl Activation {
    /// The [`Finish`] of the product with the first matrix.
    pub fn finish<'a>(self, out: &'a Buffer) -> Finish<'a> {
        match self {
            Self::Gelu => Finish::Gelu(out),
            Self::Silu => Finish::Silu(out),
        }
    }
}

/// Multiplies `rows` of x [.., k] by `matrix` and applies `finish`. With `norm`, the rows are normalised on the fly (not in the tile
/// variant).
pub fn product(
    gpu: &Gpu,
    variant: ProductVariant,
    norm: Option<Norm>,
    x: &Buffer,
    rows: Range<usize>,
    matrix: &Matrix,
    finish: &Finish,
) {
    product_of(gpu, variant, norm, x, rows, 0, matrix, finish);
}

/// [`product`] of the residual stream: with `norm`, `parts` parts are first added to the rows, and the sums are stored in the other of the
/// first two blocks of [`ROW_PAD`] rows of x.
#[allow(clippy::too_many_arguments)]
pub(super) fn product_of(
    gpu: &Gpu,
    variant: ProductVariant,
    norm: Option<Norm>,
    x: &Buffer,
    rows: Range<usize>,
    parts: usize,
    matrix: &Matrix,
    finish: &Finish,
) {
    assert!(
        norm.is_none() || variant != ProductVariant::Tile,
        "the tile variant takes normalised rows"
    );
    assert!(
        parts == 0 || norm.is_some() && variant == ProductVariant::Split,
        "the split variant adds parts where it normalises"
    );
    let input = Input {
        x,
        rows,
        norm,
        parts,
    };
    for slice in &matrix.slices {
        launch(gpu, variant, &input, matrix, slice, finish);
    }
}

/// The input of a product.
struct Input<'a> {
    x: &'a Buffer,
    rows: Range<usize>,
    norm: Option<Norm>,
    /// Number of parts to add first.
    parts: usize,
}

fn launch(
    gpu: &Gpu,
    variant: ProductVariant,
    input: &Input,
    matrix: &Matrix,
    slice: &Slice,
    finish: &Finish,
) {
    let (row0, rows) = (input.rows.start, input.rows.len());
    let (k4, n4) = (matrix.k as u32 / 4, slice.n4 as u32);
    let padded4 = matrix.padded() as u32 / 4;
    let parts = match finish {
        Finish::Parts(_, parts) => *parts,
        _ => 1,
    };
    let block = Block::new(variant, matrix.weights, rows, matrix.k, slice.n4, parts);
    // The first column group to store to.
    let mut col4 = slice.first4 as u32;
    // (id, snippet, output and other buffers)
    let (id, snippet, mut buffers) = match finish {
        Finish::Store(out) => (0, &FINISH_STORE, vec![*out]),
        Finish::Gelu(out) => (1, &FINISH_GELU, vec![*out]),
        Finish::Add(out) => (2, &FINISH_ADD, vec![*out]),
        Finish::Parts(out, _) => {
            assert!(variant == ProductVariant::Split && rows <= ROW_PAD && matrix.is_whole());
            col4 = 2 * ROW_PAD as u32 * padded4;
            (0, &FINISH_STORE, vec![*out])
        }
        Finish::Qkv(to) => {
            let buffers = vec![to.q, to.rows, to.rotary, to.k, to.v];
            match to.heads == to.kv_heads {
                true => (3, &FINISH_QKV, buffers),
                false => (4, &FINISH_GROUPED, buffers),
            }
        }
        Finish::Silu(out) => (5, &FINISH_SILU, vec![*out]),
    };
    let mut all = vec![input.x, &slice.weight, &slice.affine];
    all.append(&mut buffers);
    let to = match finish {
        Finish::Qkv(to) => Some(to),
        _ => None,
    };
    let (shader, dim) = match variant {
        ProductVariant::Rows => (&PRODUCT_ROWS, block.columns4 / block.groups),
        ProductVariant::Split => (&PRODUCT_SPLIT, SPLIT_WG),
        ProductVariant::Tile => (&PRODUCT_TILE, TILE_WG),
    };
    let mut params = vec![
        k4,
        n4,
        id,
        input.norm.map_or(0, Norm::key),
        block.rows as u32,
        block.columns4,
        matrix.weights as u32,
        to.map_or(0, |to| to.head_dim as u32),
        to.map_or(0, |to| to.cache as u32),
    ];
    let grouped = to.filter(|to| to.heads != to.kv_heads);
    params.extend(grouped.map(|to| to.kv_heads as u32));
    let kernel = gpu.kernel(shader, params, dim, || {
        let mut form = Form {
            constants: vec![("K4", k4), ("N4", n4)],
            snippets: vec![weight_snippet(matrix.weights), snippet],
            flags: flags(variant, matrix.weights, input.norm),
            floats: input.norm.map(Norm::floats).unwrap_or_default(),
        };
        form.constants
            .extend(block.constants(variant, matrix.weights, input.norm.is_some(), k4));
        if let Some(to) = to {
            form.constants.extend(to.constants());
            form.snippets.push(cache_snippet(to.cache));
        }
        form.constants.extend(grouped.map(Qkv::q4));
        form
    });
    let info = [
        rows as u32,
        row0 as u32,
        padded4,
        col4,
        to.map_or(0, |to| to.slots as u32),
        block.rows as u32,
        k4.div_ceil(parts as u32),
        input.parts as u32,
    ];
    gpu.launch(&kernel, &block.extent, &all, &info);
}

/// The flags of a form.
fn flags(variant: ProductVariant, weights: Weights, norm: Option<Norm>) -> Vec<&'static str> {
    let mut flags = vec![];
    if let Some(norm) = norm {
        flags.push("NORM");
        flags.extend(norm.flags());
    } else if variant == ProductVariant::Split {
        flags.push("PLAIN");
    }
    if variant == ProductVariant::Rows && weights == Weights::Q4 {
        flags.push("SINGLE");
    }
    flags
}

/// The snippet that reads weights.
pub(super) fn weight_snippet(weights: Weights) -> &'static Snippet {
    match weights {
        Weights::F32 => &WEIGHT_F32,
        Weights::F16 => &WEIGHT_F16,
        Weights::Q8 => &WEIGHT_Q8,
        Weights::Q4 => &WEIGHT_Q4,
    }
}

/// Column groups per workgroup of the rows variant, or for floats and many rows, a multiple of this.
const ROWS_COLUMNS: u32 = 32;
/// Invocations per workgroup of the split variant.
const SPLIT_WG: u32 = 128;
/// Column groups per workgroup of the split variant: normally, and for a matrix so wide that such workgroups fill a GPU.
const COLUMNS: [u32; 2] = [8, 32];
/// Rows whose partial results the split variant adds up at once: more would take more workgroup memory than WebGPU guarantees.
const BATCH: u32 = 4;
/// Vectors of x that a workgroup of the split variant stages at once.
const STAGED: u32 = 512;
/// Invocations per workgroup of the tile variant.
const TILE_WG: u32 = 64;
/// Rows and columns per tile of the tile variant, and per smaller tile, used if there would be too few of those.
const TILES: [usize; 2] = [64, 32];

/// Workgroups that keep most GPUs busy: a small one has 12 units that run several each, a large one about 100.
const FILL: usize = 96;
/// Maximum number of parts of a sum: the next kernel reads them all.
pub(super) const MOST_PARTS: usize = 4;

/// Number of parts into which the sums of a product of `rows` rows are split to get [`FILL`] workgroups, as long as each invocation still
/// adds up two groups of inputs.
fn parts(variant: ProductVariant, weights: Weights, rows: usize, k: usize, n4: usize) -> usize {
    if variant != ProductVariant::Split || rows > ROW_PAD {
        return 1;
    }
    let block = Block::new(variant, weights, rows, k, n4, 1);
    let [across, down, _] = block.extent.grid;
    let lanes = (SPLIT_WG / block.columns4) as usize;
    let mut parts = 1;
    while parts < MOST_PARTS && parts * across * down < FILL && 2 * parts * 2 * lanes <= k / 4 {
        parts *= 2;
    }
    parts
}

/// How a product is divided into workgroups.
pub(super) struct Block {
    /// Rows per workgroup.
    rows: usize,
    /// Column groups per invocation of the rows variant.
    groups: u32,
    /// Column groups per workgroup.
    columns4: u32,
    /// All workgroups.
    pub(super) extent: Extent,
}

impl Block {
    /// Divides a product of `rows` rows of `k` inputs with `n4` column groups, with its sums split into `parts`.
    pub(super) fn new(
        variant: ProductVariant,
        weights: Weights,
        rows: usize,
        k: usize,
        n4: usize,
        parts: usize,
    ) -> Self {
        let up_to = |most| rows.next_power_of_two().min(most);
        // At most as many as there are.
        let groups_of = |most: u32| most.min(1 << n4.max(1).ilog2());
        let (block_rows, groups, columns4) = match variant {
            ProductVariant::Tile => {
                let tiles = |side: usize| rows.div_ceil(side) * (4 * n4).div_ceil(side);
                let side = if tiles(TILES[0]) >= FILL {
                    TILES[0]
                } else {
                    TILES[1]
                };
                (side, 1, side as u32 / 4)
            }
            ProductVariant::Split => {
                let is_wide = n4.div_ceil(COLUMNS[1] as usize) >= FILL;
                (up_to(8), 1, COLUMNS[usize::from(is_wide)])
            }
            // A load brings four times as many weights as activations, so loads of x cost most: each serves four column groups.
            // Workgroups are small instead, so that the work of a narrow matrix is spread evenly.
            ProductVariant::Rows if weights.are_quantised() => {
                (up_to(4), groups_of(4), ROWS_COLUMNS)
            }
            ProductVariant::Rows if rows < 16 => (up_to(4), 1, ROWS_COLUMNS),
            // Each load of x then serves two column groups.
            ProductVariant::Rows => {
                let groups = groups_of(2);
                (up_to(8), groups, groups * ROWS_COLUMNS)
            }
        };
        let down = rows.div_ceil(block_rows);
        let across = n4.div_ceil(columns4 as usize);
        let columns = 4 * u64::from(columns4);
        // An integer weight is converted to a float once for all rows.
        let decoding = if weights.are_quantised() { 4 } else { 0 };
        let inputs = k.div_ceil(parts) as u64;
        let operations = (2 * block_rows as u64 + decoding) * columns * inputs;
        let bytes = columns * weights.column_bytes(inputs);
        let extent = Extent {
            grid: match variant {
                ProductVariant::Rows => [down, across, parts],
                ProductVariant::Split | ProductVariant::Tile => [across, down, parts],
            },
            each: operations.max(bytes * BYTE),
        };
        Self {
            rows: block_rows,
            groups,
            columns4,
            extent,
        }
    }

    /// The shader's constants that depend on this division.
    fn constants(
        &self,
        variant: ProductVariant,
        weights: Weights,
        norm: bool,
        k4: u32,
    ) -> Vec<(&'static str, u32)> {
        let rows = self.rows as u32;
        let group4 = match weights {
            Weights::F32 | Weights::F16 => k4,
            Weights::Q8 | Weights::Q4 => GROUP4,
        };
        match variant {
            ProductVariant::Rows => vec![
                ("WG", self.columns4 / self.groups),
                ("GROUP4", group4),
                ("ROWS", rows),
                ("GROUPS", self.groups),
            ],
            ProductVariant::Split => {
                let chunk = (STAGED / rows).min(k4);
                let batch = BATCH.min(rows);
                let staged = if norm { rows * chunk } else { 0 };
                vec![
                    ("WG", SPLIT_WG),
                    ("ROWS", rows),
                    ("COLS", self.columns4),
                    ("LANES", SPLIT_WG / self.columns4),
                    ("SHARE", SPLIT_WG / rows),
                    ("CHUNK", chunk),
                    ("BATCH", batch),
                    ("HELD", staged.max(batch * SPLIT_WG)),
                    ("FEW", ROW_PAD as u32),
                ]
            }
            ProductVariant::Tile => {
                let side = rows / TILES[1] as u32;
                vec![("GROUP4", group4), ("SIDE", side), ("STEP", 8 / side)]
            }
        }
    }
}

/// The twin: y [rows, n] = x w + bias in f64; `norm` normalises the rows first.
pub fn product_twin(
    x: &[f32],
    k: usize,
    weight: &[f32],
    bias: &[f32],
    norm: Option<Norm>,
) -> Vec<f32> {
    let n = bias.len();
    let mut out = Vec::with_capacity(x.len() / k * n);
    for row in x.chunks(k) {
        let row = norm.map_or(row.to_vec(), |norm| norm_twin(norm, row));
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

/// silu(gate) up, for columns in pairs (gate, up).
pub fn silu_twin(y: &[f32]) -> Vec<f32> {
    y.chunks_exact(2)
        .map(|pair| {
            let (gate, up) = (f64::from(pair[0]), f64::from(pair[1]));
            (gate / (1.0 + (-gate).exp()) * up) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only for few rows and narrow matrices: those of the published networks, of a small one and of a golden one.
    #[test]
    fn sums_are_split_where_columns_are_few() {
        let parts = |rows, k, n: usize| {
            let of = |variant| parts(variant, Weights::F32, rows, k, n.div_ceil(4));
            assert_eq!((of(ProductVariant::Rows), of(ProductVariant::Tile)), (1, 1));
            of(ProductVariant::Split)
        };
        for (hidden, [out, down]) in [(768, [4, 4]), (192, [1, 4]), (64, [1, 2]), (4096, [1, 1])] {
            assert_eq!(parts(2, hidden, hidden), out, "{hidden}");
            assert_eq!(parts(2, 4 * hidden, hidden), down, "{hidden}");
        }
        // Twice the blocks of rows; then more rows than a stream in parts holds.
        assert_eq!((parts(9, 3072, 768), parts(17, 3072, 768)), (2, 1));
        assert_eq!(parts(2, 768, 50_258), 1);
    }

    /// The workgroups for matrices of the published networks.
    #[test]
    fn workgroups_are_shaped_by_the_matrix() {
        let grid = |variant, rows, n: usize| {
            let block = Block::new(variant, Weights::F32, rows, 768, n.div_ceil(4), 1);
            (block.columns4, block.extent.grid)
        };
        let (split, tile) = (ProductVariant::Split, ProductVariant::Tile);
        assert_eq!(grid(split, 1, 768), (8, [24, 1, 1]));
        assert_eq!(grid(split, 1, 50_258), (32, [393, 1, 1]));
        assert_eq!(grid(tile, 64, 768), (8, [24, 2, 1]));
        assert_eq!(grid(tile, 1024, 768), (16, [12, 16, 1]));
    }
}
