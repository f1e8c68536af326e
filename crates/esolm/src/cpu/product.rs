//! Products with folded weights of any number of bits.

use esolm_core::quantise::GROUP;

use super::inputs::{Form, Inputs, Source};
use super::packed::{Finish, Format, PANEL, Packed, Target};
use super::stream::padded;
use crate::error::EngineError;
use crate::memory::{self, MemoryUse};
use crate::network::fold;
use crate::weights::{Activations, Weights};

// What is read of the output matrix at a time fills panels.
const _: () = assert!(fold::TOKENS.is_multiple_of(PANEL));

/// A folded matrix with its bias.
pub(super) struct Matrix {
    weight: Packed,
    /// `[panels * 64]`; zeros after `n_out`.
    bias: Vec<f32>,
    form: Form,
    /// See [`super::centre`]; empty where rows enter as they are.
    centre: Vec<f32>,
    /// What rows are multiplied by before; empty where they enter as they are.
    scale: Vec<f32>,
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
        let mut matrix = Self::with_room([linear.n_in, linear.n_out], weights, activations);
        matrix.push(linear, weights)?;
        Ok(matrix)
    }

    /// As [`Matrix::new`], of the output matrix, some tokens at a time.
    ///
    /// # Errors
    /// A weight that cannot be read or held.
    pub(super) fn of_head(
        rows: &fold::HeadRows,
        weights: Weights,
        activations: Activations,
    ) -> Result<Self, EngineError> {
        let sizes = rows.sizes();
        let mut matrix = Self::with_room(sizes, weights, activations);
        for tokens in fold::parts(0..sizes[1]) {
            matrix.push(&rows.linear(tokens)?, weights)?;
        }
        Ok(matrix)
    }

    fn with_room(sizes: [usize; 2], weights: Weights, activations: Activations) -> Self {
        let format = match weights {
            Weights::F32 => Format::F32,
            Weights::F16 => Format::F16,
            Weights::Q8 => Format::Q8,
            Weights::Q4 => Format::Q4,
        };
        let weight = Packed::with_room(sizes, format);
        Self {
            form: weight.form(activations == Activations::Q8),
            weight,
            bias: Vec::with_capacity(padded(sizes[1])),
            centre: Vec::new(),
            scale: Vec::new(),
        }
    }

    /// More columns, after those that there are, which fill panels.
    fn push(&mut self, linear: &fold::Linear, weights: Weights) -> Result<(), EngineError> {
        fold::check_range(&linear.name, &linear.weight, weights)?;
        self.weight.push(linear);
        self.bias.extend(&linear.bias);
        self.bias.resize(padded(self.bias.len()), 0.0);
        Ok(())
    }

    /// With a value for each input that rows are multiplied by before they enter.
    #[must_use]
    pub(super) fn scaled(self, scale: Option<Vec<f32>>) -> Self {
        let mut scale = scale.unwrap_or_default();
        scale.resize(scale.len().next_multiple_of(GROUP), 0.0);
        Self { scale, ..self }
    }

    /// What rows are multiplied by before they enter: a value for each input, zeros up to the end of the last group, or nothing.
    pub(super) fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Writes the weights of an output, one for each input.
    pub(super) fn column(&self, column: usize, to: &mut [f32]) {
        self.weight.column(column, to);
    }

    /// How rows enter its product.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// What rows enter less: a value for each input, zeros up to the end of the last group, or nothing.
    pub(super) fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// Lets rows enter less `centre`, a value for each input; what the product then lacks becomes part of the bias.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(super) fn set_centre(&mut self, mut centre: Vec<f32>) -> Result<(), EngineError> {
        let purpose = MemoryUse::Model;
        let mut line = Inputs::default();
        line.reserve(purpose, Form::Floats, 1, centre.len())?;
        line.fill(Form::Floats, 1, centre.len(), &Line(&centre));
        let mut bias = memory::zeros(purpose, self.bias.len())?;
        let target = Target {
            values: &mut bias,
            rows: 1,
            first: 0,
        };
        self.weight
            .product(&line, &self.bias, Finish::Store, target);
        self.bias = bias;
        centre.resize(centre.len().next_multiple_of(GROUP), 0.0);
        self.centre = centre;
        Ok(())
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

/// A single row.
struct Line<'a>(&'a [f32]);

impl Source for Line<'_> {
    #[inline(always)]
    fn read(&self, _row: usize, group: usize, to: &mut [f32; GROUP]) {
        to.fill(0.0);
        for (to, x) in to.iter_mut().zip(&self.0[group * GROUP..]) {
            *to = *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esolm_core::rng::{Purpose, Stream};

    const ROWS: usize = 5;

    struct Rows<'a> {
        values: &'a [f32],
        width: usize,
        centre: &'a [f32],
    }

    impl Source for Rows<'_> {
        fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]) {
            let row = &self.values[row * self.width..(row + 1) * self.width];
            Line(row).read(0, group, to);
            for (to, centre) in to.iter_mut().zip(self.centre.iter().skip(group * GROUP)) {
                *to -= centre;
            }
        }
    }

    /// Rows `[5, n_in]` times the matrix, row by row.
    fn product(matrix: &Matrix, form: Form, values: &[f32]) -> Vec<f32> {
        let width = values.len() / ROWS;
        let source = Rows {
            values,
            width,
            centre: matrix.centre(),
        };
        let mut inputs = Inputs::default();
        inputs
            .reserve(MemoryUse::Model, form, ROWS, width)
            .expect("a little memory");
        inputs.fill(form, ROWS, width, &source);
        let mut out = vec![0.0; ROWS * matrix.padded()];
        let target = Target {
            values: &mut out,
            rows: ROWS,
            first: 0,
        };
        matrix.product(&inputs, Finish::Store, target);
        out
    }

    /// With inputs of which one is always large, as trained networks have them, and a last group that is short.
    #[test]
    fn a_centre_changes_nothing_but_the_rounding() {
        let (n_in, n_out) = (80, 70);
        let mut random = Stream::new(1, 0, Purpose::Other(0));
        let mut numbers =
            |n: usize| -> Vec<f32> { (0..n).map(|_| random.uniform() as f32 - 0.5).collect() };
        let linear = fold::Linear {
            name: String::new(),
            weight: numbers(n_in * n_out),
            bias: numbers(n_out),
            n_in,
            n_out,
            groups: None,
        };
        let mut values = numbers(ROWS * n_in);
        for row in values.chunks_exact_mut(n_in) {
            row[3] += 20.0;
            row[70] -= 10.0;
        }
        let matrix = || Matrix::new(&linear, Weights::Q8, Activations::Q8).expect("in range");
        let (plain, mut centred) = (matrix(), matrix());
        let mut centre = vec![0.0; n_in];
        (centre[3], centre[70]) = (20.0, -10.0);
        centred.set_centre(centre).expect("a little memory");
        let want = product(&plain, Form::Floats, &values);
        let error = |matrix: &Matrix, form: Form| {
            let got = product(matrix, form, &values);
            (got.iter().zip(&want)).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()))
        };
        assert!(error(&centred, Form::Floats) < 1e-4);
        let (with, without) = (error(&centred, Form::Bytes), error(&plain, Form::Bytes));
        assert!(10.0 * with < without, "{with}, {without} without a centre");
    }
}
