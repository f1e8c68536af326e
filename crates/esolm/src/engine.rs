//! A model on a device, and plans run on it. Everything here runs in the model's own thread; what users meet is [`crate::Model`].

mod sets;

use std::collections::VecDeque;

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::{Family, ModelConfig};
use esolm_core::plan::{Phase, Plan, SlotMove};
use esolm_core::reveal::{Choice, Outcome};
use esolm_core::rng::{gumbel_from_uniform, step_seed};
use esolm_core::rows::{Layout, StepRows};
use esolm_core::sampler::Sampler;
use esolm_core::trace::{Counters, Revealed, Step};
use web_time::Instant;

use crate::device::{DeviceInfo, LoadOptions};
use crate::error::EngineError;
use crate::executor::{
    Draw, Executor, Pending, check_choice, check_drawn, check_logits, check_rows, check_targets,
    check_tokens, noise_keys,
};
#[cfg(not(target_family = "wasm"))]
use crate::measure::Rates;
#[cfg(not(target_family = "wasm"))]
use crate::measure::forms::{Comparison, Scope};
use crate::memory::{self, MemoryUse};
use crate::place::place;
use sets::Sets;

/// A model on a device.
pub struct Engine {
    executor: Box<dyn Executor>,
    config: ModelConfig,
    device: DeviceInfo,
    /// Of the batch that was started last.
    layout: Layout,
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
        check_tokens(layout, tokens, self.config.vocab_size)?;
        self.layout = Layout::default();
        self.executor.start(layout, tokens)?;
        self.layout = *layout;
        Ok(())
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
        self.check_noise(step, draw)?;
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
        self.check_noise(step, draw)?;
        check_choice(step, choice)?;
        self.pass(step, Some(ids))?;
        self.executor.reveal(draw, choice)
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

    fn check_noise(&self, step: &StepRows, draw: &Draw) -> Result<(), EngineError> {
        let vocab = self.config.vocab_size;
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
                seed: 0,
                noise: Some(&noise),
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

    /// Begins to run `plan`. Nothing happens before [`Run::next`] or [`Run::finish`].
    ///
    /// # Errors
    /// When the batch does not fit the device.
    pub fn run<'a>(
        &'a mut self,
        plan: &'a Plan,
        draw: Draw<'static>,
        observe: bool,
    ) -> Result<Run<'a>, EngineError> {
        let began = Instant::now();
        self.prepare_plan(plan)?;
        self.start(&plan.layout(), &plan.initial_tokens())?;
        Ok(Run {
            ids: plan.ids(),
            engine: self,
            plan,
            draw,
            observe,
            next: 0,
            launched: 0,
            rows: 0,
            waiting: VecDeque::new(),
            known: vec![0; plan.sequences.len()],
            wanted: match plan.sets {
                // Until no place is masked.
                Some(_) => usize::MAX,
                None => plan.nfe(),
            },
            sets: Sets::of(plan),
            ended: vec![false; plan.sequences.len()],
            is_stopped: false,
            began,
        })
    }
}

/// Passes that are queued at most while nobody watches.
const QUEUED_STEPS: usize = 32;

/// A plan under way. Between steps it may be stopped ([`Run::stop`]). Whoever drops it awaits [`Run::settle`] first: a reading that is
/// dropped half done would keep its staging buffer mapped.
pub struct Run<'a> {
    engine: &'a mut Engine,
    plan: &'a Plan,
    ids: Vec<u32>,
    draw: Draw<'static>,
    /// Report which tokens each step revealed. They are read back asynchronously and one step behind.
    observe: bool,
    /// The step of the plan that comes next.
    next: usize,
    /// Passes so far: steps of which confidence left nothing to draw are not run.
    launched: usize,
    rows: usize,
    /// Steps launched but not yet reported: one, while somebody watches.
    waiting: VecDeque<Waiting>,
    /// Steps to run: all of the plan, unless it is stopped or its last texts have ended.
    wanted: usize,
    /// The texts of a SetDLM, where what became known decides which rows are run.
    sets: Option<Sets>,
    /// Texts of which no further step is run.
    ended: Vec<bool>,
    /// Entries of each text that are known before the plan would know it.
    known: Vec<u32>,
    /// Whether steps of texts that have not ended were given up.
    is_stopped: bool,
    began: Instant,
}

struct Waiting {
    step: Step,
    /// Sequence and place in the token buffer of each token drawn.
    targets: Vec<(u32, u32)>,
    reading: Option<Reading>,
}

