//! Counter-based random numbers: the same words for a (seed, sequence, position) on every platform, in any order and
//! any batch.

/// Domain word of the Gumbel noise, so that it shares no counter with a [`Stream`].
pub const GUMBEL_DOMAIN: u32 = 0x6e6f_6973;
/// Domain word of the streams from which plans are drawn.
const PLAN_DOMAIN: u32 = 0x706c_616e;
/// Domain word of the seeds for redrawn texts.
const REDRAW_DOMAIN: u32 = 0x7265_6472;

/// Domain word of the seeds of single steps.
const STEP_DOMAIN: u32 = 0x7374_6570;
/// Domain word of the random numbers of rows.
const ROW_DOMAIN: u32 = 0x726f_7773;

/// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox_lanes(counter.map(|word| [word]), key).map(|[word]| word)
}

/// [`philox4x32`] for `N` counters; `counters` has their first words, then their second words, and so on. Plain loops
/// over lanes, which compilers vectorise with the caller's instruction set.
#[allow(
    clippy::needless_range_loop,
    reason = "an iterator over four arrays says less"
)]
#[inline(always)]
fn philox_lanes<const N: usize>(counters: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let (mut c, mut k) = (counters, key);
    for _ in 0..10 {
        for lane in 0..N {
            let a = 0xd251_1f53u64 * u64::from(c[0][lane]);
            let b = 0xcd9e_8d57u64 * u64::from(c[2][lane]);
            c[0][lane] = (b >> 32) as u32 ^ c[1][lane] ^ k[0];
            c[1][lane] = b as u32;
            c[2][lane] = (a >> 32) as u32 ^ c[3][lane] ^ k[1];
            c[3][lane] = a as u32;
        }
        k = [
            k[0].wrapping_add(0x9e37_79b9),
            k[1].wrapping_add(0xbb67_ae85),
        ];
    }
    c
}

/// The two key words of a seed.
pub fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The seed of another attempt at a text, which shares no random number with any text of the original seed.
pub fn redraw_seed(seed: u64, attempt: u32) -> u64 {
    let [low, high, ..] = philox4x32([attempt, 0, 0, REDRAW_DOMAIN], key(seed));
    u64::from(low) | u64::from(high) << 32
}

/// The seed of one step of a text, for samplers that draw at a position more than once: with the same noise they would
/// keep drawing the tokens just rejected.
pub fn step_seed(seed: u64, step: u32) -> u64 {
    let [low, high, ..] = philox4x32([step, 0, 0, STEP_DOMAIN], key(seed));
    u64::from(low) | u64::from(high) << 32
}

/// 32 random bits of a row, which no draw uses.
pub fn row_word(seed: u64, sequence: u32, position: u32) -> u32 {
    philox4x32([0, position, sequence, ROW_DOMAIN], key(seed))[0]
}

/// Gumbel noise -ln(-ln u) from 32 random bits `n`, u = 1 - (n + 0.5) / 2^32. Neither tail is truncated: noise from
/// 24-bit uniforms ends at 16.6 and changes the distribution (arXiv 2409.02908), while this reaches 22.9.
#[inline]
pub fn gumbel_from_bits(n: u32) -> f32 {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    let w = (n as f32 + 0.5) * SCALE;
    let exponential = if w < 0.015_625 {
        w * (1.0 + w * (0.5 + w * (0.333_333_34 + w * 0.25)))
    } else {
        -(((u32::MAX - n) as f32 + 0.5) * SCALE).ln()
    };
    -exponential.ln()
}

/// An upper bound of [`gumbel_from_bits`] without a logarithm. With w = (n + 0.5) / 2^32, -ln(1 - w) > w, so the noise
/// is below -ln w, which is at most (leading zeros of n + 1) ln 2.
#[inline]
pub fn gumbel_ceiling(n: u32) -> f32 {
    // Slightly more than ln 2, to allow for the rounding of the noise itself.
    (n.leading_zeros() + 1) as f32 * 0.6932
}

/// The four random words for vocabulary entries 4 block .. 4 block + 4 at a position of a sequence.
pub fn gumbel_block(seed: u64, sequence: u32, position: u32, block: u32) -> [u32; 4] {
    philox4x32([block, position, sequence, GUMBEL_DOMAIN], key(seed))
}

