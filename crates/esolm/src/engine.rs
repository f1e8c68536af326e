//! A model on a device, and plans run on it. Everything here runs in the model's own thread; what users meet is [`crate::Model`].

mod run;
mod sets;
mod shared;

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::{Family, ModelConfig};
use esolm_core::plan::{Plan, SlotMove};
use esolm_core::reveal::{Choice, Outcome};
use esolm_core::rng::gumbel_from_uniform;
use esolm_core::rows::{Layout, StepRows};
use esolm_core::sampler::Sampler;
use esolm_core::trace::Counters;

use crate::device::{DeviceInfo, LoadOptions};
use crate::error::EngineError;
use crate::executor::{
    Draw, Executor, Pending, Share, check_choice, check_logits, check_masked, check_rows,
    check_targets, check_tokens, check_vocabulary, noise_keys,
};
#[cfg(not(target_family = "wasm"))]
use crate::measure::Rates;
#[cfg(not(target_family = "wasm"))]
use crate::measure::forms::{Comparison, Scope};
use crate::memory::{self, MemoryUse};
use crate::place::place;
use run::check_text;
pub use run::{Run, Written};

/// A model on a device.
pub struct Engine {
    executor: Box<dyn Executor>,
    config: ModelConfig,
    device: DeviceInfo,
    /// Of the batch that was started last.
    layout: Layout,
    /// Of the batch that was set aside.
    aside: Layout,
    /// Batches that were started so far, by which whoever comes back knows whether the one running is his own.
    started: u64,
}

/// A replayed trace.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Logits `[sequences, slots, V]` of each slot in the step that sampled it, mask column untouched; zeros where none did.
    pub logits: Vec<f32>,
    /// Tokens `[sequences, slots]` in sorted order.
    pub tokens_sorted: Vec<Vec<u32>>,
    /// Tokens in natural order, as the plan gives them out.
    pub sample: Vec<Vec<u32>>,
}

impl Engine {
    /// Loads a checkpoint onto a device.
    ///
    /// # Errors
    /// When the checkpoint is inconsistent, no device answers to the choice, or memory does not suffice.
    pub async fn load(ckpt: &Checkpoint, options: &LoadOptions) -> Result<Self, EngineError> {
        let (executor, device) = place(ckpt, options).await?;
        Ok(Self {
            executor,
            config: ckpt.config().clone(),
            device,
            layout: Layout::default(),
            aside: Layout::default(),
            started: 0,
        })
    }

    /// Gives up the model, and its memory back to the device. Dropping an engine only gives it back to the runtime's pool, for the next
    /// one on the device.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn close(self) -> Result<(), EngineError> {
        self.executor.close()
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What runs the model.
    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// What the device did since it was opened.
    pub fn counters(&self) -> Counters {
        self.executor.counters()
    }

    /// Rates of the device, a GPU's kernels measured on this model's matrices.
    ///
    /// # Errors
    /// When the device fails or has no memory for it.
    #[cfg(not(target_family = "wasm"))]
    pub async fn rates(&self) -> Result<Rates, EngineError> {
        self.executor.rates().await
    }

    /// Every form that a kernel could run in against the others, at this model's shapes; nothing on the CPU.
    ///
    /// # Errors
    /// When the device fails or has no memory for it.
    #[cfg(not(target_family = "wasm"))]
    pub async fn compare(&self, scope: &Scope) -> Result<Option<Vec<Comparison>>, EngineError> {
        self.executor.compare(scope).await
    }

    /// Prepares a batch: cache and token buffer.
    ///
    /// # Errors
    /// When the tokens do not fit the layout or the vocabulary, or the batch does not fit the device.
    pub fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError> {
        check_tokens(
            layout,
            tokens,
            self.config.vocab_size,
            self.config.mask_index,
        )?;
        self.layout = Layout::default();
        self.started += 1;
        self.executor.start(layout, tokens)?;
        self.layout = *layout;
        Ok(())
    }

    /// Sizes of the batch that was started last.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The number of the batch that was started last.
    pub fn batch(&self) -> u64 {
        self.started
    }

    /// Asks for the memory of a batch, before anything is done for it: of its cache, and of passes of up to `rows` rows, `sampled` of them
    /// sampled.
    ///
    /// # Errors
    /// When this machine's memory does not suffice.
    pub fn prepare(
        &mut self,
        layout: &Layout,
        rows: usize,
        sampled: usize,
    ) -> Result<(), EngineError> {
        self.executor.prepare(layout, rows, sampled)
    }

