//! esolm in a browser.
#![cfg(target_family = "wasm")]

pub use esolm::Engine;
