//! The lines of a job, read one by one: memory does not depend on their number.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::digest::hexadecimal;
use crate::arguments::Job;
use crate::failure::Failure;
use crate::{fields, texts};

/// Maximum bytes of a line. Longer ones are hardly lines of JSON.
const LONGEST: u64 = 64 << 20;
/// Maximum bytes of the lines processed together, unless one has more.
const MOST_BYTES: usize = 4 << 20;
/// Lines of a stream that are read ahead. Each may be as long as [`LONGEST`].
const AHEAD: usize = 2;
/// How long lines of a stream are gathered after the first, to be processed together.
const GATHER: Duration = Duration::from_millis(20);
/// How often a wait for a line checks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Where lines come from.
pub struct Input {
    path: PathBuf,
    name: String,
    /// Open if it is a regular file, which can be read twice: the same one both times, even if another takes its path.
    file: Option<File>,
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
                file: None,
            });
        }
        let metadata = fs::metadata(path).map_err(|error| cannot_read(&name, &error))?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!(
                "{name} is a folder; give a file with lines of JSON"
            )));
        }
        let file = metadata.is_file().then(|| File::open(path)).transpose();
        Ok(Self {
            file: file.map_err(|error| cannot_read(&name, &error))?,
            path: path.into(),
            name,
        })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Refuses inputs that can be read only once.
    pub fn needs_file(&self, job: &Job) -> Result<(), Failure> {
        if self.file.is_some() {
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
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let mut hash = Hashing {
            file,
            hash: Sha256::new(),
            bytes: 0,
        };
        let mut lines = Reader::new(&self.name, BufReader::new(&mut hash));
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
    pub fn lines(&self) -> Result<Lines, Failure> {
        let opened = match (&self.file, self.path == Path::new(texts::STDIN)) {
            (Some(file), _) => {
                let again = file.try_clone().and_then(|mut file| {
                    file.rewind()?;
                    Ok(file)
                });
                let again = again.map_err(|error| cannot_read(&self.name, &error))?;
                return Ok(Lines::File(Reader::new(&self.name, BufReader::new(again))));
            }
            (None, true) => Lines::of_stream(&self.name, io::stdin()),
            (None, false) => {
                File::open(&self.path).and_then(|stream| Lines::of_stream(&self.name, stream))
            }
        };
        opened.map_err(|error| cannot_read(&self.name, &error))
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot read {name}: {error}; check the path"))
}

/// A file that is hashed while it is read.
struct Hashing<'a> {
    file: &'a File,
    hash: Sha256,
    bytes: u64,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// An iterator over the lines of an input.
pub enum Lines {
    File(Reader<BufReader<File>>),
    /// Read by another thread, so that waiting for a line can end.
    Stream(Receiver<Result<RawLine, Failure>>),
}

impl Lines {
    fn of_stream(name: &str, stream: impl Read + Send + 'static) -> io::Result<Self> {
        let mut reader = Reader::new(name, BufReader::new(stream));
        let (sender, lines) = sync_channel(AHEAD);
        let read = move || {
            while let Some(line) = reader.next().transpose() {
                let is_last = line.is_err();
                if sender.send(line).is_err() || is_last {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("esolm-input".into())
            .spawn(read)?;
        Ok(Self::Stream(lines))
    }

    /// The next line that is not blank.
    pub fn next(&mut self) -> Result<Option<RawLine>, Failure> {
        match self {
            Self::File(reader) => reader.next(),
            Self::Stream(lines) => lines.recv().ok().transpose(),
        }
    }

    /// Up to `most` lines to be processed together: of a stream, those that have arrived shortly after the first. None at
    /// the end, or once `stop` is set.
    pub fn some(&mut self, most: usize, stop: &AtomicBool) -> Result<Vec<RawLine>, Failure> {
        let (mut some, mut bytes) = (Vec::new(), 0);
        let mut until = None;
        while some.len() < most && bytes < MOST_BYTES {
            let line = match self {
                Self::File(reader) => reader.next()?,
                Self::Stream(lines) => arriving(lines, until, stop)?,
            };
            let Some(line) = line else { break };
            until = until.or_else(|| Some(Instant::now() + GATHER));
            bytes += line.bytes.len();
            some.push(line);
        }
        Ok(some)
    }
}

/// The next line of a stream, unless `stop` is set or none arrives `until` then.
fn arriving(
    lines: &Receiver<Result<RawLine, Failure>>,
    until: Option<Instant>,
    stop: &AtomicBool,
) -> Result<Option<RawLine>, Failure> {
    while !stop.load(Ordering::SeqCst) {
        let wait = until.map_or(LOOK, |until| {
            until.saturating_duration_since(Instant::now())
        });
        match lines.recv_timeout(wait) {
            Ok(line) => return line.map(Some),
            Err(RecvTimeoutError::Timeout) if until.is_none() => {}
            Err(_) => break,
        }
    }
    Ok(None)
}

/// Reads lines.
pub struct Reader<R> {
    name: String,
    reader: R,
    number: u64,
}

impl<R: BufRead> Reader<R> {
    fn new(name: &str, reader: R) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A job computes the lines that its record describes.
    #[test]
    fn a_file_that_takes_the_inputs_place_is_not_read() {
        let folder = std::env::temp_dir().join(format!("esolm-input-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (path, other) = (folder.join("in.jsonl"), folder.join("other.jsonl"));
        fs::write(&path, "{}\n\n{\"id\": 1}\n").expect("written");
        fs::write(&other, "{\"id\": 2}\n").expect("written");
        let input = Input::open(&path).expect("there");
        let survey = input.survey(|_| Ok(())).expect("read");
        assert_eq!(survey.expect("a file").lines, 2);
        fs::rename(&other, &path).expect("replaced");
        let mut lines = input.lines().expect("open");
        let some = lines.some(9, &AtomicBool::new(false)).expect("read");
        let numbers: Vec<u64> = some.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 3]);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
