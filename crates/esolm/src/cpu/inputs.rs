//! Inputs of products: rows in groups of 32, as floats or rounded to bytes.
//!
//! The same group of all rows is stored contiguously, since a product takes one group of its weights at a time and
//! applies it to all rows.

use esolm_core::quantise::GROUP;

use super::level::{Level, Work};
use super::math;
use super::simd::Simd;
use crate::error::EngineError;
use crate::memory::{self, MemoryUse};

/// Format of a product's input rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Floats,
    Bytes,
}

/// A group of a row, in f32.
#[derive(Clone, Copy)]
pub(super) struct FloatGroup {
    pub(super) values: [f32; GROUP],
    /// Sum of the values, for weights with offsets.
    pub(super) sum: f32,
}

/// A group of a row rounded to bytes, symmetrically: `x` is about `scale * code`.
#[derive(Clone, Copy)]
pub(super) struct ByteGroup {
    pub(super) codes: [i8; GROUP],
    pub(super) scale: f32,
    /// Sum of the codes.
    pub(super) sum: i32,
}

/// Where rows are read from.
pub(super) trait Source: Sync {
    /// Writes a group of a row, with zeros after the row's last value. Must be inlined, see [`Work`].
    fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]);
}

/// Rows of the next product, in reused memory.
#[derive(Default)]
pub(super) struct Inputs {
    form: Form,
    rows: usize,
    /// `[groups, rows]` in one of the formats.
    floats: Vec<FloatGroup>,
    bytes: Vec<ByteGroup>,
}

/// A group of several rows.
#[derive(Clone, Copy)]
pub(super) enum Group<'a> {
    Floats(&'a [FloatGroup]),
    Bytes(&'a [ByteGroup]),
}

impl Inputs {
    /// Maximum bytes per row of `n_in` values.
    pub(super) fn row_bytes(n_in: usize) -> u64 {
        (n_in.div_ceil(GROUP) * size_of::<FloatGroup>()) as u64
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Makes room for `rows` rows of `n_in` values.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn reserve(
        &mut self,
        purpose: MemoryUse,
        form: Form,
        rows: usize,
        n_in: usize,
    ) -> Result<(), EngineError> {
        let count = rows * n_in.div_ceil(GROUP);
        match form {
            Form::Floats => {
                let empty = FloatGroup {
                    values: [0.0; GROUP],
                    sum: 0.0,
                };
                memory::grown(purpose, &mut self.floats, count, empty)?;
            }
            Form::Bytes => {
                let empty = ByteGroup {
                    codes: [0; GROUP],
                    scale: 0.0,
                    sum: 0,
                };
                memory::grown(purpose, &mut self.bytes, count, empty)?;
            }
        }
        Ok(())
    }

    /// Reads `rows` rows of `n_in` values from `source`; room must have been reserved.
    pub(super) fn fill(&mut self, form: Form, rows: usize, n_in: usize, source: &impl Source) {
        self.fill_on(Level::best(), form, rows, n_in, source);
    }

    pub(super) fn fill_on(
        &mut self,
        level: Level,
        form: Form,
        rows: usize,
        n_in: usize,
        source: &impl Source,
    ) {
        let groups = n_in.div_ceil(GROUP);
        (self.form, self.rows) = (form, rows);
        let count = rows * groups;
        // Converting a value costs as much as moving several.
        let work = count * GROUP * 4;
        match form {
            Form::Floats => {
                math::for_chunks(&mut self.floats[..count], rows.max(1), work, |group, to| {
                    level.run(Copy { source, group, to });
                });
            }
            Form::Bytes => {
                math::for_chunks(&mut self.bytes[..count], rows.max(1), work, |group, to| {
                    level.run(Round { source, group, to });
                });
            }
        }
    }

    /// A group of the rows `first..first + count`.
    pub(super) fn group(&self, group: usize, first: usize, count: usize) -> Group<'_> {
        let at = group * self.rows + first;
        match self.form {
            Form::Bytes => Group::Bytes(&self.bytes[at..at + count]),
            Form::Floats => Group::Floats(&self.floats[at..at + count]),
        }
    }
}

struct Copy<'a, T> {
    source: &'a T,
    group: usize,
    to: &'a mut [FloatGroup],
}

impl<T: Source> Work for Copy<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (row, to) in self.to.iter_mut().enumerate() {
            self.source.read(row, self.group, &mut to.values);
            to.sum = math::sum(&to.values);
        }
    }
}

struct Round<'a, T> {
    source: &'a T,
    group: usize,
    to: &'a mut [ByteGroup],
}

impl<T: Source> Work for Round<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut values = [0.0; GROUP];
        for (row, to) in self.to.iter_mut().enumerate() {
            self.source.read(row, self.group, &mut values);
            *to = ByteGroup::new(&values);
        }
    }
}

impl ByteGroup {
    #[inline(always)]
    fn new(values: &[f32; GROUP]) -> Self {
        // Magnitudes compare like their bit patterns, with non-finite values at the top.
        let mut top = 0;
        for value in values {
            top = top.max(value.to_bits() & 0x7fff_ffff);
        }
        let top = f32::from_bits(top);
        // For anything smaller the inverse would be infinite; it is as good as zero.
        let inverse = if top > 1e-36 { 127.0 / top } else { 0.0 };
        // Adding this rounds to the nearest integer, ties to even, and leaves it in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let mut words = [0; GROUP];
        for (word, x) in words.iter_mut().zip(values) {
            *word = (x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
        }
        let mut sum = 0i32;
        for word in &words {
            sum = sum.wrapping_add(*word);
        }
        let mut codes = [0; GROUP];
        for (code, word) in codes.iter_mut().zip(words) {
            *code = word as i8;
        }
        // The codes are then arbitrary; the NaN scale marks the group.
        let (scale, sum) = match top.is_finite() {
            true => (top / 127.0, sum),
            false => (f32::NAN, 0),
        };
        Self { codes, scale, sum }
    }
}
