//! 8-bit and 4-bit weights: what a group of them represents, and how it is computed.
//!
//! A group has [`GROUP`] weights of one output, adjacent along the inputs. With q the codes of a group, its weights are
//!
//! ```text
//! q8:  w = s q        q in -127..=127      (symmetric; the same grid as llama.cpp's q8_0)
//! q4:  w = s q + b    q in 0..=15          (affine, as in MLX)
//! ```
//!
//! where the scale s and the offset b are f16. They are rounded first, and the codes are chosen for the rounded values.
//! Rounding them thus costs almost nothing, and quantising an 8-bit group's weights again reproduces its codes as long
//! as the scale is a normal f16 number.

use half::f16;

/// Weights per group.
pub const GROUP: usize = 32;

/// A group of 8-bit weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Q8 {
    /// s.
    pub scale: f16,
    /// q; zeros after the weights of a short group.
    pub codes: [i8; GROUP],
}

/// A group of 4-bit weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Q4 {
    /// s.
    pub scale: f16,
    /// b.
    pub offset: f16,
    /// q, 0 to 15; zeros after the weights of a short group.
    pub codes: [u8; GROUP],
}

/// The groups `[out, groups]` of a matrix `[out, in]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Groups {
    /// Of 8 bits.
    Q8(Vec<Q8>),
    /// Of 4 bits.
    Q4(Vec<Q4>),
}

impl Q8 {
    /// The code of weight zero in files, where codes are unsigned.
    pub const STORED_ZERO: u8 = 128;

    /// The largest weight, whose scale is the largest f16.
    pub const LARGEST: f32 = 127.0 * f16::MAX.to_f32_const();

    /// Rounds up to [`GROUP`] weights of at most [`Q8::LARGEST`].
    pub fn new(weights: &[f32]) -> Self {
        let top = weights.iter().fold(0.0f32, |top, w| top.max(w.abs()));
        let scale = scale(top, 127.0);
        let mut codes = [0; GROUP];
        for (code, &weight) in codes.iter_mut().zip(weights) {
            *code = nearest(weight, scale).clamp(-127.0, 127.0) as i8;
        }
        Self { scale, codes }
    }

    /// The weights that the group represents.
    pub fn weights(&self) -> [f32; GROUP] {
        self.codes.map(|code| self.scale.to_f32() * f32::from(code))
    }
}

impl Q4 {
    /// The largest weight, whose offset is the largest f16.
    pub const LARGEST: f32 = f16::MAX.to_f32_const();

    /// Rounds up to [`GROUP`] weights of at most [`Q4::LARGEST`].
    pub fn new(weights: &[f32]) -> Self {
        let low = weights.iter().copied().fold(f32::MAX, f32::min);
        let high = weights.iter().copied().fold(f32::MIN, f32::max);
        let offset = f16::from_f32(low);
        let scale = scale(high - offset.to_f32(), 15.0);
        let mut codes = [0; GROUP];
        for (code, &weight) in codes.iter_mut().zip(weights) {
            *code = nearest(weight - offset.to_f32(), scale).clamp(0.0, 15.0) as u8;
        }
        Self {
            scale,
            offset,
            codes,
        }
    }

    /// The weights that the group represents.
    pub fn weights(&self) -> [f32; GROUP] {
        let (scale, offset) = (self.scale.to_f32(), self.offset.to_f32());
        self.codes.map(|code| scale * f32::from(code) + offset)
    }
}

/// The scale at which `top` gets the code `most`. Scales below f16's normal range are coarse: if the nearest one would
/// clip `top`, the next larger one is used.
fn scale(top: f32, most: f32) -> f16 {
    let near = f16::from_f32((top / most).max(0.0));
    let cut = top > (most + 0.5) * near.to_f32();
    if cut {
        f16::from_bits(near.to_bits() + 1)
    } else {
        near
    }
}

/// `weight` in units of `scale`, rounded to an integer; 0 for a scale of 0, which implies that all weights are 0.
fn nearest(weight: f32, scale: f16) -> f32 {
    if scale == f16::ZERO {
        0.0
    } else {
        (weight / scale.to_f32()).round_ties_even()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    /// Weights of many magnitudes, starting below f16's smallest scale.
    fn groups() -> impl Iterator<Item = Vec<f32>> {
        let mut random = Stream::new(3, 0, Purpose::Other(0));
        let sizes = (-32..=12).flat_map(|power| [1, 7, GROUP].map(|n| (2f32.powi(power), n)));
        sizes.map(move |(size, n)| {
            let mut weight = || (random.uniform() as f32 - 0.3) * size;
            (0..n).map(|_| weight()).collect()
        })
    }

    #[test]
    fn an_error_is_at_most_half_a_step() {
        for weights in groups() {
            let q8 = Q8::new(&weights);
            let q4 = Q4::new(&weights);
            // f16 keeps 11 bits of the offset, and its smallest step is 2^-24.
            let offset = q4.offset.to_f32().abs() / 1024.0 + 6e-8;
            for (i, w) in weights.iter().enumerate() {
                assert!(
                    (q8.weights()[i] - w).abs() <= q8.scale.to_f32() * 0.501,
                    "{w} {q8:?}"
                );
                assert!(
                    (q4.weights()[i] - w).abs() <= q4.scale.to_f32() * 0.501 + offset,
                    "{w} {q4:?}"
                );
            }
            assert!(q8.codes[weights.len()..].iter().all(|&code| code == 0));
            assert!(q4.codes[weights.len()..].iter().all(|&code| code == 0));
        }
    }

    #[test]
    fn what_lies_on_the_grid_stays() {
        for q8 in groups().map(|weights| Q8::new(&weights)) {
            if !q8.scale.is_normal() {
                continue;
            }
            let again = Q8::new(&q8.weights());
            assert_eq!(again.weights(), q8.weights());
        }
    }

    #[test]
    fn the_largest_weights_and_zeros_are_held() {
        for sign in [1.0, -1.0] {
            let mut weights = [0.5 * sign; GROUP];
            weights[9] = sign * Q8::LARGEST;
            assert_eq!(Q8::new(&weights).weights()[9], weights[9]);
            weights[9] = sign * Q4::LARGEST;
            let held = Q4::new(&weights).weights()[9];
            assert!((held - weights[9]).abs() < 0.001 * Q4::LARGEST, "{held}");
        }
        assert_eq!(Q8::new(&[0.0; GROUP]).weights(), [0.0; GROUP]);
        assert_eq!(Q4::new(&[0.25; GROUP]).weights(), [0.25; GROUP]);
    }
}
