//! The command line: every option with its default, its range and an example.

mod bench;
mod chat;
mod decoders;
mod forward;
mod job;
mod manual;
mod opening;
mod replay;
mod scoring;
mod serve;
mod sets;
mod train;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use esolm::config::{Family, ReadAs};
use esolm::plan::Schedule;
use esolm::sampler::{Crossing, Sampler};
use esolm::stop::StopRule;
use esolm::{Activations, DeviceChoice, LoadOptions, Precision, Variants, Weights};

pub use bench::{Bench, LikeName};
pub use chat::{COMMANDS, Chat, commands_and_keys};
pub use decoders::Choosing;
pub use forward::{Forward, ModeName};
pub use job::{FormatName, Job, OutputFormat, Shard};
pub use manual::{Completions, Man};
pub use opening::Opening;
pub use replay::Replay;
pub use scoring::{Normalize, Ppl, Score};
pub use serve::Serve;
pub use sets::Sets;
pub use train::Train;
use values::{at_least_one, min_p, parse, share, stop_string, temperature, top_k, top_p, whole};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Writes, scores and trains with Eso-LMs (arXiv 2506.01928), with masked, block and set diffusion models (MDLM, BD3-LM, SetDLM) and with
/// autoregressive ones, and runs decoders such as Qwen3 and SDAR, on any GPU or on the CPU.
#[derive(Debug, Parser)]
#[command(
    name = "esolm",
    version,
    styles = STYLES,
    propagate_version = true,
    after_help = "Examples:
  esolm sample                                  a text from the small model that ships
  esolm sample --infill 'Once ____ a time'      fills a gap
  esolm sample --watch --alpha0 1               shows the text while it is written
  esolm inspect hf:sahoo-diffusion/Eso-LM-B-alpha-1
  esolm devices

Text goes to the standard output, everything else to the standard error.
Exit codes: 0 success; 2 bad usage, where an option or argument must be another one; 1 any other failure; 130 interrupted by Ctrl-C
(143 by SIGTERM, 129 by SIGHUP)."
)]
pub struct Esolm {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write text.
    Sample(Box<Sample>),
    /// Talk with a model.
    Chat(Box<Chat>),
    /// Measure perplexity on texts: exact likelihood and NELBO.
    Ppl(Box<Ppl>),
    /// Print the log-likelihood of lines, choices or infills.
    Score(Box<Score>),
    /// Answer requests over HTTP, in the form of OpenAI's completions.
    Serve(Box<Serve>),
    /// List the GPUs here, their limits, and which kernels would run.
    Devices(Devices),
    /// Describe a checkpoint: family, shapes, parameters, bytes.
    Inspect(Inspect),
    /// Write any readable checkpoint as a Hugging Face folder.
    Convert(Convert),
    /// Run one pass over given tokens, to compare logits with another implementation.
    Forward(Forward),
    /// Repeat a recorded generation with its random numbers, to compare it with another implementation.
    Replay(Replay),
    /// Train a model on text files.
    Train(Box<Train>),
    /// Print a script that completes commands and options in a shell.
    Completions(Completions),
    /// Write the manual pages.
    Man(Man),
    /// Time Eso-LM, MDLM, BD3-LM, SetDLM and AR on one device, and the kernels against what the device can do.
    Bench(Bench),
}

/// Which checkpoint.
#[derive(Debug, Clone, Args)]
pub struct Model {
    /// Checkpoint: a Hugging Face folder, a .safetensors file, a Lightning .ckpt, or hf:owner/name.
    ///
    /// Default: what the variable ESOLM_MODEL names, else the small model inside the program. That one does not chat, and
    /// `bench` runs random weights by default.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// config.json to use, for a .safetensors file without one beside it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take the raw weights of a Lightning .ckpt instead of the EMA weights.
    #[arg(long)]
    pub raw_weights: bool,
    /// How to run a decoder whose config.json does not say whether it is an MDLM or a BD3-LM (model types a2d-qwen3, a2d-qwen2 and
    /// a2d-llama).
    #[arg(long = "as", value_enum, value_name = "mdlm|bd3lm")]
    pub read_as: Option<ReadAsName>,
    /// Tokens per block of a BD3-LM: needed for a decoder that is read as one; for `sample` and `forward`, a size other than the model's
    /// own. Texts are written in whole blocks; only the last block of a decoder's text, or of `forward --mode block`, may be shorter. With
    /// the schedule confidence, an MDLM finishes a block of this size before it begins the next.
    ///
    /// Default: the model's own; 32 for a decoder that is an MDLM.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub block_size: Option<usize>,
}

