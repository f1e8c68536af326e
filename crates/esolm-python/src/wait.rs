//! Waits for the library's futures as Python wants it: other threads run meanwhile, and Ctrl-C ends the wait.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
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
    let mut future = pin!(future);
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
        py.check_signals()?;
    }
}
