//! WGSL kernels on Burn tensors. Each file here launches the shaders of the same name under `shaders/` and holds their plain
//! Rust twin, which the tests compare them with on random shapes.

pub mod attention;
pub mod copy;
pub mod embed;
pub mod norm;
pub mod peak;
pub mod product;
pub mod runtime;
pub mod sample;
pub mod score;
pub mod watch;
pub mod work;

use esolm_shaders::{CACHE_F16, CACHE_F32, Snippet, WEIGHT_F16, WEIGHT_F32};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// How numbers are stored; products always accumulate in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, packed two to a word: half the memory and traffic, no device feature needed.
    F16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

impl FromStr for Precision {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(EngineError::Option {
                option: "precision",
                value: text.to_string(),
                allowed: "f32 or f16",
            }),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

/// The snippet that reads weights of a precision.
fn weight_snippet(precision: Precision) -> &'static Snippet {
    match precision {
        Precision::F32 => &WEIGHT_F32,
        Precision::F16 => &WEIGHT_F16,
    }
}

/// The snippet that reads and writes a KV cache of a precision.
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
