//! The loop: text to a Hugging Face folder, step by step, with everything that must survive a stop.
//!
//! ```text
//! OUT/recipe.toml      the recipe with every default written out
//! OUT/tokenizer.json   the tokenizer
//! OUT/log.jsonl        one JSON object a line: training, validation, end
//! OUT/state/           saved states, the newest two
//! OUT/model/           the averaged weights of the newest state, as a Hugging Face folder
//! OUT/curve.svg        the losses over the tokens
//! OUT/lock             locked while a training runs
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use esolm::checkpoint::{SHARD_BYTES, StoreDtype, write_hf_folder};
use esolm::config::Family;
use esolm::network::Network;

use crate::data::{self, TextTokens, Windows};
use crate::log::{Line, open_log, read_log};
use crate::loss::{BlockNoise, Losses, Noise, Objective};
use crate::ops::{Dropout, on_host};
use crate::optimizer::{self, Adam};
use crate::recipe::{LossKind, Recipe};
use crate::resume::Claim;
use crate::state::{Progress, State, write_whole};
use crate::weights::{self, Weights};
use crate::{Source, TokenizerMark, TrainError, curve, init, memory, resume};

/// What happens in a training, for whoever watches.
#[derive(Debug)]
pub enum Event<'a> {
    /// A line was logged.
    Line(&'a Line),
    /// A step was done; its loss.
    Step {
        /// Steps done.
        step: u64,
        /// Its losses.
        losses: Losses,
    },
    /// A state was saved.
    Saved(&'a Path),
    /// Something worth knowing.
    Note(String),
}

/// How a training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Steps done in all.
    pub step: u64,
    /// Whether it was stopped before its last step.
    pub interrupted: bool,
    /// The Hugging Face folder.
    pub model: PathBuf,
}

/// Where and how a training runs.
pub struct Options<'a> {
    /// The folder that it lives in.
    pub out: &'a Path,
    /// Go on from the newest state there.
    pub resume: bool,
    /// Go on although the training text is not the one before.
    pub accept_changed_text: bool,
    /// The checkpoint whose weights a new training starts from; none for random ones. A training that goes on has its own.
    pub init: Option<&'a Source>,
    /// Device of the tensors, without autodiff.
    pub device: Device,
    /// What the log calls it.
    pub device_name: String,
    /// Becomes true when the training should save and stop after the step under way.
    pub stop: &'a AtomicBool,
}

/// Trains a network, or goes on with it, to the end of its recipe or until it is stopped.
///
/// # Errors
/// Everything of [`TrainError`]. What was saved before stays.
pub fn train(
    recipe: &Recipe,
    options: &Options,
    watch: &mut dyn FnMut(Event),
) -> Result<Ended, TrainError> {
    let mut trainer = Trainer::start(recipe, options, watch)?;
    if options.init.is_some() && trainer.saved.is_none() && recipe.run.validate_every > 0 {
        // What the checkpoint is worth before anything is learnt.
        trainer.validate(watch)?;
    }
    while !trainer.is_done() && !options.stop.load(Ordering::SeqCst) {
        trainer.advance(watch)?;
        let due = |every: u64| every > 0 && trainer.progress.step.is_multiple_of(every);
        let last = trainer.is_done();
        let (log, validate, save) = (
            due(recipe.run.log_every) || last,
            due(recipe.run.validate_every) || (last && recipe.run.validate_every > 0),
            due(recipe.run.save_every) && !last,
        );
        if log {
            trainer.log_training(watch)?;
        }
        if validate {
            trainer.validate(watch)?;
        }
        if save {
            trainer.save(watch)?;
        }
    }
    trainer.finish(watch)
}

struct Trainer<'a> {
    recipe: &'a Recipe,
    out: &'a Path,
    objective: Objective,
    tokenizer: String,
    windows: Windows,
    holdout: Vec<Vec<u32>>,
    network: Network,
    ema: Weights,
    adam: Adam,
    /// Its seconds are those of earlier runs.
    progress: Progress,
    started: Instant,
    saved: Option<(u64, PathBuf)>,
    log: File,
    since: Since,
    _claim: Claim<'a>,
}

