//! The token embedding, in as many bits as the weights have.

use esolm_core::quantise::{GROUP, Q8};
use half::f16;

use crate::error::EngineError;
use crate::network::fold;
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
    /// Rounds the embedding; what is 4 bits elsewhere has 8 here.
    ///
    /// # Errors
    /// A value that cannot be read or held.
    pub(super) fn new(table: &fold::EmbeddingRows, weights: Weights) -> Result<Self, EngineError> {
        let [tokens, hidden] = table.sizes();
        let mut values = match weights {
            Weights::F32 => Values::F32(Vec::with_capacity(tokens * hidden)),
            Weights::F16 => Values::F16(Vec::with_capacity(tokens * hidden)),
            Weights::Q8 | Weights::Q4 => {
                Values::Q8(Vec::with_capacity(tokens * hidden.div_ceil(GROUP)))
            }
        };
        for tokens in fold::parts(0..tokens) {
            let part = table.part(tokens)?;
            fold::check_range(part.name, &part.values, weights)?;
            match &mut values {
                Values::F32(values) => values.extend(part.values),
                Values::F16(values) => values.extend(part.values.into_iter().map(f16::from_f32)),
                Values::Q8(groups) => groups.extend(part.all_q8()),
            }
        }
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
