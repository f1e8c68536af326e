//! The instruction set used on the CPU: selected at run time, once for all work.

use super::simd::{self, Simd};

/// Work compiled once per instruction set. Everything that `run` calls must be inlined, since a separate function would
/// lack the caller's instruction set. Plain loops are inlined, and vectorised at the full width.
pub(super) trait Work {
    /// The result.
    type Output;

    /// Does the work.
    ///
    /// # Safety
    /// See [`Simd`].
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// The instruction sets that work is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// The target's baseline: plain Rust, or WebAssembly's 128-bit vectors.
    Base,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// All that this processor supports, fastest last.
    pub(super) fn all() -> Vec<Self> {
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

    /// The fastest that this processor supports.
    pub(super) fn best() -> Self {
        static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| *Self::all().last().unwrap_or(&Self::Base))
    }

    /// Does the work with this instruction set.
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        // Safety: `all` only returns levels that the processor supports.
        match self {
            Self::Base => unsafe { work.run::<simd::Base>() },
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(work) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(work) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<W: Work>(work: W) -> W::Output {
    unsafe { work.run::<simd::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn avx512<W: Work>(work: W) -> W::Output {
    unsafe { work.run::<simd::Avx512>() }
}