impl Model {
    /// What the configuration leaves open.
    pub fn read_as(&self) -> ReadAs {
        ReadAs {
            family: self.read_as.map(|name| match name {
                ReadAsName::Mdlm => Family::Mdlm,
                ReadAsName::Bd3lm => Family::Bd3Lm,
            }),
            block_size: self.block_size,
            mask: None,
        }
    }
}

/// What a model may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadAsName {
    /// Masked diffusion over the whole text.
    Mdlm,
    /// Blocks from left to right; with --block-size.
    Bd3lm,
}

/// Which checkpoint, and which tokenizer.
#[derive(Debug, Args)]
pub struct Source {
    #[command(flatten)]
    pub model: Model,
    /// tokenizer.json to use, or `none` to work on token numbers.
    ///
    /// Default: the one that comes with the checkpoint. Checkpoints trained on OpenWebText use GPT-2's.
    #[arg(long, value_name = "FILE|none")]
    pub tokenizer: Option<PathBuf>,
}

/// Where it runs.
#[derive(Debug, Args)]
pub struct Device {
    /// auto: the first real GPU that works, else the CPU; cpu; gpu: the first adapter, software ones included; gpu:N: adapter N of `esolm devices`.
    #[arg(long, value_name = "auto|cpu|gpu|gpu:N", default_value = "auto", value_parser = parse::<DeviceChoice>)]
    pub device: DeviceChoice,
    /// Precision of the weights in memory: f16 takes half the memory of f32, q8 about a quarter and q4 a fifth.
    ///
    /// Default: f32; for quantised files, the form that they are stored in.
    #[arg(long, value_name = "f32|f16|q8|q4", value_parser = parse::<Weights>)]
    pub weights: Option<Weights>,
    /// Precision of the activations that q8 and q4 weights are multiplied with: q8 rounds them to 8 bits, which is faster and slightly less
    /// accurate; only on the CPU.
    #[arg(long, value_name = "f32|q8", default_value = "f32", value_parser = parse::<Activations>)]
    pub activations: Activations,
    /// Precision of the KV cache on a GPU.
    #[arg(long, value_name = "f32|f16", default_value = "f32", value_parser = parse::<Precision>)]
    pub kv_cache: Precision,
    /// Use these kernel variants instead of those chosen for this kind of adapter, for example few=split,many=tile,attention=split.
    #[arg(long, value_name = "KERNEL=NAME,...", default_value = "", hide_default_value = true, value_parser = parse::<Variants>)]
    pub variants: Variants,
}

impl Device {
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            weights: self.weights,
            activations: self.activations,
            kv_cache: self.kv_cache,
            variants: self.variants,
        }
    }
}

/// Writes text: first a share alpha_0 of the tokens by diffusion, several at once and in any order, then the rest one by one from
/// left to right, all with an exact KV cache.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  esolm sample --seed 1
  esolm sample --prompt 'Once upon a time' --top-p 0.8
  esolm sample --infill 'Once ____ a time, Lily ____{12} the end.'
  esolm sample --alpha0 1 --steps 32 --watch
  esolm sample --batch 4 --json
  esolm sample --prompt 'Tom said' --stop-string . --logprobs --json
  esolm sample --input prompts.jsonl --output stories.jsonl --resume
  esolm sample --model hf:sahoo-diffusion/Eso-LM-B-alpha-1 --tokenizer gpt2/tokenizer.json
  esolm sample --model sdar --prompt 'Once' --steps 4 --confidence-threshold 0.9 --temperature 0
  esolm sample --model a2d --as bd3lm --block-size 32 --prompt 'Once' --steps 8 --suppress-tokens '<|im_end|>'

