//! Golden files and small helpers for the checkpoint tests.

#![allow(dead_code)] // every test file uses its own part

#[path = "../../../esolm-checkpoint/tests/common/mod.rs"]
mod files;
pub mod forged;
pub mod golden;
pub mod plan;

#[allow(unused_imports)] // as above
pub use files::*;

/// The configuration of the golden AR model, the smallest one.
pub fn ar_config() -> String {
    String::from_utf8(golden("ar.config.json")).unwrap()
}
