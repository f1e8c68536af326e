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
pub mod watch;

use esolm_shaders::{CACHE_F16, CACHE_F32, Snippet, WEIGHT_F16, WEIGHT_F32};

use crate::device::Precision;

/// The snippet that reads weights of a precision.
fn weight_snippet(precision: Precision) -> &'static Snippet {
    match precision {
        Precision::F32 => &WEIGHT_F32,
        Precision::F16 => &WEIGHT_F16,
    }
}

/// The snippet that reads and writes a kv_cache of a precision.
fn cache_snippet(precision: Precision) -> &'static Snippet {
    match precision {
        Precision::F32 => &CACHE_F32,
        Precision::F16 => &CACHE_F16,
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