/// What happened since the last line of the log.
struct Since {
    started: Instant,
    steps: u64,
    losses: Losses,
    lr: f64,
    grad_norm: f64,
}

impl Since {
    fn now() -> Self {
        Self {
            started: Instant::now(),
            steps: 0,
            losses: Losses::default(),
            lr: 0.0,
            grad_norm: 0.0,
        }
    }
}

impl<'a> Trainer<'a> {
    fn start(
        recipe: &'a Recipe,
        options: &Options<'a>,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Self, TrainError> {
        let out = options.out;
        if out.is_file() {
            let error = std::io::ErrorKind::NotADirectory.into();
            return Err(TrainError::write(out, error));
        }
        let mut claim = Claim::check(options, watch)?;
        let on_host = on_host(&options.device);
        let found = match options.resume {
            true => {
                memory::for_state(out, on_host)?;
                let load = |path: &Path| State::load(path, &options.device);
                Some(resume::newest(out, load, watch)?)
            }
            false => None,
        };
        let mut before = None;
        if let Some((path, state)) = &found {
            let saved = resume::recipe_of(path, &state.progress)?;
            resume::check_network(path, &saved, recipe)?;
            before = Some(saved);
        }
        let source = options.init.filter(|_| found.is_none());
        if let (None, None, Some(init)) = (&found, source, &recipe.model.init) {
            return Err(TrainError::NotOpened(init.clone()));
        }
        // The network that the weights come from.
        let origin = match (&found, source) {
            (Some((path, state)), _) => resume::config_of(path, state)?,
            (None, source) => source.map(|source| source.checkpoint().config().clone()),
        };
        let texts = data::documents(&recipe.data.train, &recipe.data)?;
        if texts.is_empty() {
            return Err(TrainError::TooLittle {
                what: "training",
                tokens: 0,
                documents: 0,
                length: recipe.model.length,
            });
        }
        let digest = data::digest(&texts);
        if let Some((path, state)) = &found {
            resume::check_text(path, state, &digest, options, watch)?;
        }
        let tokenizer_path = out.join("tokenizer.json");
        let end = &recipe.data.separator;
        let (tokens, tokenizer) = if options.resume && tokenizer_path.exists() {
            let text = fs::read_to_string(&tokenizer_path)
                .map_err(|e| TrainError::read(&tokenizer_path, e))?;
            // Its text stays as it is, since the states know it by its digest.
            let text = esolm::documents::normalize(&text).into_owned();
            let tokens = match &origin {
                Some(origin) => TextTokens::of_model(&text, end, origin)?,
                None => TextTokens::from_bytes(text.as_bytes(), end)?,
            };
            (tokens, text)
        } else if let Some(source) = source {
            source.tokens(&recipe.data)?
        } else {
            let tokens = match &recipe.data.tokenizer {
                Some(path) => TextTokens::open(path, end)?,
                None => {
                    watch(Event::Note("training the tokenizer".into()));
                    TextTokens::train(&texts, recipe.data.vocab_size, end)?
                }
            };
            let json = tokens.json()?;
            (tokens, json)
        };
        let tokenizer_digest = data::tokenizer_digest(&tokenizer);
        if let Some((path, state)) = &found {
            let now = TokenizerMark {
                tokens: tokens.count,
                digest: Some(tokenizer_digest.clone()),
            };
            resume::check_tokenizer(path, state, out, recipe.model.hidden, now, watch)?;
        }
        let config = match &origin {
            Some(origin) => recipe.config_from(origin)?,
            None => recipe.config(tokens.count, tokens.end)?,
        };
        let parameters: u64 = config.parameters().iter().map(|p| p.elements()).sum();
        memory::for_steps(parameters, recipe, &config, on_host, found.is_some())?;
        let length = config.length;
        let windows = Windows::new(tokens.encode(&texts)?, length, recipe.run.seed)?;
        let holdout = if recipe.data.holdout.is_empty() {
            Vec::new()
        } else {
            let texts = data::documents(&recipe.data.holdout, &recipe.data)?;
            data::first_windows(&tokens.encode(&texts)?, length, recipe.run.validate_windows)?
        };

        let text = recipe.to_toml();
        let device = options.device.clone().autodiff();
        for note in source.iter().flat_map(|source| source.notes(&config)) {
            watch(Event::Note(note));
        }
        let first = match (&found, source) {
            (Some((path, state)), _) if origin.is_some() => {
                resume::weights_of(path, state, &config)?
            }
            (_, Some(source)) => source.weights(&config, recipe.run.seed)?,
            _ => init::random(&config, recipe.run.seed)?,
        };
        let mut network = weights::trainable(Network::load(&first, &device)?);
        let mut adam = Adam::new(&recipe.optimizer);
        let mut ema = weights::of(&network);
        let mut progress = Progress::default();
        let mut saved = None;
        if let Some((path, state)) = found {
            resume::fits(&path, &state, &ema)?;
            let before = before.map(|before| before.to_toml()).unwrap_or_default();
            if let Some(note) = resume::changes(&before, &text) {
                watch(Event::Note(note));
            }
            network = weights::replace(network, &state.raw);
            ema = state.ema;
            adam.moments = state.moments;
            adam.time = state.progress.step as usize;
            progress = state.progress;
            saved = Some((progress.step, path));
        }
        progress.recipe = text;
        progress.text = Some(digest);
        progress.tokenizer = Some(tokenizer_digest);
        progress.config = origin.map(|_| config.to_json());

        // Whatever is refused was refused before this, and has changed nothing.
        claim.make(watch)?;
        write_whole(&tokenizer_path, &tokenizer)?;
        write_whole(&out.join("recipe.toml"), &progress.recipe)?;
        let mut trainer = Self {
            recipe,
            out,
            objective: Objective {
                alpha_0: match config.family {
                    Family::EsoLm => recipe.loss.alpha_0,
                    Family::Mdlm | Family::Ar | Family::Bd3Lm | Family::SetDlm => 1.0,
                },
                kind: recipe.loss.kind,
                config,
            },
            tokenizer,
            windows,
            holdout,
            network,
            ema,
            adam,
            log: open_log(&out.join("log.jsonl"), progress.step)?,
            progress,
            started: Instant::now(),
            saved,
            since: Since::now(),
            _claim: claim,
        };
        let line = Line::Start {
            step: trainer.progress.step,
            steps: trainer.progress.step + recipe.steps_after(trainer.progress.tokens),
            parameters,
            epoch_tokens: trainer.windows.per_epoch() * length as u64,
            device: options.device_name.clone(),
        };
        trainer.write(line, watch)?;
        Ok(trainer)
    }

