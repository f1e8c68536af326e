//! Products with weights of 16, 8 and 4 bits ([`esolm_core::quantise`]).
//!
//! A matrix lies in panels of 64 columns, a panel in groups of 32 inputs, so that a product reads it once from front to back, and four
//! neighbouring inputs of a column share a word, as instructions for products of bytes take them.

mod simd;
mod tile;

use esolm_core::quantise::GROUP;
use half::f16;

use super::math;
use crate::network::fold;

// Halves and bytes are read from words as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// Columns of a panel.
pub(super) const PANEL: usize = 64;

/// How packed weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 16-bit floats.
    F16,
    /// 8-bit groups.
    Q8,
    /// 4-bit groups.
    Q4,
}

impl Format {
    /// Words of a group of a panel.
    const fn words(self) -> usize {
        match self {
            Self::F16 => GROUP / 2 * PANEL,
            Self::Q8 => GROUP / 4 * PANEL,
            Self::Q4 => GROUP / 8 * PANEL,
        }
    }
}

/// A matrix `[n_in, n_out]`. The last group and the last panel are filled with zeros.
pub struct Packed {
    format: Format,
    n_out: usize,
    /// Groups of a column.
    groups: usize,
    /// `[panels, groups, words of a group]`, see [`tile`].
    codes: Vec<u32>,
    /// `[panels, groups, 64]` f16; none for f16 weights.
    scales: Vec<u16>,
    /// `[panels, groups, 64]` f16, for 4 bits.
    offsets: Vec<u16>,
}

impl Packed {
    /// Rounds a folded matrix, whose weights are in the format's range.
    pub fn new(linear: &fold::Linear, format: Format) -> Self {
        let fold::Linear { n_in, n_out, .. } = *linear;
        let panels = n_out.div_ceil(PANEL);
        let groups = n_in.div_ceil(GROUP);
        let words = format.words();
        let each = |wanted: bool| vec![0; if wanted { panels * groups * PANEL } else { 0 }];
        let mut packed = Self {
            format,
            n_out,
            groups,
            codes: vec![0; panels * groups * words],
            scales: each(format != Format::F16),
            offsets: each(format == Format::Q4),
        };
        for place in 0..panels * groups {
            let (panel, group) = (place / groups, place % groups);
            for column in 0..PANEL.min(n_out - panel * PANEL) {
                packed.write(place, column, linear, panel * PANEL + column, group);
            }
        }
        packed
    }

