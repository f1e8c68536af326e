//! Waits for the library as Python wants it: other threads run meanwhile, and Ctrl-C ends the wait.

use std::future::{Future, poll_fn};
use std::ops::{Deref, DerefMut};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use pyo3::prelude::*;

/// How soon a Ctrl-C is noticed.
const PATIENCE: Duration = Duration::from_millis(50);

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What a future comes to. The interpreter's lock is released while it is waited for.
///
/// # Errors
/// `KeyboardInterrupt`, or what else a signal handler raises; the future is dropped then, which ends its call after the pass under way.
pub fn wait<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = Box::pin(future);
    loop {
        let ready = py.detach(
            || match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => {
                    thread::park_timeout(PATIENCE);
                    None
                }
            },
        );
        if let Some(output) = ready {
            return Ok(output);
        }
        if let Err(interrupt) = py.check_signals() {
            // This may wait until a model that was being loaded is gone.
            py.detach(|| drop(future));
            return Err(interrupt);
        }
    }
}

/// What a function comes to that cannot be polled, such as one that downloads. It runs on a thread of its own, which goes on to its end where
/// the wait is given up.
///
/// # Errors
/// As [`wait`]; `OSError` where there can be no thread.
pub fn wait_for<T, F>(py: Python<'_>, work: F) -> PyResult<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let waiting = thread::current();
    let (told, outcome) = channel();
    let work = move || {
        // Whoever waited may be gone.
        let _ = told.send(work());
        waiting.unpark();
    };
    let worker = thread::Builder::new()
        .name("esolm-wait".into())
        .spawn(work)?;
    let ended = poll_fn(move |_| match outcome.try_recv() {
        Ok(output) => Poll::Ready(Some(output)),
        Err(TryRecvError::Disconnected) => Poll::Ready(None),
        Err(TryRecvError::Empty) => Poll::Pending,
    });
    match wait(py, ended)? {
        Some(output) => Ok(output),
        None => match worker.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => unreachable!("the thread tells what it comes to unless it panics"),
        },
    }
}

/// What holds a model. Dropping the last of it waits for the model's thread, and other threads of Python run meanwhile.
pub struct Held<T: Send>(Option<T>);

impl<T: Send> Held<T> {
    pub fn new(what: T) -> Self {
        Self(Some(what))
    }
}

impl<T: Send> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is held until it is dropped")
    }
}

impl<T: Send> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is held until it is dropped")
    }
}

impl<T: Send> Drop for Held<T> {
    fn drop(&mut self) {
        // Without an interpreter, as at the end of a program, there is no lock to release.
        Python::try_attach(|py| py.detach(|| drop(self.0.take())));
    }
}
