//! Products with weights of 32, 16, 8 and 4 bits ([`esolm_core::quantise`]).
//!
//! A matrix is stored in panels of 64 columns, and a panel in groups of 32 inputs, so that a product reads it once from
//! front to back. Four adjacent inputs of a column share a word, as byte dot product instructions expect.

mod tile;

use std::mem::MaybeUninit;

use esolm_core::quantise::GROUP;
use half::f16;

use super::inputs::{Form, Group, Inputs};
use super::level::{Level, Work};
use super::math;
use super::simd::Simd;
use crate::network::fold;

// Halves and bytes are read directly from words in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// Columns per panel.
pub(super) const PANEL: usize = 64;

/// Rows processed with a panel together: as many as fit the L1 cache along with their sums and a group of weights.
const ROWS: usize = 64;

/// Storage format of packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit groups.
    Q8,
    /// 4-bit groups.
    Q4,
}

impl Format {
    /// Words per group of a panel.
    const fn words(self) -> usize {
        match self {
            Self::F32 => GROUP * PANEL,
            Self::F16 => GROUP / 2 * PANEL,
            Self::Q8 => GROUP / 4 * PANEL,
            Self::Q4 => GROUP / 8 * PANEL,
        }
    }
}

/// A matrix `[n_in, n_out]`. The last group and the last panel are zero-padded.
pub(super) struct Packed {
    format: Format,
    /// Groups per column.
    groups: usize,
    /// `[panels, groups, words of a group]`, see [`tile`].
    codes: Vec<u32>,
    /// `[panels, groups, 64]` f16; empty for floats.
    scales: Vec<u16>,
    /// `[panels, groups, 64]` f16; only for 4 bits.
    offsets: Vec<u16>,
}

impl Packed {
    /// Rounds a folded matrix, whose weights must be in the format's range.
    #[cfg(test)]
    pub(super) fn new(linear: &fold::Linear, format: Format) -> Self {
        let mut packed = Self::with_room([linear.n_in, linear.n_out], format);
        packed.push(linear);
        packed
    }

    /// An empty matrix with capacity for the given numbers of inputs and outputs.
    pub(super) fn with_room([n_in, n_out]: [usize; 2], format: Format) -> Self {
        let groups = n_in.div_ceil(GROUP);
        let places = n_out.div_ceil(PANEL) * groups;
        let [scales, offsets] = Self::beside(format);
        Self {
            format,
            groups,
            codes: Vec::with_capacity(places * format.words()),
            scales: Vec::with_capacity(places * scales),
            offsets: Vec::with_capacity(places * offsets),
        }
    }

    /// Numbers of scales and offsets per group of a panel.
    fn beside(format: Format) -> [usize; 2] {
        match format {
            Format::F32 | Format::F16 => [0, 0],
            Format::Q8 => [PANEL, 0],
            Format::Q4 => [PANEL, PANEL],
        }
    }

    /// Rounds and appends columns. The existing columns must fill their panels.
    pub(super) fn push(&mut self, linear: &fold::Linear) {
        let (words, groups, n_out) = (self.format.words(), self.groups, linear.n_out);
        let first = self.codes.len() / words;
        let places = first + n_out.div_ceil(PANEL) * groups;
        let [scales, offsets] = Self::beside(self.format);
        self.codes.resize(places * words, 0);
        self.scales.resize(places * scales, 0);
        self.offsets.resize(places * offsets, 0);
        for place in first..places {
            let (panel, group) = ((place - first) / groups, (place - first) % groups);
            for column in 0..PANEL.min(n_out - panel * PANEL) {
                self.write(place, column, linear, panel * PANEL + column, group);
            }
        }
    }