    /// Writes a group of column `from` of `linear` to a column of the group at `place`, which holds zeros.
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
        match self.format {
            Format::F16 => {
                let inputs = group * GROUP..linear.n_in.min((group + 1) * GROUP);
                for (k, input) in inputs.enumerate() {
                    let weight = linear.weight[input * linear.n_out + from];
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

    /// `x` `[rows, n_in]` times the matrix as `[panels, rows, 64]`, its activations as they are or rounded to bytes.
    pub fn product(&self, x: &[f32], n_in: usize, bytes: bool) -> Vec<f32> {
        self.product_on(Level::best(), x, n_in, bytes)
    }

    fn product_on(&self, level: Level, x: &[f32], n_in: usize, bytes: bool) -> Vec<f32> {
        let rows = x.len() / n_in;
        let x = if bytes && self.format != Format::F16 {
            Activations::Bytes(Bytes::new(x, n_in))
        } else {
            Activations::Floats(Floats::new(x, n_in, self.format == Format::Q4))
        };
        let mut out = vec![0.0; self.n_out.div_ceil(PANEL) * rows * PANEL];
        // A product touches each weight once and computes with it for each row.
        let work = self.codes.len() * rows;
        math::for_chunks(&mut out, rows * PANEL, work, |panel, out| {
            level.panel(self, panel, &x, out);
        });
        out
    }
}

/// Rows as they are, filled up to whole groups.
pub struct Floats {
    /// `[rows, groups, 32]`.
    values: Vec<f32>,
    /// Sums of the groups `[rows, groups]`, for weights with offsets.
    sums: Vec<f32>,
}

impl Floats {
    fn new(x: &[f32], n_in: usize, with_sums: bool) -> Self {
        let width = n_in.next_multiple_of(GROUP);
        let mut values = vec![0.0; x.len() / n_in * width];
        for (to, from) in values.chunks_exact_mut(width).zip(x.chunks_exact(n_in)) {
            to[..n_in].copy_from_slice(from);
        }
        let sums = match with_sums {
            true => (values.chunks_exact(GROUP))
                .map(|group| group.iter().sum())
                .collect(),
            false => Vec::new(),
        };
        Self { values, sums }
    }
}

/// Rows rounded to bytes in groups, symmetric: `x` is about `scale * code`.
pub struct Bytes {
    /// `[rows, groups, 32]`.
    codes: Vec<i8>,
    /// `[rows, groups]`.
    scales: Vec<f32>,
    /// Sums of the codes `[rows, groups]`.
    sums: Vec<i32>,
}

impl Bytes {
    fn new(x: &[f32], n_in: usize) -> Self {
        let groups = n_in.div_ceil(GROUP);
        let count = x.len() / n_in * groups;
        let mut bytes = Self {
            codes: vec![0; count * GROUP],
            scales: vec![0.0; count],
            sums: vec![0; count],
        };
        let parts = x.chunks_exact(n_in).flat_map(|row| row.chunks(GROUP));
        for (at, part) in parts.enumerate() {
            let top = part.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
            // The sum brings in what is not a number, which a maximum passes over.
            bytes.scales[at] = top / 127.0 + 0.0 * part.iter().sum::<f32>();
            let codes = &mut bytes.codes[at * GROUP..][..part.len()];
            for (code, x) in codes.iter_mut().zip(part) {
                // Adding it rounds to an integer, to even halfway, which then stands in the lowest bits.
                const ROUND: f32 = 12_582_912.0;
                *code = (x * inverse + ROUND).to_bits() as i8;
            }
            bytes.sums[at] = codes.iter().map(|&code| i32::from(code)).sum();
        }
        bytes
    }
}

enum Activations {
    Floats(Floats),
    Bytes(Bytes),
}

/// The instruction sets that products are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// What every processor of the target has: plain Rust, or the vectors of WebAssembly.
    Base,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// All that this processor has, the fastest last.
    fn all() -> Vec<Self> {
        #[allow(unused_mut, reason = "some targets have no more")]
        let mut all = vec![Self::Base];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni");
            all.extend(avx2.then_some(Self::Avx2));
            all.extend((avx2 && avx512).then_some(Self::Avx512));
        }
        all
    }

    fn best() -> Self {
        static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| *Self::all().last().unwrap_or(&Self::Base))
    }

    /// `out` `[rows, 64]` = `x` times a panel.
    fn panel(self, matrix: &Packed, panel: usize, x: &Activations, out: &mut [f32]) {
        // Safety: `all` holds only what the processor has.
        match self {
            Self::Base => unsafe { base(matrix, panel, x, out) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(matrix, panel, x, out) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(matrix, panel, x, out) },
        }
    }
}

