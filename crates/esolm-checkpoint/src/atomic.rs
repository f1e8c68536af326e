//! Files that appear whole or not at all, and stay.
//!
//! A file is written under a temporary name beside its place, brought to the disk, and renamed; then the folder is brought to the
//! disk too. A program that fails or is killed on the way leaves what was there before (killed, also a hidden `.NAME.XXXXXX.partial`),
//! and what was committed survives a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// A file under way. [`AtomicFile::commit`] gives it its name; dropping it removes it.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    sink: BufWriter<NamedTempFile>,
}

impl AtomicFile {
    /// Begins to write `path`, which is left as it is until the commit.
    ///
    /// # Errors
    /// What the operating system answers; [`io::ErrorKind::InvalidInput`] for a path without a file name, or one at which a folder, a
    /// device or a pipe stands, which a rename would replace.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let name = path
            .file_name()
            .ok_or_else(|| invalid("it does not name a file"))?;
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(invalid("something that is not a regular file stands there"));
        }
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes
            .last()
            .is_some_and(|&last| std::path::is_separator(char::from(last)))
        {
            return Err(invalid("it names a folder, not a file"));
        }
        // A part of a long name, since the temporary one must not be longer than names may be.
        let short: String = name.to_string_lossy().chars().take(48).collect();
        let prefix = format!(".{short}.");
        // Opened here rather than by `tempfile`, so that it has the permissions of any new file and errors are the system's own.
        let file = Builder::new().prefix(&prefix).suffix(".partial").make_in(
            folder(path),
            |temporary| {
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(temporary)
            },
        )?;
        Ok(Self {
            path: path.into(),
            sink: BufWriter::new(file),
        })
    }

    /// The name that it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings what was written to the disk, so that a full one shows itself before the commit.
    ///
    /// # Errors
    /// What the operating system answers.
    pub fn sync(&mut self) -> io::Result<()> {
        self.sink.flush()?;
        self.sink.get_ref().as_file().sync_all()
    }

    /// Gives the file its name, once its bytes are on the disk.
    ///
    /// # Errors
    /// What the operating system answers; what was there before is then still there.
    pub fn commit(mut self) -> io::Result<()> {
        self.sync()?;
        let file = self.sink.into_inner().map_err(IntoInnerError::into_error)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        sync_folder(folder(&self.path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Writes a file of these bytes, whole or not at all.
///
/// # Errors
/// As [`AtomicFile::create`] and [`AtomicFile::commit`].
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes.as_ref())?;
    file.commit()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A rename is durable once the folder is on the disk. Folders that cannot be opened or synced (no permission to list them, some network
/// file systems) offer no more than the rename.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let Ok(folder) = File::open(folder) else {
        return Ok(());
    };
    match folder.sync_all() {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}
