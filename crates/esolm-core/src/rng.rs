//! Counter-based random numbers: the same words for a (seed, sequence, position) on every platform, in any order and batch.

/// Domain word of the Gumbel noise, so that it shares no counter with a [`Stream`].
pub const GUMBEL_DOMAIN: u32 = 0x6e6f_6973;
/// Domain word of the streams that draw plans.
const PLAN_DOMAIN: u32 = 0x706c_616e;

/// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let a = 0xd251_1f53u64 * u64::from(c[0]);
        let b = 0xcd9e_8d57u64 * u64::from(c[2]);
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

/// The two key words of a seed.
pub fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// Gumbel noise -ln(-ln u) from 32 random bits `n`, u = 1 - (n + 0.5) / 2^32. Built so that neither tail is cut short: noise
/// from 24-bit uniforms ends at 16.6 and changes the distribution (arXiv 2409.02908), this reaches 22.9.
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

/// The four random words of vocabulary entries 4 block .. 4 block + 4 at a position of a sequence.
pub fn gumbel_block(seed: u64, sequence: u32, position: u32, block: u32) -> [u32; 4] {
    philox4x32([block, position, sequence, GUMBEL_DOMAIN], key(seed))
}

/// Gumbel noise of one vocabulary entry.
pub fn gumbel(seed: u64, sequence: u32, position: u32, vocab: u32) -> f32 {
    gumbel_from_bits(gumbel_block(seed, sequence, position, vocab / 4)[vocab as usize % 4])
}

/// What a stream is used for; each purpose has numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// How many tokens each step takes.
    Schedule,
    /// In which order they are taken.
    Order,
    /// Free for callers.
    Other(u32),
}

/// A sequential stream of random numbers of (seed, sequence, purpose).
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
    /// The stream from its beginning.
    pub fn new(seed: u64, sequence: u32, purpose: Purpose) -> Self {
        let purpose = match purpose {
            Purpose::Schedule => 0,
            Purpose::Order => 1,
            Purpose::Other(n) => n.wrapping_add(2),
        };
        Self { key: key(seed), sequence, purpose, block: 0, words: [0; 4], used: 4 }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox4x32([self.block, self.purpose, self.sequence, PLAN_DOMAIN], self.key);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform in (0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let bits = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Uniform in 0..n, without bias. Zero for n = 0.
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

    /// A draw from Binomial(n, p); p outside [0, 1] counts as its nearest end.
    pub fn binomial(&mut self, n: u32, p: f64) -> u32 {
        if n == 0 || p <= 0.0 {
            return 0;
        }
        if p >= 1.0 {
            return n;
        }
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        if f64::from(n) * p > 40.0 && n > 1 {
            // The sum of two halves keeps (1 - p)^n far from underflow.
            return self.binomial(n / 2, p) + self.binomial(n - n / 2, p);
        }
        // Inversion along the recurrence of the mass function (Kachitvichyanukul and Schmeiser, 1988, algorithm BINV).
        let ratio = p / (1.0 - p);
        let mut mass = (1.0 - p).powi(n as i32);
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

    /// A uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The vectors of Random123's kat_vectors for philox4x32-10.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn gumbel_has_both_tails() {
        assert!(gumbel_from_bits(0) > 22.0 && gumbel_from_bits(0) < 23.0);
        assert!(gumbel_from_bits(u32::MAX) < -3.0 && gumbel_from_bits(u32::MAX).is_finite());
        let exact = |n: u32| -(-(1.0 - (f64::from(n) + 0.5) / 4_294_967_296.0f64).ln()).ln();
        for n in [0, 1, 2, 77, 1 << 20, (1 << 26) - 1, 1 << 26, 1 << 30, 1 << 31, u32::MAX - 1000, u32::MAX] {
            assert!((f64::from(gumbel_from_bits(n)) - exact(n)).abs() < 2e-6 * exact(n).abs().max(1.0), "{n}");
        }
    }

    #[test]
    fn gumbel_moments() {
        let values: Vec<f64> = (0..400_000u32).map(|i| f64::from(gumbel(9, 1, i / 4000, i % 4000))).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((mean - 0.577_215_664_9).abs() < 0.01, "{mean}");
        assert!((var - std::f64::consts::PI.powi(2) / 6.0).abs() < 0.03, "{var}");
    }

    #[test]
    fn binomial_moments() {
        for (n, p) in [(10, 0.3), (1000, 0.004), (5000, 0.5), (8192, 0.97), (1, 0.5)] {
            let mut stream = Stream::new(3, 0, Purpose::Other(n));
            let draws: Vec<f64> = (0..4000).map(|_| f64::from(stream.binomial(n, p))).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let var = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            let (m, v) = (f64::from(n) * p, f64::from(n) * p * (1.0 - p));
            assert!((mean - m).abs() < 5.0 * (v / 4000.0).sqrt() + 1e-9, "n {n} p {p}: mean {mean}");
            assert!((var / v - 1.0).abs() < 0.15, "n {n} p {p}: variance {var} against {v}");
            assert_eq!(stream.binomial(n, 0.0), 0);
            assert_eq!(stream.binomial(n, 1.0), n);
        }
    }

    #[test]
    fn below_is_uniform() {
        let mut stream = Stream::new(4, 0, Purpose::Other(0));
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[stream.below(7) as usize] += 1);
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
    }
}
