//! The results of a job: a file that is appended to and can be resumed, or a stream.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use esolm_checkpoint::atomic;
use serde::Deserialize;

use super::input::Lines;
use super::record::Record;
use crate::arguments::Job;
use crate::failure::Failure;
use crate::files::{self, Pending};

/// Where results go.
pub enum Output {
    /// What has been written cannot be taken back.
    Stream(Pending),
    File(Log),
}

/// A regular file of complete results.
pub struct Log {
    path: PathBuf,
    file: File,
    /// Its length in bytes, all of them flushed to disk.
    length: u64,
    /// Number of results when it was opened.
    done: u64,
}

/// The part of a result that identifies its line.
#[derive(Deserialize)]
struct Place {
    line: u64,
}

impl Output {
    /// Opens the output. When a job is resumed, lines that already have results are skipped in `lines`. A stream has no
    /// `record`.
    pub fn open(
        job: &Job,
        record: impl FnOnce() -> Result<Record, Failure>,
        lines: &mut Lines,
    ) -> Result<Self, Failure> {
        let path = job.output.as_deref().unwrap_or("-".as_ref());
        let is_stream = path == Path::new("-")
            || atomic::is_stream(path).map_err(|error| files::cannot_write(path, &error))?;
        if !is_stream {
            return Log::open(path, job, record, lines).map(Self::File);
        }
        if job.resume {
            let name = match path == Path::new("-") {
                true => "the standard output".into(),
                false => path.display().to_string(),
            };
            return Err(Failure::usage(format!(
                "--resume needs an output that can be read again, which {name} cannot; give a file"
            )));
        }
        Pending::create_or_stdout(path).map(Self::Stream)
    }

    /// Whether a job that ended early can be resumed.
    pub fn can_go_on(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Number of results that already existed.
    pub fn done(&self) -> u64 {
        match self {
            Self::Stream(_) => 0,
            Self::File(log) => log.done,
        }
    }

    /// Appends complete lines, and flushes them to disk.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stream(stream) => stream.fill(|file| {
                file.write_all(lines)?;
                file.flush()
            }),
            Self::File(log) => log.append(lines),
        }
    }

    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stream(stream) => stream.commit(),
            Self::File(_) => Ok(()),
        }
    }
}

impl Log {
    fn open(
        path: &Path,
        job: &Job,
        record: impl FnOnce() -> Result<Record, Failure>,
        lines: &mut Lines,
    ) -> Result<Self, Failure> {
        let cannot = |error: &std::io::Error| files::cannot_write(path, error);
        // Not in append mode, which on some systems prevents truncation.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| cannot(&error))?;
        // Some network file systems have no locks; there, the user must take care.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Failure::failed(format!(
                "another process writes {}; wait for its end, or give another --output",
                path.display()
            )));
        }
        let there = file.metadata().map_err(|error| cannot(&error))?.len();
        let mut log = Self {
            path: path.into(),
            file,
            length: 0,
            done: 0,
        };
        if there > 0 && !job.resume {
            return Err(Failure::usage(format!(
                "{} is not empty; go on with --resume if its results are those of this job, or give another --output",
                path.display()
            )));
        }
        let record = record()?;
        if there > 0 {
            record.compare(path)?;
            log.count(lines)?;
            log.cut().map_err(|error| cannot(&error))?;
        }
        if log.done == 0 {
            record.write(path)?;
        }
        Ok(log)
    }

    /// Counts the results, each of which must belong to the next line.
    fn count(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        let cannot = |error: std::io::Error| {
            let path = self.path.display();
            Failure::failed(format!("cannot read {path}: {error}; check the disk"))
        };
        let mut reader = BufReader::new(&self.file);
        let mut text = Vec::new();
        loop {
            text.clear();
            let count = reader.read_until(b'\n', &mut text).map_err(cannot)?;
            // The partial line that a killed process or a power failure left.
            if text.last() != Some(&b'\n') {
                return Ok(());
            }
            let result: Option<Place> = serde_json::from_slice(&text).ok();
            let line = lines.next()?;
            let is_its = match (&result, &line) {
                (Some(result), Some(line)) => result.line == line.number,
                _ => false,
            };
            if !is_its {
                return Err(Failure::failed(format!(
                    "line {} of {} is not the result that belongs there; give another --output",
                    self.done + 1,
                    self.path.display()
                )));
            }
            self.length += count as u64;
            self.done += 1;
        }
    }

    /// Truncates the file to its complete results, and continues after them.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.sync_data()
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let written = self
            .file
            .write_all(lines)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // On a full disk, leaves no partial line if possible.
            let _ = self.cut();
            return Err(files::cannot_write(&self.path, &error));
        }
        self.length += lines.len() as u64;
        Ok(())
    }
}
