//! How long a pass should take: what it cannot do without ([`Work`]), over what a device can do. docs/speed.md says how near that comes.

use super::Rates;
use super::work::Work;

/// What a device can do, measured or published.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Bytes of memory a second.
    pub memory_bytes: f64,
    /// Operations a second of products with many rows.
    pub product_flops: f64,
    /// Operations a second of attention, which is in f32 whatever the weights are.
    pub attention_flops: f64,
    /// Seconds that each launch adds.
    pub launch_seconds: f64,
}

impl From<&Rates> for Device {
    /// Attention is taken to reach what products do, but no more than floats allow.
    fn from(rates: &Rates) -> Self {
        Self {
            memory_bytes: rates.memory_bytes,
            product_flops: rates.product_flops,
            attention_flops: rates.product_flops.min(rates.flops),
            launch_seconds: rates.launch_seconds,
        }
    }
}

impl Device {
    /// Least and most seconds of a pass: with products that read their weights, and attention that reads the cache, while they compute, or before.
    /// Products, attention and launches come one after the other. What is not counted in [`Work`] is taken to cost nothing.
    pub fn seconds(&self, work: &Work, launches: f64) -> [f64; 2] {
        let parts = [
            (
                work.weight_bytes / self.memory_bytes,
                work.product_operations / self.product_flops,
            ),
            (
                work.cache_bytes / self.memory_bytes,
                work.attention_operations / self.attention_flops,
            ),
        ];
        let launched = launches * self.launch_seconds;
        let together: f64 = parts.iter().map(|(read, compute)| read.max(*compute)).sum();
        let in_turn: f64 = parts.iter().map(|(read, compute)| read + compute).sum();
        [together + launched, in_turn + launched]
    }
}

/// How often the cores share work and wait for each other in a pass of few rows on the CPU: for the five products and attentions of each block,
/// for the logits and for the draws.
pub fn waits(blocks: usize) -> f64 {
    (5 * blocks + 2) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_and_computing_take_turns_or_not() {
        let device = Device {
            memory_bytes: 100.0,
            product_flops: 1000.0,
            attention_flops: 500.0,
            launch_seconds: 0.25,
        };
        let mut work = Work {
            weight_bytes: 200.0,
            cache_bytes: 50.0,
            product_operations: 1000.0,
            attention_operations: 100.0,
        };
        assert_eq!(
            device.seconds(&work, 4.0),
            [3.5, 2.0 + 1.0 + 0.5 + 0.2 + 1.0]
        );
        // More rows: the same bytes.
        work.product_operations *= 8.0;
        work.attention_operations *= 8.0;
        let most = 2.0 + 8.0 + 0.5 + 1.6 + 1.0;
        assert_eq!(device.seconds(&work, 4.0), [8.0 + 1.6 + 1.0, most]);
    }
}
