//! What a pass launches.

use super::tables::Tables;
use super::{GpuExecutor, MLP_ROWS, Scratch, State};
use crate::error::EngineError;
use crate::executor::Share;
use crate::kernels::attention::{
    Attention, AttentionVariant, Spans, attention_rows, attention_split, attention_tile,
};
use crate::kernels::embed::embed_tied;
use crate::kernels::heads::{Qkv, heads};
use crate::kernels::norm::Norm;
use crate::kernels::product::{Finish, product};
use crate::kernels::residual::Residual;
use crate::kernels::runtime::Buffer;
use crate::kernels::sample::{Sample, sample};

impl GpuExecutor {
    /// Launches the blocks over the rows of a pass, the last one only over those whose logits are wanted, and leaves these normalised in
    /// `picked`.
    pub(super) fn launch(&self, state: &State, tables: &Tables) {
        let count = tables.all.rows;
        let layout = state.layout;
        let (s, gpu, hidden) = (&state.scratch, &self.gpu, self.config.hidden);
        let geometry = self.geometry(layout.slots);
        let (rows, tokens, mask) = (&tables.rows, &state.tokens, self.config.mask_index);
        match &self.embedding {
            Some(embedding) => embedding.launch(gpu, &s.x, rows, count, tokens, mask),
            None => embed_tied(gpu, &self.head, &s.x, rows, count, tokens, mask),
        }
        let (chosen, norm) = (self.chosen, self.norm);
        let mut residual = Residual::new(gpu, norm, chosen, count, hidden, &s.x, &s.normed);
        for (index, (block, (k, v))) in self.blocks.iter().zip(&state.kv).enumerate() {
            let to = Qkv {
                q: &s.q,
                rows: &tables.rows,
                rotary: &self.rotary,
                k,
                v,
                slots: layout.slots,
                heads: geometry.heads,
                kv_heads: geometry.kv_heads,
                head_dim: geometry.head_dim,
                cache: self.cache,
            };
            match (&block.head_gains, norm) {
                (Some(gains), Norm::Rms { eps }) => {
                    for first in (0..count).step_by(MLP_ROWS) {
                        let rows = first..count.min(first + MLP_ROWS);
                        let finish = Finish::Store(&s.stored);
                        residual.product(rows.clone(), &block.qkv, &finish);
                        heads(gpu, &s.stored, rows, gains, eps, &to);
                    }
                }
                _ => residual.product(0..count, &block.qkv, &Finish::Qkv(to)),
            }
            // In the last block, rows whose logits are not wanted need only keys and values.
            let going_on = match index + 1 == self.blocks.len() {
                true => &tables.wanted,
                false => &tables.all,
            };
            let count = going_on.rows;
            if count == 0 {
                break;
            }
            residual.keep(count);
            let io = Attention {
                q: &s.q,
                k,
                v,
                rows: &tables.rows,
                count,
                out: &s.attended,
            };
            let spans = Spans {
                table: &tables.spans,
                count: going_on.spans,
                longest: going_on.longest,
            };
            let sharing = geometry.sharing();
            let form = self
                .chosen
                .attention(count * sharing, going_on.longest * sharing);
            match form {
                // Padded rows of the last block are other rows of the pass, which may see more than the wanted ones.
                AttentionVariant::Split => {
                    attention_split(gpu, &geometry, &io, tables.all.reach);
                }
                AttentionVariant::Tile => {
                    attention_tile(gpu, &geometry, &io, &spans, going_on.reach);
                }
                AttentionVariant::Rows => {
                    attention_rows(gpu, &geometry, &io, &spans, going_on.reach);
                }
            }
            residual.add(&s.attended, 0..count, &block.out);
            for first in (0..count).step_by(MLP_ROWS) {
                let rows = first..count.min(first + MLP_ROWS);
                residual.product(rows.clone(), &block.up, &self.activation.finish(&s.mid));
                residual.add(&s.mid, rows, &block.down);
            }
        }
        if tables.wanted.rows > 0 {
            residual.normalise(self.head_gain.as_ref(), &s.picked);
        }
    }

    /// Computes the logits of sampled rows `first..first + count` into the scratch.
    pub(super) fn head(&self, scratch: &Scratch, first: usize, count: usize) {
        product(
            &self.gpu,
            self.chosen.product(count, self.head.n),
            None,
            &scratch.picked,
            first..first + count,
            &self.head,
            &Finish::Store(&scratch.logits),
        );
    }

    /// Draws a token for each sampled row of the last pass into `tokens`, each share in its own way. `then` is called with the first row
    /// and the number of rows whose logits are in the scratch.
    pub(super) fn draw_to(
        &self,
        shares: &[Share],
        tokens: &Buffer,
        then: impl Fn(&Tables, usize, usize),
    ) -> Result<(), EngineError> {
        let (state, tables) = self.passed()?;
        let noise = |share: &Share| {
            let values = share.draw.noise.map(<[f32]>::to_vec);
            values.map(|values| self.gpu.floats(values)).transpose()
        };
        let noise: Vec<_> = shares.iter().map(noise).collect::<Result<_, _>>()?;
        let suppressed = shares
            .iter()
            .map(|share| self.listed(share.draw.suppressed));
        let suppressed: Vec<_> = suppressed.collect::<Result<_, _>>()?;
        for (held, count) in self.in_parts(tables.sampled) {
            self.head(&state.scratch, held, count);
            for ((Share { rows, draw }, noise), suppressed) in
                shares.iter().zip(&noise).zip(&suppressed)
            {
                let (first, end) = (rows.start.max(held), rows.end.min(held + count));
                if first >= end {
                    continue;
                }
                self.suppress(state, [first - held, end - first], suppressed.as_ref());
                let io = Sample {
                    logits: &state.scratch.logits,
                    held,
                    stride: self.head.padded(),
                    rows: &tables.rows,
                    draws: &tables.keys,
                    tokens,
                    noise: noise.as_ref(),
                    shared: state.scratch.drawing.as_ref(),
                    first,
                    count: end - first,
                    vocab: self.head.n,
                    mask_index: self.config.mask_index,
                    seed: draw.seed,
                };
                sample(&self.gpu, &draw.sampler, &io);
            }
            then(tables, held, count);
        }
        Ok(())
    }

    /// The parts of `count` sampled rows whose logits are held at once: first row and number of rows.
    pub(super) fn in_parts(&self, count: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let most = self.logit_rows();
        (0..count)
            .step_by(most)
            .map(move |first| (first, most.min(count - first)))
    }
}
