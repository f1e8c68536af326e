//! Runs a plan: a loaded model steps through it, on a GPU or on the CPU, with or without somebody watching.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::ModelConfig;
use esolm_core::plan::{Phase, Plan};
use esolm_core::rows::{Layout, StepRows};
use esolm_core::sampler::Sampler;
use serde::{Deserialize, Serialize};
use web_time::Instant;

use crate::cpu::CpuExecutor;
use crate::device::{AdapterInfo, AdapterKind, DeviceChoice, Precision, open};
use crate::draw::Draw;
use crate::error::EngineError;
use crate::gpu::GpuExecutor;
use crate::kernels::gpu::Counters;
use crate::variants::{Chosen, Variants};

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Precision of the weights on a GPU; the CPU computes with f32.
    pub weights: Precision,
    /// Precision of the kv_cache on a GPU.
    pub kv_cache: Precision,
    /// Forced kernel variants.
    pub variants: Variants,
}

/// What runs a model; displayed as one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The adapter, or nothing for the CPU.
    pub adapter: Option<AdapterInfo>,
    /// The kernel variants, on a GPU.
    pub variants: Option<Chosen>,
    /// Precision of the weights.
    pub weights: Precision,
    /// Precision of the kv_cache.
    pub kv_cache: Precision,
    /// The CPU runs because `auto` found no real GPU.
    pub is_fallback: bool,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.adapter {
            Some(adapter) => write!(
                f,
                "{adapter}, {} weights, {} kv_cache",
                self.weights, self.kv_cache
            )?,
            None => f.write_str("CPU (Burn flex), f32")?,
        }
        if self.is_fallback {
            f.write_str("; no real GPU was found")?;
        }
        if self
            .adapter
            .as_ref()
            .is_some_and(|a| a.kind == AdapterKind::Software)
        {
            f.write_str("; a software adapter, --device cpu is faster")?;
        }
        Ok(())
    }
}

enum Executor {
    Gpu(Box<GpuExecutor>),
    Cpu(Box<CpuExecutor>),
}

/// A model on a device.
pub struct Engine {
    executor: Executor,
    config: ModelConfig,
    info: DeviceInfo,
}

/// How text is drawn.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions {
    /// Temperature and top-p.
    pub sampler: Sampler,
    /// Keys the noise; give the plan's seed.
    pub seed: u64,
    /// Report which tokens each step revealed. Reads them back, asynchronously and one step behind.
    pub observe: bool,
}

/// A token that a step revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revealed {
    /// Sequence of the batch, from 0.
    pub sequence: u32,
    /// Its natural position in the sequence.
    pub position: u32,
    /// The token drawn.
    pub token: u32,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Number of the step, from 0.
    pub step: usize,
    /// Steps of the plan (its nfe).
    pub steps: usize,
    /// Which phase the step belongs to.
    pub phase: Phase,
    /// Tokens that became known; empty unless observed.
    pub revealed: Vec<Revealed>,
    /// Rows that went through the network.
    pub rows: usize,
    /// Slots in the kv_cache after the step, clean tokens alone, over all sequences.
    pub cache_length: usize,
    /// Seconds since the generation began.
    pub seconds: f64,
}

/// A finished generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// Tokens in natural order, a sequence each.
    pub tokens: Vec<Vec<u32>>,
    /// Forward passes.
    pub nfe: usize,
    /// Rows that went through the network in all.
    pub rows: usize,
    /// Seconds from the start to the last token on the host.
    pub seconds: f64,
    /// What it cost the device; zeros on the CPU.
    pub counters: Counters,
}

/// A replayed trace.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Logits [sequences, slots, V] of each slot in the step that sampled it, mask column untouched; zeros where none did.
    pub logits: Vec<f32>,
    /// Tokens [sequences, slots] in sorted order.
    pub tokens_sorted: Vec<Vec<u32>>,
    /// Tokens in natural order, as the plan gives them out.
    pub sample: Vec<Vec<u32>>,
}

