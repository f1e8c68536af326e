//! Options of `esolm bench`.

use std::fmt;

use clap::{Args, ValueEnum};

use super::values::{at_least_one, batch, parse, seconds};
use super::{Device, Filters, Model, OutputFormat};
use crate::commands::bench::Form;

/// Times whole generations, sampling included: MDLM and Eso-LM (B) and (A) at the same numbers of steps and at one token a pass (NFE = L),
/// then BD3-LM in blocks of 16 and SetDLM in windows of 8 at one token a pass, and AR, all with the same weights. On a GPU also the kernels:
/// the product of few rows against a plain copy, the product of many rows against arithmetic in registers and against Burn's own matmul.
/// With --kernels, every form of a GPU's kernels against the others.
#[derive(Debug, Args)]
#[command(
    after_help = "A generation that would take longer than --max-seconds is timed on a random sample of its passes; its line says what
share of them was run.

Examples:
  esolm bench --device cpu --steps 64
  esolm bench --device gpu --weights f16 --length 2048 --max-seconds 120
  esolm bench --model models/stories --length 128 --steps 16,64 --json
  esolm bench --kernels --device gpu --max-seconds 2"
)]
pub struct Bench {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub device: Device,
    /// Tokens of a sequence.
    #[arg(long, value_name = "L", default_value_t = 1024, value_parser = at_least_one, allow_negative_numbers = true)]
    pub length: usize,
    /// Sequences at once.
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = batch, allow_negative_numbers = true)]
    pub batch: usize,
    /// Forms to time side by side in alternating runs, each `weights` or `weights/activations`; the others are compared with the first.
    /// With --model, what each costs in perplexity is measured as well.
    #[arg(long, value_name = "FORM,...", value_delimiter = ',', conflicts_with_all = ["weights", "activations", "kernels"], value_parser = parse::<Form>)]
    pub compare: Vec<Form>,
    /// Number of runs per line; the median is reported.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one, allow_negative_numbers = true)]
    pub rounds: usize,
    /// Steps T to time. Default: 16,64,1024. For a decoder, steps of 1, 2 and 4 tokens are timed.
    #[arg(long, value_name = "T,...", value_delimiter = ',', value_parser = at_least_one, allow_negative_numbers = true)]
    pub steps: Vec<usize>,
    #[command(flatten)]
    pub filters: Filters,
    /// Time every form of the GPU's kernels at the model's shapes instead of generations, in alternating runs, and report where the table
    /// that chooses between them is wrong for this device. Rows are divided among B sequences and attend to L slots.
    #[arg(long, conflicts_with_all = ["steps", "rounds", "top_k", "top_p", "top_p_crossing", "min_p", "variants"])]
    pub kernels: bool,
    /// Time after which a line is cut short.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds, allow_negative_numbers = true)]
    pub max_seconds: f64,
    /// Random weights of a published decoder's shape, in place of the random Eso-LM that runs without --model.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "hidden", "blocks", "heads", "vocab"])]
    pub like: Option<LikeName>,
    /// Width of the random model that runs without --model; the defaults are the published small shape, 170 M parameters.
    #[arg(long, value_name = "D", default_value_t = 768, conflicts_with = "model", value_parser = at_least_one, allow_negative_numbers = true)]
    pub hidden: usize,
    /// Blocks of the random model.
    #[arg(long, value_name = "N", default_value_t = 12, conflicts_with = "model", value_parser = at_least_one, allow_negative_numbers = true)]
    pub blocks: usize,
    /// Heads of the random model.
    #[arg(long, value_name = "H", default_value_t = 12, conflicts_with = "model", value_parser = at_least_one, allow_negative_numbers = true)]
    pub heads: usize,
    /// Vocabulary of the random model, including the mask token.
    #[arg(long, value_name = "V", default_value_t = 50_258, conflicts_with = "model", value_parser = at_least_one, allow_negative_numbers = true)]
    pub vocab: usize,
    #[command(flatten)]
    pub form: OutputFormat,
}

/// A published decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LikeName {
    /// Qwen3-0.6B, as Tiny-A2D is.
    #[value(name = "qwen3-0.6b")]
    Qwen3,
    /// SDAR-1.7B-Chat.
    #[value(name = "sdar-1.7b")]
    Sdar,
}

impl fmt::Display for LikeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qwen3 => "qwen3-0.6b",
            Self::Sdar => "sdar-1.7b",
        })
    }
}
