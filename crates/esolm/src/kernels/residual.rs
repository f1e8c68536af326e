//! The residual stream of a pass: what is added to it, and the products and norms that read it. With few rows on a GPU, the sums of a
//! narrow matrix are split over several workgroups per column ([`Matrix::parts`]), none of which sees what another writes. So each
//! stores its part of the sum, and the next kernel, which reads the whole stream anyway, adds up the parts and stores the new stream for
//! later kernels. That costs no extra launch. All of it is in one buffer, since a product for q, k and v already binds as many as WebGPU
//! guarantees.

use std::ops::Range;

use super::norm::{Norm, norm, norm_of};
use super::product::{Finish, MOST_PARTS, Matrix, ProductVariant, ROW_PAD, product_of};
use super::runtime::{Buffer, Gpu};
use crate::variants::{Chosen, normalises};

/// Minimum rows in the buffer of a stream: two blocks of [`ROW_PAD`] rows, since the old rows are read while the new ones are written,
/// and the parts.
pub const STREAM_ROWS: usize = (2 + MOST_PARTS) * ROW_PAD;

/// The residual stream of a pass.
pub struct Residual<'a> {
    gpu: &'a Gpu,
    norm: Norm,
    chosen: Chosen,
    /// Rows of the pass.
    rows: usize,
    hidden: usize,
    x: &'a Buffer,
    normed: &'a Buffer,
    /// Row of `x` at which the stream begins.
    row0: usize,
    /// Number of parts still to be added.
    parts: usize,
}

impl<'a> Residual<'a> {
    /// Creates a stream over the first `rows` rows of `x` [[`STREAM_ROWS`] or more, `hidden`], to be normalised by `norm`. `chosen` selects
    /// the variants of products; `normed` holds normalised rows for those that do not normalise on the fly.
    pub fn new(
        gpu: &'a Gpu,
        norm: Norm,
        chosen: Chosen,
        rows: usize,
        hidden: usize,
        x: &'a Buffer,
        normed: &'a Buffer,
    ) -> Self {
        Self {
            gpu,
            norm,
            chosen,
            rows,
            hidden,
            x,
            normed,
            row0: 0,
            parts: 0,
        }
    }

    /// Normalises `rows` and multiplies them by `matrix`. They start at a multiple of [`ROW_PAD`], and `finish` numbers them from 0.
    pub fn product(&mut self, rows: Range<usize>, matrix: &Matrix, finish: &Finish) {
        let (gpu, count) = (self.gpu, rows.len());
        let variant = self.variant(matrix);
        if normalises(variant, self.rows) {
            let rows = self.row0 + rows.start..self.row0 + rows.end;
            let (x, parts) = (self.x, self.parts);
            let norm = Some(self.norm);
            product_of(gpu, variant, norm, x, rows, parts, matrix, finish);
            if self.parts > 0 {
                (self.row0, self.parts) = (ROW_PAD - self.row0, 0);
            }
        } else {
            let x = self.from(self.row0 + rows.start);
            norm(gpu, self.norm, &x, self.normed, count, self.hidden);
            product_of(gpu, variant, None, self.normed, 0..count, 0, matrix, finish);
        }
    }

    /// Adds the product of as many rows of `input` with `matrix` to `rows`, which start at a multiple of [`ROW_PAD`].
    pub fn add(&mut self, input: &Buffer, rows: Range<usize>, matrix: &Matrix) {
        assert_eq!(self.parts, 0, "what was added was never read");
        let (gpu, variant, count) = (self.gpu, self.variant(matrix), rows.len());
        self.parts = self.parts_of(matrix);
        let x = match self.parts {
            0 => self.from(self.row0 + rows.start),
            _ => self.x.clone(),
        };
        let finish = match self.parts {
            0 => Finish::Add(&x),
            parts => Finish::Parts(&x, parts),
        };
        product_of(gpu, variant, None, input, 0..count, 0, matrix, &finish);
    }

    /// Drops all rows after the first `rows`.
    pub fn keep(&mut self, rows: usize) {
        assert_eq!(self.parts, 0, "what was added was never read");
        self.rows = rows;
    }

    /// The state after a product with `matrix` was added, for measuring what follows.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn after_adding(mut self, matrix: &Matrix) -> Self {
        self.parts = self.parts_of(matrix);
        self
    }

    fn variant(&self, matrix: &Matrix) -> ProductVariant {
        self.chosen.product(self.rows, matrix.n)
    }

    /// Number of parts in which a product with `matrix` is added; 0 if it is not split.
    fn parts_of(&self, matrix: &Matrix) -> usize {
        match matrix.parts(self.variant(matrix), self.rows) {
            1 => 0,
            parts => parts,
        }
    }

    /// Normalises its rows into `out` [rows, hidden], times `gain` [hidden], the weight of an RMS norm, unless it is folded.
    pub fn normalise(&self, gain: Option<&Buffer>, out: &Buffer) {
        let place = [self.row0, self.parts];
        let (norm, hidden) = (self.norm, self.hidden);
        norm_of(self.gpu, norm, gain, self.x, out, self.rows, hidden, place);
    }

    /// The buffer from `row` on.
    fn from(&self, row: usize) -> Buffer {
        let start = (row * self.hidden * 4) as u64;
        self.x.part(start, self.x.bytes() - start)
    }
}
