//! The few vector operations needed by products with packed weights: one trait, with one implementation per instruction
//! set.
//!
//! SIMD abstraction crates lack byte dot products, which are most of the work here, so everything uses `core::arch`
//! directly: one dispatch instead of two.

/// Vector operations of an instruction set.
///
/// # Safety
/// The processor must support the instruction set, and pointers must be valid for a whole vector, at any alignment.
pub trait Simd {
    /// Number of f32 or i32 lanes.
    const LANES: usize;
    /// What [`Simd::dot`] adds per unit of the sum of its activations.
    const OFFSET: i32;

    /// A vector of f32.
    type F: Copy;
    /// A vector of i32, or of four bytes per lane.
    type I: Copy;

    /// Prefetches a cache line. Any address is allowed.
    #[inline(always)]
    fn prefetch(_line: *const u8) {}

    unsafe fn load(from: *const f32) -> Self::F;
    /// f16 values, which must be finite.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn store(to: *mut f32, values: Self::F);
    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a b + c, rounded once if the instruction set supports that.
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    unsafe fn load_words(from: *const u32) -> Self::I;
    unsafe fn splat_word(value: i32) -> Self::I;
    /// The low four bits of each byte.
    unsafe fn low_nibbles(words: Self::I) -> Self::I;
    /// The high four bits of each byte.
    unsafe fn high_nibbles(words: Self::I) -> Self::I;
    unsafe fn to_float(words: Self::I) -> Self::F;
    /// Byte `N` of each lane, sign-extended.
    unsafe fn signed_byte<const N: u32>(words: Self::I) -> Self::F;

    /// Converts signed bytes above -128 to the representation that [`Simd::dot`] takes.
    unsafe fn prepare(weights: Self::I) -> Self::I;
    /// sum + the dot product of each lane's four bytes, for prepared `weights`; plus [`Simd::OFFSET`] times the sum of
    /// `x`.
    unsafe fn dot(sum: Self::I, weights: Self::I, x: Self::I) -> Self::I;
    /// Like [`Simd::dot`] for unprepared weights in 0..=127, without the offset.
    unsafe fn dot_unsigned(sum: Self::I, weights: Self::I, x: Self::I) -> Self::I;
}

/// 2^112 corrects the exponent of an f16 whose bits have been moved to an f32's positions.
const EXPONENT: f32 = f32::from_bits((127 + 112) << 23);

#[cfg(not(target_family = "wasm"))]
mod portable {
    use super::{EXPONENT, Simd};

    /// Plain loops over four lanes, which the compiler turns into baseline vector code.
    pub struct Portable;

