//! The connections that there are. Beyond a limit the one that has waited longest for a request makes room, so that clients which say
//! nothing keep nobody out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of them.
pub struct Connections {
    limit: usize,
    all: Mutex<Vec<Arc<Connection>>>,
}

/// What is known of one.
pub struct Connection {
    /// Since when no whole request of it is there that was not answered; nothing while there is one.
    waits_since: Mutex<Option<Instant>>,
    leaves: Notify,
}

impl Connections {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            all: Mutex::new(Vec::new()),
        })
    }

    /// Takes in a connection; nothing where all of them are being answered.
    pub fn enter(self: &Arc<Self>) -> Option<Entered> {
        let mut all = lock(&self.all);
        if all.len() >= self.limit {
            let waiting = all.iter().enumerate();
            let waiting = waiting.filter_map(|(i, one)| Some(((*lock(&one.waits_since))?, i)));
            let (_, longest) = waiting.min()?;
            all.swap_remove(longest).leaves.notify_one();
        }
        let connection = Arc::new(Connection {
            waits_since: Mutex::new(Some(Instant::now())),
            leaves: Notify::new(),
        });
        all.push(connection.clone());
        Some(Entered {
            connection,
            connections: self.clone(),
        })
    }
}

/// A connection that was taken in, until this is dropped.
pub struct Entered {
    connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Entered {
    pub fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }

    /// Waits until it has to make room.
    pub async fn leaves(&self) {
        self.connection.leaves.notified().await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.connections.all).retain(|one| !Arc::ptr_eq(one, &self.connection));
    }
}

impl Connection {
    /// A request of it is there, until what comes back is dropped.
    pub fn is_asked(self: Arc<Self>) -> Asked {
        *lock(&self.waits_since) = None;
        Asked(self)
    }
}

/// A request that is being answered.
pub struct Asked(Arc<Connection>);

impl Asked {
    /// The body of its answer, with which it ends.
    pub fn answered_by(self, body: Body) -> Answering {
        Answering { body, _asked: self }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        *lock(&self.0.waits_since) = Some(Instant::now());
    }
}

/// An answer that is being sent.
pub struct Answering {
    body: Body,
    _asked: Asked,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn has_to_leave(entered: &Entered) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let soon = Duration::from_millis(20);
        runtime.block_on(async { tokio::time::timeout(soon, entered.leaves()).await.is_ok() })
    }

    #[test]
    fn who_waits_longest_makes_room() {
        let connections = Connections::new(2);
        let first = connections.enter().unwrap();
        let second = connections.enter().unwrap();
        // The first one asks, so the second one has waited longest.
        let asked = first.connection().is_asked();
        let third = connections.enter().unwrap();
        assert!(has_to_leave(&second) && !has_to_leave(&first) && !has_to_leave(&third));
        drop(second);
        let busy = third.connection().is_asked();
        assert!(connections.enter().is_none(), "both are answered");
        drop(asked);
        let fourth = connections.enter().unwrap();
        assert!(has_to_leave(&first) && !has_to_leave(&third));
        drop((first, busy, third, fourth));
        assert!(lock(&connections.all).is_empty());
    }
}
