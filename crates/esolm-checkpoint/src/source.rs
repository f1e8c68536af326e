//! Files that are not all there: the header was read, tensors come when they are fetched and go when they are read.
//!
//! So a browser loads a model in the memory of one block, whatever the size of the file.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// On a machine with threads, `Send + Sync`: a file must be able to go to another thread with its source. A browser's values stay in
/// theirs, so there it asks for nothing.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSend: Send + Sync {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send + Sync> MaybeSend for T {}
/// A browser's values stay in their thread; elsewhere this stands for `Send + Sync`.
#[cfg(target_family = "wasm")]
pub trait MaybeSend {}
#[cfg(target_family = "wasm")]
impl<T> MaybeSend for T {}

/// The bytes of a range of a source, or why they do not come.
#[cfg(not(target_family = "wasm"))]
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;
/// The bytes of a range of a source, or why they do not come.
#[cfg(target_family = "wasm")]
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + 'a>>;

/// Bytes that are read in parts: a file of a browser, an archive, a server.
pub trait ByteSource: MaybeSend {
    /// How many there are.
    fn size(&self) -> u64;
    /// Those of a range inside the size.
    fn read(&self, range: Range<u64>) -> Reading<'_>;
}

/// Where the bytes come from, and those that were fetched, by where they begin.
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

    /// The bytes of a tensor, which are then given up.
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

/// Reads a range and checks that all of it came.
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
