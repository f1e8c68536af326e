//! Options of `esolm chat`.

use std::path::PathBuf;

use clap::Args;

use super::values::{at_least_one, min_p, stop_string, temperature, whole};
use super::{Choosing, Device, Filters, Source};

/// Commands to the program rather than messages to the model, and what they do.
pub const COMMANDS: [(&str, &str); 8] = [
    ("/help", "lists the commands"),
    (
        "/reset",
        "begins a new conversation; the system message stays",
    ),
    (
        "/system TEXT",
        "begins a new conversation with another system message, or with none",
    ),
    (
        "/seed N",
        "sets the seed of the next answers; without N each has a random one",
    ),
    (
        "/think on|off|auto",
        "says whether the model thinks before it answers",
    ),
    ("/save FILE", "writes the conversation"),
    ("/load FILE", "goes on with a conversation that /save wrote"),
    ("/exit", "ends the conversation, as does Ctrl-D"),
];

/// The commands, one a line, then the keys.
pub fn commands_and_keys() -> String {
    let commands = COMMANDS.map(|(command, what)| format!("  {command:<18}  {what}\n"));
    let keys = "
Ctrl-C stops an answer, which stays as far as it was written; at the prompt it clears the message, and ends the conversation where there is
none. A \\ at the end of a line, or Alt-Enter, begins a new line of the same message; pasted lines are one message. A message that begins with /
is written with two.";
    commands.concat() + keys
}

fn help() -> String {
    format!(
        "Examples:
  esolm chat --model ./Qwen3-0.6B
  esolm chat --model ./a2d-model --as bd3lm --block-size 32 --no-think
  esolm chat --model ./SmolLM2-135M-Instruct --system 'Be brief.' --seed 1
  echo 'Why is the sky blue?' | esolm chat --model ./Qwen3-0.6B --json

In the conversation:
{}

Where the input is not a terminal, each line of it is a message or one of these commands. docs/chat.md has more.",
        commands_and_keys()
    )
}

/// A conversation with a model that was trained to answer: a decoder with a chat template.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub struct Chat {
    #[command(flatten)]
    pub source: Source,
    /// Chat template to use, a Jinja file.
    ///
    /// Default: chat_template.jinja beside the weights, or the one in tokenizer_config.json; with --tokenizer, what stands beside that file
    /// comes first.
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// System message: instructions that hold for the whole conversation.
    #[arg(long, value_name = "TEXT", help_heading = "Conversation")]
    pub system: Option<String>,
    /// Have the model think before it answers, if its template knows of it.
    #[arg(long, conflicts_with = "no_think", help_heading = "Conversation")]
    pub think: bool,
    /// Have the model answer without thinking. Default: as the template has it.
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
    /// Longest answer in tokens.
    ///
    /// Default: 1024 for an AR model, 256 for a BD3-LM, 128 for an MDLM, which computes all of them in every step; at most half the
    /// context.
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub max_tokens: Option<usize>,
    /// Diffusion steps, for a BD3-LM those of each block; fewer are faster and coarser. Default: as many as tokens.
    #[arg(long, value_name = "T", value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Sampling")]
    pub steps: Option<usize>,
    /// Keep all tokens of at least this confidence, 0 to 1, at once, so that an answer takes fewer passes. Default: each step keeps as many
    /// as --steps says.
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true, help_heading = "Sampling")]
    pub confidence_threshold: Option<f32>,
    #[command(flatten, next_help_heading = "Sampling")]
    pub choosing: Choosing,
    #[command(flatten, next_help_heading = "Sampling")]
    pub filters: Filters,
    /// Divides the logits: below 1 the text is more predictable, above 1 more varied; 0 takes the most likely token.
    ///
    /// Default: what the checkpoint recommends, else 0 for a model that writes by diffusion, and 0.7 with --top-p 0.9 for an AR model.
    #[arg(long, value_name = "X", value_parser = temperature, allow_negative_numbers = true, help_heading = "Sampling")]
    pub temperature: Option<f32>,
    /// End an answer before TEXT if the model writes it; \n stands for a newline. May be given several times.
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
    /// Print events as lines of JSON (docs/chat.md). A line of the input may then also be an object, such as a whole conversation in its
    /// field messages.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Print nothing on stderr but errors.
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}