    fn seconds(&self) -> f64 {
        self.progress.seconds + self.started.elapsed().as_secs_f64()
    }

    fn is_done(&self) -> bool {
        self.progress.tokens >= self.recipe.run.tokens
    }

    /// One step: as many micro-batches as the recipe accumulates, then the optimizer.
    fn advance(&mut self, watch: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
        let run = &self.recipe.run;
        let diffusion = self.recipe.diffusion_rows();
        let mut sum = GradientsAccumulator::new();
        let mut only = None;
        let mut losses = Losses::default();
        // Earlier steps may have been of another size, and windows of another length.
        let length = self.recipe.model.length;
        let next = self.progress.tokens.div_ceil(length as u64);
        for micro in 0..run.accumulate as u64 {
            let first = next + micro * run.batch as u64;
            let texts: Vec<Vec<u32>> = (first..first + run.batch as u64)
                .map(|window| self.windows.get(window).to_vec())
                .collect();
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let number = first as u32;
            let noise = match self.recipe.block_noise() {
                Some(blocks) => Noise::draw_blocks(run.seed, number, run.batch, length, &blocks),
                None if self.objective.config.family == Family::SetDlm => {
                    let config = &self.objective.config;
                    Noise::draw_orders(run.seed, number, run.batch, length, config)
                }
                None => {
                    let sequential = run.batch - diffusion;
                    let mut noise = Noise::draw(run.seed, number, diffusion, sequential, length);
                    if self.objective.config.family == Family::EsoLm {
                        noise.widen(&self.recipe.loss, run.seed, number, length);
                    }
                    noise
                }
            };
            let prepared = self.objective.prepare(&texts, &noise, |_, _| true);
            let dropout = Dropout {
                seed: run.seed,
                micro_batch: first as u32,
                layer: 0,
                probability: self.recipe.model.dropout,
            };
            let Some((loss, nll)) = prepared.loss(&self.network, Some(dropout)) else {
                continue;
            };
            let these = prepared.losses(nll.inner());
            losses = losses.plus(these, 1.0 / run.accumulate as f64);
            self.finite("loss", these.total())?;
            let gradients = (loss / run.accumulate as f64).backward();
            let gradients = GradientsParams::from_grads(gradients, &self.network);
            if run.accumulate == 1 {
                only = Some(gradients);
            } else {
                sum.accumulate(&self.network, gradients);
            }
        }
        let gradients = only.unwrap_or_else(|| sum.grads());
        let norm = optimizer::norm(&self.network, &gradients);
        self.finite("gradient", norm)?;
        let clip = self.recipe.optimizer.clip;
        let scale = if clip > 0.0 && norm > clip {
            clip / norm
        } else {
            1.0
        };
        let lr = optimizer::learning_rate(self.recipe, &self.progress);
        let network = self.network.clone();
        self.network = self.adam.step(network, gradients, scale, lr);
        self.progress.advance(self.recipe);
        let weights = weights::of(&self.network);
        optimizer::average(&mut self.ema, &weights, run.ema, self.progress.step);

        self.since.losses = self.since.losses.plus(losses, 1.0);
        self.since.steps += 1;
        self.since.lr = lr;
        self.since.grad_norm = norm;
        watch(Event::Step {
            step: self.progress.step,
            losses,
        });
        Ok(())
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(TrainError::NotFinite {
            what,
            step: self.progress.step + 1,
            saved: self.saved.as_ref().map(|(_, path)| path.clone()),
        })
    }

