//! Errors of chat templates.

use thiserror::Error;

/// Why a conversation could not be turned into a prompt.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ChatTemplateError {
    /// Neither `chat_template.jinja` nor `tokenizer_config.json` contains one.
    #[error("the model has no chat template, so nothing says how it is talked to")]
    Missing,
    /// A file that should contain it is malformed.
    #[error("{file} cannot be used: {why}")]
    File {
        /// Its name.
        file: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There are several, and none is the default.
    #[error(
        "tokenizer_config.json has chat templates called {names}, and none is called \"default\""
    )]
    NoDefault {
        /// Their names.
        names: String,
    },
    /// It is longer than any real template.
    #[error("the chat template has {bytes} bytes, and {most} is the most that one may have")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// Maximum bytes.
        most: usize,
    },
    /// It does something that no template needs and a hostile one would do.
    #[error("the chat template {what} (line {line}), which is not allowed")]
    NotAllowed {
        /// What it does.
        what: &'static str,
        /// The line.
        line: usize,
    },
    /// It has a syntax error, or failed at run time.
    #[error("the chat template fails: {0}")]
    Failed(String),
    /// It rejects the conversation with its own message.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// It does too much work, or produces too much text.
    #[error(
        "the chat template was stopped, since it does far more work, or makes far more text, than the conversation needs"
    )]
    TooMuch,
    /// The thread that would run it could not be started.
    #[error("the chat template cannot be run: {0}")]
    Thread(String),
}
