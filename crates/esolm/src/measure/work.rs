//! The unavoidable work of a pass, counted from its rows: bytes read and operations done. Divided by the time taken,
//! this gives the utilisation of the device.

use std::iter::Sum;
use std::ops::Add;

use esolm_core::config::ModelConfig;
use esolm_core::rows::{Row, StepRows};

use crate::kernels::Precision;
use crate::weights::Weights;

/// Bytes and operations of one or more passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of weights, each read once per pass.
    pub weight_bytes: f64,
    /// Bytes of keys and values: each sequence's cache, as far as any of its rows sees, once per pass.
    pub cache_bytes: f64,
    /// Operations of products; a multiply-add counts as two.
    pub product_operations: f64,
    /// Operations of attention, counted likewise.
    pub attention_operations: f64,
}

impl Work {
    /// Work of a pass over a model with `config`'s shape. The last block computes keys and values for all rows, but
    /// everything else only for the sampled rows, as do the logits. Embeddings, norms and draws are not counted.
    pub fn of(config: &ModelConfig, weights: Weights, cache: Precision, step: &StepRows) -> Self {
        let (d, vocab) = (config.hidden as f64, config.vocab_size as f64);
        let (rows, sampled) = (step.rows.len() as f64, step.sampled.len() as f64);
        let blocks = config.n_blocks as f64;
        let per_number = match cache {
            Precision::F32 => 4.0,
            Precision::F16 => 2.0,
        };
        let chosen = step.sampled.iter().map(|&i| step.rows[i as usize]);
        let (all, last) = (
            Attention::of(step.rows.iter().copied()),
            Attention::of(chosen),
        );
        // Per block: query-key-value, attention output, and the MLP, which has a gate in decoders.
        let [q, kv, inner] =
            [config.q_width(), config.kv_width(), config.inner()].map(|width| width as f64);
        let up = inner * if config.decoder.is_some() { 2.0 } else { 1.0 };
        let qkv = d * (q + 2.0 * kv);
        let rest = d * (q + up + inner);
        let is_sampled = f64::from(u8::from(sampled > 0.0));
        let bytes = |weights: Weights, n_in: f64, n_out: f64| {
            n_out * weights.column_bytes(n_in as u64) as f64
        };
        let after = bytes(weights, q, d) + bytes(weights, d, up) + bytes(weights, inner, d);
        let body = blocks * bytes(weights, d, q + 2.0 * kv) + (blocks - 1.0 + is_sampled) * after;
        let head = is_sampled * bytes(weights.at_the_ends(), d, vocab);
        let seen = (blocks - 1.0) * all.seen + last.seen;
        let pairs = (blocks - 1.0) * all.pairs + last.pairs;
        Self {
            weight_bytes: body + head,
            cache_bytes: 2.0 * seen * kv * per_number,
            product_operations: 2.0
                * (rows * (blocks * qkv + (blocks - 1.0) * rest) + sampled * (rest + d * vocab)),
            attention_operations: 4.0 * pairs * q,
        }
    }

    /// Operations of products and attention.
    pub fn operations(&self) -> f64 {
        self.product_operations + self.attention_operations
    }

    /// Bytes of weights and cache.
    pub fn bytes(&self) -> f64 {
        self.weight_bytes + self.cache_bytes
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            cache_bytes: self.cache_bytes + other.cache_bytes,
            product_operations: self.product_operations + other.product_operations,
            attention_operations: self.attention_operations + other.attention_operations,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// What the rows of a block attend to.
#[derive(Default)]
struct Attention {
    /// Slots seen by any row of a sequence, summed over sequences.
    seen: f64,
    /// Pairs of a row and a slot that it sees.
    pairs: f64,
}

impl Attention {
    /// `rows` must be grouped by sequence.
    fn of(rows: impl Iterator<Item = Row>) -> Self {
        let mut all = Self::default();
        let mut longest = (None, 0);
        for row in rows {
            if longest.0 != Some(row.sequence) {
                all.seen += f64::from(longest.1);
                longest = (Some(row.sequence), 0);
            }
            longest.1 = longest.1.max(row.prefix);
            all.pairs += row.seen() as f64;
        }
        all.seen += f64::from(longest.1);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esolm_core::rows::{MASKED, NO_TARGET, own_slot};

    fn config() -> ModelConfig {
        let json = r#"{"model_type": "EsoLM", "hidden_size": 64, "cond_dim": 16, "n_blocks": 3, "n_heads": 4, "model_length": 32, "vocab_size": 100, "mask_index": 99}"#;
        ModelConfig::from_json(json).expect("a config")
    }

    #[test]
    fn a_row_reads_every_weight_and_what_it_sees() {
        let row = |sequence, slot, prefix| Row {
            sequence,
            slot,
            position: slot,
            prefix,
            own: own_slot(slot, prefix),
            source: MASKED,
            target: NO_TARGET,
        };
        let mut step = StepRows {
            rows: vec![row(0, 4, 5), row(0, 5, 6), row(2, 9, 3)],
            sampled: vec![1],
        };
        let of = |step: &StepRows| Work::of(&config(), Weights::F32, Precision::F16, step);
        let work = of(&step);
        let (d, vocab) = (64.0, 100.0);
        assert_eq!(work.weight_bytes, 4.0 * (3.0 * 12.0 * d * d + d * vocab));
        // Two blocks see 6 and 3 slots, the last one 6; keys and values take two bytes per number.
        assert_eq!(work.cache_bytes, (2.0 * 9.0 + 6.0) * 2.0 * d * 2.0);
        let products = 3.0 * 27.0 * d * d + 9.0 * d * d + d * vocab;
        let pairs = 2.0 * (5.0 + 6.0 + 4.0) + 6.0;
        assert_eq!(work.product_operations, 2.0 * products);
        assert_eq!(work.attention_operations, 4.0 * pairs * d);
        // A pass that only stores keys and values needs only those of the last block.
        step.sampled.clear();
        assert_eq!(of(&step).weight_bytes, 4.0 * (2.0 * 12.0 + 3.0) * d * d);
        let both: Work = [work, of(&step)].into_iter().sum();
        assert_eq!(
            both.operations(),
            work.operations() + of(&step).operations()
        );
    }
}
