//! Number formats of weights and activations.

use std::fmt;
use std::str::FromStr;

use esolm_core::quantise::{GROUP, Q4, Q8};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// How weights are stored in memory. Products accumulate in f32 in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers in groups of 32 with a scale: 8.5 bits per weight ([`esolm_core::quantise::Q8`]).
    Q8,
    /// 4-bit integers in groups of 32 with a scale and an offset: 5 bits per weight ([`esolm_core::quantise::Q4`]). The
    /// embedding and the output matrix, which are the most sensitive, are stored as `Q8`.
    Q4,
}

/// Format of activations in products with quantised weights. The same for all rows of a run, so that a text does not
/// depend on its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// Not rounded.
    #[default]
    F32,
    /// Rounded to 8 bits in groups of 32, to use the processor's integer dot products. CPU only.
    Q8,
}

impl Weights {
    /// The largest weight that can be represented.
    pub fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => half::f16::MAX.to_f32(),
            Self::Q8 => Q8::LARGEST,
            Self::Q4 => Q4::LARGEST,
        }
    }

    /// Whether weights are integers in groups.
    pub fn are_quantised(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }

    /// The format of the embedding and the output matrix.
    pub(crate) fn at_the_ends(self) -> Self {
        match self {
            Self::Q4 => Self::Q8,
            weights => weights,
        }
    }

    /// Bytes of one output's `n_in` weights. The last group may be short.
    pub(crate) fn column_bytes(self, n_in: u64) -> u64 {
        let groups = n_in.div_ceil(GROUP as u64);
        match self {
            Self::F32 => n_in * 4,
            Self::F16 => n_in * 2,
            Self::Q8 => n_in + groups * 2,
            Self::Q4 => n_in / 2 + groups * 4,
        }
    }
}

impl FromStr for Weights {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let all = [Self::F32, Self::F16, Self::Q8, Self::Q4];
        let found = all.into_iter().find(|weights| weights.to_string() == text);
        found.ok_or_else(|| EngineError::Option {
            option: "form of weights",
            value: text.to_string(),
            allowed: "f32, f16, q8 or q4",
        })
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        })
    }
}

impl FromStr for Activations {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        match text {
            "f32" => Ok(Self::F32),
            "q8" => Ok(Self::Q8),
            _ => Err(EngineError::Option {
                option: "form of activations",
                value: text.to_string(),
                allowed: "f32 or q8",
            }),
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Q8 => "q8",
        })
    }
}