    fn prepare_plan(&mut self, plan: &Plan) -> Result<(), EngineError> {
        let (rows, sampled) = plan.largest_pass();
        self.prepare(&plan.layout(), rows, sampled)
    }

    /// Runs a pass whose rows were not checked yet.
    fn pass(&mut self, step: &StepRows, ids: Option<&[u32]>) -> Result<(), EngineError> {
        // A prepended element may make the last position one more than the context; a longer text than the context is allowed.
        let tokens = self.layout.tokens / self.layout.sequences.max(1);
        let positions = (self.config.length + 1).max(self.layout.slots.max(tokens));
        check_rows(&self.layout, positions, step)?;
        check_masked(step, self.config.mask())?;
        let keys = match ids {
            Some(ids) => noise_keys(&self.layout, step, ids)?,
            None => vec![[0; 2]; step.sampled.len()],
        };
        self.executor.pass(step, &keys)
    }

    /// Runs one pass over the started batch and draws its sampled rows. `ids` has the absolute index of each sequence.
    ///
    /// # Errors
    /// When the pass does not fit the batch or the device fails.
    pub fn step(&mut self, step: &StepRows, ids: &[u32], draw: &Draw) -> Result<(), EngineError> {
        self.check_draw(step, draw)?;
        self.pass(step, Some(ids))?;
        self.executor.draw(draw)
    }

    /// Runs one pass over the started batch and lets `choice` choose which of the drawn tokens become known. `ids` has the absolute index of
    /// each sequence. Of a text that draws at a place more than once, each draw has a seed of its own ([`step_seed`]).
    ///
    /// # Errors
    /// As [`Engine::step`], and when the choice does not fit the pass.
    pub fn reveal(
        &mut self,
        step: &StepRows,
        ids: &[u32],
        draw: &Draw,
        choice: &Choice,
    ) -> Result<(), EngineError> {
        self.check_draw(step, draw)?;
        check_choice(step, choice)?;
        self.pass(step, Some(ids))?;
        let rows = 0..step.sampled.len();
        self.executor.reveal(&[Share { rows, draw: *draw }], choice)
    }

    /// Copies slots of the cache to others, one move after the other, before the next pass.
    ///
    /// # Errors
    /// When a slot lies outside of the started batch, or the device fails.
    pub fn move_slots(&mut self, moves: &[SlotMove]) -> Result<(), EngineError> {
        let Layout {
            sequences, slots, ..
        } = self.layout;
        let is_inside = |m: &SlotMove| {
            (m.sequence as usize) < sequences && m.from.max(m.to) < slots as u32 && m.from != m.to
        };
        match moves.iter().find(|m| !is_inside(m)) {
            Some(outside) => Err(EngineError::Rows(format!(
                "{outside:?} does not fit a batch of {sequences} sequences of {slots} slots"
            ))),
            None if moves.is_empty() => Ok(()),
            None => self.executor.move_slots(moves),
        }
    }

