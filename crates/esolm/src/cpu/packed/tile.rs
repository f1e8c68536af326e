//! The inner loops of a product with one panel, for any instruction set ([`Simd`]) and any weight format ([`Codes`]).
//!
//! A group of a panel (32 inputs by 64 columns: 2 KiB as bytes) stays in the L1 cache while all rows are processed with
//! it, in register tiles of a few rows and columns. Each value is a sum of 32 products times the group's scale,
//! accumulated over the groups in ascending order for any number of rows, so a row's result does not depend on the
//! other rows.
//!
//! These are plain loops instead of iterators and closures: those are separate functions, which lack the caller's
//! instruction set if they are not inlined.
#![allow(clippy::needless_range_loop)]

use esolm_core::quantise::GROUP;

use super::super::inputs::{ByteGroup, FloatGroup};
use super::super::simd::Simd;
use super::{PANEL, Packed};

/// A group of a panel whose weights are decoded to floats, in units of their scale.
pub trait Codes<S: Simd>: Copy {
    /// Whether they are stored as floats.
    const PLAIN: bool = false;
    /// Inputs 4 v to 4 v + 3 of the columns from `column` on.
    ///
    /// # Safety
    /// See [`Simd`].
    unsafe fn floats<const C: usize>(self, v: usize, column: usize) -> [[S::F; C]; 4];
}

/// A group of a panel whose weights are also available as bytes.
pub trait ByteCodes<S: Simd>: Codes<S> {
    /// Whether they are signed; those have no offsets.
    const SIGNED: bool;
    /// Four inputs per lane, as taken by [`Simd::dot`] or [`Simd::dot_unsigned`].
    ///
    /// # Safety
    /// See [`Simd`].
    unsafe fn bytes<const C: usize>(self, v: usize, column: usize) -> [S::I; C];
}

/// `[32, 64]` f32.
#[derive(Clone, Copy)]
pub struct F32(pub *const u32);
/// `[32, 64]` f16.
#[derive(Clone, Copy)]
pub struct F16(pub *const u32);
/// `[8, 64]` words of four signed bytes.
#[derive(Clone, Copy)]
pub struct Q8(pub *const u32);
/// `[4, 64]` words: inputs 4 v to 4 v + 3 in the low halves of the bytes, those 16 further on in the high halves.
#[derive(Clone, Copy)]
pub struct Q4(pub *const u32);

impl<S: Simd> Codes<S> for F32 {
    const PLAIN: bool = true;
    #[inline(always)]
    unsafe fn floats<const C: usize>(self, v: usize, column: usize) -> [[S::F; C]; 4] {
        unsafe {
            let floats = self.0.cast::<f32>();
            let mut all = [[S::splat(0.0); C]; 4];
            for j in 0..4 {
                for c in 0..C {
                    all[j][c] = S::load(floats.add((4 * v + j) * PANEL + column + c * S::LANES));
                }
            }
            all
        }
    }
}

impl<S: Simd> Codes<S> for F16 {
    #[inline(always)]
    unsafe fn floats<const C: usize>(self, v: usize, column: usize) -> [[S::F; C]; 4] {
        unsafe {
            let halves = self.0.cast::<u16>();
            let mut all = [[S::splat(0.0); C]; 4];
            for j in 0..4 {
                for c in 0..C {
                    all[j][c] =
                        S::load_f16(halves.add((4 * v + j) * PANEL + column + c * S::LANES));
                }
            }
            all
        }
    }
}

/// Converts the bytes of words to floats.
#[inline(always)]
unsafe fn spread<S: Simd, const C: usize>(words: [S::I; C]) -> [[S::F; C]; 4] {
    unsafe {
        let mut all = [[S::splat(0.0); C]; 4];
        for c in 0..C {
            all[0][c] = S::signed_byte::<0>(words[c]);
            all[1][c] = S::signed_byte::<1>(words[c]);
            all[2][c] = S::signed_byte::<2>(words[c]);
            all[3][c] = S::signed_byte::<3>(words[c]);
        }
        all
    }
}

impl<S: Simd> Codes<S> for Q8 {
    #[inline(always)]
    unsafe fn floats<const C: usize>(self, v: usize, column: usize) -> [[S::F; C]; 4] {
        unsafe {
            let mut words = [S::splat_word(0); C];
            for c in 0..C {
                words[c] = S::load_words(self.0.add(v * PANEL + column + c * S::LANES));
            }
            spread::<S, C>(words)
        }
    }
}

impl<S: Simd> ByteCodes<S> for Q8 {
    const SIGNED: bool = true;
    #[inline(always)]
    unsafe fn bytes<const C: usize>(self, v: usize, column: usize) -> [S::I; C] {
        unsafe {
            let mut words = [S::splat_word(0); C];
            for c in 0..C {
                let word = S::load_words(self.0.add(v * PANEL + column + c * S::LANES));
                words[c] = S::prepare(word);
            }
            words
        }
    }
}

