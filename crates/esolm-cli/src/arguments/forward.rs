//! Options of `esolm forward`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use esolm::MaskMode;

use super::values::at_least_one;
use super::{Device, Model};

/// Runs whole sequences through the network once.
#[derive(Debug, Args)]
#[command(
    after_help = "Input:   zt_sorted   int32 [B, L]   tokens in sorted order, masked ones included
         sort_idx    int32 [B, L]   natural position of each sorted place
         x0_sorted   int32 [B, L]   clean tokens, for --mode sequential and --mode set, which has no zt_sorted
         of --mode block instead, in natural order:
         xt          int32 [B, L]   tokens, masked ones included
         x0          int32 [B, L]   clean tokens
Output:  logits      f32 [B, L, V]  in the order of the input, the mask column untouched; with --mode block those of xt

Examples:
  esolm forward --model last.ckpt --input in.safetensors --output out.safetensors --mode diffusion --mask causal
  esolm forward --model bd3lm-folder --input in.safetensors --output out.safetensors --mode block --block-size 4
  esolm forward --model setdlm-folder --input in.safetensors --output out.safetensors --mode set"
)]
pub struct Forward {
    #[command(flatten)]
    pub model: Model,
    /// Safetensors file to read.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Safetensors file to write, or `-` for the standard output.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// diffusion: the tokens alone; sequential: beside the clean tokens, as the sequential loss reads them; block: each block of xt after the
    /// blocks of x0 before it, as a BD3-LM reads them; set: a mask in the place of each token after the clean tokens before it, as a SetDLM
    /// reads them.
    #[arg(long, value_enum, default_value = "diffusion")]
    pub mode: ModeName,
    /// Tokens of a block, for --mode block; where it does not divide the length, the last block is shorter. Default: the model's own.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub block_size: Option<usize>,
    /// Attention mask over sorted places. Default: the model's own (mixed for the sequential mode of an Eso-LM (A)).
    #[arg(long, value_enum)]
    pub mask: Option<MaskName>,
    #[command(flatten)]
    pub device: Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    /// One row per token.
    Diffusion,
    /// Two rows per token, one clean and one noised.
    Sequential,
    /// Likewise, and the noised ones see their block.
    Block,
    /// Likewise, and the noised ones are all masks.
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MaskName {
    /// Places up to its own: Eso-LM (B), AR.
    Causal,
    /// All places: MDLM.
    Bidirectional,
    /// Clean places causal, masked ones see all: Eso-LM (A), sequential.
    Mixed,
    /// Clean places see all clean ones, masked ones causal: Eso-LM (A), diffusion.
    Mixed2,
}

impl From<MaskName> for MaskMode {
    fn from(name: MaskName) -> Self {
        match name {
            MaskName::Causal => Self::Causal,
            MaskName::Bidirectional => Self::Bidirectional,
            MaskName::Mixed => Self::Mixed,
            MaskName::Mixed2 => Self::Mixed2,
        }
    }
}
