//! The model's own thread. All computation runs there, one call at a time, so that polling from a caller's executor
//! never does heavy work. In a browser, which has a single thread, it is a task that yields to the page between passes
//! ([`crate::turn`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
#[cfg(not(target_family = "wasm"))]
use std::sync::OnceLock;
use std::task::{Context, Poll};
#[cfg(not(target_family = "wasm"))]
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use futures_core::Stream;

use crate::device::{DeviceInfo, LoadOptions};
use crate::engine::Engine;
#[cfg(not(target_family = "wasm"))]
use crate::error::EngineError;
use crate::error::Error;
use crate::files::{ModelFiles, Shared, Source};
#[cfg(not(target_family = "wasm"))]
use crate::turn::unless;

/// The future of a job that uses the engine.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

type Job = Box<dyn for<'a> FnOnce(&'a mut Engine) -> Doing<'a, ()> + Send>;

/// A handle to a model's thread, which ends once the last handle is dropped.
#[derive(Clone)]
pub struct Worker {
    jobs: Sender<Job>,
    /// Closed once the thread has released the model.
    ended: Receiver<()>,
    /// Dropped after `jobs`, whose end the thread waits for.
    #[cfg(not(target_family = "wasm"))]
    thread: Arc<Joined>,
}

/// A thread that is waited for when this is dropped. If a program ended while a thread still closed a GPU, the driver
/// would crash it.
#[cfg(not(target_family = "wasm"))]
#[derive(Default)]
pub(crate) struct Joined(OnceLock<Started>);

/// A thread, and the process that started it.
#[cfg(not(target_family = "wasm"))]
struct Started {
    thread: JoinHandle<()>,
    process: u32,
}

#[cfg(not(target_family = "wasm"))]
impl Joined {
    /// Waits for `thread` from now on.
    pub(crate) fn join(&self, thread: JoinHandle<()>) {
        let process = std::process::id();
        // Called once.
        let _ = self.0.set(Started { thread, process });
    }
}

#[cfg(not(target_family = "wasm"))]
impl Drop for Joined {
    fn drop(&mut self) {
        let Some(Started { thread, process }) = self.0.take() else {
            return;
        };
        if process != std::process::id() {
            // A fork does not have the thread.
            std::mem::forget(thread);
        } else if thread.thread().id() != thread::current().id() {
            // A job may drop the last handle, hence the condition. A panic was reported to whoever waited for the job.
            let _ = thread.join();
        }
    }
}

/// What a job delivers by other means than its result.
pub struct Delivery<T> {
    items: Pin<Box<Receiver<T>>>,
    is_over: bool,
    /// Without it, dropping the last handle would wait for a job that itself waits for its reader. In a browser nothing
    /// waits, and a reader must not keep a model from being closed.
    #[cfg(not(target_family = "wasm"))]
    _worker: Box<Worker>,
}

