//! The options of `esolm serve`.

use std::net::IpAddr;

use clap::Args;

use super::values::{address, at_least_one, host_name, origin, port};
use super::{Device, ReadAsName};

/// Answers requests over HTTP in the form of OpenAI's completions, for as many clients at once as there are places: texts join and leave
/// a running batch between two steps. A text is the one that `esolm sample` writes for its seed and its number among the choices.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  esolm serve
  esolm serve --model small=models/stories --model hf:sahoo-diffusion/Eso-LM-B-alpha-1
  ESOLM_API_KEY=... esolm serve --host 0.0.0.0 --allow-host esolm.example.org
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"model\": \"stories\", \"prompt\": \"Once upon a time\", \"max_tokens\": 64}'

docs/serve.md describes the paths and fields, docs/security.md what is trusted.
SIGTERM or Ctrl-C lets what runs end within 30 s; a second one ends it at once.")]
pub struct Serve {
    /// Checkpoint to serve, as elsewhere; may be given several times. NAME is what clients call it.
    ///
    /// Default: what the variable ESOLM_MODEL names, else the small model inside the program. It is called by the last part of its path, or owner/name.
    #[arg(long = "model", value_name = "[NAME=]MODEL")]
    pub models: Vec<String>,
    /// What models are whose config.json does not say it, as of `esolm sample`.
    #[arg(long = "as", value_enum, value_name = "mdlm|bd3lm")]
    pub read_as: Option<ReadAsName>,
    /// Tokens of a block, of decoders that are read as BD3-LMs.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub block_size: Option<usize>,
    /// Address to listen on; 0.0.0.0 is every one of this machine.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = address)]
    pub host: IpAddr,
    /// Port to listen on; 0 takes one that is free.
    #[arg(long, value_name = "PORT", default_value_t = 8000, value_parser = port)]
    pub port: u16,
    /// Key that clients must send as `Authorization: Bearer KEY`. Others on this machine can read a command line; the variable
    /// ESOLM_API_KEY, which this overrides, stays private.
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Texts that run at once. Memory for all of them is taken at the start.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    pub max_batch: usize,
    /// Tokens of a text at most, the prompt's included. Default: the model's context. Each place takes memory for so many.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub max_length: Option<usize>,
    /// Texts that wait for a place at most; beyond that, clients are told to come again (429).
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub queue: usize,
    /// Origin of web pages that may ask, such as https://example.org; may be given several times. Pages of no other origin may.
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub cors: Vec<String>,
    /// Name under which the server is reached, beside localhost and numeric addresses; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub allow_host: Vec<String>,
    #[command(flatten)]
    pub device: Device,
    /// Say nothing on stderr unless something fails.
    #[arg(short, long)]
    pub quiet: bool,
}