impl<S: Simd> Codes<S> for Q4 {
    #[inline(always)]
    unsafe fn floats<const C: usize>(self, v: usize, column: usize) -> [[S::F; C]; 4] {
        unsafe { spread::<S, C>(ByteCodes::<S>::bytes(self, v, column)) }
    }
}

impl<S: Simd> ByteCodes<S> for Q4 {
    const SIGNED: bool = false;
    #[inline(always)]
    unsafe fn bytes<const C: usize>(self, v: usize, column: usize) -> [S::I; C] {
        unsafe {
            let mut words = [S::splat_word(0); C];
            for c in 0..C {
                let both = S::load_words(self.0.add(v % 4 * PANEL + column + c * S::LANES));
                words[c] = if v < 4 {
                    S::low_nibbles(both)
                } else {
                    S::high_nibbles(both)
                };
            }
            words
        }
    }
}

/// A group's scales and offsets.
#[derive(Clone, Copy)]
struct Scales {
    /// `[64]` f16, or null if there are none.
    scales: *const u16,
    /// `[64]` f16, or null if there are none.
    offsets: *const u16,
}

impl Scales {
    #[inline(always)]
    fn of(matrix: &Packed, panel: usize, group: usize) -> Self {
        let at = (panel * matrix.groups + group) * PANEL;
        let part = |values: &[u16]| match values.is_empty() {
            true => std::ptr::null(),
            false => values[at..at + PANEL].as_ptr(),
        };
        Self {
            scales: part(&matrix.scales),
            offsets: part(&matrix.offsets),
        }
    }
}

/// Words of a group of a panel.
#[inline(always)]
fn block(matrix: &Packed, panel: usize, group: usize) -> *const u32 {
    let words = matrix.format.words();
    let at = (panel * matrix.groups + group) * words;
    matrix.codes[at..at + words].as_ptr()
}

/// Prefetches the weights after those of a group, if so many byte rows are processed that hardware prefetching falls
/// behind. On two Zen 4 cores this is 4 % faster with 32 rows and 12 % faster with 64, but 10 % slower with 16, and no
/// faster for floats.
#[inline(always)]
fn prefetch<S: Simd>(matrix: &Packed, group: *const u32, scales: Scales, rows: usize) {
    /// Bytes of a cache line.
    const LINE: usize = 64;
    if rows < 24 {
        return;
    }
    let bytes = matrix.format.words() * size_of::<u32>();
    let next = group.cast::<u8>().wrapping_add(bytes);
    for line in (0..bytes).step_by(LINE) {
        S::prefetch(next.wrapping_add(line));
    }
    for part in [scales.scales, scales.offsets] {
        if !part.is_null() {
            let next = part.wrapping_add(PANEL).cast::<u8>();
            S::prefetch(next);
            S::prefetch(next.wrapping_add(LINE));
        }
    }
}

/// Runs `$tile::<S, $k, C, n>` over all rows of `$x`, as many at a time as there are registers for their sums.
macro_rules! in_tiles {
    ($tile:ident, $k:ty, $codes:expr, $scales:expr, $x:expr, $out:expr) => {{
        let (mut x, mut out): (&[_], &mut [f32]) = ($x, &mut *$out);
        let most = if S::LANES >= 16 { 6 } else { 4 };
        while x.len() >= most {
            let (rows, rest) = out.split_at_mut(most * PANEL);
            match most {
                6 => $tile::<S, $k, C, 6>($codes, $scales, x, rows),
                _ => $tile::<S, $k, C, 4>($codes, $scales, x, rows),
            }
            (x, out) = (&x[most..], rest);
        }
        match x.len() {
            0 => {}
            1 => $tile::<S, $k, C, 1>($codes, $scales, x, out),
            2 => $tile::<S, $k, C, 2>($codes, $scales, x, out),
            3 => $tile::<S, $k, C, 3>($codes, $scales, x, out),
            4 => $tile::<S, $k, C, 4>($codes, $scales, x, out),
            _ => $tile::<S, $k, C, 5>($codes, $scales, x, out),
        }
    }};
}

/// Runs `$body` for each `$c` below `$count`, at most 4. Unrolled by hand, since compilers do not unroll a loop with so
/// large a body, and then what it indexes goes through memory.
macro_rules! for_vectors {
    ($count:ident, |$c:ident| $body:block) => {{
        const {
            assert!($count <= 4);
        }
        for_vectors!($count, $c, $body, 0 1 2 3);
    }};
    ($count:ident, $c:ident, $body:block, $($index:literal)*) => {
        $(if $index < $count {
            let $c = $index;
            $body
        })*
    };
}

