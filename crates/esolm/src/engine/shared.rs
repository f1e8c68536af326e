//! A batch that several requests share: what each of them needs of the engine between the steps of the others.

use esolm_core::reveal::Choice;
use esolm_core::rows::{Layout, StepRows};

use super::Engine;
use crate::error::EngineError;
use crate::executor::{Draw, Pending, Share, TOKEN_ALIGN, check_choice, check_vocabulary};

impl Engine {
    /// Writes over a stretch of the started batch's tokens, after all steps so far; `first` is a multiple of [`TOKEN_ALIGN`].
    ///
    /// # Errors
    /// When the stretch or a token of it lies outside.
    pub fn write(&mut self, first: usize, tokens: &[u32]) -> Result<(), EngineError> {
        let (vocab, mask) = (self.config.vocab_size, self.config.mask_index);
        let is_token = |token: u32| (token as usize) < vocab || token == mask;
        let is_inside = first.is_multiple_of(TOKEN_ALIGN)
            && first.saturating_add(tokens.len()) <= self.layout.tokens
            && tokens.iter().all(|&token| is_token(token));
        match is_inside {
            true => self.executor.write(first, tokens),
            false => Err(EngineError::Rows(format!(
                "{} tokens from {first} on do not fit the layout {:?}",
                tokens.len(),
                self.layout
            ))),
        }
    }

    /// As [`Engine::step`], each share of the sampled rows drawn in its own way; or as [`Engine::reveal`] where there is a choice, the shares
    /// with seeds of their own. Gives the rows' logits `[sampled, V]`, unchecked, where `with_logits` asks for them.
    ///
    /// # Errors
    /// As [`Engine::step`], when the shares do not cover the sampled rows one after the other, and when the choice does not fit the pass or
    /// shares under it differ in more than their seeds.
    pub async fn step_each(
        &mut self,
        step: &StepRows,
        ids: &[u32],
        shares: &[Share<'_>],
        choice: Option<&Choice>,
        with_logits: bool,
    ) -> Result<Vec<f32>, EngineError> {
        let covered = shares.iter().try_fold(0, |end, share| {
            (share.rows.start == end).then_some(share.rows.end.max(end))
        });
        if covered != Some(step.sampled.len()) {
            return Err(EngineError::Rows(format!(
                "the shares of a pass do not cover its {} sampled rows",
                step.sampled.len()
            )));
        }
        for share in shares {
            check_vocabulary(&share.draw, self.config.vocab_size)?;
        }
        if let Some(choice) = choice {
            check_choice(step, choice)?;
            let mut ways = shares.iter().map(|Share { draw, .. }| {
                let Draw {
                    suppressed, unsure, ..
                } = *draw;
                (draw.sampler, suppressed, unsure)
            });
            let first = ways.next();
            if ways.any(|other| Some(other) != first) {
                return Err(EngineError::Rows(
                    "confidence chooses among tokens that are drawn in different ways".into(),
                ));
            }
        }
        self.pass(step, Some(ids))?;
        let logits = match with_logits {
            true => self.executor.logits().await?,
            false => Vec::new(),
        };
        match choice {
            None => self.executor.draw_each(shares)?,
            Some(choice) => self.executor.reveal(shares, choice)?,
        }
        Ok(logits)
    }

    /// The token buffer as it is after the steps so far, whatever is run meanwhile. Must be awaited, not dropped.
    pub fn reading(&mut self) -> Pending<'static, Vec<u32>> {
        self.executor.tokens()
    }

    /// Runs one pass over the started batch and reads the logits `[sampled, V]` of its rows, unchecked.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub async fn unchecked_logits(&mut self, step: &StepRows) -> Result<Vec<f32>, EngineError> {
        self.pass(step, None)?;
        self.executor.logits().await
    }

    /// Sets the started batch aside and takes up the one that was set aside before; at first there is none.
    pub fn swap(&mut self) {
        self.executor.swap();
        std::mem::swap(&mut self.layout, &mut self.aside);
    }

    /// Slots and tokens of a sequence that any text of up to `length` tokens fits in, one that may be prepended included.
    pub fn place(length: usize) -> Layout {
        let slots = length + 1;
        Layout {
            sequences: 1,
            slots,
            tokens: slots.next_multiple_of(TOKEN_ALIGN),
        }
    }

    /// An engine over an executor that is no device of this machine.
    #[cfg(test)]
    pub(crate) fn of(
        executor: Box<dyn crate::executor::Executor>,
        config: esolm_core::config::ModelConfig,
        device: crate::device::DeviceInfo,
    ) -> Self {
        Self {
            executor,
            config,
            device,
            layout: Layout::default(),
            aside: Layout::default(),
            started: 0,
        }
    }
}
