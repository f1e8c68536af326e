//! esolm runs Eso-LMs (Esoteric Language Models, arXiv 2506.01928), masked diffusion models and autoregressive models of
//! the same backbone on any GPU through WebGPU, or on the CPU, with an exact KV cache in any order.
//!
//! Data flows one way: [`config`] -> [`checkpoint`] -> [`plan`] -> [`generate`] -> [`text`].

pub use esolm_core::*;

pub mod cpu;
pub mod device;
pub mod draw;
pub mod error;
pub mod generate;
pub mod gpu;
pub mod kernels;
pub mod likelihood;
pub mod measure;
pub mod model;
pub mod variants;

pub use device::{AdapterInfo, AdapterKind, DeviceChoice, Precision};
pub use draw::Draw;
pub use error::EngineError;
pub use generate::{
    DeviceInfo, Engine, EngineOptions, GenerateOptions, Generation, Progress, Replay, Revealed,
    Run, StepEvent,
};
pub use kernels::gpu::Counters;
pub use variants::Variants;
