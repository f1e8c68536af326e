//! WGSL kernels on Burn tensors. Each file here launches the shaders of the same name under `shaders/` and holds their plain
//! Rust twin, which the tests compare them with on random shapes.

pub mod attention;
pub mod copy;
pub mod embed;
pub mod gpu;
pub mod norm;
pub mod peak;
pub mod product;
pub mod sample;
pub mod score;
pub mod source;
pub mod watch;

use crate::device::Precision;

const ROW: &str = include_str!("../../../../shaders/lib/row.wgsl");

/// The weight snippet for a precision (binding 1).
fn weight_snippet(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => include_str!("../../../../shaders/lib/weight_f32.wgsl"),
        Precision::F16 => include_str!("../../../../shaders/lib/weight_f16.wgsl"),
    }
}

/// The kv_cache snippet for a precision (bindings `{{k}}` and `{{v}}`).
fn cache_snippet(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => include_str!("../../../../shaders/lib/cache_f32.wgsl"),
        Precision::F16 => include_str!("../../../../shaders/lib/cache_f16.wgsl"),
    }
}

/// Two f16 to a word, the first in the low half, as `unpack2x16float` reads them. An odd end is padded with zero.
pub fn pack_f16(values: &[f32]) -> Vec<u32> {
    values
        .chunks(2)
        .map(|pair| {
            let low = half::f16::from_f32(pair[0]).to_bits();
            let high = half::f16::from_f32(pair.get(1).copied().unwrap_or(0.0)).to_bits();
            u32::from(low) | u32::from(high) << 16
        })
        .collect()
}

/// The values that a precision keeps of `values`.
pub fn rounded(values: &[f32], precision: Precision) -> Vec<f32> {
    match precision {
        Precision::F32 => values.to_vec(),
        Precision::F16 => values
            .iter()
            .map(|&v| half::f16::from_f32(v).to_f32())
            .collect(),
    }
}