    /// Writes a group of column `from` of `linear` to a column of the group at `place`, which must be zero.
    fn write(
        &mut self,
        place: usize,
        column: usize,
        linear: &fold::Linear,
        from: usize,
        group: usize,
    ) {
        let words = self.format.words();
        let block = &mut self.codes[place * words..(place + 1) * words];
        let at = place * PANEL + column;
        let inputs = group * GROUP..linear.n_in.min((group + 1) * GROUP);
        let floats = inputs.map(|input| linear.weight[input * linear.n_out + from]);
        match self.format {
            Format::F32 => {
                for (k, weight) in floats.enumerate() {
                    block[k * PANEL + column] = weight.to_bits();
                }
            }
            Format::F16 => {
                for (k, weight) in floats.enumerate() {
                    let (half, at) = (f16::from_f32(weight).to_bits(), k * PANEL + column);
                    block[at / 2] |= u32::from(half) << (16 * (at % 2));
                }
            }
            Format::Q8 => {
                let group = linear.q8(from, group);
                self.scales[at] = group.scale.to_bits();
                for (k, &code) in group.codes.iter().enumerate() {
                    block[k / 4 * PANEL + column] |= u32::from(code as u8) << (8 * (k % 4));
                }
            }
            Format::Q4 => {
                let group = linear.q4(from, group);
                self.scales[at] = group.scale.to_bits();
                self.offsets[at] = group.offset.to_bits();
                for (k, &code) in group.codes.iter().enumerate() {
                    let shift = 8 * (k % 4) + 4 * (k / 16);
                    block[k % 16 / 4 * PANEL + column] |= u32::from(code) << shift;
                }
            }
        }
    }

    /// Writes the weights of a column to `to`, as many as fit.
    pub(super) fn column(&self, column: usize, to: &mut [f32]) {
        let words = self.format.words();
        let (panel, column) = (column / PANEL, column % PANEL);
        for (group, to) in to.chunks_mut(GROUP).enumerate() {
            let place = panel * self.groups + group;
            let block = &self.codes[place * words..(place + 1) * words];
            let at = place * PANEL + column;
            let half = |values: &[u16]| f16::from_bits(values[at]);
            for (k, to) in to.iter_mut().enumerate() {
                let place = k * PANEL + column;
                *to = match self.format {
                    Format::F32 => f32::from_bits(block[place]),
                    Format::F16 => {
                        f16::from_bits((block[place / 2] >> (16 * (place % 2))) as u16).to_f32()
                    }
                    Format::Q8 => {
                        let word = block[k / 4 * PANEL + column];
                        let code = (word >> (8 * (k % 4))) as u8 as i8;
                        half(&self.scales).to_f32() * f32::from(code)
                    }
                    Format::Q4 => {
                        let word = block[k % 16 / 4 * PANEL + column];
                        let code = word >> (8 * (k % 4) + 4 * (k / 16)) & 15;
                        half(&self.scales).to_f32() * code as f32 + half(&self.offsets).to_f32()
                    }
                };
            }
        }
    }

    /// Format of its input rows.
    pub(super) fn form(&self, bytes: bool) -> Form {
        match self.format {
            Format::Q8 | Format::Q4 if bytes => Form::Bytes,
            _ => Form::Floats,
        }
    }

    /// Writes `x`, in its format, times the matrix, plus `bias` `[panels * 64]`, to rows of `out`.
    pub(super) fn product(&self, x: &Inputs, bias: &[f32], finish: Finish, out: Target) {
        self.product_on(Level::best(), x, bias, finish, out);
    }

    fn product_on(&self, level: Level, x: &Inputs, bias: &[f32], finish: Finish, out: Target) {
        let rows = out.first..out.first + x.rows();
        // A product reads each weight once and uses it for each row.
        let work = self.codes.len() * x.rows();
        let size = (out.rows * PANEL).max(1);
        math::for_chunks(out.values, size, work, |panel, out| {
            level.run(PanelWork {
                matrix: self,
                panel,
                x,
                bias: &bias[panel * PANEL..(panel + 1) * PANEL],
                finish,
                out: &mut out[rows.start * PANEL..rows.end * PANEL],
            });
        });
    }
}

