//! The main entry point: a [`Model`] loads a checkpoint, generates text and computes likelihoods.

use std::sync::Arc;

use esolm_core::config::ModelConfig;
use esolm_core::plan::Plan;
use esolm_core::recommended::Recommended;
use esolm_core::request::{Request, RequestError};
use esolm_core::sampler::Sampler;
use esolm_core::text::TextCodec;
use esolm_core::trace::{Counters, Header};

use crate::device::{DeviceInfo, LoadOptions};
use crate::engine::Replay;
use crate::error::Error;
use crate::files::{Shared, Source};
use crate::forward::Forward;
use crate::generation::Generation;
use crate::memory::{self, MemoryUse};
use crate::perplexity::{Corpus, Perplexity, PerplexityOptions};
use crate::score::{ScoreItem, ScoreOptions, Scored};
#[cfg(not(target_family = "wasm"))]
use crate::serving::{Echo, Echoed};
use crate::worker::{Loaded, Worker};

/// A loaded model. Cloning it is cheap and yields another handle to the same model, which is unloaded once the last
/// handle and the last [`Generation`] are dropped. Outside browsers, dropping the last one waits for the pass under way
/// and until a GPU is closed; [`Model::close`] waits without blocking.
///
/// The model computes on a thread of its own: polling the futures and streams returned here never does heavy work, and
/// all of them are [`Send`]. Calls run one at a time, in the order in which their futures are first polled. Dropping a
/// call's future cancels the call after the current pass. [`Model::blocking`] offers the same calls to code without an
/// async executor.
#[derive(Clone)]
pub struct Model {
    worker: Worker,
    shared: Arc<Shared>,
    device: Arc<DeviceInfo>,
}

impl Model {
    /// Opens a model and loads it onto a device, on a thread of its own.
    ///
    /// # Errors
    /// If the checkpoint or its tokenizer is unusable, the requested device is not available, or there is not enough
    /// memory.
    pub async fn load(source: impl Into<Source>, options: LoadOptions) -> Result<Self, Error> {
        let (worker, Loaded { shared, device }) = Worker::start(source.into(), options).await?;
        Ok(Self {
            worker,
            shared,
            device: Arc::new(device),
        })
    }

