//! The front door: a checkpoint becomes a model, a request becomes text, a text becomes a likelihood.

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

/// A loaded model. Clones are handles to the same one; it is given up when the last of them and of its generations is gone.
///
/// It computes in a thread of its own: no future or stream here does anything heavy when it is polled, and all of them are [`Send`].
/// Calls are carried out one after the other, in the order in which their futures are first polled. Whoever drops a call's future cancels the call: it
/// ends after the pass under way. [`Model::blocking`] has the same calls for code without an executor.
#[derive(Clone)]
pub struct Model {
    worker: Worker,
    shared: Arc<Shared>,
    device: Arc<DeviceInfo>,
}

impl Model {
    /// Opens a model and loads it onto a device, in a thread of its own.
    ///
    /// # Errors
    /// When the checkpoint or its tokenizer are not usable, no device answers to the choice, or memory does not suffice.
    pub async fn load(source: impl Into<Source>, options: LoadOptions) -> Result<Self, Error> {
        let (worker, Loaded { shared, device }) = Worker::start(source.into(), options).await?;
        Ok(Self {
            worker,
            shared,
            device: Arc::new(device),
        })
    }

    /// The same calls for code without an executor: each waits until it is done.
    #[cfg(not(target_family = "wasm"))]
    pub fn blocking(&self) -> Blocking<'_> {
        Blocking(self)
    }

    /// As [`Model::load`], waiting until it is done.
    ///
    /// # Errors
    /// As [`Model::load`].
    #[cfg(not(target_family = "wasm"))]
    pub fn load_blocking(source: impl Into<Source>, options: LoadOptions) -> Result<Self, Error> {
        pollster::block_on(Self::load(source, options))
    }

    /// What a conversation needs of the model.
    pub(crate) fn parts(&self) -> (Worker, Arc<Shared>) {
        (self.worker.clone(), self.shared.clone())
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// The tokenizer, if there is one.
    pub fn codec(&self) -> Option<&TextCodec> {
        self.shared.codec.as_ref()
    }

    /// How the checkpoint recommends to sample: what is used where a request does not say.
    pub fn recommended(&self) -> &Recommended {
        &self.shared.recommended
    }

    /// The name that traces give it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What runs it.
    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// Writes texts, telling of each step. Without a seed a random one is taken; the header says which.
    pub fn generate(&self, mut request: Request) -> Generation {
        request.seed.get_or_insert_with(random_seed);
        Generation::new(self.worker.clone(), self.shared.clone(), request)
    }

    /// Writes one text; of several that are asked for, the first.
    ///
    /// # Errors
    /// When the request does not fit the model, or the device fails.
    pub async fn text(&self, request: Request) -> Result<String, Error> {
        let footer = self.generate(request).unobserved().finish().await?;
        Ok(footer.text.into_iter().next().unwrap_or_default())
    }

    /// What [`Model::generate`] would do, without any pass of the network: which positions are computed and drawn in which step.
    /// Without a seed it is the plan of seed 0.
    ///
    /// # Errors
    /// When the request does not fit the model.
    pub fn plan(&self, request: &Request) -> Result<(Header, Plan), Error> {
        self.shared.plan(request)
    }

    /// Log-likelihoods of texts, of choices given a context, and of middles given both sides.
    ///
    /// # Errors
    /// When an item does not fit the model, an option is foreign to its family, or the device fails.
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

    /// How well the model predicts a text: exact likelihood, and the bound that it was trained on.
    ///
    /// # Errors
    /// As [`Model::score`].
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

    /// Log-probabilities of given tokens, each beside the most likely ones: exact, a pass for each group of texts.
    ///
    /// # Errors
    /// When the model has none, an option is out of range or foreign to its family, a text does not fit it, or the device fails.
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

    /// Logits of one pass over whole sequences, for comparisons with other implementations.
    ///
    /// # Errors
    /// When the rows do not fit the model, or the device fails.
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
    /// When plan and uniforms do not fit the model, the sampler's numbers are out of range, or the device fails.
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

    /// What the device did since it was opened, and the memory it has reserved now; zeros on the CPU.
    ///
    /// # Errors
    /// When the model's thread has crashed.
    pub async fn counters(&self) -> Result<Counters, Error> {
        self.worker
            .call(|engine, _| Box::pin(async { Ok(engine.counters()) }))
            .await
    }

    /// Gives this handle up and, where no other one and no generation is left, waits until the model's memory is free.
    pub async fn close(self) {
        self.worker.close().await;
    }
}

/// The calls of a [`Model`], each waiting until it is done. Not for code that an async executor runs.
#[cfg(not(target_family = "wasm"))]
pub struct Blocking<'a>(&'a Model);

#[cfg(not(target_family = "wasm"))]
impl Blocking<'_> {
    /// As [`Model::text`].
    ///
    /// # Errors
    /// As [`Model::text`].
    pub fn text(&self, request: Request) -> Result<String, Error> {
        pollster::block_on(self.0.text(request))
    }

    /// As [`Model::score`].
    ///
    /// # Errors
    /// As [`Model::score`].
    pub fn score(
        &self,
        items: Vec<ScoreItem>,
        options: ScoreOptions,
    ) -> Result<Vec<Scored>, Error> {
        pollster::block_on(self.0.score(items, options))
    }

    /// As [`Model::perplexity`].
    ///
    /// # Errors
    /// As [`Model::perplexity`].
    pub fn perplexity(
        &self,
        corpus: Corpus,
        options: PerplexityOptions,
    ) -> Result<Perplexity, Error> {
        pollster::block_on(self.0.perplexity(corpus, options))
    }

    /// As [`Model::forward`].
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward(&self, pass: Forward) -> Result<Vec<f32>, Error> {
        pollster::block_on(self.0.forward(pass))
    }

    /// As [`Model::replay`].
    ///
    /// # Errors
    /// As [`Model::replay`].
    pub fn replay(
        &self,
        plan: Plan,
        uniforms: Vec<f64>,
        sampler: Sampler,
    ) -> Result<Replay, Error> {
        pollster::block_on(self.0.replay(plan, uniforms, sampler))
    }
}

/// A seed that nobody chose; short enough to be typed again.
pub fn random_seed() -> u64 {
    #[cfg(target_family = "wasm")]
    return (js_sys::Math::random() * f64::from(u32::MAX)) as u64;
    #[cfg(not(target_family = "wasm"))]
    {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
    }
}