Jobs: lines of --input look like {\"id\": 7, \"prompt\": \"Once\"} or {\"infill\": \"Once ____ a time\", \"seed\": 3}; docs/scale.md lists all fields.

Infill templates:
  ____        a gap of as many tokens as underscores, here 4
  ____{12}    a gap of 12 tokens
  \\_  \\{  \\\\  the character itself
  The text ends with the template, unless --length asks for more. A word and the space before it are one token for most
  tokenizers, so one space right before a gap belongs to the gap, and the model writes its own. Given words stay whole: a text
  in which the model runs on at one ('cat ____' becoming 'cats') is drawn again.

A checkpoint may recommend settings (the field esolm of its generation_config.json); options take precedence. `esolm inspect` shows them.")]
pub struct Sample {
    #[command(flatten)]
    pub source: Source,

    /// Share of the tokens written by diffusion, 0 to 1; the rest is written left to right.
    ///
    /// Default: what the checkpoint recommends, or the value that the model was trained with if the checkpoint says, else 1.
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true, help_heading = "Sampling")]
    pub alpha0: Option<f64>,
    /// Steps T of the diffusion phase, 1 or more; fewer are faster and coarser. For a BD3-LM, the steps of each block; with the schedules
    /// block and block-autoregressive, the number of tokens in a block. With the schedule confidence, more steps than tokens change
    /// nothing.
    ///
    /// Default: the length. A BD3-LM draws one token per step unless steps are given. A SetDLM takes further steps where its window was too
    /// small for the tokens of a step.
    #[arg(long, value_name = "T", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub steps: Option<usize>,
    /// Length of a text in tokens, from 1 to the model's context. A BD3-LM writes whole blocks; a BD3-LM and a SetDLM can go beyond their
    /// context, and then see only the last tokens, which is not exact.
    ///
    /// Default: the model's context, or the length of the infill template; for a decoder, 128 more than are given.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub length: Option<usize>,
    /// Number of texts; in a job, the number of texts that are written at once.
    ///
    /// Default: 1, or one for each --prompt; in a job, 32, or as many as fit in memory.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub batch: Option<usize>,
    /// Which positions are written in which step of the diffusion phase.
    ///
    /// Default: binomial, also for a BD3-LM with --steps; first-hitting for a BD3-LM without; confidence for a SetDLM and for decoders that
    /// write by diffusion; left-to-right for an AR model, which has no other.
    #[arg(long, value_enum, help_heading = "Sampling")]
    pub schedule: Option<ScheduleName>,
    /// Number of stretches of text that the schedule block-autoregressive writes one after the other, 1 or more. Default: 1.
    #[arg(long, value_name = "R", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub sar_steps: Option<usize>,
    /// With the schedule confidence: keep all tokens of at least this confidence, 0 to 1, at once, so that a text may take fewer passes.
    /// Default: each step keeps as many as --steps says.
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true, help_heading = "Sampling")]
    pub confidence_threshold: Option<f32>,
    #[command(flatten, next_help_heading = "Sampling")]
    pub choosing: Choosing,
    #[command(flatten, next_help_heading = "Sampling")]
    pub sets: Sets,
    #[command(flatten, next_help_heading = "Sampling")]
    pub filters: Filters,
    /// End a text early. For a BD3-LM, after any block: eos at the second end-of-text token (the opening one counts), which is kept;
    /// entropy where the last 256 tokens have an entropy below 4 nats, which are cut off. For a SetDLM, after any token once 32 are
    /// written: eos at the first end-of-text token; entropy by the last 128 tokens. A decoder's text always ends at the first end-of-text
    /// token that it writes.
    #[arg(
        long,
        value_enum,
        value_name = "RULE,...",
        value_delimiter = ',',
        help_heading = "Sampling"
    )]
    pub stop: Vec<StopName>,
    /// End a text before TEXT if the model writes it, and also at its first end-of-text token; \n stands for a newline. May be given
    /// several times: the string that is completed first counts. Given text is not searched. Nothing more is written of a text that has
    /// ended.
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = stop_string,
        allow_hyphen_values = true,
        conflicts_with = "raw",
        help_heading = "Sampling"
    )]
    pub stop_string: Vec<String>,
    /// Divides the logits: below 1 the text is more predictable, above 1 more varied; 0 takes the most likely token.
    ///
    /// Default: what the checkpoint recommends, else 1.
    #[arg(long, value_name = "X", value_parser = temperature, allow_negative_numbers = true, help_heading = "Sampling")]
    pub temperature: Option<f32>,
    /// Seed of all random numbers. The same seed gives the same text on the same device. Default: a random one, printed on stderr; in a
    /// job, 0.
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true, help_heading = "Sampling")]
    pub seed: Option<u64>,
    /// Number of the first text; in a job, of its first line. Text number N of a seed is the same in any batch.
    #[arg(long, value_name = "N", value_parser = whole::<u32>, allow_negative_numbers = true, default_value_t = 0, help_heading = "Sampling")]
    pub first: u32,

    /// Text to continue; `-` reads it from the standard input. If given several times, the texts of the batch take the prompts in turn.
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with_all = ["infill", "input"],
        help_heading = "Given text"
    )]
    pub prompt: Vec<OsString>,
    /// Text with gaps to fill, for example 'Once ____ a time'; `-` reads it from the standard input.
    #[arg(
        long,
        value_name = "TEMPLATE",
        allow_hyphen_values = true,
        conflicts_with = "input",
        help_heading = "Given text"
    )]
    pub infill: Option<OsString>,
    #[command(flatten, next_help_heading = "Given text")]
    pub opening: Opening,

    #[command(flatten)]
    pub job: Job,

    #[command(flatten)]
    pub device: Device,

    /// Print all tokens, including special ones and those after the first end-of-text token.
    #[arg(long, help_heading = "Output")]
    pub raw: bool,
    /// Report in JSON the log-probability that the model gave each token in the step that drew it, before temperature, top-k, top-p and
    /// min-p.
    ///
    /// Costs another product with the output matrix in each step.
    #[arg(long, help_heading = "Output")]
    pub logprobs: bool,
    #[command(flatten)]
    pub form: OutputFormat,
    /// Show the text while it is written: given tokens bold, new ones cyan (diffusion) or yellow (left to right).
    #[arg(long, conflicts_with = "input", help_heading = "Output")]
    pub watch: bool,
    /// Minimum time between two steps shown.
    #[arg(
        long,
        value_name = "MILLISECONDS", value_parser = whole::<u64>, allow_negative_numbers = true,
        default_value_t = 40,
        requires = "watch",
        help_heading = "Output"
    )]
    pub watch_delay: u64,
    /// Write every step as a line of JSON (docs/plan-format.md).
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "input",
        help_heading = "Output"
    )]
    pub trace: Option<PathBuf>,
    /// Print nothing on stderr but errors.
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