/// Destination of a product: the rows from `first` on of `[panels, rows, 64]`.
pub(super) struct Target<'a> {
    /// `[panels, rows, 64]`.
    pub(super) values: &'a mut [f32],
    /// Total rows.
    pub(super) rows: usize,
    /// Row for the product's first row.
    pub(super) first: usize,
}

/// Epilogue of a product, applied to its values plus their bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// Stores them.
    Store,
    /// Adds them to the destination.
    Add,
    /// Stores their GELU.
    Gelu,
    /// Stores silu(gate) up, with the gates in a panel's first half and the ups in its second.
    Gate,
}

/// The product of all rows with one panel.
struct PanelWork<'a> {
    matrix: &'a Packed,
    panel: usize,
    x: &'a Inputs,
    bias: &'a [f32],
    finish: Finish,
    /// `[rows, 64]`.
    out: &'a mut [f32],
}

impl Work for PanelWork<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        unsafe {
            if S::LANES >= 16 {
                self.in_vectors::<S, 4>();
            } else {
                self.in_vectors::<S, 2>();
            }
        }
    }
}

impl PanelWork<'_> {
    /// # Safety
    /// See [`Simd`]. `C` vectors must divide a panel.
    #[inline(always)]
    unsafe fn in_vectors<S: Simd, const C: usize>(self) {
        use tile::{F16, F32, Q4, Q8, bytes, floats};
        let Self {
            matrix, panel, x, ..
        } = self;
        // Initialises only what the rows need: for a single row, filling all of it would take longer than the sums.
        let mut sums = [const { MaybeUninit::uninit() }; ROWS * PANEL];
        for (part, out) in self.out.chunks_mut(ROWS * PANEL).enumerate() {
            let (first, rows) = (part * ROWS, out.len() / PANEL);
            let sums = &mut sums[..out.len()];
            sums.fill(MaybeUninit::new(0.0));
            // Safety: they have all been written.
            let sums = unsafe { sums.assume_init_mut() };
            for group in 0..matrix.groups {
                let at = (panel, group);
                // Safety: guaranteed by the caller; each format's codes read what `write` wrote in it.
                unsafe {
                    match (x.group(group, first, rows), matrix.format) {
                        (Group::Floats(x), Format::F32) => {
                            floats::<S, F32, C>(F32, matrix, at, x, sums);
                        }
                        (Group::Floats(x), Format::F16) => {
                            floats::<S, F16, C>(F16, matrix, at, x, sums);
                        }
                        (Group::Floats(x), Format::Q8) => {
                            floats::<S, Q8, C>(Q8, matrix, at, x, sums);
                        }
                        (Group::Floats(x), Format::Q4) => {
                            floats::<S, Q4, C>(Q4, matrix, at, x, sums);
                        }
                        (Group::Bytes(x), Format::Q4) => {
                            bytes::<S, Q4, C>(Q4, matrix, at, x, sums);
                        }
                        // Float formats never get byte inputs.
                        (Group::Bytes(x), _) => bytes::<S, Q8, C>(Q8, matrix, at, x, sums),
                    }
                }
            }
            finish(self.finish, sums, self.bias, out);
        }
    }
}

