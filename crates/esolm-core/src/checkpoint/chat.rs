//! The files that say how a model is talked to.

/// The file that holds a chat template alone.
#[cfg(not(target_family = "wasm"))]
pub(super) const TEMPLATE: &str = "chat_template.jinja";
/// The file that holds one beside other things.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The texts of the files beside weights that say how a model is talked to, as far as they are there. Nothing in them was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatFiles {
    /// `chat_template.jinja`, which counts before the other.
    pub template: Option<String>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<String>,
}

impl ChatFiles {
    /// Reads the files beside `path`, a file of weights or a tokenizer, that are there and can be read.
    ///
    /// # Errors
    /// The name of a file that is there and cannot be read, with the system's answer.
    #[cfg(not(target_family = "wasm"))]
    pub fn beside(path: &std::path::Path) -> Result<Self, (std::path::PathBuf, std::io::Error)> {
        /// More than any real one.
        const MOST: u64 = 64 << 20;
        let read = |name: &str| {
            let path = path.with_file_name(name);
            if !path.is_file() {
                return Ok(None);
            }
            let text = std::fs::metadata(&path).and_then(|about| match about.len() <= MOST {
                true => std::fs::read_to_string(&path),
                false => Err(std::io::Error::other(
                    "it is too long for a file of its name",
                )),
            });
            text.map(Some).map_err(|error| (path, error))
        };
        Ok(Self {
            template: read(TEMPLATE)?,
            tokenizer_config: read(TOKENIZER_CONFIG)?,
        })
    }
}
