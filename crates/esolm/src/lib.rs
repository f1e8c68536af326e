//! esolm runs Eso-LMs (Esoteric Language Models, arXiv 2506.01928), as well as masked diffusion and autoregressive
//! models with the same backbone, on any GPU through WebGPU or on the CPU. Its KV cache is exact for any generation
//! order.
//!
//! Load a checkpoint into a [`Model`], then turn a [`Request`] into text:
//!
//! ```no_run
//! use esolm::{LoadOptions, Model, Request};
//!
//! let model = Model::load_blocking("models/stories", LoadOptions::default())?;
//! let text = model.blocking().text(Request {
//!     prompt: vec!["Once upon a time".into()],
//!     top_p: Some(0.8),
//!     seed: Some(4),
//!     ..Request::default()
//! })?;
//! println!("{text}");
//! # Ok::<(), esolm::Error>(())
//! ```
//!
//! [`Model::generate`] reports every step as it runs; [`Model::score`] and [`Model::perplexity`] compute likelihoods.
//! Data flows one way: [`config`] -> [`checkpoint`] -> [`plan`] -> generator -> [`text`].

pub use esolm_core::{chat::Message, checkpoint, config, plan, stop, text, trace};

pub use adapter::{AdapterInfo, AdapterKind, AdapterLimits};
pub use chat::{
    Answer, Answering, Chat, ChatError, ChatEvent, ChatOptions, ChatPrompt, ChatStep, answer_ends,
    drawn_as_answers, usual_answer,
};
#[cfg(not(target_family = "wasm"))]
pub use device::adapters;
pub use device::{DeviceChoice, DeviceInfo, LoadOptions, PassedOver};
pub use engine::Replay;
pub use error::{DeviceFault, EngineError, Error, ItemError, LikelihoodError};
pub use esolm_core::chat::{ChatTemplate, ChatTemplateError, Rendering, split_thoughts};
pub use esolm_core::documents::BetweenError;
pub use esolm_core::recommended::Recommended;
pub use esolm_core::request::{DecodeAs, Request, RequestError};
pub use esolm_core::rows::{MaskMode, RowsError};
pub use esolm_core::sampler::SamplerError;
pub use files::{ModelFiles, Source};
pub use forward::Forward;
pub use generation::Generation;
pub use kernels::Precision;
pub use likelihood::{Likelihood, Progress, TextScore};
pub use memory::{MemoryLimit, MemoryRoom, MemoryUse};
#[cfg(not(target_family = "wasm"))]
pub use model::Blocking;
pub use model::{Model, random_seed};
pub use perplexity::{Corpus, Figure, Nelbo, Perplexity, PerplexityOptions};
pub use score::{Score, ScoreItem, ScoreOptions, Scored};
#[cfg(not(target_family = "wasm"))]
pub use serving::{
    Echo, Echoed, LogProb, Serving, ServingError, ServingOptions, ServingState, TextRequest, Told,
    Writing, Written,
};
pub use variants::{Chosen, Variants};
pub use weights::{Activations, Weights};

mod adapter;
mod chat;
mod error;
mod files;
mod forward;
mod generation;
mod model;
mod perplexity;
mod place;
mod score;
#[cfg(not(target_family = "wasm"))]
mod serving;
mod turn;
mod weights;
mod worker;

// Internals, public only for this project's own programs and tests. They may change in any release.
#[doc(hidden)]
pub use esolm_core::{
    documents, ending, forward_process, noise, order, passes, quantise, request, reveal, rng, rows,
    sampler,
};
#[doc(hidden)]
pub mod cpu;
#[doc(hidden)]
pub mod device;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod executor;
#[doc(hidden)]
pub mod gpu;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod likelihood;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod network;
#[doc(hidden)]
pub mod variants;
