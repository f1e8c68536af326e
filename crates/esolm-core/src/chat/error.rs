//! Why a conversation does not become a prompt.

use thiserror::Error;

/// What is wrong with a chat template, or with what it is given.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ChatTemplateError {
    /// Neither `chat_template.jinja` nor `tokenizer_config.json` has one.
    #[error("the model has no chat template, so nothing says how it is talked to")]
    Missing,
    /// A file that should hold it is not in its form.
    #[error("{file} cannot be used: {why}")]
    File {
        /// Its name.
        file: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There are several, and none is the usual one.
    #[error(
        "tokenizer_config.json has chat templates called {names}, and none is called \"default\""
    )]
    NoDefault {
        /// Their names.
        names: String,
    },
    /// It is longer than any real one.
    #[error("the chat template has {bytes} bytes, and {most} is the most that one may have")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most that is read.
        most: usize,
    },
    /// It does what no template needs and a hostile one would.
    #[error("the chat template {what} (line {line}), which is not allowed")]
    NotAllowed {
        /// What it does.
        what: &'static str,
        /// Where.
        line: usize,
    },
    /// It is not in the language, or failed while it ran.
    #[error("the chat template fails: {0}")]
    Failed(String),
    /// It refuses the conversation by a message of its own.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// It would take too long, or make too much text.
    #[error(
        "the chat template was stopped, since it does far more work, or makes far more text, than the conversation needs"
    )]
    TooMuch,
    /// A thread for it could not be started.
    #[error("the chat template cannot be run: {0}")]
    Thread(String),
}
