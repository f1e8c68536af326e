//! Files that appear completely or not at all, durably; and streams, which are written to directly.
//!
//! A file is written under a temporary name next to its destination, flushed to disk and renamed; then its folder is
//! flushed as well. A program that fails leaves what was there before, and what has been committed survives a power
//! failure. A program that is about to be terminated calls [`abandon_all`] first. A program that is killed leaves a
//! hidden `.NAME.XXXXXX.esolm.partial`, which the next one to write `NAME` removes: the writer of such a file holds a
//! lock on it, so a file without a lock is stale.
//!
//! Symbolic links are followed and kept. A character device, a pipe or a socket is never replaced, but opened and
//! written to. A block device, which is a disk, is rejected.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{Builder, NamedTempFile};

/// Suffix of temporary file names.
const SUFFIX: &str = ".esolm.partial";
/// Number of random characters in such a name.
const RANDOM: usize = 6;
/// Maximum number of links followed, as on Linux.
const MAX_LINKS: usize = 40;

/// The temporary files of this process.
static UNDER_WAY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A file being written. [`AtomicFile::commit`] gives it its name; dropping it removes it. Data written to a stream
/// cannot be taken back.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    sink: BufWriter<Sink>,
}

#[derive(Debug)]
enum Sink {
    /// A temporary file, which replaces `target` on commit.
    File {
        file: NamedTempFile,
        target: PathBuf,
        _registered: Registered,
    },
    Stream(File),
}

impl AtomicFile {
    /// Starts writing `path`. An existing regular file is unchanged until the commit, and its permissions are kept. For
    /// a pipe, blocks until there is a reader.
    ///
    /// # Errors
    /// Errors of the operating system; [`io::ErrorKind::InvalidInput`] for a path that names a folder, a block device
    /// or no file at all, and for circular symbolic links.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let (target, is_descriptor) = follow(path)?;
        let there = what_is_there(&target)?;
        let sink = match &there {
            Some(metadata) => match standard_stream(metadata) {
                Some(stream) => Sink::Stream(stream),
                None if is_descriptor || !metadata.is_file() => {
                    Sink::Stream(open_stream(&target, metadata)?)
                }
                None => file(target, there)?,
            },
            None => file(target, None)?,
        };
        Ok(Self {
            path: path.into(),
            sink: BufWriter::new(sink),
        })
    }

    /// Writes to an open stream such as standard output, which errors call `path`.
    pub fn stream(path: impl Into<PathBuf>, stream: File) -> Self {
        Self {
            path: path.into(),
            sink: BufWriter::new(Sink::Stream(stream)),
        }
    }

    /// The path as requested.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes what was written to disk, so that a full disk is noticed before the commit.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn sync(&mut self) -> io::Result<()> {
        self.sink.flush()?;
        match self.sink.get_ref() {
            Sink::File { file, .. } => file.as_file().sync_all(),
            Sink::Stream(_) => Ok(()),
        }
    }

    /// Gives the file its name, after flushing its contents to disk.
    ///
    /// # Errors
    /// Errors of the operating system; in this case the previous file is still there.
    pub fn commit(self) -> io::Result<()> {
        commit_all(vec![self]).map_err(|(_, error)| error)
    }
}

/// Gives several related files their names, after flushing the contents of all to disk. [`abandon_all`] happens either
/// before or after this, not in between.
///
/// # Errors
/// Errors of the operating system, with the path of the file. If a disk is full, no file has been replaced.
pub fn commit_all(mut files: Vec<AtomicFile>) -> Result<(), (PathBuf, io::Error)> {
    for file in &mut files {
        file.sync().map_err(|error| (file.path.clone(), error))?;
    }
    let mut folders = BTreeSet::new();
    let under_way = under_way();
    let named = files.iter_mut().try_for_each(|file| {
        let AtomicFile { path, sink } = file;
        if let Sink::File { file, target, .. } = sink.get_mut() {
            let renamed = check_place(target).and_then(|()| fs::rename(file.path(), &*target));
            renamed.map_err(|error| (path.clone(), error))?;
            file.disable_cleanup(true);
            folders.insert(folder(target).to_path_buf());
        }
        Ok(())
    });
    // Must be released before the files are dropped, which lock it too.
    drop(under_way);
    named?;
    for folder in folders {
        sync_folder(&folder).map_err(|error| (folder, error))?;
    }
    Ok(())
}

/// Removes the temporary files of this process, which is about to end without unwinding. From then on nothing is
/// started or committed; any attempt blocks until the process ends.
pub fn abandon_all() {
    let mut under_way = under_way();
    for path in mem::take(&mut *under_way) {
        let _ = fs::remove_file(path); // nobody is left to hear of it
    }
    mem::forget(under_way);
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Not through `NamedTempFile`, whose errors name the temporary file.
            Self::File { file, .. } => file.as_file_mut().write(bytes),
            Self::Stream(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.as_file_mut().flush(),
            Self::Stream(stream) => stream.flush(),
        }
    }
}

/// Whether `path` would be written to directly, because it is a device, a pipe, a socket or an open descriptor rather
/// than a file or nothing.
///
/// # Errors
/// See [`AtomicFile::create`], if the path itself is unusable.
pub fn is_stream(path: impl AsRef<Path>) -> io::Result<bool> {
    let (target, is_descriptor) = follow(path.as_ref())?;
    Ok(what_is_there(&target)?.is_some_and(|there| {
        is_descriptor || !there.is_file() || standard_stream(&there).is_some()
    }))
}

/// Writes a file with these contents, completely or not at all.
///
/// # Errors
/// See [`AtomicFile::create`] and [`AtomicFile::commit`].
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes.as_ref())?;
    file.commit()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// What exists at the destination, if anything.