impl Engine {
    /// Loads a checkpoint onto a device.
    ///
    /// # Errors
    /// When the checkpoint is inconsistent, no device answers to the choice, or memory does not suffice.
    pub async fn load(ckpt: &Checkpoint, opts: &EngineOptions) -> Result<Self, EngineError> {
        let config = ckpt.config().clone();
        let (executor, info) = match open(opts.device).await? {
            Some(gpu) => {
                let executor =
                    GpuExecutor::load(gpu, ckpt, opts.weights, opts.kv_cache, &opts.variants)
                        .await?;
                let info = DeviceInfo {
                    adapter: Some(executor.gpu().info.clone()),
                    variants: Some(*executor.chosen()),
                    weights: opts.weights,
                    kv_cache: opts.kv_cache,
                    is_fallback: false,
                };
                (Executor::Gpu(Box::new(executor)), info)
            }
            None => {
                let info = DeviceInfo {
                    adapter: None,
                    variants: None,
                    weights: Precision::F32,
                    kv_cache: Precision::F32,
                    is_fallback: opts.device == DeviceChoice::Auto,
                };
                (
                    Executor::Cpu(Box::new(CpuExecutor::load(ckpt).await?)),
                    info,
                )
            }
        };
        Ok(Self {
            executor,
            config,
            info,
        })
    }

    /// Gives up the model, and its memory back to the device. Dropping an engine only gives it back to the runtime's pool, for the next
    /// one on the device.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn close(self) -> Result<(), EngineError> {
        match self.executor {
            Executor::Gpu(gpu) => gpu.close(),
            Executor::Cpu(_) => Ok(()),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What runs the model.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// The GPU executor, where a GPU runs the model.
    pub fn gpu(&self) -> Option<&GpuExecutor> {
        match &self.executor {
            Executor::Gpu(gpu) => Some(gpu),
            Executor::Cpu(_) => None,
        }
    }

    /// What the device did since it was opened.
    pub fn counters(&self) -> Counters {
        self.gpu()
            .map(|gpu| gpu.gpu().counters())
            .unwrap_or_default()
    }

    /// Prepares a batch: cache and token buffer.
    ///
    /// # Errors
    /// When it does not fit the device.
    pub fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError> {
        match &mut self.executor {
            Executor::Gpu(gpu) => gpu.start(layout, tokens),
            Executor::Cpu(cpu) => cpu.start(layout, tokens),
        }
    }

    /// Runs one pass over the started batch and draws its sampled rows.
    ///
    /// # Errors
    /// When the pass does not fit the batch or the device fails.
    pub fn step(&mut self, step: &StepRows, draw: &Draw) -> Result<(), EngineError> {
        match &mut self.executor {
            Executor::Gpu(gpu) => gpu.step(step, draw),
            Executor::Cpu(cpu) => cpu.step(step, draw),
        }
    }

    /// Runs one pass over the started batch and reads the logits [sampled, V].
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub async fn logits(&mut self, step: &StepRows) -> Result<Vec<f32>, EngineError> {
        match &mut self.executor {
            Executor::Gpu(gpu) => gpu.logits(step).await,
            Executor::Cpu(cpu) => cpu.logits(step).await,
        }
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
        match &mut self.executor {
            Executor::Gpu(gpu) => gpu.score(step, targets).await,
            Executor::Cpu(cpu) => cpu.score(step, targets).await,
        }
    }

    /// Waits until everything that was launched is done. The CPU is never behind.
    ///
    /// # Errors
    /// When a pass failed on the device.
    pub async fn wait(&self) -> Result<(), EngineError> {
        match &self.executor {
            Executor::Gpu(gpu) => gpu.wait().await,
            Executor::Cpu(_) => Ok(()),
        }
    }

    /// The token buffer of the started batch.
    ///
    /// # Errors
    /// When a pass failed on the device.
    pub async fn tokens(&mut self) -> Result<Vec<u32>, EngineError> {
        self.reading().await
    }

    /// The token buffer as it is now, copied to the host when the future is awaited.
    fn reading(&mut self) -> Reading {
        match &mut self.executor {
            Executor::Gpu(gpu) => Box::pin(gpu.tokens()),
            Executor::Cpu(cpu) => Box::pin(std::future::ready(Ok(cpu.tokens().to_vec()))),
        }
    }

    /// One pass on its own: starts a batch and returns the logits [sampled, V].
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

    /// Runs a plan with recorded uniforms [sequences, slots, V], indexed by the slot of the row that was sampled: noise is
    /// -ln(-ln u), as the published sampler draws it.
    ///
    /// # Errors
    /// When the uniforms do not fit the plan, or as [`Engine::step`].
    pub async fn replay(
        &mut self,
        plan: &Plan,
        uniforms: &[f64],
        top_p: Option<f32>,
    ) -> Result<Replay, EngineError> {
        let vocab = self.config.vocab_size;
        let layout = plan.layout();
        let slots = uniforms.len() / (layout.sequences * vocab).max(1);
        if slots == 0 || slots * layout.sequences * vocab != uniforms.len() {
            return Err(EngineError::Rows(format!(
                "{} uniforms for {} sequences and a vocabulary of {vocab}",
                uniforms.len(),
                layout.sequences
            )));
        }
        let ids: Vec<u32> = plan.sequences.iter().map(|s| s.sequence).collect();
        let sampler = Sampler {
            temperature: 1.0,
            top_p,
        };
        self.start(&layout, &plan.initial_tokens())?;
        let mut logits = vec![0.0; uniforms.len()];
        for index in 0..plan.nfe() {
            let step = plan.step_rows(index);
            let mut noise = Vec::with_capacity(step.sampled.len() * vocab);
            let mut places = Vec::with_capacity(step.sampled.len());
            for &row in &step.sampled {
                let row = step.rows[row as usize];
                let place = (row.sequence as usize * slots + row.slot as usize) * vocab;
                let given = uniforms.get(place..place + vocab).ok_or_else(|| {
                    EngineError::Rows(format!("no uniforms for slot {}", row.slot))
                })?;
                noise.extend(given.iter().map(|&u| -(-u.ln()).ln() as f32));
                places.push(place);
            }
            // The pass writes the same cache entries twice: once to read its logits, once to draw.
            for (row, place) in self.logits(&step).await?.chunks(vocab).zip(places) {
                logits[place..place + vocab].copy_from_slice(row);
            }
            let draw = Draw {
                sampler,
                seed: 0,
                sequence_ids: &ids,
                noise: Some(&noise),
                mask_index: self.config.mask_index,
            };
            self.step(&step, &draw)?;
        }
        let tokens = self.reading().await?;
        let sample = plan.output(&tokens);
        let tokens_sorted = plan.sorted(&tokens);
        Ok(Replay {
            logits,
            tokens_sorted,
            sample,
        })
    }

    /// Begins to run `plan`. Nothing happens before [`Run::next`] or [`Run::finish`].
    ///
    /// # Errors
    /// When the batch does not fit the device.
    pub fn run<'a>(
        &'a mut self,
        plan: &'a Plan,
        opts: &GenerateOptions,
    ) -> Result<Run<'a>, EngineError> {
        let progress = self.begin(plan, opts)?;
        Ok(Run {
            engine: self,
            plan,
            progress,
        })
    }

    /// As [`Engine::run`], for whoever keeps engine and plan elsewhere, such as in the values of another language.
    ///
    /// # Errors
    /// When the batch does not fit the device.
    pub fn begin(&mut self, plan: &Plan, opts: &GenerateOptions) -> Result<Progress, EngineError> {
        let began = Instant::now();
        let before = self.counters();
        self.start(&plan.layout(), &plan.initial_tokens())?;
        Ok(Progress {
            opts: *opts,
            ids: plan.sequences.iter().map(|s| s.sequence).collect(),
            launched: 0,
            rows: 0,
            waiting: VecDeque::new(),
            began,
            before,
        })
    }
}