impl<T> Delivery<T> {
    /// The next item, or `None` once the job has ended.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.items.as_mut().poll_next(context)
    }

    /// Notes that the last item has been read. The reader keeps its handle to the model even then, since dropping the
    /// last one waits for the model's thread, which polling must not do.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// Whether the last item has been read.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Worker {
    /// Opens a model and loads it onto a device, on a thread of its own.
    #[cfg(not(target_family = "wasm"))]
    pub async fn start(source: Source, options: LoadOptions) -> Result<(Self, Loaded), Error> {
        let (worker, queue, ending) = Self::new();
        let (opened, opening) = async_channel::bounded::<()>(1);
        let (loaded, loading) = async_channel::bounded(1);
        let body = move || {
            pollster::block_on(async {
                let files = source.open();
                drop(opened);
                let is_given_up = || loaded.is_closed();
                let load = unless(is_given_up, async { load(files?, &options).await });
                let (engine, answer) = match load.await {
                    Some(Ok((engine, answer))) => (Some(engine), Ok(answer)),
                    Some(Err(error)) => (None, Err(error)),
                    None => return,
                };
                // If the caller gave up waiting, the queue's other end is gone as well.
                let _ = loaded.try_send(answer);
                drop(loaded);
                if let Some(engine) = engine {
                    serve(engine, queue).await;
                }
                drop(ending);
            });
        };
        let thread = thread::Builder::new()
            .name("esolm".into())
            .spawn(body)
            .map_err(|error| EngineError::Thread(error.to_string()))?;
        // Nothing is ever sent. Until the files are open, which may take a download, whoever no longer wants the model does
        // not wait for the thread.
        let _ = opening.recv().await;
        worker.thread.join(thread);
        let loaded = loading.recv().await.map_err(|_| Error::Crashed)??;
        Ok((worker, loaded))
    }

    /// Loads a model onto a device.
    #[cfg(target_family = "wasm")]
    pub async fn start(source: Source, options: LoadOptions) -> Result<(Self, Loaded), Error> {
        let (engine, loaded) = load(source.open()?, &options).await?;
        let (worker, queue, ending) = Self::new();
        wasm_bindgen_futures::spawn_local(async move {
            serve(engine, queue).await;
            drop(ending);
        });
        Ok((worker, loaded))
    }

    fn new() -> (Self, Queue, Sender<()>) {
        let (jobs, queue) = async_channel::unbounded();
        let (ending, ended) = async_channel::bounded(1);
        let worker = Self {
            jobs,
            ended,
            #[cfg(not(target_family = "wasm"))]
            thread: Arc::default(),
        };
        (worker, Queue(queue), ending)
    }

    /// Queues `job`. Its second argument tells it whether the result is still wanted; between passes, a job that is no
    /// longer wanted ends. A call is therefore cancelled by dropping the future returned here.
    pub async fn call<T, F>(&self, job: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Engine, Wanted<T>) -> Doing<'a, Result<T, Error>>
            + Send
            + 'static,
    {
        let (result, answer) = async_channel::bounded(1);
        let wanted = Wanted(result.clone());
        self.queue(Box::new(move |engine| {
            Box::pin(async move {
                if !result.is_closed() {
                    // The caller may have gone in the meantime.
                    let _ = result.try_send(job(engine, wanted).await);
                }
            })
        }));
        // If the thread ends without an answer, it has panicked.
        answer.recv().await.map_err(|_| Error::Crashed)?
    }

    /// Queues a job that delivers its results by other means.
    pub fn queue(&self, job: Job) {
        // The queue is closed only after a panic. The job is then dropped, along with the channel that its caller waits
        // on.
        let _ = self.jobs.try_send(job);
    }

    /// Hands this handle to the reader of what a queued job sends.
    pub fn delivery<T>(self, items: Receiver<T>) -> Delivery<T> {
        Delivery {
            items: Box::pin(items),
            is_over: false,
            #[cfg(not(target_family = "wasm"))]
            _worker: Box::new(self),
        }
    }

    /// Drops this handle. If it was the last one, waits until the model's memory has been freed.
    pub async fn close(self) {
        let Self { jobs, ended, .. } = self;
        let is_last = jobs.sender_count() == 1;
        drop(jobs);
        if is_last {
            // Nothing is ever sent; this waits for the channel to close.
            let _ = ended.recv().await;
        }
    }
}

/// Whether a job's result is still wanted.
pub struct Wanted<T>(Sender<Result<T, Error>>);

impl<T> Wanted<T> {
    /// False once the caller is gone.
    pub fn is_wanted(&self) -> bool {
        !self.0.is_closed()
    }
}

/// What is known about a loaded model.
pub struct Loaded {
    pub shared: Arc<Shared>,
    pub device: DeviceInfo,
}

async fn load(files: ModelFiles, options: &LoadOptions) -> Result<(Engine, Loaded), Error> {
    let ModelFiles { checkpoint, shared } = files;
    let engine = Engine::load(&checkpoint, options).await?;
    let device = engine.device().clone();
    Ok((engine, Loaded { shared, device }))
}

/// The thread's end of the queue. When the thread ends, even by a panic, the remaining jobs are dropped so that their
/// callers are notified.
struct Queue(Receiver<Job>);

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

async fn serve(mut engine: Engine, queue: Queue) {
    while let Ok(job) = queue.0.recv().await {
        job(&mut engine).await;
    }
    // A lost device has nothing to release.
    let _ = engine.close();
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::DeviceChoice;

    /// A program may end when it has dropped its last handle.
    #[test]
    fn whoever_drops_the_last_handle_waits() {
        let stories = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/stories");
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            ..LoadOptions::default()
        };
        let started = pollster::block_on(Worker::start(stories.into(), options));
        let Ok((worker, _)) = started else {
            panic!("there is a model");
        };
        let shared = Arc::new(());
        let of_job = shared.clone();
        let (go, going) = std::sync::mpsc::channel();
        worker.queue(Box::new(move |_| {
            Box::pin(async move {
                going.recv().expect("a word");
                thread::sleep(Duration::from_millis(50));
                drop(of_job);
            })
        }));
        drop(worker.clone());
        assert_eq!(Arc::strong_count(&shared), 2);
        go.send(()).expect("a job");
        drop(worker);
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
