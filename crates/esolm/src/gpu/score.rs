//! Log-probabilities of given tokens instead of drawn ones.

use esolm_core::rows::StepRows;

use super::GpuExecutor;
use crate::draw::check_targets;
use crate::error::EngineError;
use crate::kernels::score::{Score, score};

impl GpuExecutor {
    /// Runs a pass and reads the log-probability of each sampled row's token in `targets`, the mask token left out: four bytes a row.
    ///
    /// # Errors
    /// When the pass does not fit the batch, targets do not fit the pass, or the device fails.
    pub async fn score(
        &mut self,
        step: &StepRows,
        targets: &[u32],
    ) -> Result<Vec<f32>, EngineError> {
        check_targets(step, targets, self.head.n)?;
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let draws = vec![[0; 2]; step.sampled.len()];
        self.pass(step, &draws)?;
        let state = self.started()?;
        let wanted = self.gpu.words(targets.to_vec())?;
        let scores = self.gpu.room("the scores of a pass", targets.len())?;
        for first in (0..targets.len()).step_by(self.logit_rows()) {
            let count = self.logit_rows().min(targets.len() - first);
            let io = Score {
                logits: &state.scratch.logits,
                stride: self.head.padded(),
                wanted: &wanted,
                scores: &scores,
                first,
                count,
                vocab: self.head.n,
                mask_index: self.config.mask_index,
            };
            self.gpu.scoped(|| {
                self.head(&state.scratch, first, count);
                score(&self.gpu, &io);
            });
        }
        let mut read = self.gpu.read_floats(&scores).await?;
        // A buffer holds four values at least.
        read.truncate(targets.len());
        Ok(read)
    }
}
