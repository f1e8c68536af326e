//! Predicted time of a pass: the work it cannot avoid ([`Work`]) divided by the rates of a device. docs/speed.md
//! compares predictions with measurements.

use super::Rates;
use super::work::Work;

/// Rates of a device, measured or published.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Memory bandwidth in bytes per second.
    pub memory_bytes: f64,
    /// Operations per second of products with many rows.
    pub product_flops: f64,
    /// Operations per second of attention, which is always in f32.
    pub attention_flops: f64,
    /// Overhead per launch in seconds.
    pub launch_seconds: f64,
}

impl From<&Rates> for Device {
    /// Attention is assumed to reach the rate of products, up to the limit of f32 arithmetic.
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
    /// Lower and upper bound of a pass in seconds. The lower bound assumes that products overlap reading weights with
    /// computing, and attention reading the cache; the upper bound assumes that they do not. Products, attention and
    /// launches do not overlap one another. Anything not counted in [`Work`] is assumed to be free.
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

/// Number of synchronisations between cores in a CPU pass of few rows: five per block, for the products and attention,
/// and one each for the logits and the draws.
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
        // More rows, same bytes.
        work.product_operations *= 8.0;
        work.attention_operations *= 8.0;
        let most = 2.0 + 8.0 + 0.5 + 1.6 + 1.0;
        assert_eq!(device.seconds(&work, 4.0), [8.0 + 1.6 + 1.0, most]);
    }
}
