//! esolm in a browser: what the npm package `esolm` (folder `web/`) calls. Structured values cross as JSON text, with
//! the field names of docs/plan-format.md.
//!
//! Nothing here blocks: a browser has one thread, and GPU results arrive as promises.
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

/// Runs the module's constructors once (the kernels' runtime has some). If nothing calls them, the linker makes every
/// exported function run all of them at every call.
#[wasm_bindgen(start)]
fn start() {
    // SAFETY: the linker defines this function, and nothing else calls it.
    unsafe { __wasm_call_ctors() };
}

/// The engine's version.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// The available devices as JSON. Keeps no device open.
///
/// # Errors
/// None known in a browser.
#[wasm_bindgen]
pub async fn device_facts() -> Result<String, Failure> {
    json(&esolm::device::facts().await)
}
