//! Plain layer normalisation: `shaders/norm.wgsl`.

use esolm_shaders::{Form, NORM};

use super::product::ROW_PAD;
use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};

const WG: u32 = 64;

/// The constant under the root, as in the published model.
pub const EPS: f64 = 1e-5;

/// out [rows, hidden] = plain-normalised rows of x.
pub fn norm(gpu: &Gpu, x: &Buffer, out: &Buffer, rows: usize, hidden: usize) {
    norm_of(gpu, x, out, rows, hidden, [0, 0]);
}

/// [`norm`] of the residual stream: `[row0, parts]` are the row of `x` that it begins at and the parts that are to be added to it.
pub(super) fn norm_of(
    gpu: &Gpu,
    x: &Buffer,
    out: &Buffer,
    rows: usize,
    hidden: usize,
    [row0, parts]: [usize; 2],
) {
    let d4 = (hidden / 4) as u32;
    let kernel = gpu.kernel(&NORM, vec![d4], WG, || Form {
        constants: vec![("WG", WG), ("D4", d4), ("FEW", ROW_PAD as u32)],
        ..Default::default()
    });
    let extent = extent(rows, hidden);
    let info = [rows as u32, row0 as u32, parts as u32, 0];
    gpu.launch(&kernel, &extent, &[x, out], &info);
}

/// A workgroup a row, whose floats are read three times and written once.
pub(super) fn extent(rows: usize, hidden: usize) -> Extent {
    Extent::line(rows, (3 + 1) * 4 * BYTE * hidden as u64)
}

/// The twin for one row.
pub fn norm_twin(row: &[f32]) -> Vec<f32> {
    let count = row.len() as f64;
    let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let var = row
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>()
        / count;
    row.iter()
        .map(|&v| ((f64::from(v) - mean) / (var + EPS).sqrt()) as f32)
        .collect()
}