    fn log_training(&mut self, watch: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
        let since = std::mem::replace(&mut self.since, Since::now());
        let share = 1.0 / since.steps.max(1) as f64;
        let losses = Losses::default().plus(since.losses, share);
        let tokens = (since.steps * self.recipe.step_tokens()) as f64;
        let line = Line::Train {
            step: self.progress.step,
            tokens: self.progress.tokens,
            loss: losses.total(),
            diffusion: losses.diffusion,
            sequential: losses.sequential,
            lr: since.lr,
            grad_norm: since.grad_norm,
            tokens_per_second: tokens / since.started.elapsed().as_secs_f64(),
            seconds: self.seconds(),
        };
        self.write(line, watch)
    }

    /// The averaged weights on the hold-out: both losses on every window, with noise that is the same each time.
    fn validate(&mut self, watch: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
        if self.holdout.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let network = weights::replace(self.network.valid(), &self.ema);
        let losses = evaluate(
            &self.objective,
            &network,
            &self.holdout,
            self.recipe.run.batch,
        );
        let line = Line::Validation {
            step: self.progress.step,
            tokens: self.progress.tokens,
            loss: losses.total(),
            diffusion: losses.diffusion,
            sequential: losses.sequential,
        };
        self.write(line, watch)?;
        // Validation is not training: it does not count in the speed.
        self.since.started += started.elapsed();
        Ok(())
    }

    fn save(&mut self, watch: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
        let started = Instant::now();
        let state = State {
            progress: Progress {
                seconds: self.seconds(),
                ..self.progress.clone()
            },
            raw: weights::of(&self.network),
            ema: self.ema.clone(),
            moments: self.adam.moments.clone(),
        };
        let path = state.save(&self.out.join("state"))?;
        watch(Event::Saved(&path));
        self.saved = Some((self.progress.step, path));
        self.export()?;
        self.since.started += started.elapsed();
        Ok(())
    }

