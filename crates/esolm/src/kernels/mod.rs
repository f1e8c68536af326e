//! WGSL kernels on Burn tensors. Each file here launches the shaders of the same name under `shaders/` and holds their twin in
//! plain Rust, against which the tests check them on random shapes.

pub mod attention;
pub mod copy;
pub mod embed;
pub mod heads;
pub mod norm;
pub mod packed;
pub mod peak;
pub mod product;
pub mod residual;
pub mod reveal;
pub mod rotary;
pub mod runtime;
pub mod sample;
pub mod score;
pub mod slots;
pub mod watch;
pub mod work;

use esolm_shaders::{CACHE_F16, CACHE_F32, Snippet};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// [`Row::slot`](esolm_core::rows::Row::slot) of a row whose keys and values are not stored.
pub const NOWHERE: u32 = u32::MAX;

/// How the numbers of a KV cache are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, packed two to a word: half the memory and traffic, without requiring a device feature.
    F16,
}

impl Precision {
    /// Bytes per number.
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

/// The snippet that reads and writes a KV cache of this precision.
fn cache_snippet(precision: Precision) -> &'static Snippet {
    match precision {
        Precision::F32 => &CACHE_F32,
        Precision::F16 => &CACHE_F16,
    }
}