/// Passes that are queued at most while nobody watches.
const QUEUED_STEPS: usize = 32;

type Reading = Pin<Box<dyn Future<Output = Result<Vec<u32>, EngineError>>>>;

/// A generation under way. To cancel it between steps, drop it or go straight to [`Run::stop`].
pub struct Run<'a> {
    engine: &'a mut Engine,
    plan: &'a Plan,
    progress: Progress,
}

impl Run<'_> {
    /// Runs the next step and reports one: this one, or, while tokens are observed, the one before, so that reading them
    /// never holds up the device.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn next(&mut self) -> Result<Option<StepEvent>, EngineError> {
        self.progress.next(self.engine, self.plan).await
    }

    /// Runs what is left and reads the tokens back.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn finish(mut self) -> Result<Generation, EngineError> {
        self.progress.finish(self.engine, self.plan).await?;
        self.stop().await
    }

    /// Stops here and reads the tokens back; what is not known yet is the mask token.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn stop(self) -> Result<Generation, EngineError> {
        self.progress.stop(self.engine, self.plan).await
    }
}

/// How far a generation is. Every call takes the engine and the plan that [`Engine::begin`] had; in between, the engine must start no
/// other batch.
pub struct Progress {
    opts: GenerateOptions,
    ids: Vec<u32>,
    launched: usize,
    rows: usize,
    /// Steps launched but not yet reported: one, while somebody watches.
    waiting: VecDeque<Waiting>,
    began: Instant,
    before: Counters,
}