    /// What the last [`Engine::reveal`] came to, whatever is queued later; its tokens only where they are `wanted`.
    pub fn outcome(&mut self, wanted: bool) -> Pending<'static, Outcome> {
        self.executor.outcome(wanted)
    }

    fn check_draw(&self, step: &StepRows, draw: &Draw) -> Result<(), EngineError> {
        let vocab = self.config.vocab_size;
        check_vocabulary(draw, vocab)?;
        match draw.noise {
            Some(noise) if noise.len() != step.sampled.len() * vocab => {
                Err(EngineError::Rows(format!(
                    "{} noise values for {} sampled rows and a vocabulary of {vocab}",
                    noise.len(),
                    step.sampled.len()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Runs one pass over the started batch and reads the logits `[sampled, V]`, all finite but for the mask's.
    ///
    /// # Errors
    /// As [`Engine::step`], and [`EngineError::NotFinite`].
    pub async fn logits(&mut self, step: &StepRows) -> Result<Vec<f32>, EngineError> {
        self.pass(step, None)?;
        let logits = self.executor.logits().await?;
        self.check_logits(step, &logits, |sequence| sequence)?;
        Ok(logits)
    }

    fn check_logits(
        &self,
        step: &StepRows,
        logits: &[f32],
        text: impl Fn(u32) -> u32,
    ) -> Result<(), EngineError> {
        let config = &self.config;
        check_logits(step, logits, config.vocab_size, config.mask_index, text)
    }

    /// Runs one pass over the started batch and reads the log-probability of each sampled row's token in `targets`, natural
    /// logarithm, the mask token left out. Logits stay on the device.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub async fn score(
        &mut self,
        step: &StepRows,
        targets: &[u32],
    ) -> Result<Vec<f32>, EngineError> {
        check_targets(step, targets, self.config.vocab_size)?;
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        self.pass(step, None)?;
        self.executor.score(targets).await
    }

    /// Waits until everything that was launched is done. The CPU is never behind.
    ///
    /// # Errors
    /// When a pass failed on the device.
    pub async fn wait(&self) -> Result<(), EngineError> {
        self.executor.wait().await
    }

    /// The token buffer of the started batch.
    ///
    /// # Errors
    /// When a pass failed on the device.
    pub async fn tokens(&mut self) -> Result<Vec<u32>, EngineError> {
        self.executor.tokens().await
    }

    /// One pass on its own: starts a batch and returns the logits `[sampled, V]`.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub async fn forward(
        &mut self,
        layout: &Layout,
        tokens: &[u32],
        step: &StepRows,
    ) -> Result<Vec<f32>, EngineError> {
        self.start(layout, tokens)?;
        self.logits(step).await
    }

    /// Runs a plan with recorded uniforms `[sequences, slots, V]`, indexed by the slot of the row that was sampled, or of a BD3-LM by its
    /// position: noise is -ln(-ln u), as the published sampler draws it. `go_on` is asked after each step; where it says no, there is no result.
    ///
    /// # Errors
    /// When the uniforms do not fit the plan, a pass draws no token, or as [`Engine::step`].
    pub async fn replay(
        &mut self,
        plan: &Plan,
        uniforms: &[f64],
        sampler: Sampler,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Replay>, EngineError> {
        let vocab = self.config.vocab_size;
        let layout = plan.layout();
        // The last slots may be left out where no row of theirs is ever sampled, as with an AR model's last.
        let slots = uniforms.len() / (layout.sequences * vocab).max(1);
        let by_position = plan.family == Family::Bd3Lm;
        let most = if by_position {
            plan.length
        } else {
            layout.slots
        };
        if !(1..=most).contains(&slots) || slots * layout.sequences * vocab != uniforms.len() {
            return Err(EngineError::Rows(format!(
                "{} uniforms for {} sequences of {} slots and a vocabulary of {vocab}",
                uniforms.len(),
                layout.sequences,
                most
            )));
        }
        if let Some(index) = uniforms.iter().position(|u| !(*u > 0.0 && *u < 1.0)) {
            return Err(EngineError::Rows(format!(
                "uniform {index} is {}; uniforms lie between 0 and 1, both excluded",
                uniforms[index]
            )));
        }
        if plan.reveal.is_some() {
            return Err(EngineError::Rows(
                "uniforms of a plan that does not say which tokens become known".into(),
            ));
        }
        let ids = plan.ids();
        self.prepare_plan(plan)?;
        self.start(&layout, &plan.initial_tokens())?;
        let slots_in_all = slots * layout.sequences;
        let purpose = MemoryUse::Logits { rows: slots_in_all };
        let mut logits = memory::zeros(purpose, uniforms.len())?;
        for index in 0..plan.nfe() {
            let step = plan.step_rows(index);
            let mut noise = Vec::with_capacity(step.sampled.len() * vocab);
            let mut places = Vec::with_capacity(step.sampled.len());
            for &row in &step.sampled {
                let row = step.rows[row as usize];
                let slot = if by_position { row.position } else { row.slot };
                let place = (row.sequence as usize * slots + slot as usize) * vocab;
                let given = uniforms
                    .get(place..place + vocab)
                    .ok_or_else(|| EngineError::Rows(format!("no uniforms for slot {slot}")))?;
                noise.extend(given.iter().copied().map(gumbel_from_uniform));
                places.push(place);
            }
            let draw = Draw {
                sampler,
                noise: Some(&noise),
                ..Draw::default()
            };
            self.pass(&step, Some(&ids))?;
            let drawn_from = self.executor.logits().await?;
            self.check_logits(&step, &drawn_from, |sequence| ids[sequence as usize])?;
            for (row, place) in drawn_from.chunks(vocab).zip(places) {
                logits[place..place + vocab].copy_from_slice(row);
            }
            self.executor.draw(&draw)?;
            crate::turn::turn().await;
            if !go_on() {
                return Ok(None);
            }
        }
        let tokens = self.executor.tokens().await?;
        let sample = plan.output(&tokens);
        for (&id, tokens) in ids.iter().zip(&sample) {
            check_text(plan.mask_index, id, tokens, true)?;
        }
        Ok(Some(Replay {
            logits,
            tokens_sorted: plan.sorted(&tokens),
            sample,
        }))
    }
}