    /// Applies `f` lane by lane.
    #[inline(always)]
    fn lanes<A: Copy, B: Copy, C>(a: [A; 4], b: [B; 4], f: impl Fn(A, B) -> C) -> [C; 4] {
        [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
    }

    impl Simd for Portable {
        const LANES: usize = 4;
        const OFFSET: i32 = 0;
        type F = [f32; 4];
        type I = [i32; 4];

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::F {
            unsafe { from.cast::<Self::F>().read_unaligned() }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> Self::F {
            let halves = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
            // Moves exponent and mantissa into place; the factor corrects the exponent's bias, for subnormal values
            // too.
            halves.map(|half| {
                let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * EXPONENT;
                f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
            })
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, values: Self::F) {
            unsafe { to.cast::<Self::F>().write_unaligned(values) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::F {
            [value; 4]
        }
        #[inline(always)]
        unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
            lanes(a, b, |a, b| a + b)
        }
        #[inline(always)]
        unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
            lanes(a, b, |a, b| a * b)
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            lanes(lanes(a, b, |a, b| a * b), c, |a, b| a + b)
        }
        #[inline(always)]
        unsafe fn load_words(from: *const u32) -> Self::I {
            unsafe { from.cast::<Self::I>().read_unaligned() }
        }
        #[inline(always)]
        unsafe fn splat_word(value: i32) -> Self::I {
            [value; 4]
        }
        #[inline(always)]
        unsafe fn low_nibbles(words: Self::I) -> Self::I {
            words.map(|word| word & 0x0f0f_0f0f)
        }
        #[inline(always)]
        unsafe fn high_nibbles(words: Self::I) -> Self::I {
            words.map(|word| word >> 4 & 0x0f0f_0f0f)
        }
        #[inline(always)]
        unsafe fn to_float(words: Self::I) -> Self::F {
            words.map(|word| word as f32)
        }
        #[inline(always)]
        unsafe fn signed_byte<const N: u32>(words: Self::I) -> Self::F {
            words.map(|word| (word << (24 - 8 * N) >> 24) as f32)
        }
        #[inline(always)]
        unsafe fn prepare(weights: Self::I) -> Self::I {
            weights
        }
        #[inline(always)]
        unsafe fn dot(sum: Self::I, weights: Self::I, x: Self::I) -> Self::I {
            let byte = |word: i32, n: u32| word << (24 - 8 * n) >> 24;
            let products = lanes(weights, x, |w, x| {
                (0..4).map(|n| byte(w, n) * byte(x, n)).sum::<i32>()
            });
            lanes(sum, products, |a, b| a + b)
        }
        #[inline(always)]
        unsafe fn dot_unsigned(sum: Self::I, weights: Self::I, x: Self::I) -> Self::I {
            unsafe { Self::dot(sum, weights, x) }
        }
    }
}

/// The target's baseline.
#[cfg(not(target_family = "wasm"))]
pub use portable::Portable as Base;

/// The operations that look the same at both x86 vector widths.
#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    ($lanes:literal, $offset:literal, $f:ty, $i:ty, $load:ident, $load_half:ident, $half:ident, $store:ident, $splat:ident, $add:ident,
     $mul:ident, $fma:ident, $load_words:ident, $splat_word:ident, $and:ident, $right:ident, $float:ident, $left:ident, $signed:ident) => {
        const LANES: usize = $lanes;
        const OFFSET: i32 = $offset;
        type F = $f;
        type I = $i;

        #[inline(always)]
        fn prefetch(line: *const u8) {
            // Safety: a prefetch reads nothing, and every x86-64 processor supports it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> $f {
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> $f {
            unsafe { $half($load_half(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, values: $f) {
            unsafe { $store(to, values) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> $f {
            unsafe { $splat(value) }
        }
        #[inline(always)]
        unsafe fn add(a: $f, b: $f) -> $f {
            unsafe { $add(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: $f, b: $f) -> $f {
            unsafe { $mul(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: $f, b: $f, c: $f) -> $f {
            unsafe { $fma(a, b, c) }
        }
        #[inline(always)]
        unsafe fn load_words(from: *const u32) -> $i {
            unsafe { $load_words(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_word(value: i32) -> $i {
            unsafe { $splat_word(value) }
        }
        #[inline(always)]
        unsafe fn low_nibbles(words: $i) -> $i {
            unsafe { $and(words, $splat_word(0x0f0f_0f0f)) }
        }
        #[inline(always)]
        unsafe fn high_nibbles(words: $i) -> $i {
            unsafe { Self::low_nibbles($right(words, _mm_cvtsi32_si128(4))) }
        }
        #[inline(always)]
        unsafe fn to_float(words: $i) -> $f {
            unsafe { $float(words) }
        }
        #[inline(always)]
        unsafe fn signed_byte<const N: u32>(words: $i) -> $f {
            unsafe {
                let high = $left(words, _mm_cvtsi32_si128(24 - 8 * N as i32));
                $float($signed(high, _mm_cvtsi32_si128(24)))
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// 512 bits with byte dot products: AVX-512 F, BW and VNNI.
    pub struct Avx512;

    impl Simd for Avx512 {
        x86!(
            16,
            128,
            __m512,
            __m512i,
            _mm512_loadu_ps,
            _mm256_loadu_si256,
            _mm512_cvtph_ps,
            _mm512_storeu_ps,
            _mm512_set1_ps,
            _mm512_add_ps,
            _mm512_mul_ps,
            _mm512_fmadd_ps,
            _mm512_loadu_si512,
            _mm512_set1_epi32,
            _mm512_and_si512,
            _mm512_srl_epi32,
            _mm512_cvtepi32_ps,
            _mm512_sll_epi32,
            _mm512_sra_epi32
        );
        #[inline(always)]
        unsafe fn prepare(weights: __m512i) -> __m512i {
            // The instruction takes unsigned weights, so these are offset by 128.
            unsafe { _mm512_xor_si512(weights, _mm512_set1_epi8(-128)) }
        }
        #[inline(always)]
        unsafe fn dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, weights, x) }
        }
        #[inline(always)]
        unsafe fn dot_unsigned(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, weights, x) }
        }
    }

    /// 256 bits: AVX2, FMA and F16C.
    pub struct Avx2;

    impl Simd for Avx2 {
        x86!(
            8,
            0,
            __m256,
            __m256i,
            _mm256_loadu_ps,
            _mm_loadu_si128,
            _mm256_cvtph_ps,
            _mm256_storeu_ps,
            _mm256_set1_ps,
            _mm256_add_ps,
            _mm256_mul_ps,
            _mm256_fmadd_ps,
            _mm256_loadu_si256,
            _mm256_set1_epi32,
            _mm256_and_si256,
            _mm256_srl_epi32,
            _mm256_cvtepi32_ps,
            _mm256_sll_epi32,
            _mm256_sra_epi32
        );
        #[inline(always)]
        unsafe fn prepare(weights: __m256i) -> __m256i {
            weights
        }
        #[inline(always)]
        unsafe fn dot(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            // The instruction takes unsigned weights, so the sign moves to x.
            unsafe {
                Self::dot_unsigned(sum, _mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights))
            }
        }
        #[inline(always)]
        unsafe fn dot_unsigned(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            unsafe {
                // Sums of two products of at most 127 * 127 fit in 16 bits.
                let pairs = _mm256_maddubs_epi16(weights, x);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// WebAssembly's 128-bit vectors, which this crate's module always has.
#[cfg(target_family = "wasm")]
mod wasm {
    use std::arch::wasm32::*;

    use super::Simd;

    pub struct Simd128;

    impl Simd for Simd128 {
        const LANES: usize = 4;
        const OFFSET: i32 = 0;
        type F = v128;
        type I = v128;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> v128 {
            unsafe { v128_load(from.cast()) }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> v128 {
            unsafe {
                // Moves exponent and mantissa into place; the factor corrects the exponent's bias, for subnormal values
                // too.
                let halves = u32x4_load_extend_u16x4(from);
                let magnitude = u32x4_shl(v128_and(halves, u32x4_splat(0x7fff)), 13);
                let magnitude = f32x4_mul(magnitude, f32x4_splat(super::EXPONENT));
                v128_or(
                    magnitude,
                    u32x4_shl(v128_and(halves, u32x4_splat(0x8000)), 16),
                )
            }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, values: v128) {
            unsafe { v128_store(to.cast(), values) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> v128 {
            f32x4_splat(value)
        }
        #[inline(always)]
        unsafe fn add(a: v128, b: v128) -> v128 {
            f32x4_add(a, b)
        }
        #[inline(always)]
        unsafe fn mul(a: v128, b: v128) -> v128 {
            f32x4_mul(a, b)
        }
        #[inline(always)]
        unsafe fn mul_add(a: v128, b: v128, c: v128) -> v128 {
            f32x4_add(f32x4_mul(a, b), c)
        }
        #[inline(always)]
        unsafe fn load_words(from: *const u32) -> v128 {
            unsafe { v128_load(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_word(value: i32) -> v128 {
            i32x4_splat(value)
        }
        #[inline(always)]
        unsafe fn low_nibbles(words: v128) -> v128 {
            v128_and(words, u8x16_splat(15))
        }
        #[inline(always)]
        unsafe fn high_nibbles(words: v128) -> v128 {
            u8x16_shr(words, 4)
        }
        #[inline(always)]
        unsafe fn to_float(words: v128) -> v128 {
            f32x4_convert_i32x4(words)
        }
        #[inline(always)]
        unsafe fn signed_byte<const N: u32>(words: v128) -> v128 {
            f32x4_convert_i32x4(i32x4_shr(i32x4_shl(words, 24 - 8 * N), 24))
        }
        #[inline(always)]
        unsafe fn prepare(weights: v128) -> v128 {
            weights
        }
        #[inline(always)]
        unsafe fn dot(sum: v128, weights: v128, x: v128) -> v128 {
            // Bytes 0 and 2 of each lane, and bytes 1 and 3, become two 16-bit products within the same lane, so
            // nothing moves between lanes. The work on `x` alone is done once for all columns, the work on `weights`
            // once for all rows.
            let even = |bytes| i16x8_shr(i16x8_shl(bytes, 8), 8);
            let odd = |bytes| i16x8_shr(bytes, 8);
            let even = i32x4_dot_i16x8(even(weights), even(x));
            let odd = i32x4_dot_i16x8(odd(weights), odd(x));
            i32x4_add(sum, i32x4_add(even, odd))
        }
        #[inline(always)]
        unsafe fn dot_unsigned(sum: v128, weights: v128, x: v128) -> v128 {
            unsafe { Self::dot(sum, weights, x) }
        }
    }
}

#[cfg(target_family = "wasm")]
pub use wasm::Simd128 as Base;
