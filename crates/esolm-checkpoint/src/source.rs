//! Files that are read in parts: the header first, then tensors, which are fetched on request and freed when they are
//! read.
//!
//! This lets a browser load a model in the memory of one block, regardless of the size of the file.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// `Send + Sync` on platforms with threads, so that a file can be moved to another thread along with its source. In a
/// browser, values stay in their thread, and there is no such requirement.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSend: Send + Sync {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send + Sync> MaybeSend for T {}
/// In a browser, values stay in their thread; elsewhere this stands for `Send + Sync`.
#[cfg(target_family = "wasm")]
pub trait MaybeSend {}
#[cfg(target_family = "wasm")]
impl<T> MaybeSend for T {}

/// The bytes of a range of a source, or the reason why they are unavailable.
#[cfg(not(target_family = "wasm"))]
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;
/// The bytes of a range of a source, or the reason why they are unavailable.
#[cfg(target_family = "wasm")]
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + 'a>>;

/// Bytes that are read in parts, such as a file in a browser, an archive, or a file on a server.
pub trait ByteSource: MaybeSend {
    /// Total number of bytes.
    fn size(&self) -> u64;
    /// The bytes of a range, which must be inside the file.
    fn read(&self, range: Range<u64>) -> Reading<'_>;
}

/// The source of the bytes, and the fetched ranges by start offset.
pub(crate) struct Remote {
    source: Box<dyn ByteSource>,
    size: usize,
    fetched: Mutex<HashMap<usize, Vec<u8>>>,
}

impl Remote {
    pub(crate) fn new(source: Box<dyn ByteSource>, size: usize) -> Self {
        Self {
            source,
            size,
            fetched: Mutex::default(),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Takes the bytes of a tensor, removing them.
    pub(crate) fn take(&self, range: &Range<usize>) -> Option<Vec<u8>> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.remove(&range.start)
    }

    pub(crate) async fn fetch(&self, range: &Range<usize>) -> Result<(), Error> {
        let bytes = exactly(&*self.source, range.start as u64..range.end as u64).await?;
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.insert(range.start, bytes);
        Ok(())
    }
}

/// Reads a range and checks that it is complete.
pub(crate) async fn exactly(source: &dyn ByteSource, range: Range<u64>) -> Result<Vec<u8>, Error> {
    let wanted = range.end - range.start;
    let bytes = source.read(range).await.map_err(Error::Source)?;
    if bytes.len() as u64 != wanted {
        return Err(Error::Source(format!(
            "{} of {wanted} bytes came",
            bytes.len()
        )));
    }
    Ok(bytes)
}