struct Waiting {
    event: StepEvent,
    targets: Vec<(u32, u32)>,
    reading: Option<Reading>,
}

impl Progress {
    /// As [`Run::next`].
    ///
    /// # Errors
    /// When the device fails.
    pub async fn next(
        &mut self,
        engine: &mut Engine,
        plan: &Plan,
    ) -> Result<Option<StepEvent>, EngineError> {
        let event = self.advance(engine, plan).await;
        if event.is_err() {
            self.settle().await;
        }
        event
    }

    async fn advance(
        &mut self,
        engine: &mut Engine,
        plan: &Plan,
    ) -> Result<Option<StepEvent>, EngineError> {
        let ahead = usize::from(self.opts.observe);
        while self.launched < plan.nfe() && self.waiting.len() <= ahead {
            self.launch(engine, plan)?;
            self.keep_up(engine).await?;
        }
        let Some(mut oldest) = self.waiting.pop_front() else {
            return Ok(None);
        };
        if let Some(reading) = oldest.reading {
            let tokens = reading.await?;
            oldest.event.revealed = oldest
                .targets
                .iter()
                .map(|&(sequence, target)| Revealed {
                    sequence,
                    position: plan.output_position(target),
                    token: tokens[target as usize],
                })
                .collect();
        }
        oldest.event.seconds = self.began.elapsed().as_secs_f64();
        Ok(Some(oldest.event))
    }

    /// Lets the device catch up now and then while nobody reads tokens, so that few passes are queued and a stop is soon one.
    async fn keep_up(&mut self, engine: &Engine) -> Result<(), EngineError> {
        if !self.opts.observe && self.launched.is_multiple_of(QUEUED_STEPS) {
            engine.wait().await?;
        }
        Ok(())
    }

    fn launch(&mut self, engine: &mut Engine, plan: &Plan) -> Result<(), EngineError> {
        let index = self.launched;
        let step = plan.step_rows(index);
        let draw = Draw {
            sampler: self.opts.sampler,
            seed: self.opts.seed,
            sequence_ids: &self.ids,
            noise: None,
            mask_index: engine.config.mask_index,
        };
        engine.step(&step, &draw)?;
        self.launched += 1;
        self.rows += step.rows.len();
        let event = StepEvent {
            step: index,
            steps: plan.nfe(),
            phase: plan.phase(index),
            revealed: Vec::new(),
            rows: step.rows.len(),
            cache_length: plan.cache_length(index),
            seconds: 0.0,
        };
        let observe = self.opts.observe;
        let targets = if observe {
            step.sampled
                .iter()
                .map(|&row| {
                    (
                        step.rows[row as usize].sequence,
                        step.rows[row as usize].target,
                    )
                })
                .collect()
        } else {
            Vec::new()
        };
        let reading = observe.then(|| engine.reading());
        self.waiting.push_back(Waiting {
            event,
            targets,
            reading,
        });
        Ok(())
    }

    /// Runs the steps that are left and reports none.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn finish(&mut self, engine: &mut Engine, plan: &Plan) -> Result<(), EngineError> {
        self.opts.observe = false;
        self.settle().await;
        while self.launched < plan.nfe() {
            self.launch(engine, plan)?;
            self.waiting.clear();
            self.keep_up(engine).await?;
        }
        Ok(())
    }

    /// Waits for the readings under way and gives up what they bring; a generation that is dropped should do so first.
    pub async fn settle(&mut self) {
        for waiting in self.waiting.drain(..) {
            if let Some(reading) = waiting.reading {
                // An error comes again with whatever is read next.
                let _ = reading.await;
            }
        }
    }

    /// As [`Run::stop`].
    ///
    /// # Errors
    /// When the device fails.
    pub async fn stop(
        mut self,
        engine: &mut Engine,
        plan: &Plan,
    ) -> Result<Generation, EngineError> {
        self.settle().await;
        let tokens = engine.reading().await?;
        let after = engine.counters();
        Ok(Generation {
            tokens: plan.output(&tokens),
            nfe: self.launched,
            rows: self.rows,
            seconds: self.began.elapsed().as_secs_f64(),
            counters: after.since(&self.before),
        })
    }
}
