//! Everything of the engine that needs neither a GPU nor Burn: model configurations, checkpoints of untrusted origin, random
//! numbers, sort orders, plans, text.
//!
//! The model family is that of *Esoteric Language Models* (arXiv 2506.01928): Eso-LM, MDLM and AR, with the published PyTorch code
//! (s-sahoo/Eso-LMs on GitHub) as the measure. The crate `esolm` builds on this one and adds the network and its executors.
//!
//! The crate also compiles for `wasm32-unknown-unknown`; there, checkpoints come as bytes
//! ([`checkpoint::Checkpoint::from_safetensors_bytes`]) and nothing touches a file system.

#[cfg(feature = "chat")]
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod documents;
#[cfg(feature = "text")]
pub mod ending;
pub mod finite;
pub use esolm_checkpoint::message;
pub mod forward_process;
pub mod noise;
pub mod order;
pub mod passes;
pub mod plan;
pub mod quantise;
pub mod recommended;
#[cfg(feature = "text")]
pub mod request;
pub mod reveal;
pub mod rng;
pub mod rows;
pub mod sampler;
pub mod stop;
#[cfg(feature = "text")]
pub mod text;
#[cfg(feature = "text")]
pub mod trace;
