//! Options of `esolm replay`.

use std::path::PathBuf;

use clap::Args;

use super::{Device, Filters, Model};

/// Repeats a recorded generation of an Eso-LM, with the same steps and the same uniforms, through the KV cache.
#[derive(Debug, Args)]
#[command(
    after_help = "Input:   sort_idx       int32 [B, L]   natural position of each sorted place
         steps          int32 [N, 3]   last start, current start, current end of each step, in sorted places
         u              f64 [B, L, V]  uniforms of each sorted place; the noise is -ln(-ln u)
Output:  logits         f32 [B, L, V]  of each sorted place in the step that drew it, the mask column untouched
         tokens_sorted  int32 [B, L]   tokens in sorted order
         sample         int32 [B, L]   tokens in natural order

Example:
  esolm replay --model last.ckpt --input recorded.safetensors --output out.safetensors --top-p 0.9"
)]
pub struct Replay {
    #[command(flatten)]
    pub model: Model,
    /// Safetensors file to read.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Safetensors file to write, or `-` for the standard output.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    pub filters: Filters,
    #[command(flatten)]
    pub device: Device,
}
