//! Errors of training. Each message is one sentence that names the cause and the remedy.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use esolm::EngineError;
use esolm::checkpoint::CheckpointError;
use esolm::config::ConfigError;
use esolm::text::TextError;
use esolm_checkpoint::message::count;

/// An error of training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe is not TOML, or has unknown keys or values of the wrong type.
    #[error("the recipe is not usable: {0}")]
    Recipe(String),
    /// A value in the recipe is invalid.
    #[error("{key} = {value} in the recipe makes no sense; it must be {expected}")]
    Value {
        /// Key with its table, for example `run.batch`.
        key: Cow<'static, str>,
        /// The value found.
        value: String,
        /// The allowed values.
        expected: String,
    },
    /// A required value is missing from the recipe.
    #[error("the recipe has no {key}; it must be {expected}")]
    Missing {
        /// Key with its table.
        key: &'static str,
        /// The allowed values.
        expected: String,
    },
    /// An override does not have the form `table.key=value`.
    #[error("`{0}` is not an override of the form table.key=value")]
    Override(String),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}; {remedy}", path.display())]
    Io {
        /// "read", "write", "create" or "replace".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
        /// The remedy.
        remedy: &'static str,
    },
    /// A text is not UTF-8.
    #[error("{} is not UTF-8 text (byte {at}); convert it, or leave it out of the recipe", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// The first invalid byte.
        at: usize,
    },
    /// There is too little text.
    #[error(
        "the {what} text has {} in {}, less than one window of {length}; give more text, or a smaller model.length",
        count(*.tokens, "token"),
        count(*.documents, "document")
    )]
    TooLittle {
        /// "training" or "hold-out".
        what: &'static str,
        /// Number of tokens.
        tokens: usize,
        /// Number of documents.
        documents: usize,
        /// Length of a window.
        length: usize,
    },
    /// The tokenizer could not be trained or used.
    #[error(
        "the tokenizer is not usable ({0}); give another data.tokenizer, or another data.vocab_size"
    )]
    Tokenizer(String),
    /// The folder already contains a training.
    #[error("{} already holds a training", .0.display())]
    Occupied(PathBuf),
    /// Another training is running in the folder.
    #[error("another training is under way in {}", .0.display())]
    Locked(PathBuf),
    /// The saved state was trained on a different text.
    #[error("the training text is not the one that {} was trained on", .0.display())]
    TextChanged(PathBuf),
    /// The recipe would change the meaning of a saved state's weights.
    #[error("the recipe has {}, but {} was trained with {}", list(changed, |c| &c.now), state.display(), list(changed, |c| &c.saved))]
    NetworkChanged {
        /// The state.
        state: PathBuf,
        /// What differs.
        changed: Vec<Changed>,
    },
    /// A decoder of a different kind of network cannot be trained here.
    #[error(
        "{0} is a decoder of the Qwen3, Qwen2 or Llama kind, which training does not know; start from an Eso-LM, an MDLM, a BD3-LM, a SetDLM or an AR model of this family"
    )]
    SourceIsDecoder(String),
    /// The recipe describes weights other than those of the checkpoint to start from.
    #[error("the recipe has {}, but {source_name} has {}", list(changed, |c| &c.now), list(changed, |c| &c.saved))]
    SourceDiffers {
        /// The checkpoint.
        source_name: String,
        /// What differs.
        changed: Vec<Changed>,
    },
    /// The checkpoint to start from has no tokenizer, and neither does the recipe.
    #[error("{0} comes without a tokenizer; give the path of its tokenizer.json as data.tokenizer")]
    NoTokenizer(String),
    /// The recipe's tokenizer is not the one of the checkpoint to start from.
    #[error("{} is not the tokenizer of {source_name}; leave data.tokenizer out", path.display())]
    OtherTokenizer {
        /// The tokenizer.
        path: PathBuf,
        /// The checkpoint.
        source_name: String,
    },
    /// A text contains the name of the mask.
    #[error("the text contains {0:?}, the mask token of the model; leave it out")]
    MaskInText(String),
    /// The recipe starts from a checkpoint that was not opened.
    #[error("the recipe starts from {0}, which was not opened")]
    NotOpened(String),
    /// The tokenizer differs from that of a saved state.
    #[error("the tokenizer of {} ({now}) is not the one that {} was trained with ({saved})", out.display(), state.display())]
    TokenizerChanged {
        /// The folder of the training.
        out: PathBuf,
        /// The state.
        state: PathBuf,
        /// The tokenizer of the state.
        saved: TokenizerMark,
        /// The current tokenizer.
        now: TokenizerMark,
    },
    /// There is nothing to resume.
    #[error("{} holds no saved training", .0.display())]
    NothingToResume(PathBuf),
    /// A saved state is damaged or belongs to another recipe.
    #[error("the saved training {} cannot be used: {reason}; {remedy}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// A loss or gradient is not finite.
    #[error(
        "the {what} of step {step} is not finite; {}",
        last_good(saved.as_deref())
    )]
    NotFinite {
        /// "loss" or "gradient".
        what: &'static str,
        /// The step that failed.
        step: u64,
        /// The last saved state.
        saved: Option<PathBuf>,
    },
    /// The configuration is inconsistent.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer does not fit the model.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The device is not available, or there is not enough memory.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A value that differs between the recipe and a saved state, or the checkpoint to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Key with its table, for example `model.heads`.
    pub key: &'static str,
    /// The value of the state or the checkpoint, as TOML.
    pub saved: String,
    /// The recipe's value, as TOML.
    pub now: String,
}

/// The values of one side, with their keys.
fn list(changed: &[Changed], value: impl Fn(&Changed) -> &String) -> String {
    let all: Vec<String> = (changed.iter())
        .map(|change| format!("{} = {}", change.key, value(change)))
        .collect();
    all.join(" and ")
}

/// Identifies a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerMark {
    /// Number of tokens, excluding the mask.
    pub tokens: usize,
    /// Digest of its file; `None` for states saved by older versions.
    pub digest: Option<String>,
}

impl fmt::Display for TokenizerMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.tokens)?;
        match &self.digest {
            Some(digest) => write!(f, ", SHA-256 {}...", digest.get(..12).unwrap_or(digest)),
            None => Ok(()),
        }
    }
}

fn last_good(saved: Option<&Path>) -> String {
    match saved {
        Some(path) => format!(
            "the last good state is {}, so lower optimizer.lr or optimizer.clip and resume from it",
            path.display()
        ),
        None => {
            "no state was saved before it, so lower optimizer.lr or optimizer.clip and start again"
                .into()
        }
    }
}

impl TrainError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Io {
            action: "read",
            path: path.into(),
            source,
            remedy: "check its name and its permissions",
        }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Io {
            action: "write",
            path: path.into(),
            source,
            remedy: "what was saved before is whole; make room or choose another folder, and resume",
        }
    }
}
