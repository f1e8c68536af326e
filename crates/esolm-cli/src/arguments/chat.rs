//! Options of `esolm chat`.

use std::path::PathBuf;

use clap::Args;

use super::values::{at_least_one, min_p, stop_string, temperature, whole};
use super::{Choosing, Device, Filters, Source};

/// A conversation with a model that was trained to answer: a decoder with a chat template.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  esolm chat --model ./Qwen3-0.6B
  esolm chat --model ./a2d-model --as bd3lm --block-size 32 --no-think
  esolm chat --model ./SmolLM2-135M-Instruct --system 'Be brief.' --seed 1
  echo 'Why is the sky blue?' | esolm chat --model ./Qwen3-0.6B --json

In the conversation:
  /help               says what there is
  /reset              begins anew; the system's message stays
  /system TEXT        begins anew with another message of the system's
  /seed N             seed of the next answers; without N random ones
  /think on|off|auto  whether the model thinks before it answers
  /save FILE          writes the conversation; /load FILE goes on with one
  /exit               ends it, as does Ctrl-D

Ctrl-C stops an answer, which stays as far as it was written. A line that ends with \\ goes on in the next one; a message that begins with / is
written with two. Where the input is not a terminal each line of it is a message, or one of these commands. docs/chat.md has more.")]
pub struct Chat {
    #[command(flatten)]
    pub source: Source,
    /// Chat template to use, a file in the language Jinja.
    ///
    /// Default: chat_template.jinja beside the weights, or that in tokenizer_config.json; with --tokenizer those beside that file, if there are any.
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// What holds for the whole conversation.
    #[arg(long, value_name = "TEXT", help_heading = "Conversation")]
    pub system: Option<String>,
    /// Have the model think before it answers, if its template knows of it.
    #[arg(long, conflicts_with = "no_think", help_heading = "Conversation")]
    pub think: bool,
    /// Have it answer at once. Default: what the template does.
    #[arg(long, help_heading = "Conversation")]
    pub no_think: bool,
    /// Go on with a conversation that /save wrote.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "system",
        help_heading = "Conversation"
    )]
    pub load: Option<PathBuf>,
    /// Tokens of an answer at most.
    ///
    /// Default: 1024 of an AR model, 256 of a BD3-LM, 128 of an MDLM, which computes all of them in every step; at most half the context.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub max_tokens: Option<usize>,
    /// Steps of diffusion, of a BD3-LM those of each block; fewer are faster and coarser. Default: as many as tokens.
    #[arg(long, value_name = "T", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub steps: Option<usize>,
    /// Tokens that the network is at least this sure of, 0 to 1, are all kept at once, so that an answer takes fewer passes. Default: every step keeps as
    /// many as --steps says.
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true, help_heading = "Sampling")]
    pub confidence_threshold: Option<f32>,
    #[command(flatten, next_help_heading = "Sampling")]
    pub choosing: Choosing,
    #[command(flatten, next_help_heading = "Sampling")]
    pub filters: Filters,
    /// Divides the logits: below 1 the text is more predictable, above 1 more varied; 0 takes the most likely token.
    ///
    /// Default: what the checkpoint recommends, else 0 of a model that writes by diffusion, and of an AR model 0.7 with --top-p 0.9.
    #[arg(long, value_name = "X", value_parser = temperature, allow_negative_numbers = true, help_heading = "Sampling")]
    pub temperature: Option<f32>,
    /// Ends an answer before TEXT where the model writes it; \n stands for a newline. May be given several times.
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = stop_string,
        allow_hyphen_values = true,
        help_heading = "Sampling"
    )]
    pub stop_string: Vec<String>,
    /// Seed of the random numbers of each answer. Default: a random one for each.
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true, help_heading = "Sampling")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub device: Device,
    /// Print what happens as lines of JSON (docs/chat.md). A line of the input may then also be an object with the field messages, a whole
    /// conversation.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Print nothing on stderr but errors.
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}
