//! A generation in progress.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::Generation;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::Failure;
use crate::json::json;

/// A generation in progress. Freeing it ends it after the current pass.
#[wasm_bindgen]
pub struct WasmRun {
    /// Taken out while its next event is awaited.
    generation: Cell<Option<Generation>>,
    stop: Arc<AtomicBool>,
}

impl From<Generation> for WasmRun {
    fn from(generation: Generation) -> Self {
        Self {
            stop: generation.stop_flag(),
            generation: Cell::new(Some(generation)),
        }
    }
}

#[wasm_bindgen]
impl WasmRun {
    /// The next event as JSON, as in a trace: a header, a step or the footer; `None` after the footer or an error.
    ///
    /// # Errors
    /// If the request does not fit the model, the device fails, or the previous event is still awaited.
    pub async fn next(&self) -> Result<Option<String>, Failure> {
        let mut generation = self.generation.take().ok_or_else(|| {
            Failure::new(
                "busy",
                "the event before this one is still to come; wait for it first",
            )
        })?;
        let event = generation.next().await;
        self.generation.set(Some(generation));
        event.transpose()?.map(|event| json(&event)).transpose()
    }

    /// Ends the run after the current pass; the steps so far and the footer are still reported.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
