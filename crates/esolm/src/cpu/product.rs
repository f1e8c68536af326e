//! Products with folded weights of any number of bits.

use super::inputs::{Form, Inputs};
use super::packed::{Finish, Format, Packed, Target};
use super::stream::padded;
use crate::error::EngineError;
use crate::network::fold;
use crate::weights::{Activations, Weights};

/// A folded matrix with its bias.
pub(super) struct Matrix {
    weight: Packed,
    /// `[panels * 64]`; zeros after `n_out`.
    bias: Vec<f32>,
    form: Form,
}

impl Matrix {
    /// Keeps f32 weights, or rounds them.
    ///
    /// # Errors
    /// A weight that cannot be held.
    pub(super) fn new(
        linear: &fold::Linear,
        weights: Weights,
        activations: Activations,
    ) -> Result<Self, EngineError> {
        let mut bias = linear.bias.clone();
        bias.resize(padded(linear.n_out), 0.0);
        fold::check_range(&linear.name, &linear.weight, weights)?;
        let format = match weights {
            Weights::F32 => Format::F32,
            Weights::F16 => Format::F16,
            Weights::Q8 => Format::Q8,
            Weights::Q4 => Format::Q4,
        };
        let weight = Packed::new(linear, format);
        let form = weight.form(activations == Activations::Q8);
        Ok(Self { weight, bias, form })
    }

    /// How rows enter its product.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Columns that are held for a row of the product.
    pub(super) fn padded(&self) -> usize {
        self.bias.len()
    }

    /// Puts `x` times the matrix and its bias into rows of `out`.
    pub(super) fn product(&self, x: &Inputs, finish: Finish, out: Target) {
        self.weight.product(x, &self.bias, finish, out);
    }
}
