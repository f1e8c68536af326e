//! Centring of activations that are rounded to 8 bits.
//!
//! Trained networks have a few channels that are large and nearly constant: in the normalised rows of the bundled
//! model, one channel has mean 13 and standard deviation 0.5. Most of its group's resolution would be spent on that
//! constant. The mean of each channel is therefore subtracted before rounding, and its product with the matrix is added
//! to the bias. The means come from a pass over random tokens and as many masks when the model is loaded. They need not
//! be exact, since whatever is subtracted is added back.

use esolm_core::quantise::GROUP;
use esolm_core::rng::{Purpose, Stream};
use esolm_core::rows::{Layout, MASKED, NO_TARGET, Row, StepRows, own_slot};

use super::inputs::{Form, Source};
use super::{CpuExecutor, State};
use crate::error::EngineError;
use crate::executor::Executor;

/// Number of random tokens in that pass, and of masks. All rows go through a product, and through the head, at once.
const TOKENS: usize = 32;

/// The mean of `rows` rows of `width` columns; zero where it is not finite.
pub(super) fn mean(source: &impl Source, rows: usize, width: usize) -> Vec<f32> {
    let mut means = vec![0.0; width];
    let mut values = [0.0; GROUP];
    for (group, means) in means.chunks_mut(GROUP).enumerate() {
        let mut sums = [0.0; GROUP];
        for row in 0..rows {
            source.read(row, group, &mut values);
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        for (mean, sum) in means.iter_mut().zip(sums) {
            let all = sum / rows as f32;
            *mean = if all.is_finite() { all } else { 0.0 };
        }
    }
    means
}

impl CpuExecutor {
    /// Computes the centres of all matrices whose rows are normalised and then rounded.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn centre(&mut self) -> Result<(), EngineError> {
        if self.head.form() == Form::Floats {
            return Ok(());
        }
        let mut random = Stream::new(0, 0, Purpose::Other(0));
        let vocab = self.config.vocab_size as u32;
        // A model without a mask gets twice as many tokens instead.
        let has_mask = self.config.mask().is_some();
        let count = if has_mask { TOKENS } else { 2 * TOKENS };
        let tokens: Vec<u32> = (0..count).map(|_| random.below(vocab)).collect();
        let all = 0..2 * TOKENS as u32;
        let layout = Layout {
            sequences: 1,
            slots: all.len(),
            tokens: tokens.len(),
        };
        let rows = all.clone().map(|slot| Row {
            sequence: 0,
            slot,
            position: slot,
            prefix: slot + 1,
            own: own_slot(slot, slot + 1),
            source: match (slot as usize) < count {
                true => slot,
                false => MASKED,
            },
            target: NO_TARGET,
        });
        let step = StepRows {
            rows: rows.collect(),
            sampled: all.collect(),
        };
        self.start(&layout, &tokens)?;
        self.state.scratch.means = Some(Vec::new());
        let keys = vec![[0; 2]; step.rows.len()];
        self.pass(&step, &keys)?;
        let count = step.rows.len();
        let scratch = &mut self.state.scratch;
        scratch.norm(&self.head, self.shape, count, 0, count);
        let means = scratch.means.take().unwrap_or_default();
        let blocks = self.blocks.iter_mut();
        let normed = blocks.flat_map(|block| [&mut block.qkv, &mut block.up]);
        for (matrix, mean) in normed.chain([&mut self.head]).zip(means) {
            matrix.set_centre(mean)?;
        }
        self.state = State::default();
        self.prepared = Default::default();
        Ok(())
    }
}
