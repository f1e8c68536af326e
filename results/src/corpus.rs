//! The texts that models learn from and are measured on. They stay in the work folder; nothing of them enters a record but counts.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Error;

/// What separates the documents of a file.
pub const SEPARATOR: &str = "<|endoftext|>";

/// Documents of one or more files.
#[derive(Debug, Default, Clone)]
pub struct Documents {
    /// Trimmed, not empty, plain ASCII.
    pub texts: Vec<String>,
    /// How many were left out for characters outside ASCII.
    pub dropped: usize,
}

/// What a record says about a body of text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Extent {
    /// Number of documents.
    pub documents: usize,
    /// Documents left out for characters outside ASCII.
    pub dropped: usize,
    /// Bytes of the documents.
    pub bytes: usize,
    /// Words, as runs of letters, digits and apostrophes.
    pub words: usize,
}

impl Documents {
    /// Reads files of documents that [`SEPARATOR`] separates, in their order.
    ///
    /// # Errors
    /// [`Error::File`] where one cannot be read as UTF-8, [`Error::Data`] where all of them together hold no document.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut documents = Self::default();
        for path in paths {
            let text = fs::read_to_string(path).map_err(Error::reading(path))?;
            documents.add(&text);
        }
        if documents.texts.is_empty() {
            return Err(Error::Data(format!(
                "there is no plain ASCII document in {}; give text files whose documents are separated by {SEPARATOR}",
                paths
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            )));
        }
        Ok(documents)
    }

    fn add(&mut self, text: &str) {
        for document in text.split(SEPARATOR).map(str::trim) {
            match document {
                "" => {}
                _ if document.is_ascii() => self.texts.push(document.into()),
                _ => self.dropped += 1,
            }
        }
    }

    /// Two disjoint halves: documents 0, 2, 4, ... and 1, 3, 5, ..., so that both hold every source in the same share.
    pub fn halves(&self) -> (Self, Self) {
        let half = |first| Self {
            texts: self.texts.iter().skip(first).step_by(2).cloned().collect(),
            dropped: 0,
        };
        (half(0), half(1))
    }

    /// Counts.
    pub fn extent(&self) -> Extent {
        Extent {
            documents: self.texts.len(),
            dropped: self.dropped,
            bytes: self.texts.iter().map(String::len).sum(),
            words: self
                .texts
                .iter()
                .map(|text| crate::metrics::words(text).len())
                .sum(),
        }
    }

    /// Writes the documents, each opened by [`SEPARATOR`] on a line of its own, unless the file stands there already with the same text.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut text = String::new();
        for document in &self.texts {
            text += SEPARATOR;
            text += "\n";
            text += document;
            text += "\n";
        }
        if fs::read_to_string(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(path, text).map_err(Error::writing(path))
    }
}

/// A stretch of a document with a middle to be filled in. The three parts together are the stretch; the middle opens with its space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Middle {
    /// What stands before.
    pub prefix: String,
    /// What is scored.
    pub middle: String,
    /// What stands behind.
    pub suffix: String,
}

/// One stretch from the middle of each of the first documents that are long enough: `around` words, `inside` words, `around` words.
pub fn middles(texts: &[String], around: usize, inside: usize, most: usize) -> Vec<Middle> {
    let whole = 2 * around + inside;
    texts
        .iter()
        .filter_map(|text| {
            // Ends of words, so that each cut leaves the space to what follows.
            let bytes = text.as_bytes();
            let ends: Vec<usize> = (1..=bytes.len())
                .filter(|&at| {
                    !bytes[at - 1].is_ascii_whitespace()
                        && bytes.get(at).is_none_or(u8::is_ascii_whitespace)
                })
                .collect();
            let first = ends.len().checked_sub(whole + 1)? / 2;
            let start = ends[first] + 1;
            let cut = |words: usize| ends[first + words];
            Some(Middle {
                prefix: text.get(start..cut(around))?.trim_start().into(),
                middle: text.get(cut(around)..cut(around + inside))?.into(),
                suffix: text.get(cut(around + inside)..cut(whole))?.into(),
            })
        })
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Documents {
        let mut documents = Documents::default();
        documents.add(text);
        documents
    }

    #[test]
    fn documents_are_split_trimmed_and_plain() {
        let documents = documents(
            "one\n<|endoftext|>\n\ntwo <|endoftext|><|endoftext|>caf\u{e9}<|endoftext|>three",
        );
        assert_eq!(documents.texts, ["one", "two", "three"]);
        assert_eq!(documents.dropped, 1);
        let (even, odd) = documents.halves();
        assert_eq!(even.texts, ["one", "three"]);
        assert_eq!(odd.texts, ["two"]);
        assert_eq!(even.extent().bytes, 8);
        assert_eq!(even.extent().words, 2);
    }

    #[test]
    fn middles_keep_every_character() {
        let text = "zero one two  three\nfour five six seven".to_string();
        let found = middles(&[text, "too short".into()], 2, 1, 9);
        assert_eq!(
            found,
            [Middle {
                prefix: "two  three".into(),
                middle: "\nfour".into(),
                suffix: " five six".into(),
            }]
        );
        assert!(middles(&["a b c".into()], 1, 1, 9).is_empty());
    }

    #[test]
    fn no_document_is_an_error() {
        assert!(Documents::read(&[]).is_err());
    }
}