    /// The Hugging Face folder.
    fn model(&self) -> PathBuf {
        self.out.join("model")
    }

    /// Writes the averaged weights as a Hugging Face folder.
    fn export(&self) -> Result<(), TrainError> {
        let folder = self.model();
        let checkpoint = weights::checkpoint(&self.ema, &self.objective.config)?;
        write_hf_folder(&checkpoint, &folder, StoreDtype::F32, SHARD_BYTES)?;
        write_whole(&folder.join("tokenizer.json"), &self.tokenizer)
    }

    fn finish(mut self, watch: &mut dyn FnMut(Event)) -> Result<Ended, TrainError> {
        if self
            .saved
            .as_ref()
            .is_none_or(|(step, _)| *step != self.progress.step)
        {
            self.save(watch)?;
        } else {
            // The state is there; its model may be of an older run, or gone.
            self.export()?;
        }
        let interrupted = !self.is_done();
        let line = Line::End {
            step: self.progress.step,
            tokens: self.progress.tokens,
            seconds: self.seconds(),
            interrupted,
        };
        self.write(line, watch)?;
        let lines = read_log(&self.out.join("log.jsonl"))?;
        let svg = curve::svg(&lines);
        write_whole(&self.out.join("curve.svg"), svg)?;
        Ok(Ended {
            step: self.progress.step,
            interrupted,
            model: self.model(),
        })
    }

    fn write(&mut self, line: Line, watch: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
        let mut json = serde_json::to_string(&line).expect("numbers and text are JSON");
        json.push('\n');
        self.log
            .write_all(json.as_bytes())
            .map_err(|e| TrainError::write(&self.out.join("log.jsonl"), e))?;
        watch(Event::Line(&line));
        Ok(())
    }
}

/// The bound of `texts` under `network`, whatever the training loss weighs: each text meets both losses. Masks and orders depend on the
/// text's number alone, diffusion times, which are antithetic within a batch, on `batch` too.
pub fn evaluate(
    objective: &Objective,
    network: &Network,
    texts: &[Vec<u32>],
    batch: usize,
) -> Losses {
    /// Any number will do, as long as it stays the same.
    const SEED: u64 = 0x7661_6c69_6461_7465;
    // `low_var` is not a bound, and its figures could not be compared with other models'.
    let objective = &Objective {
        kind: LossKind::Elbo,
        ..objective.clone()
    };
    let batch = batch.max(1);
    let mut sum = Losses::default();
    for (part, chunk) in texts.chunks(batch).enumerate() {
        let chunk: Vec<&[u32]> = chunk.iter().map(Vec::as_slice).collect();
        let first = (part * batch) as u32;
        let share = chunk.len() as f64 / texts.len() as f64;
        let mut add = |diffusion: usize| {
            let length = objective.config.length;
            let noise = match objective.config.block_size {
                Some(size) => {
                    let whole = BlockNoise {
                        size,
                        range: BlockNoise::WHOLE,
                        resample: false,
                    };
                    Noise::draw_blocks(SEED, first, chunk.len(), length, &whole)
                }
                None if objective.config.family == Family::SetDlm => {
                    Noise::draw_orders(SEED, first, chunk.len(), length, &objective.config)
                }
                None => Noise::draw(SEED, first, diffusion, chunk.len() - diffusion, length),
            };
            let prepared = objective.prepare(&chunk, &noise, |_, _| true);
            if let Some((_, nll)) = prepared.loss(network, None) {
                sum = sum.plus(prepared.losses(nll), share);
            }
        };
        match objective.config.family {
            Family::Ar | Family::SetDlm => add(0),
            Family::Mdlm | Family::Bd3Lm => add(chunk.len()),
            Family::EsoLm => {
                add(chunk.len());
                add(0);
            }
        }
    }
    sum
}
