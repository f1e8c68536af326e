//! Texts from files and the standard input: plain ones, cut at separators, lines, and JSON lines.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// One input with the name that messages give it.
pub struct Text {
    pub name: String,
    pub content: String,
    /// The file's name says that it holds JSON lines.
    pub is_jsonl: bool,
}

/// Reads every file; `-` is the standard input.
pub fn read(files: &[PathBuf]) -> Result<Vec<Text>, Failure> {
    files.iter().map(|file| one(file)).collect()
}

fn one(file: &Path) -> Result<Text, Failure> {
    let (name, bytes) = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        ("the standard input".to_string(), read.map(|_| bytes))
    } else {
        (file.display().to_string(), std::fs::read(file))
    };
    let bytes = bytes
        .map_err(|error| Failure::failed(format!("cannot read {name}: {error}; check the path")))?;
    let content = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::failed(format!(
            "{name} is not UTF-8 text (byte {at} is no part of a character); convert it to UTF-8"
        ))
    })?;
    Ok(Text {
        name,
        content,
        is_jsonl: file.extension().is_some_and(|e| e == "jsonl"),
    })
}

/// The lines of a text, without what ends them.
pub fn lines(text: &Text) -> impl Iterator<Item = &str> {
    text.content.lines()
}

/// The JSON objects of a text, one a line, with the numbers of their lines; blank lines are left out. `expected` describes a line for messages.
pub fn json_lines<T: DeserializeOwned>(
    text: &Text,
    expected: &str,
) -> Result<Vec<(usize, T)>, Failure> {
    let lines = (1..).zip(lines(text));
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map(|value| (number, value))
                .map_err(|error| {
                    // The reader's own words, without the place, which is always line 1 here.
                    let why = error.to_string();
                    let why = why.split(" at line ").next().unwrap_or_default();
                    let why: String = why.chars().take(120).collect();
                    Failure::failed(format!(
                        "line {number} of {} is not {expected} ({why}); correct it",
                        text.name
                    ))
                })
        })
        .collect()
}
