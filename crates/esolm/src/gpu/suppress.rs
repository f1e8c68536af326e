//! Tokens that are excluded from a draw or from a confidence.

use super::{GpuExecutor, State};
use crate::error::EngineError;
use crate::kernels::runtime::Buffer;
use crate::kernels::sample::suppress;

/// A list of tokens on the device.
pub(super) struct Listed {
    tokens: Buffer,
    count: usize,
}

impl GpuExecutor {
    /// Uploads a list of tokens; `None` if it is empty.
    pub(super) fn listed(&self, tokens: &[u32]) -> Result<Option<Listed>, EngineError> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let mut words = tokens.to_vec();
        // No binding is smaller than 16 bytes.
        words.resize(words.len().next_multiple_of(4), 0);
        Ok(Some(Listed {
            tokens: self.gpu.words(words)?,
            count: tokens.len(),
        }))
    }

    /// Makes the listed tokens impossible in `count` rows of the held logits, from row `first` on.
    pub(super) fn suppress(
        &self,
        state: &State,
        [first, count]: [usize; 2],
        listed: Option<&Listed>,
    ) {
        if let Some(Listed { tokens, count: all }) = listed {
            let logits = &state.scratch.logits;
            let rows = [first, count];
            suppress(&self.gpu, logits, self.head.padded(), rows, tokens, *all);
        }
    }
}