/// Adds the product of a group of a panel and a group of the rows `x` to `out` `[rows, 64]`, in tiles of `C` vectors.
///
/// # Safety
/// See [`Simd`]. `matrix` must be in the format that `codes` reads, and `C` vectors must divide a panel.
#[inline(always)]
pub unsafe fn floats<S: Simd, K: Codes<S>, const C: usize>(
    codes: fn(*const u32) -> K,
    matrix: &Packed,
    (panel, group): (usize, usize),
    x: &[FloatGroup],
    out: &mut [f32],
) {
    unsafe {
        let scales = Scales::of(matrix, panel, group);
        let codes = codes(block(matrix, panel, group));
        // Decoding costs as much as a few rows; for fewer rows it is done on the fly.
        if K::PLAIN || x.len() < 4 {
            in_tiles!(float_tile, K, codes, scales, x, out);
            return;
        }
        let mut decoded = [0.0f32; GROUP * PANEL];
        for v in 0..GROUP / 4 {
            for column in (0..PANEL).step_by(S::LANES) {
                let four = codes.floats::<1>(v, column);
                for j in 0..4 {
                    let to = &mut decoded[(4 * v + j) * PANEL + column..][..S::LANES];
                    S::store(to.as_mut_ptr(), four[j][0]);
                }
            }
        }
        let codes = F32(decoded.as_ptr().cast());
        in_tiles!(float_tile, F32, codes, scales, x, out);
    }
}

#[inline(always)]
unsafe fn float_tile<S: Simd, K: Codes<S>, const C: usize, const R: usize>(
    codes: K,
    place: Scales,
    x: &[FloatGroup],
    out: &mut [f32],
) {
    unsafe {
        assert!(x.len() >= R && out.len() >= R * PANEL && PANEL.is_multiple_of(C * S::LANES));
        for column in (0..PANEL).step_by(C * S::LANES) {
            let mut sums = [[S::splat(0.0); C]; R];
            for v in 0..GROUP / 4 {
                let weights = codes.floats::<C>(v, column);
                for j in 0..4 {
                    for r in 0..R {
                        let x = S::splat(x[r].values[4 * v + j]);
                        for c in 0..C {
                            sums[r][c] = S::mul_add(weights[j][c], x, sums[r][c]);
                        }
                    }
                }
            }
            for_vectors!(C, |c| {
                let first = column + c * S::LANES;
                for r in 0..R {
                    let to = out[r * PANEL + first..][..S::LANES].as_mut_ptr();
                    let mut sum = S::load(to);
                    if place.scales.is_null() {
                        sum = S::add(sum, sums[r][c]);
                    } else {
                        sum = S::mul_add(sums[r][c], S::load_f16(place.scales.add(first)), sum);
                    }
                    if !place.offsets.is_null() {
                        let total = S::splat(x[r].sum);
                        sum = S::mul_add(S::load_f16(place.offsets.add(first)), total, sum);
                    }
                    S::store(to, sum);
                }
            });
        }
    }
}

/// Like [`floats`] for byte rows. Sums within a group are exact, and no multiplication is fused with an addition, so
/// all instruction sets give the same result.
///
/// # Safety
/// See [`floats`].
#[inline(always)]
pub unsafe fn bytes<S: Simd, K: ByteCodes<S>, const C: usize>(
    codes: fn(*const u32) -> K,
    matrix: &Packed,
    (panel, group): (usize, usize),
    x: &[ByteGroup],
    out: &mut [f32],
) {
    unsafe {
        let scales = Scales::of(matrix, panel, group);
        let block = block(matrix, panel, group);
        prefetch::<S>(matrix, block, scales, x.len());
        let codes = codes(block);
        in_tiles!(byte_tile, K, codes, scales, x, out);
    }
}

#[inline(always)]
unsafe fn byte_tile<S: Simd, K: ByteCodes<S>, const C: usize, const R: usize>(
    codes: K,
    place: Scales,
    x: &[ByteGroup],
    out: &mut [f32],
) {
    unsafe {
        assert!(x.len() >= R && out.len() >= R * PANEL && PANEL.is_multiple_of(C * S::LANES));
        for column in (0..PANEL).step_by(C * S::LANES) {
            let mut sums = [[S::splat_word(0); C]; R];
            if K::SIGNED && S::OFFSET != 0 {
                for r in 0..R {
                    sums[r] = [S::splat_word(-S::OFFSET * x[r].sum); C];
                }
            }
            for v in 0..GROUP / 4 {
                let weights = codes.bytes::<C>(v, column);
                for r in 0..R {
                    let x = &x[r].codes[4 * v..4 * v + 4];
                    let x = S::splat_word(x.as_ptr().cast::<i32>().read_unaligned());
                    for c in 0..C {
                        sums[r][c] = if K::SIGNED {
                            S::dot(sums[r][c], weights[c], x)
                        } else {
                            S::dot_unsigned(sums[r][c], weights[c], x)
                        };
                    }
                }
            }
            for_vectors!(C, |c| {
                let first = column + c * S::LANES;
                let scale = S::load_f16(place.scales.add(first));
                for r in 0..R {
                    let to = out[r * PANEL + first..][..S::LANES].as_mut_ptr();
                    let factor = S::mul(scale, S::splat(x[r].scale));
                    let mut sum = S::add(S::load(to), S::mul(S::to_float(sums[r][c]), factor));
                    if !K::SIGNED {
                        let total = S::splat(x[r].scale * x[r].sum as f32);
                        let offset = S::load_f16(place.offsets.add(first));
                        sum = S::add(sum, S::mul(offset, total));
                    }
                    S::store(to, sum);
                }
            });
        }
    }
}
