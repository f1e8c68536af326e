//! Plain layer normalisation: `shaders/norm.wgsl`.

use super::gpu::{Buffer, Gpu, KernelKey, grid_2d};
use super::source::Parts;

const WG: u32 = 64;

/// The constant under the root, as in the published model.
pub const EPS: f64 = 1e-5;

/// out [rows, hidden] = plain-normalised rows of x: row r itself, or row `index[r]` where an index is given.
pub fn norm(
    gpu: &Gpu,
    x: &Buffer,
    index: Option<&Buffer>,
    out: &Buffer,
    rows: usize,
    hidden: usize,
) {
    let d4 = (hidden / 4) as u32;
    let kernel = gpu.kernel(
        KernelKey {
            name: "norm",
            params: vec![d4],
        },
        WG,
        include_str!("../../../../shaders/norm.wgsl"),
        || Parts {
            constants: vec![("WG", WG), ("D4", d4)],
            ..Default::default()
        },
    );
    // Without an index the binding still needs a buffer; the shader does not read it then.
    gpu.launch(
        &kernel,
        grid_2d(rows),
        &[x, index.unwrap_or(x), out],
        &[rows as u32, u32::from(index.is_some()), 0, 0],
        0,
    );
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
