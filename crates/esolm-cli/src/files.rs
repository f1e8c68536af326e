//! Output files, which appear completely or not at all, and streams.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use esolm_checkpoint::AtomicFile;
use same_file::Handle;

use crate::failure::Failure;
use crate::texts;

/// The file name that stands for standard output.
const STDOUT: &str = "-";

/// A file that appears under its name on [commit](Pending::commit), and not at all if dropped before. If something
/// other than a regular file, such as a pipe, has this name, it is written to directly.
pub struct Pending(AtomicFile);

impl Pending {
    /// Starts writing `path`, in addition to the standard output.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        if path == Path::new(STDOUT) {
            return Err(Failure::usage(
                "- means the standard output, which has the command's own output already; give the name of a file (./- for one called -)",
            ));
        }
        let file = AtomicFile::create(path).map_err(|error| cannot_write(path, &error))?;
        Ok(Self(file))
    }

    /// Starts writing `path`, the command's only output; `-` is standard output.
    pub fn create_or_stdout(path: &Path) -> Result<Self, Failure> {
        if path != Path::new(STDOUT) {
            return Self::create(path);
        }
        let stdout = stdout().map_err(|error| Failure::output(&error))?;
        Ok(Self(AtomicFile::stream(STDOUT, stdout)))
    }

    /// Writes what `fill` writes.
    pub fn fill(
        &mut self,
        fill: impl FnOnce(&mut AtomicFile) -> io::Result<()>,
    ) -> Result<(), Failure> {
        fill(&mut self.0).map_err(|error| cannot_write(self.0.path(), &error))
    }

    /// Writes a value as one line of JSON; a stream is flushed.
    pub fn json_line(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        self.fill(|file| {
            serde_json::to_writer(&mut *file, value)?;
            file.write_all(b"\n")?;
            file.flush()
        })
    }

    /// Gives the file its name, after flushing its contents to disk.
    pub fn commit(self) -> Result<(), Failure> {
        let path = self.0.path().to_path_buf();
        (self.0.commit()).map_err(|error| cannot_write(&path, &error))
    }
}

/// Refuses an output that would replace one of its inputs, under any name; `-` among the inputs is standard input.
pub fn check_apart<'a>(
    inputs: impl IntoIterator<Item = &'a Path>,
    output: &Path,
) -> Result<(), Failure> {
    match inputs.into_iter().any(|input| is_same(input, output)) {
        true => Err(Failure::usage(format!(
            "{} is the input itself; give another output",
            output.display()
        ))),
        false => Ok(()),
    }
}

/// Whether both are the same regular file.
pub fn is_same(input: &Path, output: &Path) -> bool {
    // Opens nothing else: opening a pipe would wait for the other end.
    let is_file = |path: &Path| fs::metadata(path).is_ok_and(|there| there.is_file());
    if !is_file(output) {
        return false;
    }
    let input = match input == Path::new(texts::STDIN) {
        true => Handle::stdin(),
        false if is_file(input) => Handle::from_path(input),
        false => return false,
    };
    match (input, Handle::from_path(output)) {
        (Ok(input), Ok(output)) => input == output,
        // Files that cannot be opened are reported where they are used.
        _ => false,
    }
}

/// Refuses a path that cannot be an output folder; it need not exist yet.
pub fn check_folder(path: &Path) -> Result<(), Failure> {
    if path == Path::new(STDOUT) {
        return Err(Failure::usage(
            "- means the standard output, but a folder of files is written; give the name of a folder (./- for one called -)",
        ));
    }
    if path.exists() && !path.is_dir() {
        return Err(Failure::usage(format!(
            "{} is not a folder, but a folder of files is written; give the name of a folder",
            path.display()
        )));
    }
    Ok(())
}

/// The error for a file that cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    if path == Path::new(STDOUT) {
        return Failure::output(error);
    }
    let remedy = remedy(error.kind());
    let sentence = format!("cannot write {}: {error}; {remedy}", path.display());
    match error.kind() {
        ErrorKind::InvalidInput => Failure::usage(sentence),
        _ => Failure::failed(sentence),
    }
}

/// What to do if a file or folder cannot be written.
pub fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidInput => "give the name of a file",
        ErrorKind::BrokenPipe => "what reads it ended before everything was written",
        ErrorKind::NotFound => "check that the folder exists",
        ErrorKind::NotADirectory => "part of the path is a file, so give another path",
        ErrorKind::InvalidFilename => "give a shorter name",
        ErrorKind::PermissionDenied => "check the permissions of the folder and of what is in it",
        ErrorKind::ReadOnlyFilesystem => "give a place that can be written to",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room, or give another place",
        ErrorKind::FileTooLarge => {
            "the file system or a limit (ulimit -f) allows no file of that size; raise the limit, or give another place"
        }
        _ => "check that the folder exists and has room",
    }
}

#[cfg(unix)]
fn stdout() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn stdout() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}