    /// The same calls for code without an async executor: each blocks until it is done.
    #[cfg(not(target_family = "wasm"))]
    pub fn blocking(&self) -> Blocking<'_> {
        Blocking(self)
    }

    /// Blocking version of [`Model::load`].
    ///
    /// # Errors
    /// See [`Model::load`].
    #[cfg(not(target_family = "wasm"))]
    pub fn load_blocking(source: impl Into<Source>, options: LoadOptions) -> Result<Self, Error> {
        pollster::block_on(Self::load(source, options))
    }

    /// The handles that a conversation needs.
    pub(crate) fn parts(&self) -> (Worker, Arc<Shared>) {
        (self.worker.clone(), self.shared.clone())
    }

    /// The network's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// The tokenizer, if there is one.
    pub fn codec(&self) -> Option<&TextCodec> {
        self.shared.codec.as_ref()
    }

    /// The checkpoint's recommended sampling settings, which fill in whatever a request leaves unset.
    pub fn recommended(&self) -> &Recommended {
        &self.shared.recommended
    }

    /// The name by which traces refer to the model.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The device that runs the model.
    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// Generates text, reporting every step. If the request has no seed, a random one is chosen; the header event
    /// contains it.
    pub fn generate(&self, mut request: Request) -> Generation {
        request.seed.get_or_insert_with(random_seed);
        Generation::new(self.worker.clone(), self.shared.clone(), request)
    }

    /// Generates text and returns it; if the request asks for several texts, only the first is returned.
    ///
    /// # Errors
    /// If the request does not fit the model, or the device fails.
    pub async fn text(&self, request: Request) -> Result<String, Error> {
        let footer = self.generate(request).unobserved().finish().await?;
        Ok(footer.text.into_iter().next().unwrap_or_default())
    }

    /// The plan that [`Model::generate`] would carry out: which positions are computed and sampled in which step. Does
    /// not run the network. If the request has no seed, the plan is drawn with seed 0.
    ///
    /// # Errors
    /// If the request does not fit the model.
    pub fn plan(&self, request: &Request) -> Result<(Header, Plan), Error> {
        self.shared.plan(request)
    }

    /// Log-likelihoods of texts, of choices given a context, and of middles given the text on both sides.
    ///
    /// # Errors
    /// If an item does not fit the model, an option does not apply to its family, or the device fails.
    pub async fn score(
        &self,
        items: Vec<ScoreItem>,
        options: ScoreOptions,
    ) -> Result<Vec<Scored>, Error> {
        let shared = self.shared.clone();
        self.worker
            .call(move |engine, wanted| {
                Box::pin(async move {
                    crate::score::score(engine, &shared, &items, &options, &|| wanted.is_wanted())
                        .await
                })
            })
            .await
    }

    /// How well the model predicts a text: the exact likelihood, and the bound that the model was trained on.
    ///
    /// # Errors
    /// See [`Model::score`].
    pub async fn perplexity(
        &self,
        corpus: Corpus,
        options: PerplexityOptions,
    ) -> Result<Perplexity, Error> {
        let shared = self.shared.clone();
        self.worker
            .call(move |engine, wanted| {
                Box::pin(async move {
                    let go_on = || wanted.is_wanted();
                    crate::perplexity::measure(engine, &shared, corpus, &options, &go_on).await
                })
            })
            .await
    }

    /// Log-probabilities of given tokens, each along with those of the most likely ones. Exact; one pass per group of texts.
    ///
    /// # Errors
    /// If the model has no exact likelihood, an option is out of range or foreign to its family, a text does not fit it, or the device fails.
    #[cfg(not(target_family = "wasm"))]
    pub async fn echo(&self, echoes: Vec<Echo>) -> Result<Vec<Echoed>, Error> {
        self.worker
            .call(move |engine, wanted| {
                Box::pin(async move {
                    crate::serving::echo_all(engine, &echoes, &|| wanted.is_wanted()).await
                })
            })
            .await
    }

    /// Logits of one pass over whole sequences, for comparison with other implementations.
    ///
    /// # Errors
    /// If the rows do not fit the model, or the device fails.
    pub async fn forward(&self, pass: Forward) -> Result<Vec<f32>, Error> {
        let shared = self.shared.clone();
        self.worker
            .call(move |engine, wanted| {
                Box::pin(async move {
                    let rows = pass.tokens();
                    let purpose = MemoryUse::Logits { rows };
                    let values = rows * shared.config.vocab_size;
                    let mut logits = memory::with_capacity(purpose, values)?;
                    for rows in pass.passes(&shared.config) {
                        let (layout, tokens, step) = rows?;
                        logits.extend(engine.forward(&layout, &tokens, &step).await?);
                        crate::turn::turn().await;
                        if !wanted.is_wanted() {
                            return Err(Error::Stopped);
                        }
                    }
                    Ok(logits)
                })
            })
            .await
    }

    /// Runs a plan with recorded uniforms `[sequences, slots, V]`, each in (0, 1).
    ///
    /// # Errors
    /// If the plan or the uniforms do not fit the model, the sampler's settings are out of range, or the device fails.
    pub async fn replay(
        &self,
        plan: Plan,
        uniforms: Vec<f64>,
        sampler: Sampler,
    ) -> Result<Replay, Error> {
        let config = &self.shared.config;
        plan.check()?;
        plan.check_model(config.vocab_size, config.mask_index)?;
        plan.check_attention(config.family, config.attention)?;
        sampler.validate().map_err(RequestError::from)?;
        self.worker
            .call(move |engine, wanted| {
                Box::pin(async move {
                    let mut go_on = || wanted.is_wanted();
                    let replay = engine.replay(&plan, &uniforms, sampler, &mut go_on).await?;
                    replay.ok_or(Error::Stopped)
                })
            })
            .await
    }

    /// What the device has done since it was opened, and how much memory it has reserved now. All zeros on the CPU.
    ///
    /// # Errors
    /// If the model's thread has crashed.
    pub async fn counters(&self) -> Result<Counters, Error> {
        self.worker
            .call(|engine, _| Box::pin(async { Ok(engine.counters()) }))
            .await
    }

    /// Drops this handle. If it was the last one and no generation is left, waits until the model's memory has been
    /// freed.
    pub async fn close(self) {
        self.worker.close().await;
    }
}

/// The calls of a [`Model`], each blocking until it is done. Do not use it from code run by an async executor.
#[cfg(not(target_family = "wasm"))]
pub struct Blocking<'a>(&'a Model);

#[cfg(not(target_family = "wasm"))]
impl Blocking<'_> {
    /// See [`Model::text`].
    ///
    /// # Errors
    /// See [`Model::text`].
    pub fn text(&self, request: Request) -> Result<String, Error> {
        pollster::block_on(self.0.text(request))
    }

    /// See [`Model::score`].
    ///
    /// # Errors
    /// See [`Model::score`].
    pub fn score(
        &self,
        items: Vec<ScoreItem>,
        options: ScoreOptions,
    ) -> Result<Vec<Scored>, Error> {
        pollster::block_on(self.0.score(items, options))
    }

    /// See [`Model::perplexity`].
    ///
    /// # Errors
    /// See [`Model::perplexity`].
    pub fn perplexity(
        &self,
        corpus: Corpus,
        options: PerplexityOptions,
    ) -> Result<Perplexity, Error> {
        pollster::block_on(self.0.perplexity(corpus, options))
    }

    /// See [`Model::forward`].
    ///
    /// # Errors
    /// See [`Model::forward`].
    pub fn forward(&self, pass: Forward) -> Result<Vec<f32>, Error> {
        pollster::block_on(self.0.forward(pass))
    }

    /// See [`Model::replay`].
    ///
    /// # Errors
    /// See [`Model::replay`].
    pub fn replay(
        &self,
        plan: Plan,
        uniforms: Vec<f64>,
        sampler: Sampler,
    ) -> Result<Replay, Error> {
        pollster::block_on(self.0.replay(plan, uniforms, sampler))
    }
}

/// A random seed of at most 32 bits, short enough to type.
pub fn random_seed() -> u64 {
    #[cfg(target_family = "wasm")]
    return (js_sys::Math::random() * f64::from(u32::MAX)) as u64;
    #[cfg(not(target_family = "wasm"))]
    {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
    }
}
