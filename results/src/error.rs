//! What can go wrong, each as one sentence.

use std::path::{Path, PathBuf};

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the plan has to be changed; the sentence says how.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}; check the path", path.display())]
    File {
        /// `read`, `write` or `create`.
        verb: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file, or the answer of a command of `esolm`, is not the JSON that it should be.
    #[error(
        "{0} is not the expected JSON ({1}); run its command again, or delete it to have it made anew"
    )]
    Json(String, #[source] serde_json::Error),
    /// A command of `esolm` could not be started, or it failed: its last line on stderr, or the system's reason.
    #[error("`{0}` failed: {1}; run it by hand in the work folder to see more")]
    Program(String, String),
    /// The data do not allow the measurement.
    #[error("{0}")]
    Data(String),
    /// The page's template is wrong.
    #[error("cannot render results/page.md: {0}; correct it there")]
    Page(#[from] minijinja::Error),
}

impl Error {
    /// Bad usage ends with 2, everything else with 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            _ => 1,
        }
    }

    /// An error of `verb`ing `path`.
    pub fn file(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { verb, path, source }
    }

    /// An error of reading JSON from `what`.
    pub fn json(what: impl ToString) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.to_string();
        move |source| Error::Json(what, source)
    }
}

/// clap's message and its tip as one sentence.
impl From<clap::Error> for Error {
    fn from(error: clap::Error) -> Self {
        let rendered = error.render().to_string();
        let lines: Vec<&str> = rendered
            .lines()
            .map(str::trim)
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
            .filter(|line| !line.is_empty())
            .collect();
        let sentence = lines.join(" ").replace(" tip: ", "; ");
        Error::Usage(format!(
            "{}; `cargo xtask results help` lists what there is",
            sentence.trim_start_matches("error: ")
        ))
    }
}
