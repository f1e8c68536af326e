//! Device errors that no call returns: memory is refused, a shader does not compile, the device is lost.
//!
//! Natively, Burn's runtime waits for the driver's answer to each creation and reports it with the next read. A browser cannot wait, so
//! there each piece of work runs inside WebGPU error scopes, and its results are not used before the scopes have answered.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::EngineError;

/// An error that the device reported.
#[derive(Debug, Clone)]
enum Fault {
    Memory(String),
    Shader(String),
    /// A queue refuses buffers that were valid: their device is gone.
    Lost(String),
}

/// The state of a device, shared by everything that runs on it.
#[derive(Debug, Default)]
struct Shared {
    lost: Mutex<Option<String>>,
    /// The first error outside any scope.
    stray: Mutex<Option<Fault>>,
    /// Something was refused, so that entries in the runtime's pools and pipelines do not exist on the device.
    unusable: Mutex<bool>,
}

/// Watches an open device.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    #[cfg(any(test, target_family = "wasm"))]
    pub(crate) device: wgpu::Device,
}

/// Outstanding answers of error scopes.
#[cfg(target_family = "wasm")]
type Answers = Vec<std::pin::Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>>;

/// The errors that one model still has to wait for.
#[derive(Default)]
pub struct Pending {
    #[cfg(target_family = "wasm")]
    answers: std::cell::RefCell<Answers>,
    /// Memory was refused, so what was allocated since does not exist.
    refused: Arc<Mutex<bool>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fault {
    fn of(error: &wgpu::Error) -> Self {
        let text = error.to_string();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = words.chars().take(300).collect();
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::Memory(line),
            wgpu::Error::Validation { .. } if line.contains("In Queue::") => Self::Lost(line),
            wgpu::Error::Validation { .. } | wgpu::Error::Internal { .. } => Self::Shader(line),
        }
    }

    fn into_error(self) -> EngineError {
        match self {
            Self::Memory(what) => EngineError::DeviceMemory(what),
            Self::Shader(what) => EngineError::Kernel(what),
            Self::Lost(what) => EngineError::Device(what),
        }
    }
}

impl Watch {
    /// Begins to watch `device`, after Burn's runtime was set up on it: this replaces its handler of uncaptured errors, which panics.
    pub fn new(device: &wgpu::Device) -> Self {
        let shared = Arc::new(Shared::default());
        let at = shared.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&at.stray).get_or_insert_with(|| Fault::of(&error));
        }));
        // Natively, a device has only one such callback, and the runtime uses it.
        #[cfg(target_family = "wasm")]
        {
            let at = shared.clone();
            device.set_device_lost_callback(move |reason, message| {
                let text = match message.is_empty() {
                    true => format!("{reason:?}").to_lowercase(),
                    false => message,
                };
                lock(&at.lost).get_or_insert(text);
            });
        }
        Self {
            shared,
            #[cfg(any(test, target_family = "wasm"))]
            device: device.clone(),
        }
    }

    /// A check of whether the device is still open that does not keep it open: its error handler holds the shared state.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn is_open(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let shared = Arc::downgrade(&self.shared);
        move || shared.strong_count() > 0
    }

    /// Whether another model may use this device: it is not lost, and never refused anything.
    pub fn is_sound(&self) -> bool {
        lock(&self.shared.lost).is_none() && !*lock(&self.shared.unusable)
    }

    /// Runs `work`, which must not wait for anything, inside error scopes; `pending` collects their answers.
    pub fn scoped<T>(&self, pending: &Pending, work: impl FnOnce() -> T) -> T {
        #[cfg(not(target_family = "wasm"))]
        let result = {
            let _ = pending;
            work()
        };
        #[cfg(target_family = "wasm")]
        let result = {
            let scopes = [
                wgpu::ErrorFilter::OutOfMemory,
                wgpu::ErrorFilter::Internal,
                wgpu::ErrorFilter::Validation,
            ]
            .map(|filter| self.device.push_error_scope(filter));
            let result = work();
            let mut answers = pending.answers.borrow_mut();
            // The innermost was pushed last. If an allocation is refused, so is everything that uses it, so the cause is asked for first.
            let popped: Vec<_> = scopes.into_iter().rev().map(|scope| scope.pop()).collect();
            for answer in popped.into_iter().rev() {
                answers.push(Box::pin(answer));
            }
            result
        };
        result
    }

    /// Waits for the answers of all scopes so far, but not for those of later work.
    ///
    /// # Errors
    /// The first error that the device reported since the last call, or the loss of the device.
    pub fn settle(
        &self,
        pending: &Pending,
    ) -> impl Future<Output = Result<(), EngineError>> + 'static {
        #[cfg(target_family = "wasm")]
        let answers = std::mem::take(&mut *pending.answers.borrow_mut());
        let (shared, refused) = (self.shared.clone(), pending.refused.clone());
        async move {
            #[cfg_attr(not(target_family = "wasm"), allow(unused_mut))]
            let mut first: Option<Fault> = None;
            #[cfg(target_family = "wasm")]
            for answer in answers {
                if let Some(error) = answer.await {
                    first.get_or_insert_with(|| Fault::of(&error));
                }
            }
            if let Some(reason) = lock(&shared.lost).clone() {
                return Err(EngineError::Device(reason));
            }
            let Some(fault) = first.or_else(|| lock(&shared.stray).take()) else {
                return Ok(());
            };
            *lock(&shared.unusable) = true;
            if matches!(fault, Fault::Memory(_)) {
                *lock(&refused) = true;
            }
            Err(fault.into_error())
        }
    }
}

impl Pending {
    /// Whether memory was refused since the last call.
    pub fn take_refused(&self) -> bool {
        std::mem::take(&mut *lock(&self.refused))
    }
}