/// Compiles a product with a panel for an instruction set, in tiles of so many vectors and rows for floats and for bytes.
macro_rules! compile {
    ($(#[$attribute:meta])* $name:ident, $set:ty, $c:literal x $r:literal, $byte_c:literal x $byte_r:literal) => {
        $(#[$attribute])*
        unsafe fn $name(matrix: &Packed, panel: usize, x: &Activations, out: &mut [f32]) {
            use tile::{F16, Q4, Q8, bytes, floats};
            unsafe {
                match (x, matrix.format) {
                    (Activations::Floats(x), Format::F16) => floats::<$set, F16, $c, $r>(F16, matrix, panel, x, out),
                    (Activations::Floats(x), Format::Q8) => floats::<$set, Q8, $c, $r>(Q8, matrix, panel, x, out),
                    (Activations::Floats(x), Format::Q4) => floats::<$set, Q4, $c, $r>(Q4, matrix, panel, x, out),
                    (Activations::Bytes(x), Format::Q4) => bytes::<$set, Q4, $byte_c, $byte_r>(Q4, matrix, panel, x, out),
                    // No bytes are made for f16 weights.
                    (Activations::Bytes(x), _) => bytes::<$set, Q8, $byte_c, $byte_r>(Q8, matrix, panel, x, out),
                }
            }
        }
    };
}

#[cfg(not(target_family = "wasm"))]
compile!(base, simd::Base, 2 x 2, 2 x 2);
#[cfg(target_family = "wasm")]
compile!(base, simd::Base, 2 x 4, 2 x 4);
#[cfg(target_arch = "x86_64")]
compile!(#[target_feature(enable = "avx2,fma,f16c")] avx2, simd::Avx2, 2 x 4, 2 x 4);
#[cfg(target_arch = "x86_64")]
compile!(#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")] avx512, simd::Avx512, 4 x 6, 4 x 6);

#[cfg(test)]
mod tests {
    use super::*;
    use esolm_core::quantise;
    use esolm_core::rng::{Purpose, Stream};

    /// The weights that a packed matrix stands for, `[n_in, n_out]`, by the definition of the groups.
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
            for format in [Format::F16, Format::Q8, Format::Q4] {
                let packed = Packed::new(&linear, format);
                let weight = twin(&linear, format);
                for rows in [1, 2, 3, 4, 7, 13, 64] {
                    let x = random(rows as u64, rows * n_in);
                    let byte_rows = Bytes::new(&x, n_in);
                    let mut of_bytes: Option<Vec<f32>> = None;
                    for level in Level::all() {
                        let name = format!("{level:?} {format:?} {rows} x {n_in} x {n_out}");
                        let floats = packed.product_on(level, &x, n_in, false);
                        for (row, x) in x.chunks_exact(n_in).enumerate() {
                            for column in 0..n_out {
                                let terms = x.iter().enumerate().map(|(i, x)| {
                                    f64::from(*x) * f64::from(weight[i * n_out + column])
                                });
                                let error = f64::from(value(&floats, rows, row, column))
                                    - terms.sum::<f64>();
                                assert!(
                                    error.abs() < 2e-5,
                                    "{name}, row {row}, column {column}: {error}"
                                );
                            }
                        }
                        if format == Format::F16 {
                            continue;
                        }
                        // All instruction sets give the same for bytes.
                        let bytes = packed.product_on(level, &x, n_in, true);
                        let first = of_bytes.get_or_insert_with(|| bytes.clone());
                        assert!(*first == bytes, "{name}");
                        let groups = n_in.div_ceil(GROUP);
                        for row in 0..rows {
                            for column in 0..n_out {
                                let terms = (0..n_in).map(|i| {
                                    let at = row * groups + i / GROUP;
                                    let code = byte_rows.codes[at * GROUP + i % GROUP];
                                    f64::from(byte_rows.scales[at])
                                        * f64::from(code)
                                        * f64::from(weight[i * n_out + column])
                                });
                                let error = f64::from(value(&bytes, rows, row, column))
                                    - terms.sum::<f64>();
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
        let (n_in, n_out) = (200, 130);
        let x = random(9, 70 * n_in);
        for format in [Format::F16, Format::Q8, Format::Q4] {
            let packed = Packed::new(&linear(n_in, n_out), format);
            for (level, bytes) in Level::all()
                .into_iter()
                .flat_map(|level| [(level, false), (level, true)])
            {
                let all = packed.product_on(level, &x, n_in, bytes);
                for (from, to) in [(0, 1), (69, 70), (3, 5), (7, 10), (7, 40)] {
                    let some = packed.product_on(level, &x[from * n_in..to * n_in], n_in, bytes);
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
        let bytes = Bytes::new(&x, 40);
        for (i, x) in x.iter().enumerate() {
            let (row, k) = (i / 40, i % 40);
            let at = row * 2 + k / GROUP;
            let held = bytes.scales[at] * f32::from(bytes.codes[at * GROUP + k % GROUP]);
            assert!((held - x).abs() <= bytes.scales[at] * 0.501);
        }
        let packed = Packed::new(&linear(40, 3), Format::Q8);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = x.clone();
            x[50] = bad;
            for level in Level::all() {
                let out = packed.product_on(level, &x, 40, true);
                assert!(!value(&out, 3, 1, 0).is_finite() && value(&out, 3, 0, 0).is_finite());
            }
        }
    }
}
