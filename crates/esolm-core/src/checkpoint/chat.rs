//! The files that define a model's chat format.

/// The file that contains only a chat template.
#[cfg(not(target_family = "wasm"))]
pub(super) const TEMPLATE: &str = "chat_template.jinja";
/// The file that contains one among other things.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The texts of the files that define a model's chat format, if they exist. Their contents have not been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatFiles {
    /// `chat_template.jinja`, which takes precedence.
    pub template: Option<String>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<String>,
}

impl ChatFiles {
    /// Reads the files next to `path`, which is a weights file or a tokenizer.
    ///
    /// # Errors
    /// The path of a file that exists but cannot be read, and the system's error.
    #[cfg(not(target_family = "wasm"))]
    pub fn beside(path: &std::path::Path) -> Result<Self, (std::path::PathBuf, std::io::Error)> {
        /// More than any real file.
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
