//! Files that appear whole or not at all, and stay; and streams, which are written to as they come.
//!
//! A file is written under a temporary name beside its place, brought to the disk, and renamed; then the folder is brought to the
//! disk too. A program that fails leaves what was there before, and what was committed survives a power cut. One that is about to be
//! ended calls [`abandon_all`] first. One that is killed outright leaves a hidden `.NAME.XXXXXX.esolm.partial`, which the next one
//! that writes `NAME` removes: whoever writes such a file holds a lock on it, so one without a lock is nobody's.
//!
//! Symbolic links are followed, and stay. A character device, a pipe or a socket is never replaced: it is opened and written to. A block
//! device, which is a disk, is refused.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{Builder, NamedTempFile};

/// Ends the names of temporary files.
const SUFFIX: &str = ".esolm.partial";
/// Random characters in such a name.
const RANDOM: usize = 6;
/// Links that are followed one after another, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The temporary files of this process.
static UNDER_WAY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A file under way. [`AtomicFile::commit`] gives it its name; dropping it removes it. What is written to a stream is out.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    sink: BufWriter<Sink>,
}

#[derive(Debug)]
enum Sink {
    /// A file beside its place, which it takes at the commit.
    File {
        file: NamedTempFile,
        target: PathBuf,
        _registered: Registered,
    },
    Stream(File),
}

impl AtomicFile {
    /// Begins to write `path`. A regular file there is left as it is until the commit, and hands on its permissions. A pipe is waited
    /// for until somebody reads it.
    ///
    /// # Errors
    /// What the operating system answers; [`io::ErrorKind::InvalidInput`] for a path that names a folder, a block device or no file at all,
    /// and for symbolic links without an end.
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

    /// Writes to what is open already, such as the standard output; `path` is what errors call it.
    pub fn stream(path: impl Into<PathBuf>, stream: File) -> Self {
        Self {
            path: path.into(),
            sink: BufWriter::new(Sink::Stream(stream)),
        }
    }

    /// The name that it was asked for under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings what was written to the disk, so that a full one shows itself before the commit.
    ///
    /// # Errors
    /// What the operating system answers.
    pub fn sync(&mut self) -> io::Result<()> {
        self.sink.flush()?;
        match self.sink.get_ref() {
            Sink::File { file, .. } => file.as_file().sync_all(),
            Sink::Stream(_) => Ok(()),
        }
    }

    /// Gives the file its name, once its bytes are on the disk.
    ///
    /// # Errors
    /// What the operating system answers; what was there before is then still there.
    pub fn commit(self) -> io::Result<()> {
        commit_all(vec![self]).map_err(|(_, error)| error)
    }
}

/// Gives files that belong together their names, once the bytes of all are on the disk. [`abandon_all`] comes before it or after it.
///
/// # Errors
/// What the operating system answers, with the path of the file: before any file is replaced if a disk is full.
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
    // Before the files are dropped, which need it.
    drop(under_way);
    named?;
    for folder in folders {
        sync_folder(&folder).map_err(|error| (folder, error))?;
    }
    Ok(())
}

/// Removes the temporary files of everything under way, for a process that is about to end without unwinding: from then on nothing is
/// begun or committed, and whoever tries waits for the end.
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

/// Whether what stands at `path` would be written to as it comes: a device, a pipe, a socket or an open descriptor, and not a file or nothing.
///
/// # Errors
/// As [`AtomicFile::create`], where the path itself is not usable.
pub fn is_stream(path: impl AsRef<Path>) -> io::Result<bool> {
    let (target, is_descriptor) = follow(path.as_ref())?;
    Ok(what_is_there(&target)?.is_some_and(|there| {
        is_descriptor || !there.is_file() || standard_stream(&there).is_some()
    }))
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

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// What stands where something is to be written, if anything does.
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

/// Refuses to rename over what is not a regular file and was not there when the file was begun.
fn check_place(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(there) if !there.is_file() => Err(invalid(
            "what stands there now is not a regular file, and is not replaced",
        )),
        _ => Ok(()),
    }
}

/// The place that `path` leads to, and whether it is an open descriptor of this process, which is written to and not replaced even
/// where a regular file is behind it: `/dev/stdout`, `/dev/fd/3`, `/proc/self/fd/3`.
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
            // Nothing, or no link.
            Err(_) => return Ok((place, false)),
        }
    }
    Err(invalid("its symbolic links lead in a circle"))
}

/// Whether the entries of a folder are this or another process's open files.
fn is_descriptors(folder: &Path) -> bool {
    folder == Path::new("/dev/fd") || folder.starts_with("/proc") && folder.ends_with("fd")
}

/// The standard output or error, where that is what stands there: it shares its place in the file with what else is printed.
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

/// Opens what is not to be replaced.
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
    // A file behind a descriptor keeps what it holds.
    OpenOptions::new()
        .write(true)
        .append(metadata.is_file())
        .open(path)
}

/// Begins a file that will stand at `target`, where the one that `there` describes stands now.
fn file(target: PathBuf, there: Option<Metadata>) -> io::Result<Sink> {
    if there.is_some() {
        // The rename would ask for the permissions of the folder alone.
        OpenOptions::new().write(true).open(&target)?;
    }
    // A part of a long name, since the temporary one must not be longer than names may be.
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(44).collect();
    let prefix = format!(".{short}.");
    remove_stale(folder(&target), &prefix);

    let mut under_way = under_way();
    // Opened here rather than by `tempfile`, so that it has the permissions of any new file and errors are the system's own.
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

/// A new file with a lock, by which other processes see that somebody writes it.
fn create_locked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    // Between the two another process may have taken it for one that nobody writes, and removed it.
    if is_taken || !path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into()); // another name is tried
    }
    Ok(file)
}

/// Gives a new file the permissions, and where that is allowed the owner, of the one that it will replace.
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

/// Removes temporary files of this prefix whose writers are dead.
fn remove_stale(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = (name.to_str())
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|name| name.strip_suffix(SUFFIX));
        if random.is_none_or(|random| random.len() != RANDOM) {
            continue;
        }
        // A pipe or a link of such a name is somebody's own.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // Where there are no locks nothing says that it is stale, and it stays.
        if let Ok(file) = open_regular(&entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Opens what was a regular file a moment ago. A pipe or a link that has taken its place meanwhile is not waited for or followed.
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