/// Lists the adapters that `--device gpu:N` counts, real GPUs first.
#[derive(Debug, Args)]
pub struct Devices {
    #[command(flatten)]
    pub form: OutputFormat,
}

/// Reads the configuration and the tensor directory of a checkpoint; no weight is loaded.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  esolm inspect models/stories
  esolm inspect last.ckpt --tensors
  esolm inspect last.ckpt --tokenizer gpt2/tokenizer.json    tells whether it fits
  esolm inspect weights.safetensors --config config.json --json")]
pub struct Inspect {
    /// The checkpoint, as --model takes it.
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    pub input: Option<String>,
    #[command(flatten)]
    pub source: Source,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    #[command(flatten)]
    pub form: OutputFormat,
}

/// Writes config.json, model.safetensors and, where there is one, tokenizer.json. Nothing half-written is left behind.
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    after_help = "Examples:
  esolm convert last.ckpt my-model
  esolm convert --model last.ckpt --tokenizer gpt2/tokenizer.json my-model
  esolm convert hf:kuleshov-group/mdlm-owt mdlm --dtype f16
  esolm convert last.ckpt my-small-model --dtype q8"
)]
pub struct Convert {
    /// The checkpoint, as --model takes it.
    #[arg(value_name = "IN", conflicts_with = "model")]
    pub input: Option<String>,
    /// Folder to write.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    #[command(flatten)]
    pub source: Source,
    /// Type of the written weights.
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: DtypeName,
    /// Largest file of weights in megabytes; larger models are written as several files with an index.
    #[arg(long, value_name = "MB", default_value_t = 2000, value_parser = at_least_one, allow_negative_numbers = true)]
    pub shard_size: usize,
    /// Replace a model that is already in OUT; other files there that would be taken for the new one's, such as a chat_template.jinja, are removed
    /// if it comes without them.
    #[arg(long)]
    pub force: bool,
}

