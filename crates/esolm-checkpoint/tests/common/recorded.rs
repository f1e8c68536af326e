//! A source that records what is read from it.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use esolm_checkpoint::{ByteSource, Reading};

/// Bytes in memory, with a record of the ranges read.
#[derive(Clone)]
pub struct Recorded {
    bytes: Arc<Vec<u8>>,
    /// The size it reports.
    pub size: u64,
    pub read: Arc<Mutex<Vec<Range<u64>>>>,
}

impl Recorded {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            size: bytes.len() as u64,
            bytes: Arc::new(bytes),
            read: Arc::default(),
        }
    }

    pub fn largest(&self) -> u64 {
        let read = self.read.lock().unwrap();
        read.iter()
            .map(|range| range.end - range.start)
            .max()
            .unwrap()
    }
}

impl ByteSource for Recorded {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> Reading<'_> {
        self.read.lock().unwrap().push(range.clone());
        let end = (range.end as usize).min(self.bytes.len());
        let part = self.bytes[(range.start as usize).min(end)..end].to_vec();
        Box::pin(std::future::ready(Ok(part)))
    }
}

/// Runs a future that never has to wait, since these sources are always ready.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a source in memory makes nobody wait"),
    }
}