/// Applies the epilogue to the values `[rows, 64]` of a panel.
#[inline(always)]
fn finish(finish: Finish, values: &[f32], bias: &[f32], out: &mut [f32]) {
    for (out, values) in out.chunks_exact_mut(PANEL).zip(values.chunks_exact(PANEL)) {
        let columns = out.iter_mut().zip(values).zip(bias);
        match finish {
            Finish::Store => {
                for ((out, value), bias) in columns {
                    *out = value + bias;
                }
            }
            Finish::Add => {
                for ((out, value), bias) in columns {
                    *out += value + bias;
                }
            }
            Finish::Gelu => math::gelu(out, values, bias),
            Finish::Gate => math::gate(out, values, bias),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::Source;
    use super::*;
    use crate::memory::MemoryUse;
    use esolm_core::quantise;
    use esolm_core::rng::{Purpose, Stream};

    /// The weights that a packed matrix represents, `[n_in, n_out]`, by the definition of the groups.
    fn twin(linear: &fold::Linear, format: Format) -> Vec<f32> {
        let fold::Linear { n_in, n_out, .. } = *linear;
        let mut out = vec![0.0; n_in * n_out];
        for column in 0..n_out {
            for first in (0..n_in).step_by(GROUP) {
                let inputs = first..n_in.min(first + GROUP);
                let group: Vec<f32> = inputs
                    .clone()
                    .map(|i| linear.weight[i * n_out + column])
                    .collect();
                let held = match format {
                    Format::F32 => group,
                    Format::F16 => group.iter().map(|&w| f16::from_f32(w).to_f32()).collect(),
                    Format::Q8 => quantise::Q8::new(&group).weights().to_vec(),
                    Format::Q4 => quantise::Q4::new(&group).weights().to_vec(),
                };
                for (input, weight) in inputs.zip(held) {
                    out[input * n_out + column] = weight;
                }
            }
        }
        out
    }

    fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut random = Stream::new(seed, 0, Purpose::Other(0));
        (0..n).map(|_| random.uniform() as f32 - 0.5).collect()
    }

    fn linear(n_in: usize, n_out: usize) -> fold::Linear {
        fold::Linear {
            name: String::new(),
            weight: random(1, n_in * n_out),
            bias: vec![0.0; n_out],
            n_in,
            n_out,
            groups: None,
        }
    }

    /// Rows `[rows, width]`.
    struct Plain<'a>(&'a [f32], usize);

    impl Source for Plain<'_> {
        #[inline(always)]
        fn read(&self, row: usize, group: usize, to: &mut [f32; GROUP]) {
            let row = &self.0[row * self.1..(row + 1) * self.1];
            to.fill(0.0);
            for (to, x) in to.iter_mut().zip(&row[group * GROUP..]) {
                *to = *x;
            }
        }
    }

    fn inputs(level: Level, form: Form, x: &[f32], n_in: usize) -> Inputs {
        let mut inputs = Inputs::default();
        let purpose = MemoryUse::Logits { rows: 0 };
        let rows = x.len() / n_in;
        inputs.reserve(purpose, form, rows, n_in).unwrap();
        inputs.fill_on(level, form, rows, n_in, &Plain(x, n_in));
        inputs
    }

    /// `x` `[rows, n_in]` times a matrix plus its bias, `[panels, rows, 64]`.
    fn product(
        packed: &Packed,
        level: Level,
        x: &[f32],
        n_in: usize,
        bytes: bool,
        bias: &[f32],
    ) -> Vec<f32> {
        let inputs = inputs(level, packed.form(bytes), x, n_in);
        let mut out = vec![f32::NAN; bias.len() * inputs.rows()];
        let target = Target {
            values: &mut out,
            rows: inputs.rows(),
            first: 0,
        };
        packed.product_on(level, &inputs, bias, Finish::Store, target);
        out
    }

    /// A value of a result `[panels, rows, 64]`.
    fn value(out: &[f32], rows: usize, row: usize, column: usize) -> f32 {
        out[(column / PANEL * rows + row) * PANEL + column % PANEL]
    }

    #[test]
    fn every_instruction_set_gives_the_twins_values() {
        assert!(
            Level::all().len() > 1,
            "this processor has nothing but the portable form to test"
        );
        for (n_in, n_out) in [(1, 1), (16, 48), (50, 97), (64, 64), (200, 130), (768, 70)] {
            let linear = linear(n_in, n_out);
            let bias = random(3, n_out.next_multiple_of(PANEL));
            for format in [Format::F32, Format::F16, Format::Q8, Format::Q4] {
                let packed = Packed::new(&linear, format);
                let weight = twin(&linear, format);
                for rows in [1, 2, 3, 4, 7, 13, 64] {
                    let x = random(rows as u64, rows * n_in);
                    let byte_rows = inputs(Level::Base, Form::Bytes, &x, n_in);
                    let byte = |row: usize, i: usize| match byte_rows.group(i / GROUP, row, 1) {
                        Group::Bytes(group) => {
                            f64::from(group[0].scale) * f64::from(group[0].codes[i % GROUP])
                        }
                        Group::Floats(_) => unreachable!("bytes were asked for"),
                    };
                    let mut of_bytes: Option<Vec<f32>> = None;
                    for level in Level::all() {
                        let name = format!("{level:?} {format:?} {rows} x {n_in} x {n_out}");
                        let floats = product(&packed, level, &x, n_in, false, &bias);
                        for (row, x) in x.chunks_exact(n_in).enumerate() {
                            for column in 0..n_out {
                                let terms = x.iter().enumerate().map(|(i, x)| {
                                    f64::from(*x) * f64::from(weight[i * n_out + column])
                                });
                                let error = f64::from(value(&floats, rows, row, column))
                                    - terms.sum::<f64>()
                                    - f64::from(bias[column]);
                                assert!(
                                    error.abs() < 2e-5,
                                    "{name}, row {row}, column {column}: {error}"
                                );
                            }
                        }
                        if packed.form(true) == Form::Floats {
                            continue;
                        }
                        // With bytes, all instruction sets give the same result.
                        let bytes = product(&packed, level, &x, n_in, true, &bias);
                        let first = of_bytes.get_or_insert_with(|| bytes.clone());
                        assert!(*first == bytes, "{name}");
                        for row in 0..rows {
                            for column in 0..n_out {
                                let terms = (0..n_in)
                                    .map(|i| byte(row, i) * f64::from(weight[i * n_out + column]));
                                let error = f64::from(value(&bytes, rows, row, column))
                                    - terms.sum::<f64>()
                                    - f64::from(bias[column]);
                                assert!(
                                    error.abs() < 2e-5,
                                    "{name}, row {row}, column {column}: {error}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_company() {
        let (n_in, n_out) = (200, 130usize);
        let bias = random(3, n_out.next_multiple_of(PANEL));
        let x = random(9, 70 * n_in);
        for format in [Format::F32, Format::F16, Format::Q8, Format::Q4] {
            let packed = Packed::new(&linear(n_in, n_out), format);
            for (level, bytes) in Level::all()
                .into_iter()
                .flat_map(|level| [(level, false), (level, true)])
            {
                let all = product(&packed, level, &x, n_in, bytes, &bias);
                for (from, to) in [(0, 1), (69, 70), (3, 5), (7, 10), (7, 40)] {
                    let some = product(
                        &packed,
                        level,
                        &x[from * n_in..to * n_in],
                        n_in,
                        bytes,
                        &bias,
                    );
                    for (row, column) in
                        (from..to).flat_map(|row| (0..n_out).map(move |c| (row, c)))
                    {
                        let (got, want) = (
                            value(&some, to - from, row - from, column),
                            value(&all, 70, row, column),
                        );
                        assert!(
                            got == want,
                            "{level:?} {format:?} bytes {bytes}, rows {from}..{to}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_are_the_nearest_and_carry_what_is_not_finite() {
        let x = random(4, 3 * 40);
        for level in Level::all() {
            let bytes = inputs(level, Form::Bytes, &x, 40);
            for (i, x) in x.iter().enumerate() {
                let (row, k) = (i / 40, i % 40);
                let Group::Bytes(group) = bytes.group(k / GROUP, row, 1) else {
                    unreachable!("bytes were asked for")
                };
                let held = group[0].scale * f32::from(group[0].codes[k % GROUP]);
                assert!((held - x).abs() <= group[0].scale * 0.501);
            }
        }
        let packed = Packed::new(&linear(40, 3), Format::Q8);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = x.clone();
            x[50] = bad;
            for level in Level::all() {
                let out = product(&packed, level, &x, 40, true, &[0.0; PANEL]);
                assert!(!value(&out, 3, 1, 0).is_finite() && value(&out, 3, 0, 0).is_finite());
            }
        }
    }
}
