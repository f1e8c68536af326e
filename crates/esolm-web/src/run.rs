//! A generation under way.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::Generation;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::Failure;
use crate::json::json;

/// A generation under way. Freeing it ends it after the pass under way.
#[wasm_bindgen]
pub struct WasmRun {
    /// Away while its next event is waited for.
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
    /// JSON of the next event: a header, a step or the footer, as a trace has them; nothing after the footer or an error.
    ///
    /// # Errors
    /// When the request does not fit the model, the device fails, or the event before is still waited for.
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

    /// Ends the run after the pass under way; the steps so far and the footer still come.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
