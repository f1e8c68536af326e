//! The state of a server, for monitoring.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::batch::Ran;

/// The current state, and totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServingState {
    /// Whether the device is open. If not, the next request tries to reopen it.
    pub is_open: bool,
    /// Texts waiting for a place or to be scored.
    pub queued: usize,
    /// Texts that have a place.
    pub running: usize,
    /// Forward passes of the running batch.
    pub passes: u64,
    /// Their rows.
    pub rows: u64,
    /// Tokens drawn in them.
    pub drawn: u64,
    /// Device failures.
    pub failures: u64,
}

/// The counts behind a [`ServingState`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    is_open: AtomicBool,
    queued: AtomicUsize,
    running: AtomicUsize,
    passes: AtomicU64,
    rows: AtomicU64,
    drawn: AtomicU64,
    failures: AtomicU64,
}

impl Counts {
    /// Reserves `texts` entries in a queue of `most`: all or none.
    pub fn try_queue(&self, texts: usize, most: usize) -> bool {
        let more = |queued: usize| Some(queued + texts).filter(|&all| all <= most);
        self.queued.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub fn leave_queue(&self, texts: usize) {
        self.queued.fetch_sub(texts, Relaxed);
    }

    pub fn set_running(&self, texts: usize) {
        self.running.store(texts, Relaxed);
    }

    pub fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Relaxed);
    }

    pub fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub fn ran(&self, ran: Ran) {
        self.passes.fetch_add(u64::from(ran.rows > 0), Relaxed);
        self.rows.fetch_add(ran.rows as u64, Relaxed);
        self.drawn.fetch_add(ran.drawn as u64, Relaxed);
    }

    pub fn state(&self) -> ServingState {
        ServingState {
            is_open: self.is_open.load(Relaxed),
            queued: self.queued.load(Relaxed),
            running: self.running.load(Relaxed),
            passes: self.passes.load(Relaxed),
            rows: self.rows.load(Relaxed),
            drawn: self.drawn.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }
}