fn what_is_there(target: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(target) {
        Ok(there) if there.is_dir() => Err(invalid("it is a folder")),
        Ok(there) if is_disk(&there) => Err(invalid("it is a block device")),
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn is_disk(there: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&there.file_type())
}

#[cfg(not(unix))]
fn is_disk(_: &Metadata) -> bool {
    false
}

/// Refuses to rename over something that is not a regular file and was not there at the start.
fn check_place(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(there) if !there.is_file() => Err(invalid(
            "what stands there now is not a regular file, and is not replaced",
        )),
        _ => Ok(()),
    }
}

/// The destination that `path` leads to, and whether it is an open descriptor of this process (`/dev/stdout`,
/// `/dev/fd/3`, `/proc/self/fd/3`), which is written to rather than replaced even if a regular file is behind it.
fn follow(path: &Path) -> io::Result<(PathBuf, bool)> {
    let mut place = path.to_path_buf();
    for _ in 0..=MAX_LINKS {
        if place.file_name().is_none() {
            return Err(invalid("it does not name a file"));
        }
        let last = place.as_os_str().as_encoded_bytes().last();
        if last.is_some_and(|&last| std::path::is_separator(char::from(last))) {
            return Err(invalid("it names a folder, not a file"));
        }
        let inside = folder(&place).canonicalize();
        if inside.is_ok_and(|folder| is_descriptors(&folder)) {
            return Ok((place, true));
        }
        match fs::read_link(&place) {
            Ok(link) => place = folder(&place).join(link),
            // Nothing, or not a link.
            Err(_) => return Ok((place, false)),
        }
    }
    Err(invalid("its symbolic links lead in a circle"))
}

/// Whether the entries of a folder are the open files of this or another process.
fn is_descriptors(folder: &Path) -> bool {
    folder == Path::new("/dev/fd") || folder.starts_with("/proc") && folder.ends_with("fd")
}

/// Standard output or error, if that is what is there: it shares its file position with everything else that is
/// printed.
#[cfg(unix)]
fn standard_stream(there: &Metadata) -> Option<File> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    let streams = [
        io::stdout().as_fd().try_clone_to_owned(),
        io::stderr().as_fd().try_clone_to_owned(),
    ];
    streams
        .into_iter()
        .flatten()
        .map(File::from)
        .find(|stream| {
            let stream = stream.metadata();
            stream.is_ok_and(|stream| (stream.dev(), stream.ino()) == (there.dev(), there.ino()))
        })
}

#[cfg(not(unix))]
fn standard_stream(_: &Metadata) -> Option<File> {
    None
}

/// Opens something that must not be replaced.
fn open_stream(path: &Path, metadata: &Metadata) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::fd::OwnedFd;
        use std::os::unix::fs::FileTypeExt;
        use std::os::unix::net::UnixStream;

        if metadata.file_type().is_socket() {
            return Ok(File::from(OwnedFd::from(UnixStream::connect(path)?)));
        }
    }
    // If a file is behind a descriptor, keep its contents.
    OpenOptions::new()
        .write(true)
        .append(metadata.is_file())
        .open(path)
}

/// Starts a file that will be moved to `target`, replacing the one described by `there`.
fn file(target: PathBuf, there: Option<Metadata>) -> io::Result<Sink> {
    if there.is_some() {
        // The rename would check only the folder's permissions.
        OpenOptions::new().write(true).open(&target)?;
    }
    // Only part of a long name, since the temporary name must not exceed the maximum length either.
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(44).collect();
    let prefix = format!(".{short}.");
    remove_stale(folder(&target), &prefix);

    let mut under_way = under_way();
    // Opened here rather than by `tempfile`, so that it gets default permissions and errors are the system's own.
    let file = Builder::new()
        .prefix(&prefix)
        .suffix(SUFFIX)
        .rand_bytes(RANDOM)
        .make_in(folder(&target), create_locked)?;
    under_way.insert(file.path().into());
    let registered = Registered(file.path().into());
    drop(under_way);
    if let Some(there) = there {
        take_after(file.as_file(), &there)?;
    }
    Ok(Sink::File {
        file,
        target,
        _registered: registered,
    })
}

/// Creates a file with a lock, which tells other processes that it is being written.
fn create_locked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    // In between, another process may have considered it stale and removed it.
    if is_taken || !path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into()); // another name is tried
    }
    Ok(file)
}

/// Gives a new file the permissions and, if allowed, the owner of the one that it will replace.
fn take_after(file: &File, there: &Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};

        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (there.uid(), there.gid()) {
            let _ = fchown(file, Some(there.uid()), Some(there.gid())); // root alone may
        }
    }
    file.set_permissions(there.permissions())
}

/// Removes temporary files with this prefix whose writers are dead.
fn remove_stale(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = (name.to_str())
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|name| name.strip_suffix(SUFFIX));
        if random.is_none_or(|random| random.len() != RANDOM) {
            continue;
        }
        // A pipe or a link with such a name is not ours.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // Without locks there is no way to tell that it is stale, so it is kept.
        if let Ok(file) = open_regular(&entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Opens what was a regular file a moment ago. If a pipe or a link has taken its place, it is not waited for or
/// followed.
fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW);
    }
    options.open(path)
}

fn under_way() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An entry of [`UNDER_WAY`].
#[derive(Debug)]
struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        under_way().remove(&self.0);
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A rename is durable once the folder has been flushed to disk. Folders that cannot be opened or synced (no permission
/// to list them, some network file systems) offer nothing better than the rename.
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
