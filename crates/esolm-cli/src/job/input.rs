//! The lines of a job, read one by one: memory does not depend on their number.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::digest::hexadecimal;
use crate::arguments::Job;
use crate::failure::Failure;
use crate::{fields, texts};

/// Maximum bytes of a line. Longer ones are hardly lines of JSON.
const LONGEST: u64 = 64 << 20;

/// Where lines come from.
pub struct Input {
    path: PathBuf,
    name: String,
    /// A regular file, which can be read twice.
    is_file: bool,
}

/// The result of a first reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Number of lines that are not blank.
    pub lines: u64,
    pub bytes: u64,
    /// Hexadecimal digits of the SHA-256 of the whole input.
    pub sha256: String,
}

/// A line that is not blank.
pub struct RawLine {
    /// The name of the input.
    pub name: String,
    /// Line number, from 1, counting blank lines.
    pub number: u64,
    /// `None` if the line is too long.
    pub bytes: Vec<u8>,
    is_too_long: bool,
}

impl Input {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = texts::name(path);
        if path == Path::new(texts::STDIN) {
            return Ok(Self {
                path: path.into(),
                name,
                is_file: false,
            });
        }
        let metadata = fs::metadata(path).map_err(|error| cannot_read(&name, &error))?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!(
                "{name} is a folder; give a file with lines of JSON"
            )));
        }
        Ok(Self {
            path: path.into(),
            name,
            is_file: metadata.is_file(),
        })
    }

    /// Refuses inputs that can be read only once.
    pub fn needs_file(&self, job: &Job) -> Result<(), Failure> {
        if self.is_file {
            return Ok(());
        }
        let option = match job.resume {
            true => "--resume",
            false => "--shard",
        };
        Err(Failure::usage(format!(
            "{option} needs an input that can be read twice, which {} cannot; give a file",
            self.name
        )))
    }

    /// Reads a file once, calling `check` for each line; does nothing for other inputs.
    pub fn survey(
        &self,
        check: impl Fn(&RawLine) -> Result<(), String>,
    ) -> Result<Option<Survey>, Failure> {
        if !self.is_file {
            return Ok(None);
        }
        let mut hash = Hashing {
            file: self.file()?,
            hash: Sha256::new(),
            bytes: 0,
        };
        let mut lines = Lines::new(&self.name, Box::new(BufReader::new(&mut hash)));
        let mut count = 0;
        while let Some(line) = lines.next()? {
            count += 1;
            check(&line).map_err(|why| {
                Failure::failed(format!(
                    "line {} of {}: {why}; correct it, or give --keep-going to note it and go on",
                    line.number, self.name
                ))
            })?;
        }
        drop(lines);
        Ok(Some(Survey {
            lines: count,
            bytes: hash.bytes,
            sha256: hexadecimal(hash.hash),
        }))
    }

    /// An iterator over its lines, from the first.
    pub fn lines(&self) -> Result<Lines<'static>, Failure> {
        let reader: Box<dyn BufRead> = match self.path == Path::new(texts::STDIN) {
            true => Box::new(io::stdin().lock()),
            false => Box::new(BufReader::new(self.file()?)),
        };
        Ok(Lines::new(&self.name, reader))
    }

    fn file(&self) -> Result<File, Failure> {
        File::open(&self.path).map_err(|error| cannot_read(&self.name, &error))
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot read {name}: {error}; check the path"))
}

/// A file that is hashed while it is read.
struct Hashing {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// An iterator over lines.
pub struct Lines<'a> {
    name: String,
    reader: Box<dyn BufRead + 'a>,
    number: u64,
}

impl<'a> Lines<'a> {
    fn new(name: &str, reader: Box<dyn BufRead + 'a>) -> Self {
        Self {
            name: name.into(),
            reader,
            number: 0,
        }
    }

    /// The next line that is not blank.
    pub fn next(&mut self) -> Result<Option<RawLine>, Failure> {
        loop {
            let mut bytes = Vec::new();
            let mut limited = (&mut self.reader).take(LONGEST);
            let count = limited
                .read_until(b'\n', &mut bytes)
                .map_err(|error| cannot_read(&self.name, &error))?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            let is_too_long = count as u64 == LONGEST && bytes.last() != Some(&b'\n');
            if is_too_long {
                bytes = Vec::new();
                self.reader
                    .skip_until(b'\n')
                    .map_err(|error| cannot_read(&self.name, &error))?;
            }
            if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
                bytes.drain(..3);
            }
            if !is_too_long && bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return Ok(Some(RawLine {
                name: self.name.clone(),
                number: self.number,
                bytes,
                is_too_long,
            }));
        }
    }
}

impl RawLine {
    /// The id, if there is one, and the other fields of the line's object.
    pub fn fields(&self) -> Result<(Option<Value>, Map<String, Value>), String> {
        if self.is_too_long {
            return Err(format!("it has more than {} MiB", LONGEST >> 20));
        }
        let mut fields = fields::object(&self.bytes)?;
        let id = fields.remove("id").filter(|id| !id.is_null());
        let is_name = |id: &Value| id.is_string() || id.is_u64() || id.is_i64();
        match id {
            Some(id) if !is_name(&id) => Err("its id must be a text or a whole number".into()),
            id => Ok((id, fields)),
        }
    }
}
