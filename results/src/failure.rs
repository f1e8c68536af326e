//! What can go wrong, each as one sentence.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a command ended early.
#[derive(Debug)]
pub enum Error {
    /// The command line or the plan asks for something that does not exist; the sentence says what would.
    Usage(String),
    /// A file could not be read or written.
    File {
        /// `read`, `write` or `create`.
        verb: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file or an answer of `esolm` is not the JSON that it should be.
    Json {
        /// The file, or the command that answered.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// `esolm` could not be started, or it failed.
    Program {
        /// The command line.
        command: String,
        /// Its last line on stderr, or the system's reason.
        why: String,
    },
    /// The data do not allow what was asked for.
    Data(String),
    /// A plot could not be drawn.
    Plot(String),
}

impl Error {
    /// Bad usage ends with 2, everything else with 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            _ => 1,
        }
    }

    /// An error of reading `path`.
    pub fn reading(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Error::File {
            verb: "read",
            path: path.into(),
            source,
        }
    }

    /// An error of writing `path`.
    pub fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Error::File {
            verb: "write",
            path: path.into(),
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(sentence) | Error::Data(sentence) => f.write_str(sentence),
            Error::File { verb, path, source } => {
                write!(
                    f,
                    "cannot {verb} {}: {source}; check the path",
                    path.display()
                )
            }
            Error::Json { what, source } => {
                write!(
                    f,
                    "{what} is not the JSON that is expected ({source}); run its command again, or delete it to make it anew"
                )
            }
            Error::Program { command, why } => {
                write!(
                    f,
                    "`{command}` failed: {why}; run it by hand in the work folder to see more"
                )
            }
            Error::Plot(why) => write!(f, "a plot cannot be drawn: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::File { source, .. } => Some(source),
            Error::Json { source, .. } => Some(source),
            _ => None,
        }
    }
}
