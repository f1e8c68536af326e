//! The reference pass over a step's rows: turns the prefixes of [`StepRows`] into the dense mask that executors never
//! build.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use esolm_core::rows::{Layout, MASKED, StepRows};

use super::{DecoderNetwork, Network};

/// Network inputs for a step: all rows of all sequences side by side as one sequence.
pub struct StepInput {
    /// `[1, R]`.
    pub tokens: Tensor<2, Int>,
    /// `[1, R]`, natural positions.
    pub positions: Tensor<2, Int>,
    /// `[1, R, R]`: row r attends to row c of the same sequence if r sees the slot of c.
    pub mask: Tensor<3, Bool>,
    /// `[sampled]`.
    pub sampled: Tensor<1, Int>,
}

impl StepInput {
    /// Tensors of a step on a device. `tokens` is the flat token buffer, and `mask` the token that masked rows read.
    ///
    /// # Panics
    /// If a row's source lies outside `tokens`.
    pub fn new(tokens: &[u32], step: &StepRows, mask: u32, device: &Device) -> Self {
        let ints = |values: Vec<i32>| {
            let shape = [1, values.len()];
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), device)
        };
        let rows = &step.rows;
        let token = |source| match source {
            MASKED => mask,
            index => tokens[index as usize],
        };
        let seen: Vec<bool> = rows
            .iter()
            .flat_map(|row| {
                rows.iter()
                    .map(move |column| column.sequence == row.sequence && row.sees(column.slot))
            })
            .collect();
        Self {
            tokens: ints(rows.iter().map(|row| token(row.source) as i32).collect()),
            positions: ints(rows.iter().map(|row| row.position as i32).collect()),
            mask: Tensor::from_data(TensorData::new(seen, [1, rows.len(), rows.len()]), device),
            sampled: ints(step.sampled.iter().map(|&i| i as i32).collect()).squeeze_dim(0),
        }
    }
}

impl Network {
    /// Tensors of a step on the network's device; `tokens` is the flat token buffer.
    pub fn step_input(&self, tokens: &[u32], step: &StepRows) -> StepInput {
        let device = &self.vocab_embed.weight.device();
        StepInput::new(tokens, step, self.mask_index as u32, device)
    }

    /// Logits `[sampled, V]` of a step that contains every row it attends to: the uncached reference pass. Its cost and
    /// its mask grow with the square of the total rows in the batch.
    ///
    /// # Panics
    /// If a row's source lies outside `tokens`.
    pub fn forward_rows(&self, tokens: &[u32], step: &StepRows, layout: &Layout) -> Tensor<2> {
        debug_assert_eq!(tokens.len(), layout.tokens);
        let input = self.step_input(tokens, step);
        self.forward(input.tokens, input.positions, Some(input.mask), None)
            .squeeze_dim::<2>(0)
            .select(0, input.sampled)
    }
}

impl DecoderNetwork {
    /// Like [`Network::forward_rows`]; `mask` is the token that masked rows read.
    ///
    /// # Panics
    /// If a row's source lies outside `tokens`.
    pub fn forward_rows(&self, tokens: &[u32], step: &StepRows, mask: u32) -> Tensor<2> {
        let input = StepInput::new(tokens, step, mask, &self.embedding.weight.device());
        self.forward(input.tokens, input.positions, Some(input.mask))
            .squeeze_dim::<2>(0)
            .select(0, input.sampled)
    }
}
