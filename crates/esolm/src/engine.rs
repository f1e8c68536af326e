//! A model on a device, and plans run on it. All of this runs on the model's own thread; users see [`crate::Model`].

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
    /// Layout of the running batch.
    layout: Layout,
    /// Layout of the batch set aside.
    aside: Layout,
    /// Number of batches started so far, by which a caller can tell whether the running batch is still its own.
    started: u64,
}

/// Result of a replayed trace.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Logits `[sequences, slots, V]` of each slot, from the step that sampled it; zeros if none did. The mask column
    /// is left as computed.
    pub logits: Vec<f32>,
    /// Tokens `[sequences, slots]` in sorted order.
    pub tokens_sorted: Vec<Vec<u32>>,
    /// Tokens in natural order, as the plan outputs them.
    pub sample: Vec<Vec<u32>>,
}

impl Engine {
    /// Loads a checkpoint onto a device.
    ///
    /// # Errors
    /// If the checkpoint is inconsistent, the requested device is not available, or there is not enough memory.
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

    /// Releases the model and returns its memory to the device. Dropping an engine instead returns it only to the
    /// runtime's pool, for the next model on the device.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn close(self) -> Result<(), EngineError> {
        self.executor.close()
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that runs the model.
    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// What the device has done since it was opened.
    pub fn counters(&self) -> Counters {
        self.executor.counters()
    }

    /// Measured rates of the device; on a GPU, of its kernels on this model's matrices.
    ///
    /// # Errors
    /// If the device fails or does not have enough memory.
    #[cfg(not(target_family = "wasm"))]
    pub async fn rates(&self) -> Result<Rates, EngineError> {
        self.executor.rates().await
    }

    /// Times the variants of every kernel at this model's shapes; `None` on the CPU.
    ///
    /// # Errors
    /// If the device fails or does not have enough memory.
    #[cfg(not(target_family = "wasm"))]
    pub async fn compare(&self, scope: &Scope) -> Result<Option<Vec<Comparison>>, EngineError> {
        self.executor.compare(scope).await
    }

    /// Starts a batch: allocates the cache and the token buffer.
    ///
    /// # Errors
    /// If the tokens do not fit the layout or the vocabulary, or the batch does not fit the device.
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

    /// Layout of the running batch.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Number of the running batch.
    pub fn batch(&self) -> u64 {
        self.started
    }

    /// Reserves the memory of a batch: its cache, and passes of up to `rows` rows, `sampled` of them sampled.
    ///
    /// # Errors
    /// If the host does not have enough memory.
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

    /// Runs a pass whose rows have not been checked yet.
    fn pass(&mut self, step: &StepRows, ids: Option<&[u32]>) -> Result<(), EngineError> {
        // A prepended token may shift the last position by one; texts longer than the context are allowed.
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

    /// Runs one pass over the running batch and draws its sampled rows. `ids` has the absolute index of each sequence.
    ///
    /// # Errors
    /// If the pass does not fit the batch, or the device fails.
    pub fn step(&mut self, step: &StepRows, ids: &[u32], draw: &Draw) -> Result<(), EngineError> {
        self.check_draw(step, draw)?;
        self.pass(step, Some(ids))?;
        self.executor.draw(draw)
    }

    /// Runs one pass over the running batch and lets `choice` decide which of the drawn tokens are revealed. `ids` has
    /// the absolute index of each sequence. If a text draws at a position more than once, each draw needs its own seed
    /// ([`step_seed`]).
    ///
    /// # Errors
    /// See [`Engine::step`]; also if the choice does not fit the pass.
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

    /// Copies cache slots to other slots before the next pass, one move after another.
    ///
    /// # Errors
    /// If a slot lies outside the running batch, or the device fails.
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

    /// The outcome of the last [`Engine::reveal`], unaffected by work queued later; its tokens only if `wanted`.
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

    /// Runs one pass over the running batch and reads the logits `[sampled, V]`, all finite except the mask's.
    ///
    /// # Errors
    /// See [`Engine::step`]; also [`EngineError::NotFinite`].
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

    /// Runs one pass over the running batch and reads the natural log-probability of each sampled row's token in
    /// `targets`, excluding the mask token. The logits stay on the device.
    ///
    /// # Errors
    /// See [`Engine::step`].
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

    /// Waits until all launched work is done. On the CPU that is always the case.
    ///
    /// # Errors
    /// If a pass failed on the device.
    pub async fn wait(&self) -> Result<(), EngineError> {
        self.executor.wait().await
    }

    /// The token buffer of the running batch.
    ///
    /// # Errors
    /// If a pass failed on the device.
    pub async fn tokens(&mut self) -> Result<Vec<u32>, EngineError> {
        self.executor.tokens().await
    }

    /// A single pass: starts a batch and returns the logits `[sampled, V]`.
    ///
    /// # Errors
    /// See [`Engine::step`].
    pub async fn forward(
        &mut self,
        layout: &Layout,
        tokens: &[u32],
        step: &StepRows,
    ) -> Result<Vec<f32>, EngineError> {
        self.start(layout, tokens)?;
        self.logits(step).await
    }

    /// Runs a plan with recorded uniforms `[sequences, slots, V]`, indexed by the slot of the sampled row, or for a
    /// BD3-LM by its position. The noise is -ln(-ln u), as in the published sampler. `go_on` is asked after each step;
    /// if it returns false, there is no result.
    ///
    /// # Errors
    /// If the uniforms do not fit the plan, or a pass draws no token; also see [`Engine::step`].
    pub async fn replay(
        &mut self,
        plan: &Plan,
        uniforms: &[f64],
        sampler: Sampler,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Replay>, EngineError> {
        let vocab = self.config.vocab_size;
        let layout = plan.layout();
        // The last slots may be missing if none of their rows is ever sampled, such as an AR model's last slot.
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
