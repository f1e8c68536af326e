//! The bytes of an open file: in memory, mapped, or read in parts.

use std::borrow::Cow;
use std::ops::Range;

use crate::source::Remote;

pub(crate) enum Bytes {
    Owned(Vec<u8>),
    #[cfg(not(target_family = "wasm"))]
    Mapped(memmap2::Mmap),
    /// Read in parts.
    Remote(Remote),
}

impl Bytes {
    /// Maps a file.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn map(path: &std::path::Path) -> std::io::Result<Self> {
        let file = std::fs::File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self::Owned(Vec::new())); // an empty file cannot be mapped everywhere
        }
        // SAFETY: the map is private to this process and only read. As with every mapped file, another process that truncates it
        // while it is in use ends this one with a signal; the documentation of `TensorFile::open` says so.
        Ok(Self::Mapped(unsafe { memmap2::Mmap::map(&file) }?))
    }

    /// Length of the file.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.len(),
            #[cfg(not(target_family = "wasm"))]
            Self::Mapped(map) => map.len(),
            Self::Remote(remote) => remote.size(),
        }
    }

    /// All of the bytes; empty for a file that is read in parts.
    pub(crate) fn whole(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            #[cfg(not(target_family = "wasm"))]
            Self::Mapped(map) => map,
            Self::Remote(_) => &[],
        }
    }

    /// The bytes of a tensor; `None` if they have not been fetched.
    pub(crate) fn of(&self, range: &Range<usize>) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Remote(remote) => remote.take(range).map(Cow::Owned),
            _ => self.whole().get(range.clone()).map(Cow::Borrowed),
        }
    }

    /// Releases the memory of a range that has been read, so that a file of any size can be loaded in the memory of its
    /// largest tensor.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && map.get(range.clone()).is_some()
        {
            // SAFETY: the range is inside the map, which is read-only and backed by a file; a dropped page is read
            // again on demand. If the call fails, it only costs memory.
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
