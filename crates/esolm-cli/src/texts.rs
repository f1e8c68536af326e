//! Texts from files and standard input: plain text and JSON lines.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::fields::syntax;

/// The file name that stands for standard input.
pub const STDIN: &str = "-";

/// An input with its name in messages.
pub struct Text {
    pub name: String,
    pub content: String,
    /// Whether the file name indicates JSON lines.
    pub is_jsonl: bool,
}

/// Reads every file; `-` is the standard input.
pub fn read(files: &[PathBuf]) -> Result<Vec<Text>, Failure> {
    files.iter().map(|file| one(file)).collect()
}

/// The name of a file in messages.
pub fn name(file: &Path) -> String {
    if file == Path::new(STDIN) {
        return "the standard input".into();
    }
    file.display().to_string()
}

fn one(file: &Path) -> Result<Text, Failure> {
    let name = name(file);
    let bytes = if file == Path::new(STDIN) {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    let bytes = bytes.map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => {
            Failure::usage(format!("{name} is a folder; give a file of text"))
        }
        _ => Failure::failed(format!("cannot read {name}: {error}; check the path")),
    })?;
    let content = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::failed(format!(
            "{name} is not UTF-8 text (byte {at} is not part of a character); convert it to UTF-8"
        ))
    })?;
    Ok(Text {
        name,
        content: esolm::documents::normalize(&content).into_owned(),
        is_jsonl: file.extension().is_some_and(|e| e == "jsonl"),
    })
}

impl Text {
    /// The JSON objects, one per line, with their line numbers; blank lines are skipped. `expected` describes a line in
    /// messages.
    pub fn json_lines<T: DeserializeOwned>(
        &self,
        expected: &str,
    ) -> Result<Vec<(usize, T)>, Failure> {
        let lines = (1..).zip(self.content.lines());
        lines
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| {
                let value = serde_json::from_str(line).map_err(|error| {
                    // For valid JSON with the wrong fields, the parser's message would be about Rust types.
                    let why = match error.is_data() {
                        true => String::new(),
                        false => format!(" ({})", syntax(&error)),
                    };
                    Failure::failed(format!(
                        "line {number} of {} is not {expected}{why}; correct it",
                        self.name
                    ))
                })?;
                Ok((number, value))
            })
            .collect()
    }
}
