//! The command line of `cargo xtask results`.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, value_parser};

/// Train small models, measure them, and render docs/results.md from the records.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask results", arg_required_else_help = false)]
pub struct Arguments {
    /// Which part.
    #[command(subcommand)]
    pub command: Command,
}

/// The parts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train the models of the plan, measure them, and write docs/results/*.json; continues from what is in the work folder
    Run {
        /// What to train and measure, by default results/plan.json
        #[arg(long, value_name = "FILE", default_value_os_t = repository("results/plan.json"), hide_default_value = true)]
        plan: PathBuf,
        /// Keep the records of the same commands that are there already, and train and measure only what is missing
        #[arg(long)]
        keep_records: bool,
        /// What both commands take.
        #[command(flatten)]
        common: Common,
    },
    /// Measure two models on the same text and write docs/results/model.json
    Compare(Compare),
    /// Write docs/results.md, its plots and the model card's table from docs/results/*.json and results/page.md
    Render {
        /// The repository, or another folder of its layout
        #[arg(long, value_name = "DIR", default_value_os_t = repository(""), hide_default_value = true)]
        root: PathBuf,
    },
}

/// What `run` and `compare` share.
#[derive(Debug, Args)]
pub struct Common {
    /// Text that the models learn from: documents separated by <|endoftext|>; those that are not plain ASCII are left out
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub train: Vec<PathBuf>,
    /// Text that likelihoods are measured on, of the same form
    #[arg(long, value_name = "FILE")]
    pub holdout: PathBuf,
    /// Folder for models and answers, outside the repository
    #[arg(long, value_name = "DIR")]
    pub work: PathBuf,
    /// The program, by default target/release/esolm
    #[arg(long, value_name = "PATH", default_value_os_t = repository("target/release/esolm"), hide_default_value = true)]
    pub esolm: PathBuf,
    /// Folder of the records, by default docs/results
    #[arg(long, value_name = "DIR", default_value_os_t = repository("docs/results"), hide_default_value = true)]
    pub out: PathBuf,
    /// auto, cpu, gpu or gpu:N, as for esolm
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// What both commands take.
    #[command(flatten)]
    pub common: Common,
    /// Folder of the older model
    #[arg(long, value_name = "MODEL")]
    pub old: PathBuf,
    /// Folder of the newer model
    #[arg(long, value_name = "MODEL")]
    pub new: PathBuf,
    /// Folder of an AR model that scores the samples
    #[arg(long, value_name = "MODEL")]
    pub judge: PathBuf,
    /// Name of the older model in the tables
    #[arg(long, value_name = "NAME", default_value = "old")]
    pub old_name: String,
    /// Name of the newer model in the tables
    #[arg(long, value_name = "NAME", default_value = "new")]
    pub new_name: String,
    /// Samples from each model
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Tokens of a sample and of a window, by default the smaller context
    #[arg(long, value_name = "L", value_parser = value_parser!(u32).range(1..))]
    pub length: Option<u32>,
    /// Nucleus of the samples of a model that recommends no settings in its generation_config.json
    #[arg(long, value_name = "P", default_value_t = 0.9)]
    pub top_p: f64,
    /// Seed of orders and samples
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// A path in the repository, which holds this crate wherever the command is given.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(path)
}
