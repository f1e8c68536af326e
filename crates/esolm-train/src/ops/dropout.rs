//! Dropout with a counter-based mask instead of a stored one: whether entry i of layer l in micro-batch m is dropped
//! depends only on these and the seed, on every device and regardless of interruptions of the training.

use burn::tensor::{Tensor, TensorData};
use esolm::cpu::math::for_chunks;
use esolm::rng::{key, philox4x32};

/// Entries per task, a multiple of the four numbers per counter.
const CHUNK: usize = 1 << 14;
/// Domain word, so that no counter is shared with other random numbers.
const DOMAIN: u32 = 0x6472_6f70;

/// Which entries are dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Seed of the training.
    pub seed: u64,
    /// Number of the micro-batch.
    pub micro_batch: u32,
    /// Index of the place in the network.
    pub layer: u32,
    /// Fraction of the entries that are dropped, in [0, 1).
    pub probability: f64,
}

impl Dropout {
    /// The same for another place.
    pub fn at(self, layer: u32) -> Self {
        Self { layer, ..self }
    }

    /// Factors of the entries 4 block .. 4 block + 4: 0, or 1 / (1 - p).
    #[inline]
    fn factors(self, block: u32) -> [f32; 4] {
        let limit = (self.probability * 4_294_967_296.0) as u32;
        let kept = (1.0 / (1.0 - self.probability)) as f32;
        let counter = [block, self.layer, self.micro_batch, DOMAIN];
        philox4x32(counter, key(self.seed)).map(|n| if n < limit { 0.0 } else { kept })
    }

    /// `out` = x times the factors.
    pub fn apply(self, x: &[f32], out: &mut [f32]) {
        for_chunks(out, CHUNK, x.len(), |i, out| {
            let x = &x[i * CHUNK..][..out.len()];
            let blocks = (i * CHUNK / 4) as u32..;
            for ((out, x), block) in out.chunks_mut(4).zip(x.chunks(4)).zip(blocks) {
                for ((out, x), factor) in out.iter_mut().zip(x).zip(self.factors(block)) {
                    *out = x * factor;
                }
            }
        });
    }
}

/// The same with Burn's operations, using factors computed on the CPU.
pub fn composed(x: Tensor<2>, dropout: Dropout) -> Tensor<2> {
    let [rows, width] = x.dims();
    let ones = vec![1.0; rows * width];
    let mut factors = vec![0.0; rows * width];
    dropout.apply(&ones, &mut factors);
    x.clone() * Tensor::<2>::from_data(TensorData::new(factors, [rows, width]), &x.device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_dropped_and_the_mean_stays() {
        let dropout = Dropout {
            seed: 5,
            micro_batch: 3,
            layer: 1,
            probability: 0.2,
        };
        let ones = vec![1.0f32; 3 * CHUNK + 7];
        let mut out = vec![0.0; ones.len()];
        dropout.apply(&ones, &mut out);
        let dropped = out.iter().filter(|v| **v == 0.0).count() as f64 / out.len() as f64;
        assert!((dropped - 0.2).abs() < 0.01, "{dropped}");
        let mean = out.iter().sum::<f32>() / out.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        let mut other = vec![0.0; ones.len()];
        dropout.at(2).apply(&ones, &mut other);
        assert_ne!(out, other);
    }
}
