//! The model's own thread. Whatever computes runs there, one call after the other, so that no `poll` of a caller's executor ever does
//! anything heavy. A browser has one thread: there it is a task of the same thread, which lets the page breathe between two passes.

use std::future::Future;
use std::pin::Pin;

use async_channel::{Receiver, Sender};
use esolm_core::checkpoint::Checkpoint;

use crate::device::{DeviceInfo, LoadOptions};
use crate::engine::Engine;
#[cfg(not(target_family = "wasm"))]
use crate::error::EngineError;
use crate::error::Error;

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
    /// Loads a checkpoint onto a device, in a thread of its own.
    #[cfg(not(target_family = "wasm"))]
    pub async fn start(
        checkpoint: Checkpoint,
        options: LoadOptions,
    ) -> Result<(Self, DeviceInfo), Error> {
        let (worker, queue, ending) = Self::new();
        let (loaded, loading) = async_channel::bounded(1);
        let body = move || {
            pollster::block_on(async {
                match Engine::load(&checkpoint, &options).await {
                    Ok(engine) => {
                        drop(checkpoint);
                        // Whoever gave up waiting has dropped the queue as well.
                        let _ = loaded.try_send(Ok(engine.device().clone()));
                        drop(loaded);
                        serve(engine, queue).await;
                    }
                    Err(error) => {
                        let _ = loaded.try_send(Err(error));
                    }
                }
                drop(ending);
            });
        };
        std::thread::Builder::new()
            .name("esolm".into())
            .spawn(body)
            .map_err(|error| EngineError::HostMemory {
                what: format!("the model's thread ({error})"),
                bytes: None,
            })?;
        let device = loading.recv().await.map_err(|_| Error::Crashed)??;
        Ok((worker, device))
    }

    /// Loads a checkpoint onto a device.
    #[cfg(target_family = "wasm")]
    pub async fn start(
        checkpoint: Checkpoint,
        options: LoadOptions,
    ) -> Result<(Self, DeviceInfo), Error> {
        let engine = Engine::load(&checkpoint, &options).await?;
        let (worker, queue, ending) = Self::new();
        let device = engine.device().clone();
        wasm_bindgen_futures::spawn_local(async move {
            serve(engine, queue).await;
            drop(ending);
        });
        Ok((worker, device))
    }

    fn new() -> (Self, Receiver<Job>, Sender<()>) {
        let (jobs, queue) = async_channel::unbounded();
        let (ending, ended) = async_channel::bounded(1);
        (Self { jobs, ended }, queue, ending)
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
        // The queue is closed only after a panic, and then whoever waits finds his channel closed as well.
        let _ = self.jobs.try_send(job);
    }

    /// Gives the model up and waits until its memory is free.
    pub async fn close(self) {
        let Self { jobs, ended } = self;
        drop(jobs);
        // Nothing is ever sent.
        let _ = ended.recv().await;
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

async fn serve(mut engine: Engine, queue: Receiver<Job>) {
    while let Ok(job) = queue.recv().await {
        job(&mut engine).await;
    }
    // On a lost device there is nothing to give back.
    let _ = engine.close();
}

/// Lets a browser's thread take its next turn, so that a page paints and messages arrive. Natively there is nobody to wait for.
#[cfg(not(target_family = "wasm"))]
pub async fn turn() {}

#[cfg(target_family = "wasm")]
pub use browser::turn;

#[cfg(target_family = "wasm")]
mod browser {
    use js_sys::{Function, Promise};
    use wasm_bindgen::JsValue;
    use wasm_bindgen::prelude::wasm_bindgen;
    use wasm_bindgen_futures::JsFuture;

    #[wasm_bindgen]
    extern "C" {
        type MessageChannel;
        #[wasm_bindgen(constructor)]
        fn new() -> MessageChannel;
        #[wasm_bindgen(method, getter)]
        fn port1(this: &MessageChannel) -> MessagePort;
        #[wasm_bindgen(method, getter)]
        fn port2(this: &MessageChannel) -> MessagePort;

        type MessagePort;
        #[wasm_bindgen(method, setter)]
        fn set_onmessage(this: &MessagePort, listener: &Function);
        #[wasm_bindgen(method, js_name = postMessage)]
        fn post(this: &MessagePort, message: &JsValue);
        #[wasm_bindgen(method)]
        fn close(this: &MessagePort);
    }

    /// As the native one. A message to oneself comes without the pause that timers have.
    pub async fn turn() {
        let channel = MessageChannel::new();
        let received = Promise::new(&mut |resolve, _| channel.port1().set_onmessage(&resolve));
        channel.port2().post(&JsValue::NULL);
        // Nothing rejects it.
        let _ = JsFuture::from(received).await;
        channel.port1().close();
    }
}
