//! What can go wrong in training. Each message is one sentence that names the thing and the remedy.

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
    /// A recipe that is not TOML, or has unknown keys or values of the wrong type.
    #[error("the recipe is not usable: {0}")]
    Recipe(String),
    /// A value of the recipe that makes no sense.
    #[error("{key} = {value} in the recipe makes no sense; it must be {expected}")]
    Value {
        /// Key with its table, for example `run.batch`.
        key: Cow<'static, str>,
        /// What stands there.
        value: String,
        /// What must stand there.
        expected: String,
    },
    /// A value that the recipe must have.
    #[error("the recipe has no {key}; it must be {expected}")]
    Missing {
        /// Key with its table.
        key: &'static str,
        /// What must stand there.
        expected: String,
    },
    /// An override that is not of the form `table.key=value`.
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
        /// What to do about it.
        remedy: &'static str,
    },
    /// Text that is not UTF-8.
    #[error("{} is not UTF-8 text (byte {at}); convert it, or leave it out of the recipe", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// First byte that is not.
        at: usize,
    },
    /// Too little text.
    #[error(
        "the {what} text has {} in {}, less than one window of {length}; give more text, or a smaller model.length",
        count(*.tokens, "token"),
        count(*.documents, "document")
    )]
    TooLittle {
        /// "training" or "hold-out".
        what: &'static str,
        /// Tokens that there are.
        tokens: usize,
        /// Documents that there are.
        documents: usize,
        /// Length of a window.
        length: usize,
    },
    /// The tokenizer cannot be trained or used.
    #[error(
        "the tokenizer is not usable ({0}); give another data.tokenizer, or another data.vocab_size"
    )]
    Tokenizer(String),
    /// A folder that holds a training already.
    #[error("{} already holds a training", .0.display())]
    Occupied(PathBuf),
    /// A folder in which another training runs.
    #[error("another training is under way in {}", .0.display())]
    Locked(PathBuf),
    /// A saved state that was trained on another text.
    #[error("the training text is not the one that {} was trained on", .0.display())]
    TextChanged(PathBuf),
    /// A recipe under which the weights of a saved state would mean something else.
    #[error("the recipe has {}, but {} was trained with {}", list(changed, |c| &c.now), state.display(), list(changed, |c| &c.saved))]
    NetworkChanged {
        /// The state.
        state: PathBuf,
        /// What differs.
        changed: Vec<Changed>,
    },
    /// A decoder of another kind of network cannot be trained here.
    #[error(
        "{0} is a decoder of the Qwen3, Qwen2 or Llama kind, which training does not know; start from an Eso-LM, an MDLM, a BD3-LM, a SetDLM or an AR model of this family"
    )]
    SourceIsDecoder(String),
    /// A recipe that describes other weights than those of the checkpoint that it starts from.
    #[error("the recipe has {}, but {source_name} has {}", list(changed, |c| &c.now), list(changed, |c| &c.saved))]
    SourceDiffers {
        /// The checkpoint.
        source_name: String,
        /// What differs.
        changed: Vec<Changed>,
    },
    /// A checkpoint to start from without a tokenizer, and none in the recipe.
    #[error("{0} comes without a tokenizer; give the path of its tokenizer.json as data.tokenizer")]
    NoTokenizer(String),
    /// A tokenizer in the recipe that is not the one of the checkpoint that it starts from.
    #[error("{} is not the tokenizer of {source_name}; leave data.tokenizer out", path.display())]
    OtherTokenizer {
        /// The tokenizer.
        path: PathBuf,
        /// The checkpoint.
        source_name: String,
    },
    /// Text that holds the name of the mask.
    #[error("the text contains {0:?}, the mask token of the model; leave it out")]
    MaskInText(String),
    /// A recipe that starts from a checkpoint, without that checkpoint.
    #[error("the recipe starts from {0}, which was not opened")]
    NotOpened(String),
    /// A tokenizer that is not the one of a saved state.
    #[error("the tokenizer of {} ({now}) is not the one that {} was trained with ({saved})", out.display(), state.display())]
    TokenizerChanged {
        /// The folder of the training.
        out: PathBuf,
        /// The state.
        state: PathBuf,
        /// The tokenizer of the state.
        saved: TokenizerMark,
        /// The one that there is.
        now: TokenizerMark,
    },
    /// Nothing to go on from.
    #[error("{} holds no saved training", .0.display())]
    NothingToResume(PathBuf),
    /// A saved state that is damaged or of another recipe.
    #[error("the saved training {} cannot be used: {reason}; {remedy}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A loss or gradient that is not a number.
    #[error(
        "the {what} of step {step} is not finite; {}",
        last_good(saved.as_deref())
    )]
    NotFinite {
        /// "loss" or "gradient".
        what: &'static str,
        /// The step that failed.
        step: u64,
        /// The last state that was saved.
        saved: Option<PathBuf>,
    },
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer does not fit the model.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The device is not there, or the memory does not suffice.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A value of the recipe that a saved state, or the checkpoint to start from, has otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Key with its table, for example `model.heads`.
    pub key: &'static str,
    /// The value of the state or the checkpoint, as TOML.
    pub saved: String,
    /// The recipe's value, as TOML.
    pub now: String,
}

/// The values of one side with their keys.
fn list(changed: &[Changed], value: impl Fn(&Changed) -> &String) -> String {
    let all: Vec<String> = (changed.iter())
        .map(|change| format!("{} = {}", change.key, value(change)))
        .collect();
    all.join(" and ")
}

/// What tells one tokenizer from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerMark {
    /// Number of tokens, the mask not included.
    pub tokens: usize,
    /// Digest of its file; none if an older version saved the state.
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
