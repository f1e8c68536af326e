//! esolm in a browser: what the npm package `esolm` (folder `web/`) calls. Values of more than one field cross as JSON text, with the field names
//! of docs/plan-format.md.
//!
//! Nothing here blocks: a browser has one thread, and what a GPU computes comes with a promise.
#![cfg(target_family = "wasm")]

mod abort;
mod chat;
mod error;
mod json;
mod model;
mod run;
mod source;

use wasm_bindgen::prelude::wasm_bindgen;

use error::Failure;
use json::json;

unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// Runs the constructors of the module, once. The kernels' runtime brings some; as long as nobody runs them, the linker has every exported
/// function run all of them at every call.
#[wasm_bindgen(start)]
fn start() {
    // SAFETY: the linker defines it, and this is the only place that calls it.
    unsafe { __wasm_call_ctors() };
}

/// The version of the engine.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// JSON of what there is to run on. Nothing stays open.
///
/// # Errors
/// None that a browser is known to cause.
#[wasm_bindgen]
pub async fn device_facts() -> Result<String, Failure> {
    json(&esolm::device::facts().await)
}
