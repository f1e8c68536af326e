//! Work that takes time, on threads of its own: reading and tokenizing bodies, and writing answers.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Bytes above which a body, or an answer, counts as large.
const LARGE: usize = 256 << 10;

/// Limits how much of it is done at once. Large pieces, each of which may take seconds and a gigabyte, only queue among
/// themselves.
pub struct Workers {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Workers {
    /// For a machine with this many cores.
    pub fn new(cores: usize) -> Self {
        Self {
            small: Arc::new(Semaphore::new(cores)),
            large: Arc::new(Semaphore::new(1)),
        }
    }

    /// Does `work`, which takes time because of its `bytes` of input or output. Once begun, it goes on to its end even if
    /// the client goes away, and only then makes room for other work.
    ///
    /// # Errors
    /// Errors of `work`.
    pub async fn work<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let crashed = || {
            let message = "the request failed inside the server";
            ApiError::of(StatusCode::INTERNAL_SERVER_ERROR, message)
        };
        let workers = match bytes > LARGE {
            true => &self.large,
            false => &self.small,
        };
        let turn = (workers.clone().acquire_owned().await).map_err(|_| crashed())?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.unwrap_or_else(|_| Err(crashed()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Otherwise a client that sends large bodies and goes away could have any number of them tokenized at once.
    #[test]
    fn work_takes_its_turn_even_if_its_client_is_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let workers = Workers::new(2);
            let (begun, begins) = mpsc::channel();
            let (go, going) = mpsc::channel::<()>();
            let slow = workers.work(LARGE + 1, move || {
                begun.send(()).expect("somebody waits");
                going.recv().expect("a word");
                Ok(())
            });
            let moment = Duration::from_millis(50);
            assert!(tokio::time::timeout(moment, slow).await.is_err());
            begins.recv().expect("it has begun");
            let mut next = Box::pin(workers.work(LARGE + 1, || Ok(1)));
            assert!(tokio::time::timeout(moment, &mut next).await.is_err());
            assert_eq!(workers.work(1, || Ok(2)).await.expect("room"), 2);
            go.send(()).expect("it waits");
            assert_eq!(next.await.expect("room"), 1);
        });
    }

    #[test]
    fn a_panic_fails_only_its_request() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            let workers = Workers::new(1);
            let failed = workers.work(1, || -> Result<(), ApiError> { panic!("a bug") });
            let status = failed.await.expect_err("it failed").status;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(workers.work(1, || Ok(3)).await.expect("room"), 3);
        });
    }
}
