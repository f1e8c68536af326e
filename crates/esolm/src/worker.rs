//! The model's own thread. Whatever computes runs there, one call after the other, so that no `poll` of a caller's executor ever does
//! anything heavy. A browser has one thread: there it is a task of the same thread, which yields to the page between two passes ([`crate::turn`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_channel::{Receiver, Sender};

use crate::device::{DeviceInfo, LoadOptions};
use crate::engine::Engine;
#[cfg(not(target_family = "wasm"))]
use crate::error::EngineError;
use crate::error::Error;
use crate::files::{ModelFiles, Shared, Source};

/// What a job does with the engine.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

type Job = Box<dyn for<'a> FnOnce(&'a mut Engine) -> Doing<'a, ()> + Send>;

/// A handle to a model's thread, which ends when the last one is gone.
#[derive(Clone)]
pub struct Worker {
    jobs: Sender<Job>,
    /// Closed when the thread has given the model up.
    ended: Receiver<()>,
}

impl Worker {
    /// Opens a model and loads it onto a device, in a thread of its own.
    #[cfg(not(target_family = "wasm"))]
    pub async fn start(source: Source, options: LoadOptions) -> Result<(Self, Loaded), Error> {
        let (worker, queue, ending) = Self::new();
        let (loaded, loading) = async_channel::bounded(1);
        let body = move || {
            pollster::block_on(async {
                let (engine, answer) = match load(source, &options).await {
                    Ok((engine, answer)) => (Some(engine), Ok(answer)),
                    Err(error) => (None, Err(error)),
                };
                // Whoever gave up waiting has dropped the queue's other end as well.
                let _ = loaded.try_send(answer);
                drop(loaded);
                if let Some(engine) = engine {
                    serve(engine, queue).await;
                }
                drop(ending);
            });
        };
        std::thread::Builder::new()
            .name("esolm".into())
            .spawn(body)
            .map_err(|error| EngineError::Thread(error.to_string()))?;
        let loaded = loading.recv().await.map_err(|_| Error::Crashed)??;
        Ok((worker, loaded))
    }

    /// Loads a model onto a device.
    #[cfg(target_family = "wasm")]
    pub async fn start(source: Source, options: LoadOptions) -> Result<(Self, Loaded), Error> {
        let (engine, loaded) = load(source, &options).await?;
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
        (Self { jobs, ended }, Queue(queue), ending)
    }

    /// Queues `job`. It hears from its second argument whether anybody still waits for the result: between two passes a job that nobody
    /// waits for ends. Dropping the future that this returns is therefore how a call is cancelled.
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
                    // Whoever does not wait any more needs no answer.
                    let _ = result.try_send(job(engine, wanted).await);
                }
            })
        }));
        // The thread ended without an answer: it panicked.
        answer.recv().await.map_err(|_| Error::Crashed)?
    }

    /// Queues a job whose answers go another way.
    pub fn queue(&self, job: Job) {
        // The queue is closed only after a panic. The job is dropped then, and with it the channel that its caller waits on.
        let _ = self.jobs.try_send(job);
    }

    /// Gives this handle up and, where it was the last, waits until the model's memory is free.
    pub async fn close(self) {
        let Self { jobs, ended } = self;
        let is_last = jobs.sender_count() == 1;
        drop(jobs);
        if is_last {
            // Nothing is ever sent.
            let _ = ended.recv().await;
        }
    }
}

/// Whether somebody waits for a job's result.
pub struct Wanted<T>(Sender<Result<T, Error>>);

impl<T> Wanted<T> {
    /// False once nobody does.
    pub fn is_wanted(&self) -> bool {
        !self.0.is_closed()
    }
}

/// What is known of a model that was loaded.
pub struct Loaded {
    pub shared: Arc<Shared>,
    pub device: DeviceInfo,
}

async fn load(source: Source, options: &LoadOptions) -> Result<(Engine, Loaded), Error> {
    let ModelFiles { checkpoint, shared } = source.open()?;
    let engine = Engine::load(&checkpoint, options).await?;
    let device = engine.device().clone();
    Ok((engine, Loaded { shared, device }))
}

/// The thread's end of the queue. Jobs that are left when the thread ends, after a panic too, are dropped, so that whoever waits for them
/// hears of it.
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
    // On a lost device there is nothing to give back.
    let _ = engine.close();
}
