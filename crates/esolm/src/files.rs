//! What a model is loaded from.

use std::sync::Arc;

#[cfg(not(target_family = "wasm"))]
use esolm_core::checkpoint::OpenOptions;
use esolm_core::checkpoint::{ChatFiles, Checkpoint};
use esolm_core::config::ModelConfig;
use esolm_core::plan::Plan;
use esolm_core::recommended::Recommended;
use esolm_core::request::{Request, RequestError, Resolved};
use esolm_core::text::TextCodec;
use esolm_core::trace::Header;

use crate::error::Error;
use crate::memory::{self, MemoryUse};

/// A checkpoint that was opened, with its tokenizer, and not yet loaded onto a device: enough to check requests before anything heavy
/// happens.
pub struct ModelFiles {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) shared: Arc<Shared>,
}

/// What is known of a model without its weights.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub config: ModelConfig,
    pub codec: Option<TextCodec>,
    pub recommended: Recommended,
    pub chat: ChatFiles,
    pub name: String,
}

impl Shared {
    pub fn resolve(&self, request: &Request) -> Result<Resolved, RequestError> {
        let request = request.or(&self.recommended, &self.config);
        request.resolve(&self.config, self.codec.as_ref())
    }

    pub fn codec(&self) -> Result<&TextCodec, Error> {
        self.codec.as_ref().ok_or(Error::NeedsTokenizer)
    }

    /// Draws a plan, if memory suffices for one of its size.
    pub fn draw(&self, resolved: &Resolved) -> Result<Plan, Error> {
        /// Bytes of a slot: its place in the order, a step of its own, and as much again while they are drawn.
        const SLOT: u64 = 64;
        resolved.options.check().map_err(RequestError::from)?;
        let (sequences, slots) = (resolved.options.known.len(), resolved.options.length);
        let bytes = (sequences as u64).saturating_mul(slots as u64);
        memory::ask(
            MemoryUse::Batch { sequences, slots },
            bytes.saturating_mul(SLOT),
        )?;
        Ok(resolved.plan()?)
    }

    pub fn plan(&self, request: &Request) -> Result<(Header, Plan), Error> {
        let resolved = self.resolve(request)?;
        let plan = self.draw(&resolved)?;
        let all = (0..plan.sequences.len()).collect();
        Ok((resolved.header(&self.name, &plan, 0, all), plan))
    }
}

impl ModelFiles {
    /// Opens a Hugging Face folder, a `.safetensors` file with its `config.json`, a Lightning `.ckpt` or `hf:owner/name`, with the
    /// tokenizer that comes with it, if any does. Blocks while files are read, and downloaded for `hf:`.
    ///
    /// # Errors
    /// When there is no usable checkpoint, or its tokenizer is of another model.
    #[cfg(not(target_family = "wasm"))]
    pub fn open(source: &str, options: &OpenOptions) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(source, options)?;
        let codec = TextCodec::of_checkpoint(&checkpoint)?;
        Ok(Self::new(source, checkpoint, codec))
    }

    /// What was opened in another way. `name` is what traces call the model.
    pub fn new(name: &str, checkpoint: Checkpoint, codec: Option<TextCodec>) -> Self {
        let checkpoint = match &codec {
            Some(codec) => checkpoint.with_unused_tokens(codec.unused_tokens().to_vec()),
            None => checkpoint,
        };
        let shared = Shared {
            config: checkpoint.config().clone(),
            codec,
            recommended: *checkpoint.recommended(),
            chat: checkpoint.chat_files().clone(),
            name: name.into(),
        };
        Self {
            checkpoint,
            shared: Arc::new(shared),
        }
    }

    /// The model with other files that say how it is talked to.
    #[must_use]
    pub fn with_chat_files(self, chat: ChatFiles) -> Self {
        let Shared {
            config,
            codec,
            recommended,
            name,
            ..
        } = Arc::unwrap_or_clone(self.shared);
        let shared = Shared {
            config,
            codec,
            recommended,
            chat: chat.clone(),
            name,
        };
        Self {
            checkpoint: self.checkpoint.with_chat_files(chat),
            shared: Arc::new(shared),
        }
    }

    /// What traces call the model.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// The tokenizer, if there is one.
    pub fn codec(&self) -> Option<&TextCodec> {
        self.shared.codec.as_ref()
    }

    /// How the checkpoint recommends to sample.
    pub fn recommended(&self) -> &Recommended {
        &self.shared.recommended
    }

    /// As [`Model::plan`](crate::Model::plan).
    ///
    /// # Errors
    /// When the request does not fit the model.
    pub fn plan(&self, request: &Request) -> Result<(Header, Plan), Error> {
        self.shared.plan(request)
    }
}

/// What a model is loaded from: its files, or where they are.
#[allow(clippy::large_enum_variant, reason = "there is one, for a moment")]
pub enum Source {
    /// As [`ModelFiles::open`] takes it.
    #[cfg(not(target_family = "wasm"))]
    Name(String),
    /// Opened already.
    Files(ModelFiles),
}

impl Source {
    /// Blocks while files are read, or downloaded.
    pub(crate) fn open(self) -> Result<ModelFiles, Error> {
        match self {
            #[cfg(not(target_family = "wasm"))]
            Self::Name(name) => ModelFiles::open(&name, &OpenOptions::default()),
            Self::Files(files) => Ok(files),
        }
    }
}

#[cfg(not(target_family = "wasm"))]
impl From<&str> for Source {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

#[cfg(not(target_family = "wasm"))]
impl From<String> for Source {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<ModelFiles> for Source {
    fn from(files: ModelFiles) -> Self {
        Self::Files(files)
    }
}
