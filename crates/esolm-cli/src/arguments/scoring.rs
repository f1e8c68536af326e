//! The options of `ppl` and `score`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Device, Job, Opening, OutputFormat, Source, at_least_one, share, whole};

/// Measures how well a model predicts a text: NELBO (a bound) and exact likelihood, in nats and bits per token, bits per byte, and
/// perplexity. docs/likelihood.md has the formulas.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  esolm ppl holdout.txt                         packed windows, as models are trained on them
  esolm ppl holdout.txt --alpha0 1 --orders 8   any order; more orders tighten the bound
  esolm ppl stories.jsonl --per-document scores.jsonl --json
  cat holdout.txt | esolm ppl - --length 64 --max-windows 100
  esolm ppl --tokens tokens.safetensors --per-sequence out.safetensors --draws 0
  esolm ppl --input documents.jsonl --output scores.jsonl --resume

Jobs: --input has lines {\"text\": ...}, each a document that is scored by itself, as with --per-document; docs/scale.md.
Plain text:   documents between separators, white space around them left out.
JSON lines:   {\"text\": \"...\"} on each line.
--tokens:     tokens     int32 [N, L]
              sort_idx   int32 [N, L]   optional: the order of each sequence, instead of drawn ones
--per-sequence:
              logp_per_seq    f32 [N]      exact log-likelihood in nats, log-mean over the orders
              logp_per_order  f32 [N, K]   for each of K > 1 orders
              nelbo_per_seq   f32 [N]      where the NELBO is computed")]
pub struct Ppl {
    /// Text files, or `-` for the standard input. Files named .jsonl are JSON lines.
    #[arg(value_name = "FILE", conflicts_with = "input")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub source: Source,

    /// Read every file as JSON lines with a field `text`, whatever its name.
    #[arg(long, conflicts_with = "input", help_heading = "Text")]
    pub jsonl: bool,
    /// What separates the documents of a plain text; \n stands for a newline.
    ///
    /// Default: the text of the tokenizer's end-of-text token, such as <|endoftext|>, if it has one.
    #[arg(
        long,
        conflicts_with = "input",
        value_name = "TEXT",
        help_heading = "Text"
    )]
    pub separator: Option<String>,
    /// Leave out documents with characters beyond ASCII.
    #[arg(long, conflicts_with = "input", help_heading = "Text")]
    pub ascii_only: bool,
    /// Tokens of a window, from 1 to the model's context. Default: the context.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Text")]
    pub length: Option<usize>,
    /// Score only the first N windows.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true, conflicts_with = "input", help_heading = "Text")]
    pub max_windows: Option<usize>,
    #[command(flatten, next_help_heading = "Text")]
    pub opening: Opening,
    /// Tokens to score instead of text.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["files", "jsonl", "separator", "ascii_only", "length", "per_document", "tokenizer", "bos", "no_bos", "input"], help_heading = "Text")]
    pub tokens: Option<PathBuf>,

    /// Share of the tokens that diffusion writes, 0 to 1, of an Eso-LM.
    ///
    /// Default: the value the model was trained with if the checkpoint says, else 1.
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true, help_heading = "Likelihood")]
    pub alpha0: Option<f64>,
    /// Orders of the exact likelihood. One gives the log-likelihood in a random order; the mean over K is a bound that tightens with K.
    ///
    /// Default: 1.
    #[arg(long, value_name = "K", value_parser = repeats, allow_negative_numbers = true, conflicts_with = "no_exact", help_heading = "Likelihood")]
    pub orders: Option<u32>,
    /// Leave out the exact likelihood.
    #[arg(long, help_heading = "Likelihood")]
    pub no_exact: bool,
    /// Draws of the noise for each window of the NELBO; 0 leaves it out. Default: 1.
    #[arg(long, value_name = "N", value_parser = draws, allow_negative_numbers = true, help_heading = "Likelihood")]
    pub draws: Option<u32>,
    /// Seed of the noise and of the orders. A window's numbers do not depend on --batch.
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true, default_value_t = 0, help_heading = "Likelihood")]
    pub seed: u64,
    /// Windows per pass. Default: as many as keep the device busy.
    #[arg(long, value_name = "N", value_parser = batch, allow_negative_numbers = true, help_heading = "Likelihood")]
    pub batch: Option<usize>,

    #[command(flatten)]
    pub job: Job,

    #[command(flatten)]
    pub device: Device,

    /// Score each document on its own, given its opening token, and write a line of JSON for each.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["max_windows", "input"],
        help_heading = "Output"
    )]
    pub per_document: Option<PathBuf>,
    /// Write the log-likelihood of each window.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["per_document", "input"],
        help_heading = "Output"
    )]
    pub per_sequence: Option<PathBuf>,
    #[command(flatten)]
    pub form: OutputFormat,
    /// Print nothing on stderr but errors.
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