/// Which tokens are drawn from: those that are left by all that are given, in this order.
#[derive(Clone, Copy, Debug, Args)]
pub struct Filters {
    /// Draw from the N most likely tokens. Default: all tokens, or for `sample` what the
    /// checkpoint recommends.
    #[arg(long, value_name = "N", value_parser = top_k, allow_negative_numbers = true)]
    pub top_k: Option<u32>,
    /// Draw from the smallest set of tokens, among those that --top-k leaves, whose probabilities add up to P, above 0 up to 1. Default:
    /// all tokens, or for `sample` what the checkpoint recommends.
    #[arg(long, value_name = "P", value_parser = top_p, allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Whether the token at which the sum reaches P is kept, or dropped as in the published BD3-LM. Default: keep.
    #[arg(long, value_enum, value_name = "keep|drop")]
    pub top_p_crossing: Option<CrossingName>,
    /// Draw from the tokens that are at least P times as likely as the most likely one, from 0 to 1. Default: all tokens, or for `sample` what the
    /// checkpoint recommends.
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true)]
    pub min_p: Option<f32>,
}

impl Filters {
    /// Draws with these and the temperature 1.
    pub fn sampler(self) -> Sampler {
        Sampler {
            top_k: self.top_k,
            top_p: self.top_p,
            top_p_crossing: self.top_p_crossing.map(Into::into).unwrap_or_default(),
            min_p: self.min_p,
            ..Sampler::default()
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleName {
    /// Eso-LM, MDLM and BD3-LM: the published schedule, with binomial step sizes and positions at random.
    Binomial,
    /// Eso-LM and MDLM: step i of S takes positions i, i + S, i + 2S, ...
    Blocks,
    /// As blocks, with the positions of each step and the steps themselves shuffled.
    BlocksShuffled,
    /// One by one, ascending.
    LeftToRight,
    /// Blocks of S neighbours, where S is the number of steps: each step takes one place of every block, in random order.
    Block,
    /// Blocks of S neighbours, each from left to right, all at once after their first positions; see --sar-steps.
    #[value(alias = "block_autoregressive")]
    BlockAutoregressive,
    /// BD3-LM: one by one in random order within each block. SetDLM: in an order drawn from its noise.
    FirstHitting,
    /// All but Eso-LM and AR: each step draws a token at every position that is left (for a SetDLM, in its window), and keeps those that
    /// the network is most sure of.
    Confidence,
}

impl From<ScheduleName> for Schedule {
    fn from(name: ScheduleName) -> Self {
        match name {
            ScheduleName::Binomial => Self::Binomial,
            ScheduleName::Blocks => Self::Blocks,
            ScheduleName::BlocksShuffled => Self::BlocksShuffled,
            ScheduleName::LeftToRight => Self::LeftToRight,
            ScheduleName::Block => Self::Block,
            ScheduleName::BlockAutoregressive => Self::BlockAutoregressive,
            ScheduleName::FirstHitting => Self::FirstHitting,
            ScheduleName::Confidence => Self::Confidence,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StopName {
    /// A second end-of-text token.
    Eos,
    /// Tokens that repeat each other.
    Entropy,
}

impl From<StopName> for StopRule {
    fn from(name: StopName) -> Self {
        match name {
            StopName::Eos => Self::Eos,
            StopName::Entropy => Self::Entropy,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CrossingName {
    /// Probabilities add up to P or more.
    Keep,
    /// They add up to P at most; the most likely token is always there.
    Drop,
}

impl From<CrossingName> for Crossing {
    fn from(name: CrossingName) -> Self {
        match name {
            CrossingName::Keep => Self::Keep,
            CrossingName::Drop => Self::Drop,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeName {
    /// Single precision.
    F32,
    /// Half precision, half the size.
    F16,
    /// 8 bits in groups of 32, folded for inference: a quarter of the size.
    Q8,
    /// 4 bits, with the embedding and the output matrix in 8: about a fifth of the size.
    Q4,
}

impl fmt::Display for DtypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Esolm::command().debug_assert();
    }
}
