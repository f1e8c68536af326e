//! The token embedding, in as many bits as the weights have.

use esolm_core::quantise::{GROUP, Q8};
use half::f16;

use crate::error::EngineError;
use crate::network::fold::check_range;
use crate::weights::Weights;

/// `[V, d]`.
pub(super) struct Embedding {
    values: Values,
    hidden: usize,
}

enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// Groups along d; the last of a row may be short.
    Q8(Vec<Q8>),
}

impl Embedding {
    /// Rounds `values` `[V, hidden]`; what is 4 bits elsewhere has 8 here.
    ///
    /// # Errors
    /// A value that cannot be held.
    pub(super) fn new(
        values: Vec<f32>,
        hidden: usize,
        weights: Weights,
    ) -> Result<Self, EngineError> {
        check_range("vocab_embed.embedding", &values, weights)?;
        let values = match weights {
            Weights::F32 => Values::F32(values),
            Weights::F16 => Values::F16(values.iter().map(|&value| f16::from_f32(value)).collect()),
            Weights::Q8 | Weights::Q4 => {
                let groups = values.chunks(hidden).flat_map(|row| row.chunks(GROUP));
                Values::Q8(groups.map(Q8::new).collect())
            }
        };
        Ok(Self { values, hidden })
    }

    /// Writes the embedding of `token` to `out` `[d]`.
    pub(super) fn write(&self, token: usize, out: &mut [f32]) {
        let at = token * self.hidden..(token + 1) * self.hidden;
        match &self.values {
            Values::F32(values) => out.copy_from_slice(&values[at]),
            Values::F16(values) => {
                for (out, value) in out.iter_mut().zip(&values[at]) {
                    *out = value.to_f32();
                }
            }
            Values::Q8(groups) => {
                let per_row = self.hidden.div_ceil(GROUP);
                let row = &groups[token * per_row..(token + 1) * per_row];
                for (out, group) in out.chunks_mut(GROUP).zip(row) {
                    out.copy_from_slice(&group.weights()[..out.len()]);
                }
            }
        }
    }
}
