//! Reading a parameter, some of its rows at a time: the largest matrices need not be in memory whole as floats.

use std::ops::Range;

use esolm_checkpoint::{TensorInfo, TensorReader};
use half::f16;

use super::{CheckpointError, Parameter};
use crate::config::Grid;
use crate::finite::first_beyond;
use crate::quantise::{GROUP, Groups, Q4, Q8};

/// The values of a parameter, or of some of its rows, flat, outermost dimension first.
pub struct Values {
    /// As floats.
    pub floats: Vec<f32>,
    /// As they are stored, where that is a form in which the engine holds them.
    pub groups: Option<Groups>,
}

/// A parameter that is being read ([`super::Checkpoint::rows`]). What was fetched of it is given up with this.
pub struct Rows<'a> {
    name: &'a str,
    count: usize,
    columns: usize,
    stored: Reading<'a>,
}

pub(super) enum Reading<'a> {
    Floats(TensorReader<'a>),
    Codes {
        grid: Grid,
        codes: TensorReader<'a>,
        scales: (&'a TensorInfo, TensorReader<'a>),
        biases: (&'a TensorInfo, TensorReader<'a>),
    },
}

impl<'a> Rows<'a> {
    pub(super) fn new(parameter: &'a Parameter, stored: Reading<'a>) -> Self {
        Self {
            name: &parameter.name,
            count: parameter.shape.first().copied().unwrap_or(1),
            columns: parameter.shape.iter().skip(1).product(),
            stored,
        }
    }

    /// How many there are: the first dimension.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Reads some of them; all values must be finite.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`], and a type that holds no floats.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn read(&self, rows: Range<usize>) -> Result<Values, CheckpointError> {
        let of = |width: usize| rows.start * width..rows.end * width;
        let values = match &self.stored {
            Reading::Floats(reader) => Values {
                floats: reader.f32(of(self.columns))?,
                groups: None,
            },
            Reading::Codes {
                grid,
                codes,
                scales,
                biases,
            } => {
                let groups = of(self.columns / grid.group);
                let floats = |(tensor, reader): &(&TensorInfo, TensorReader)| {
                    let values = reader.f32(groups.clone())?;
                    finite(&tensor.name, values, groups.start)
                };
                let (scales, biases) = (floats(scales)?, floats(biases)?);
                codes.with_bytes(of(self.columns * grid.bits / 32), |bytes| Values {
                    floats: floats_of(bytes, *grid, &scales, &biases),
                    groups: groups_of(bytes, *grid, &scales, &biases),
                })
            }
        };
        Ok(Values {
            floats: finite(self.name, values.floats, of(self.columns).start)?,
            groups: values.groups,
        })
    }
}

/// Values of a tensor from the one at `first` on, all of which must be finite.
fn finite(name: &str, values: Vec<f32>, first: usize) -> Result<Vec<f32>, CheckpointError> {
    match first_beyond(&values, f32::MAX) {
        Some(index) => Err(CheckpointError::NotFinite {
            name: name.into(),
            value: values[index],
            index: first + index,
        }),
        None => Ok(values),
    }
}

/// The weights that codes stand for. Words are little-endian with the first code in the lowest bits: so bytes lie in the order of codes, and
/// in a byte of two the first is the low half.
fn floats_of(codes: &[u8], grid: Grid, scales: &[f32], biases: &[f32]) -> Vec<f32> {
    let bytes = grid.group * grid.bits / 8;
    let mut floats = Vec::with_capacity(scales.len() * grid.group);
    for ((codes, &scale), &bias) in codes.chunks_exact(bytes).zip(scales).zip(biases) {
        let weight = |code: u8| scale * f32::from(code) + bias;
        match grid.bits {
            4 => floats
                .extend((codes.iter()).flat_map(|&byte| [weight(byte & 15), weight(byte >> 4)])),
            _ => floats.extend(codes.iter().map(|&byte| weight(byte))),
        }
    }
    floats
}

/// The same as the engine's own groups, where all of them are such: 32 codes, of 8 bits symmetric, with f16 scales.
fn groups_of(codes: &[u8], grid: Grid, scales: &[f32], biases: &[f32]) -> Option<Groups> {
    let half = |value: f32| Some(f16::from_f32(value)).filter(|half| half.to_f32() == value);
    if grid.group != GROUP {
        return None;
    }
    let parameters = scales.iter().zip(biases);
    if grid.bits == 4 {
        let (codes, _) = codes.as_chunks::<{ GROUP / 2 }>();
        let group = |(codes, (&scale, &bias)): (&[u8; GROUP / 2], _)| {
            Some(Q4 {
                scale: half(scale)?,
                offset: half(bias)?,
                codes: std::array::from_fn(|k| codes[k / 2] >> (4 * (k % 2)) & 15),
            })
        };
        let groups: Option<Vec<_>> = codes.iter().zip(parameters).map(group).collect();
        return groups.map(Groups::Q4);
    }
    let (codes, _) = codes.as_chunks::<GROUP>();
    let group = |(codes, (&scale, &bias)): (&[u8; GROUP], (&f32, &f32))| {
        // Code 0 would be -128, which the engine's products do not take.
        let is_symmetric = bias == Q8::STORED_ZERO as f32 * -scale && !codes.contains(&0);
        let codes = codes.map(|code| (code ^ Q8::STORED_ZERO) as i8);
        let scale = half(scale)?;
        is_symmetric.then_some(Q8 { scale, codes })
    };
    let groups: Option<Vec<_>> = codes.iter().zip(parameters).map(group).collect();
    groups.map(Groups::Q8)
}
