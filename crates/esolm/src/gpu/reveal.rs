//! Passes in which confidence decides which tokens are revealed.

use esolm_core::reveal::{Choice, Confidence, Outcome};

use super::GpuExecutor;
use super::tables::Tables;
use crate::error::EngineError;
use crate::executor::{NoiseKey, Pending, Share};
use crate::kernels::reveal::{Confidences, Reveal, confidence, reveal};
use crate::kernels::runtime::{Buffer, Gpu};

/// Buffers for the choices of a batch, for up to `groups` groups and `sampled` sampled rows.
pub(super) struct Choosing {
    groups: usize,
    sampled: usize,
    /// What was drawn for each place of the token buffer.
    drawn: Buffer,
    confidences: Buffer,
    /// The number of masks left in each group of the last choice, then what each sampled row revealed.
    outcome: Buffer,
    /// Number of groups and of sampled rows of the last choice.
    sizes: [usize; 2],
}

impl Choosing {
    fn allocate(
        gpu: &Gpu,
        tokens: usize,
        [groups, sampled]: [usize; 2],
    ) -> Result<Self, EngineError> {
        let name = format!("a choice among {sampled} drawn tokens");
        Ok(Self {
            groups,
            sampled,
            drawn: gpu.allocate(&name, tokens)?,
            confidences: gpu.allocate(&name, sampled)?,
            outcome: gpu.allocate(&name, groups + sampled)?,
            sizes: [0; 2],
        })
    }
}

impl GpuExecutor {
    /// Makes room for a choice among the sampled rows of the last pass.
    fn grow_choosing(&mut self, choice: &Choice) -> Result<(), EngineError> {
        let (state, tables) = self.passed()?;
        let sizes = [choice.groups.len(), tables.sampled];
        let held = state.choosing.as_ref();
        let held = held.map_or([0; 2], |held| [held.groups, held.sampled]);
        let most = [0, 1].map(|i| sizes[i].max(held[i]));
        let tokens = state.layout.tokens;
        let grown = match most != held {
            true => Some(
                self.gpu
                    .scoped(|| Choosing::allocate(&self.gpu, tokens, most))?,
            ),
            false => None,
        };
        if let Some(state) = &mut self.state {
            if let Some(grown) = grown {
                state.choosing = Some(grown);
            }
            if let Some(choosing) = &mut state.choosing {
                choosing.sizes = sizes;
            }
        }
        Ok(())
    }

    /// The confidences, if they do not depend on logits.
    fn given_confidences(by: Confidence, shares: &[Share], keys: &[NoiseKey]) -> Option<Vec<u32>> {
        let own = |share: &Share| {
            let (seed, keys) = (share.draw.seed, &keys[share.rows.clone()]);
            keys.iter().map(move |&key| by.of_key(seed, key))
        };
        shares.iter().flat_map(own).collect()
    }

    /// See [`crate::executor::Executor::reveal`].
    pub(super) fn choose(&mut self, shares: &[Share], choice: &Choice) -> Result<(), EngineError> {
        self.grow_choosing(choice)?;
        let (state, tables) = self.passed()?;
        let (Some(choosing), Some(first), true) =
            (&state.choosing, shares.first(), tables.sampled > 0)
        else {
            return self.gpu.submit();
        };
        // The shares differ only in their seeds.
        let filter = choice.rule.by.filter(&first.draw.sampler);
        let unsure = self.listed(first.draw.unsure)?;
        self.gpu.scoped(|| {
            self.draw_to(shares, &choosing.drawn, |tables: &Tables, first, count| {
                if let Some(filter) = &filter {
                    self.suppress(state, [0, count], unsure.as_ref());
                    let io = Confidences {
                        logits: &state.scratch.logits,
                        stride: self.head.padded(),
                        rows: &tables.rows,
                        tokens: &state.tokens,
                        drawn: &choosing.drawn,
                        confidences: &choosing.confidences,
                        first,
                        count,
                        vocab: self.head.n,
                        mask_index: self.config.mask_index,
                    };
                    confidence(&self.gpu, filter, &io);
                }
            })?;
            let given = match &filter {
                Some(_) => None,
                None => Self::given_confidences(choice.rule.by, shares, &state.keys)
                    .map(|words| self.gpu.words(words))
                    .transpose()?,
            };
            let words = choice.groups.iter();
            let words = words.flat_map(|group| [group.first, group.rows, group.least, 0]);
            let longest = choice.groups.iter().map(|group| group.rows as usize).max();
            let io = Reveal {
                rows: &tables.rows,
                drawn: &choosing.drawn,
                confidences: given.as_ref().unwrap_or(&choosing.confidences),
                groups: &self.gpu.words(words.collect())?,
                tokens: &state.tokens,
                outcome: &choosing.outcome,
                count: choice.groups.len(),
                longest: longest.unwrap_or(0),
                mask_index: self.config.mask_index,
                bound: choice.rule.bound(),
            };
            reveal(&self.gpu, &io);
            Ok::<_, EngineError>(())
        })?;
        self.gpu.submit()
    }

    /// See [`crate::executor::Executor::outcome`].
    pub(super) fn chosen_tokens(&mut self, wanted: bool) -> Pending<'static, Outcome> {
        let reading = self.started().map(|state| {
            let choosing = state.choosing.as_ref()?;
            let [groups, sampled] = choosing.sizes;
            let words = match wanted {
                true => groups + sampled,
                false => groups,
            };
            if words == 0 {
                return None;
            }
            let part = choosing.outcome.part(0, words as u64 * 4);
            let reading: Pending<'static, Vec<u8>> = Box::pin(self.gpu.read(&part));
            Some((groups, reading))
        });
        Box::pin(async move {
            let Some((groups, reading)) = reading? else {
                return Ok(Outcome::default());
            };
            let mut left: Vec<u32> = bytemuck::pod_collect_to_vec(&reading.await?);
            let tokens = left.split_off(groups);
            Ok(Outcome { left, tokens })
        })
    }
}