/// Prints the log-likelihood of each line in nats, given the beginning-of-text token: exact for an Eso-LM (B), a SetDLM, an AR model and a
/// BD3-LM with blocks of one token, a lower bound for an Eso-LM (A), an MDLM and other BD3-LMs. Of a line without a token to score it is 0.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  esolm score lines.txt                 one number per line
  echo 'Once upon a time' | esolm score --json
  esolm score --choices questions.jsonl --normalize byte
  esolm score --infill middles.jsonl
  esolm score --input pairs.jsonl --output scores.jsonl --resume

Jobs: --input has lines {\"text\": ...}, {\"context\": ..., \"continuation\": ...}, {\"context\": ..., \"choices\": [...]} or {\"prefix\": ..., \"middle\": ...,
  \"suffix\": ...}, each with an id if you like; docs/scale.md.

--choices: lines {\"context\": \"...\", \"choices\": [\"...\", \"...\"]}; prints the number of the likelier choice, counted from 0, and the
  log-likelihood of each given the context, separated by tabs. A space at the end of the context belongs to the choices.
--infill:  lines {\"prefix\": \"...\", \"middle\": \"...\", \"suffix\": \"...\"}; prints log p(middle | prefix, suffix).
Eso-LMs score from left to right after what is given, unless --alpha0 asks for random orders.")]
pub struct Score {
    /// Text files, or `-` for the standard input, which is also the default.
    #[arg(value_name = "FILE", conflicts_with = "input")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub source: Source,

    /// Read lines of JSON with a context and choices.
    #[arg(long, conflicts_with = "input", help_heading = "Task")]
    pub choices: bool,
    /// Read lines of JSON with a prefix, a middle and a suffix.
    #[arg(long, conflicts_with_all = ["choices", "input"], help_heading = "Task")]
    pub infill: bool,
    /// What choices are compared by: log-likelihood, or log-likelihood per token or per byte.
    #[arg(long, value_enum, default_value = "none", help_heading = "Task")]
    pub normalize: Normalize,
    #[command(flatten, next_help_heading = "Task")]
    pub opening: Opening,

    /// Share of the scored tokens that come in random order before the others, 0 to 1, of an Eso-LM. Default: 0.
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true, help_heading = "Likelihood")]
    pub alpha0: Option<f64>,
    /// Orders, whose likelihoods are averaged. Default: 1.
    #[arg(long, value_name = "K", value_parser = repeats, allow_negative_numbers = true, help_heading = "Likelihood")]
    pub orders: Option<u32>,
    /// Draws of the noise for the bound of an MDLM, a BD3-LM or an Eso-LM (A). Default: 32.
    #[arg(long, value_name = "N", value_parser = repeats, allow_negative_numbers = true, help_heading = "Likelihood")]
    pub draws: Option<u32>,
    /// Seed of the orders and of the noise.
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true, default_value_t = 0, help_heading = "Likelihood")]
    pub seed: u64,
    /// Texts per pass. Default: as many as keep the device busy.
    #[arg(long, value_name = "N", value_parser = batch, allow_negative_numbers = true, help_heading = "Likelihood")]
    pub batch: Option<usize>,

    #[command(flatten)]
    pub job: Job,

    #[command(flatten)]
    pub device: Device,

    #[command(flatten)]
    pub form: OutputFormat,
    /// Print nothing on stderr but errors.
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Normalize {
    /// The log-likelihood itself.
    None,
    /// Divided by the number of tokens.
    Token,
    /// Divided by the number of bytes.
    Byte,
}

/// Most orders or draws: beyond it passes are too many to count.
const MAX_REPEATS: u32 = 1 << 16;

fn draws(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n) if n <= MAX_REPEATS => Ok(n),
        _ => Err(format!("it must be a whole number from 0 to {MAX_REPEATS}")),
    }
}

fn repeats(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n) if (1..=MAX_REPEATS).contains(&n) => Ok(n),
        _ => Err(format!("it must be a whole number from 1 to {MAX_REPEATS}")),
    }
}

fn batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=1 << 16).contains(&n) => Ok(n),
        _ => Err("it must be a whole number from 1 to 65536".into()),
    }
}