/// What is read of a step.
enum Reading {
    /// The token buffer.
    Tokens(Pending<'static, Vec<u32>>),
    /// What became known, and of each text that was drawn from the entries that are known when nothing of them is left.
    Outcome(Pending<'static, Outcome>, Vec<(usize, u32)>),
}

impl Run<'_> {
    /// Runs the next step and reports one: this one, or, while tokens are observed, the one before, so that reading them
    /// never holds up the device.
    ///
    /// # Errors
    /// When the device fails, or a pass drew no token.
    pub async fn next(&mut self) -> Result<Option<Step>, EngineError> {
        let step = self.advance().await;
        if step.is_err() {
            self.settle().await;
        }
        step
    }

    /// Lets no further step begin; those under way are still reported.
    pub fn launch_no_more(&mut self) {
        self.is_stopped |= match &self.sets {
            Some(sets) => sets.goes_on(&self.ended),
            None => self.next < self.wanted,
        };
        self.wanted = self.next;
    }

    /// Runs no further step of a text; the others go on. What is not known of it stays the mask token.
    pub fn end(&mut self, text: usize) {
        self.ended[text] = true;
        if self.sets.is_some() {
            return;
        }
        let texts = self.plan.sequences.iter().zip(&self.ended);
        let left = texts
            .filter(|(_, ended)| !**ended)
            .map(|(text, _)| text.steps.len());
        self.wanted = self.wanted.min(left.max().unwrap_or(0).max(self.next));
    }

    /// Whether what became known decides which steps are run.
    fn is_led(&self) -> bool {
        let rule = self.plan.reveal.as_ref();
        rule.is_some_and(|rule| rule.threshold.is_some())
    }

    async fn advance(&mut self) -> Result<Option<Step>, EngineError> {
        // The next step of a SetDLM is made of what became known in this one.
        let ahead = usize::from((self.observe || self.is_led()) && self.sets.is_none());
        while self.next < self.wanted && self.waiting.len() <= ahead {
            self.launch()?;
            self.keep_up().await?;
        }
        let Some(mut oldest) = self.waiting.pop_front() else {
            return Ok(None);
        };
        let drawn = match oldest.reading {
            None => Vec::new(),
            Some(Reading::Tokens(reading)) => {
                let tokens = reading.await?;
                let drawn = oldest.targets.into_iter();
                drawn
                    .map(|(sequence, target)| (sequence, target, tokens[target as usize]))
                    .collect()
            }
            Some(Reading::Outcome(reading, stretches)) => {
                let Outcome { left, tokens } = reading.await?;
                if let Some(sets) = &mut self.sets {
                    sets.end(&tokens);
                }
                for ((text, end), left) in stretches.into_iter().zip(left) {
                    if left == 0 {
                        self.known[text] = end;
                    }
                }
                let drawn = oldest.targets.into_iter().zip(tokens);
                drawn
                    .filter(|&(_, token)| token != self.plan.mask_index)
                    .map(|((sequence, target), token)| (sequence, target, token))
                    .collect()
            }
        };
        for (sequence, target, token) in drawn {
            let position = self.plan.output_position(target);
            let text = self.ids[sequence as usize];
            check_drawn(text, position, token, self.plan.mask_index)?;
            oldest.step.revealed.push(Revealed {
                sequence,
                position,
                token,
                text: String::new(),
            });
        }
        oldest.step.seconds = self.began.elapsed().as_secs_f64();
        Ok(Some(oldest.step))
    }

    /// Lets the device catch up now and then while nobody reads tokens, so that few passes are queued and a stop is soon one.
    async fn keep_up(&mut self) -> Result<(), EngineError> {
        if !self.observe && self.launched.is_multiple_of(QUEUED_STEPS) {
            self.engine.wait().await?;
        }
        Ok(())
    }

    /// Launches the next step, but for the texts of which it would draw nothing.
    fn launch(&mut self) -> Result<(), EngineError> {
        if self.sets.is_some() {
            return self.launch_sets();
        }
        let (plan, index) = (self.plan, self.next);
        self.next += 1;
        let is_known = |text: usize, known: u32| {
            let step = plan.sequences[text].steps.get(index);
            step.is_some_and(|step| step.least.is_some() && step.end <= known)
        };
        let runs: Vec<bool> = (self.ended.iter().zip(&self.known).enumerate())
            .map(|(text, (ended, &known))| !ended && !is_known(text, known))
            .collect();
        let step = plan.step_rows_of(index, |text| runs[text]);
        if step.rows.is_empty() {
            return Ok(());
        }
        let choice = plan.choice(index, |text| runs[text]);
        match &choice {
            None => self.engine.step(&step, &self.ids, &self.draw)?,
            Some(choice) => {
                let draw = Draw {
                    seed: step_seed(self.draw.seed, index as u32),
                    ..self.draw
                };
                self.engine.reveal(&step, &self.ids, &draw, choice)?;
            }
        }
        self.launched += 1;
        self.rows += step.rows.len();
        let drawn = step.sampled.iter().map(|&row| {
            let row = step.rows[row as usize];
            (row.sequence, row.target)
        });
        let reading = match &choice {
            None => self
                .observe
                .then(|| Reading::Tokens(self.engine.executor.tokens())),
            Some(_) if !self.observe && !self.is_led() => None,
            Some(_) => {
                let end = |text: usize| {
                    let step = plan.sequences[text].steps.get(index)?;
                    (runs[text] && step.start < step.end).then_some((text, step.end))
                };
                let stretches = (0..runs.len()).filter_map(end).collect();
                Some(Reading::Outcome(
                    self.engine.outcome(self.observe),
                    stretches,
                ))
            }
        };
        self.waiting.push_back(Waiting {
            targets: drawn.filter(|_| self.observe).collect(),
            reading,
            step: Step {
                step: index,
                steps: plan.nfe(),
                phase: plan.phase(index),
                revealed: Vec::new(),
                rows: step.rows.len(),
                window: Vec::new(),
                cache_length: plan.cache_length(index),
                seconds: 0.0,
                attempt: 0,
            },
        });
        Ok(())
    }

    /// Launches the next step of a SetDLM, or ends the run where nothing is masked any more.
    fn launch_sets(&mut self) -> Result<(), EngineError> {
        let (plan, index) = (self.plan, self.next);
        let sets = self.sets.as_mut().filter(|sets| sets.goes_on(&self.ended));
        let Some(sets) = sets else {
            self.wanted = self.next;
            return Ok(());
        };
        let draw = Draw {
            seed: step_seed(self.draw.seed, index as u32),
            ..self.draw
        };
        let step = sets.launch(self.engine, &self.ids, &self.ended, &draw)?;
        self.next += 1;
        self.launched += 1;
        self.rows += step.rows.len();
        let cache_length = sets.cache_length();
        let drawn = (step.sampled.iter())
            .filter(|_| self.observe)
            .map(|&row| step.rows[row as usize]);
        let window = drawn.clone().map(|row| (row.sequence, row.position));
        let window = window.collect();
        let phase = match step.sampled.is_empty() {
            true => Phase::Prompt,
            false => Phase::Diffusion,
        };
        self.waiting.push_back(Waiting {
            targets: drawn.map(|row| (row.sequence, row.target)).collect(),
            reading: Some(Reading::Outcome(self.engine.outcome(true), Vec::new())),
            step: Step {
                step: index,
                steps: plan.nfe().max(index + 1),
                phase,
                revealed: Vec::new(),
                rows: step.rows.len(),
                window,
                cache_length,
                seconds: 0.0,
                attempt: 0,
            },
        });
        Ok(())
    }

    /// Runs the steps that are left, reports none, and reads the tokens.
    ///
    /// # Errors
    /// When the device fails, or a pass drew no token.
    pub async fn finish(mut self) -> Result<Written, EngineError> {
        self.observe = false;
        self.settle().await;
        while self.next().await?.is_some() {}
        self.stop().await
    }

    /// Waits for the readings under way and gives up what they bring.
    pub async fn settle(&mut self) {
        for waiting in self.waiting.drain(..) {
            // An error comes again with whatever is read next.
            match waiting.reading {
                Some(Reading::Tokens(reading)) => drop(reading.await),
                Some(Reading::Outcome(reading, _)) => drop(reading.await),
                None => {}
            }
        }
    }

    /// Stops here and reads the tokens; what is not known yet is the mask token.
    ///
    /// # Errors
    /// When the device fails, or a pass drew no token.
    pub async fn stop(mut self) -> Result<Written, EngineError> {
        self.settle().await;
        let tokens = self.engine.tokens().await?;
        let tokens = self.plan.output(&tokens);
        let is_finished = self.next == self.wanted && !self.is_stopped;
        for (text, tokens) in tokens.iter().enumerate() {
            let is_whole = is_finished && !self.ended[text];
            check_text(self.plan.mask_index, self.ids[text], tokens, is_whole)?;
        }
        Ok(Written {
            tokens,
            is_finished,
            nfe: self.launched,
            rows: self.rows,
            seconds: self.began.elapsed().as_secs_f64(),
        })
    }
}

/// Checks that a text holds tokens, and the mask only where it is not whole.
fn check_text(mask: u32, text: u32, tokens: &[u32], is_whole: bool) -> Result<(), EngineError> {
    for (position, &token) in (0..).zip(tokens) {
        if is_whole || token != mask {
            check_drawn(text, position, token, mask)?;
        }
    }
    Ok(())
}

/// What a plan came to.
#[derive(Clone, Debug)]
pub struct Written {
    /// Tokens in natural order, a sequence each.
    pub tokens: Vec<Vec<u32>>,
    /// Whether no step was given up but those of texts that ended.
    pub is_finished: bool,
    /// Forward passes.
    pub nfe: usize,
    /// Rows that went through the network in all.
    pub rows: usize,
    /// Seconds from the start to the last token on the host.
    pub seconds: f64,
}
