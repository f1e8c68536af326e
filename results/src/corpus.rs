//! The texts that models learn from and are measured on. They stay in the work folder; nothing of them enters a record but counts.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::metrics::words;

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
            documents.add(&fs::read_to_string(path).map_err(Error::file("read", path))?);
        }
        if documents.texts.is_empty() {
            let names: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
            return Err(Error::Data(format!(
                "there is no plain ASCII document in {}; give text files whose documents are separated by {SEPARATOR}",
                names.join(", ")
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
    pub fn halves(&self) -> [Self; 2] {
        [0, 1].map(|first| Self {
            texts: self.texts.iter().skip(first).step_by(2).cloned().collect(),
            dropped: 0,
        })
    }

    /// Counts.
    pub fn extent(&self) -> Extent {
        Extent {
            documents: self.texts.len(),
            dropped: self.dropped,
            bytes: self.texts.iter().map(String::len).sum(),
            words: self.texts.iter().map(|text| words(text).len()).sum(),
        }
    }

    /// The documents as one text, each opened by [`SEPARATOR`] on a line of its own.
    pub fn joined(&self) -> String {
        let document = |text: &String| format!("{SEPARATOR}\n{text}\n");
        self.texts.iter().map(document).collect()
    }
}

/// A stretch of a document with a middle to be filled in. The three parts together are the stretch; the middle opens with its space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Middle {
    /// The text before it.
    pub prefix: String,
    /// What is scored.
    pub middle: String,
    /// The text after it.
    pub suffix: String,
}

/// One stretch from the middle of each of the first documents that are long enough: `around` words, `inside` words, `around` words.
pub fn middles(texts: &[String], around: usize, inside: usize, most: usize) -> Vec<Middle> {
    let whole = 2 * around + inside;
    let middle = |text: &String| {
        let ends = word_ends(text);
        let first = ends.len().checked_sub(whole + 1)? / 2;
        let cut = |words: usize| ends[first + words];
        Some(Middle {
            prefix: text[cut(0) + 1..cut(around)].trim_start().into(),
            middle: text[cut(around)..cut(around + inside)].into(),
            suffix: text[cut(around + inside)..cut(whole)].into(),
        })
    };
    texts.iter().filter_map(middle).take(most).collect()
}

/// The beginning of an ASCII text, up to a number of words.
pub fn first_words(text: &str, count: usize) -> &str {
    let end = count
        .checked_sub(1)
        .map(|last| word_ends(text).get(last).copied());
    &text[..end.map_or(0, |end| end.unwrap_or(text.len()))]
}

/// Where each word of an ASCII text ends, so that a cut there leaves the space to what follows.
fn word_ends(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let is_space = |at: usize| bytes.get(at).is_none_or(u8::is_ascii_whitespace);
    (1..=bytes.len())
        .filter(|&at| !is_space(at - 1) && is_space(at))
        .collect()
}

/// The first characters of a text, cut after a word.
pub fn beginning(text: &str, most: usize) -> String {
    let Some((cut, _)) = text.char_indices().nth(most) else {
        return text.into();
    };
    let cut = &text[..cut];
    let whole = cut.rfind(char::is_whitespace).map_or(cut, |at| &cut[..at]);
    format!("{whole} ...")
}
