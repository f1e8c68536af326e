//! Norms of rows: `shaders/norm.wgsl`.

use esolm_shaders::{Form, NORM};

use super::product::ROW_PAD;
use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};

const WG: u32 = 64;

/// The constant under the root of a layer norm, as in the published model.
pub const EPS: f64 = 1e-5;

/// How rows are normalised. Weights and biases are folded into the next matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// Layer normalisation: (x - mean) / sqrt(variance + 1e-5).
    Layer,
    /// x / sqrt(mean square + eps).
    Rms {
        /// The constant under the root, positive.
        eps: f32,
    },
}

impl Norm {
    /// Distinguishes the forms of a kernel; 0 is left for those that do not normalise. The bits of eps are far above 1.
    pub(super) fn key(self) -> u32 {
        match self {
            Self::Layer => 1,
            Self::Rms { eps } => eps.to_bits(),
        }
    }

    /// The constants of a form.
    pub(super) fn floats(self) -> Vec<(&'static str, f32)> {
        match self {
            Self::Layer => vec![],
            Self::Rms { eps } => vec![("EPS", eps)],
        }
    }

    /// The flags of a form, except the one for normalising at all.
    pub(super) fn flags(self) -> Vec<&'static str> {
        match self {
            Self::Layer => vec![],
            Self::Rms { .. } => vec!["RMS"],
        }
    }
}

/// out [rows, hidden] = normalised rows of x.
pub fn norm(gpu: &Gpu, norm: Norm, x: &Buffer, out: &Buffer, rows: usize, hidden: usize) {
    norm_of(gpu, norm, None, x, out, rows, hidden, [0, 0]);
}

/// [`norm`] of the residual stream: `[row0, parts]` are the row of `x` where it begins and the number of parts to add to it. An RMS norm
/// takes its weight `gain` [hidden] here if it cannot be folded into a following matrix.
#[allow(clippy::too_many_arguments)]
pub(super) fn norm_of(
    gpu: &Gpu,
    norm: Norm,
    gain: Option<&Buffer>,
    x: &Buffer,
    out: &Buffer,
    rows: usize,
    hidden: usize,
    [row0, parts]: [usize; 2],
) {
    assert!(
        gain.is_none() || norm != Norm::Layer,
        "the weight of a layer norm is folded"
    );
    let d4 = (hidden / 4) as u32;
    let mut params = vec![d4];
    if norm != Norm::Layer {
        params.extend([norm.key(), u32::from(gain.is_some())]);
    }
    let kernel = gpu.kernel(&NORM, params, WG, || {
        let mut flags = norm.flags();
        flags.extend(gain.map(|_| "GAIN"));
        Form {
            constants: vec![("WG", WG), ("D4", d4), ("FEW", ROW_PAD as u32)],
            floats: norm.floats(),
            flags,
            ..Default::default()
        }
    });
    let extent = extent(rows, hidden);
    let info = [rows as u32, row0 as u32, parts as u32, 0];
    let buffers: Vec<&Buffer> = [x, out].into_iter().chain(gain).collect();
    gpu.launch(&kernel, &extent, &buffers, &info);
}

/// One workgroup per row, whose floats are read three times and written once.
pub(super) fn extent(rows: usize, hidden: usize) -> Extent {
    Extent::line(rows, (3 + 1) * 4 * BYTE * hidden as u64)
}

/// The twin for one row.
pub fn norm_twin(norm: Norm, row: &[f32]) -> Vec<f32> {
    let count = row.len() as f64;
    let average =
        |value: &dyn Fn(f64) -> f64| row.iter().map(|&v| value(f64::from(v))).sum::<f64>() / count;
    let (mean, eps) = match norm {
        Norm::Layer => (average(&|v| v), EPS),
        Norm::Rms { eps } => (0.0, f64::from(eps)),
    };
    let variance = average(&|v| (v - mean).powi(2));
    row.iter()
        .map(|&v| ((f64::from(v) - mean) / (variance + eps).sqrt()) as f32)
        .collect()
}
