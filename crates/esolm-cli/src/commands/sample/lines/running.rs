//! Lines as texts of a running batch, each with its own plan.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use esolm::{
    Error, ModelFiles, Request, RequestError, Serving, ServingError, ServingOptions, TextRequest,
    Writing,
};

use super::super::report::{Sequence, TextLine};
use super::asks_for_batches;
use crate::arguments::Sample;
use crate::failure::Failure;
use crate::job::Line;
use crate::setup;

/// Default number of texts written at once, if memory suffices.
const PLACES: usize = 32;
/// Texts that may wait for a place: as many as there can be lines processed together.
const QUEUE: usize = 1 << 20;
/// The error for a line that needs batches, found after the model was loaded as a running batch; the lines of a stream
/// are not known in advance.
const NOT_BESIDE_OTHERS: &str = "it asks for more tokens than the model's context, which a line of a stream cannot ask for by itself; \
     ask for them with --length, or give the lines as a file";
/// How often a wait for a text checks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Loads a model for `left` lines, with as many places as memory allows.
pub fn load(
    arguments: &Sample,
    mut files: ModelFiles,
    left: Option<u64>,
) -> Result<Serving, Failure> {
    let left = left.map_or(usize::MAX, |left| {
        usize::try_from(left).unwrap_or(usize::MAX)
    });
    let mut places = arguments.batch.unwrap_or(PLACES).min(left).max(1);
    loop {
        let options = ServingOptions {
            places,
            queue: QUEUE,
            length: None,
        };
        match setup::serve(files, &arguments.device, options, arguments.quiet) {
            Ok(serving) => return Ok(serving),
            // Fewer texts at once may fit.
            Err(error) if setup::is_of_memory(&error) && places > 1 => {
                places /= 2;
                files = setup::open(&arguments.source, true)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes lines. All of them wait for a place at once, so that no place is free while there are any. If `stop` ends
/// this, `done` gets the results that have no unwritten line before them.
pub fn write(
    serving: &Serving,
    lines: Vec<Line<Request>>,
    raw: bool,
    stop: &AtomicBool,
    done: &mut Vec<Result<TextLine, String>>,
) -> Result<(), Failure> {
    let mut under_way = Vec::with_capacity(lines.len());
    for Line { number, item } in lines {
        if asks_for_batches(&item, serving.config()) {
            under_way.push(Err(NOT_BESIDE_OTHERS.into()));
            continue;
        }
        let text = TextRequest {
            request: Request {
                first: number,
                ..item
            },
            ..TextRequest::default()
        };
        under_way.push(match serving.write(vec![text]) {
            Ok(mut writings) => Ok(writings.pop().ok_or(Error::Crashed)?),
            Err(ServingError::Model(
                error @ (Error::Request(_) | Error::Text(_) | Error::Plan(_)),
            )) => Err(error.to_string()),
            Err(ServingError::TooLong { length, most }) => {
                let context = most;
                Err(RequestError::Length { length, context }.to_string())
            }
            Err(error) => return Err(refused(error)),
        });
    }
    for writing in under_way {
        done.push(match writing {
            Ok(writing) => match line(serving, writing, raw, stop)? {
                Some(line) => line,
                None => break,
            },
            Err(why) => Err(why),
        });
    }
    Ok(())
}

/// Waits for a text, or what is wrong with it, unless `stop` ends the wait.
fn line(
    serving: &Serving,
    writing: Writing,
    raw: bool,
    stop: &AtomicBool,
) -> Result<Option<Result<TextLine, String>>, Failure> {
    let resolved = writing.resolved().clone();
    let Some(written) = wait_for(writing.finish(), stop) else {
        return Ok(None);
    };
    let written = match written {
        Ok(written) => written,
        Err(ServingError::Model(Error::Engine(error))) if error.is_of_text() => {
            return Ok(Some(Err(Failure::from(error).message().into())));
        }
        Err(error) => return Err(refused(error)),
    };
    let text = match serving.codec() {
        Some(codec) if raw => Some(codec.decode(&written.tokens)),
        codec => codec.map(|_| written.text),
    };
    let logprobs = written.log_probs.into_iter();
    Ok(Some(Ok(TextLine {
        seed: Some(resolved.options.seed),
        run_on: written.ran_on,
        altered: resolved.given.altered.clone(),
        sequence: Sequence {
            sequence: resolved.options.first_sequence,
            text,
            tokens: written.tokens,
            finish: written.finish,
            logprobs: (resolved.logprobs)
                .then(|| logprobs.map(|told| told.map(|told| told.logp)).collect()),
        },
    })))
}

/// The result of `work`, or nothing if `stop` ends the wait for it.
fn wait_for<T>(work: impl Future<Output = T>, stop: &AtomicBool) -> Option<T> {
    /// Wakes the waiting thread.
    struct Waiting(Thread);
    impl Wake for Waiting {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut work = pin!(work);
    let waker = Arc::new(Waiting(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return Some(done);
        }
        if stop.load(Ordering::SeqCst) {
            return None;
        }
        thread::park_timeout(LOOK);
    }
}

fn refused(error: ServingError) -> Failure {
    match error {
        ServingError::Model(error) => error.into(),
        error => Failure::failed(error.to_string()),
    }
}