/// Blocks per [`gumbel_stretch`].
pub const STRETCH: usize = 16;

/// [`gumbel_block`] of the [`STRETCH`] blocks from `first` on: `[word][block]`.
#[inline(always)]
pub fn gumbel_stretch(seed: u64, sequence: u32, position: u32, first: u32) -> [[u32; STRETCH]; 4] {
    let counters = [
        std::array::from_fn(|lane| first + lane as u32),
        [position; STRETCH],
        [sequence; STRETCH],
        [GUMBEL_DOMAIN; STRETCH],
    ];
    philox_lanes(counters, key(seed))
}

/// Gumbel noise of one vocabulary entry.
pub fn gumbel(seed: u64, sequence: u32, position: u32, vocab: u32) -> f32 {
    gumbel_from_bits(gumbel_block(seed, sequence, position, vocab / 4)[vocab as usize % 4])
}

/// Gumbel noise from a recorded uniform number, as computed in the published code: -ln(-ln u) in f64, then rounded.
pub fn gumbel_from_uniform(u: f64) -> f32 {
    (-(-u.ln()).ln()) as f32
}

/// The centre of the interval of width 2^-52 that 64 random bits fall into. With 53 bits, the last centre would round
/// to 1.
fn unit(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// base^n by squaring; unlike `powi`, the same on every platform.
fn power(mut base: f64, mut n: u32) -> f64 {
    let mut product = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            product *= base;
        }
        base *= base;
        n >>= 1;
    }
    product
}

/// What a stream is used for; each purpose has its own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// How many tokens each step takes.
    Schedule,
    /// In which order they are taken.
    Order,
    /// Free for callers.
    Other(u32),
}

/// A sequential stream of random numbers for (seed, sequence, purpose).
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    sequence: u32,
    purpose: u32,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream, from its start.
    pub fn new(seed: u64, sequence: u32, purpose: Purpose) -> Self {
        let purpose = match purpose {
            Purpose::Schedule => 0,
            Purpose::Order => 1,
            Purpose::Other(n) => n.wrapping_add(2),
        };
        Self {
            key: key(seed),
            sequence,
            purpose,
            block: 0,
            words: [0; 4],
            used: 4,
        }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox4x32(
                [self.block, self.purpose, self.sequence, PLAN_DOMAIN],
                self.key,
            );
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform strictly between 0 and 1, one of 2^52 equally spaced numbers.
    pub fn uniform(&mut self) -> f64 {
        let high = self.next_u32();
        let low = self.next_u32();
        unit(u64::from(high) << 32 | u64::from(low))
    }

    /// Uniform in 0..n without bias. Zero for n = 0.
    pub fn below(&mut self, n: u32) -> u32 {
        // Lemire, "Fast random integer generation in an interval", 2019.
        let threshold = n.wrapping_neg().checked_rem(n).unwrap_or(0);
        loop {
            let wide = u64::from(self.next_u32()) * u64::from(n);
            if wide as u32 >= threshold {
                return (wide >> 32) as u32;
            }
        }
    }

    /// A draw from Binomial(n, p), exact up to f64 rounding; p is clamped to [0, 1].
    ///
    /// Takes time proportional to the mean, so that a whole schedule, whose draws sum to the length, takes time
    /// proportional to the length plus the number of steps. Uses only additions, multiplications and divisions, which
    /// IEEE 754 defines exactly, so that a plan is the same on every platform.
    pub fn binomial(&mut self, n: u32, p: f64) -> u32 {
        if n == 0 || p <= 0.0 || p.is_nan() {
            return 0;
        }
        if p >= 1.0 {
            return n;
        }
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        if f64::from(n) * p > 40.0 && n > 1 {
            // Splitting into two halves keeps (1 - p)^n far from underflow.
            return self.binomial(n / 2, p) + self.binomial(n - n / 2, p);
        }
        // Inversion using the recurrence of the mass function (Kachitvichyanukul and Schmeiser, 1988, algorithm BINV).
        let ratio = p / (1.0 - p);
        let mut mass = power(1.0 - p, n);
        let mut left = self.uniform();
        for k in 0..n {
            if left <= mass {
                return k;
            }
            left -= mass;
            mass *= ratio * f64::from(n - k) / f64::from(k + 1);
        }
        n
    }

    /// A uniformly random shuffle (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests;
