//! Shared helpers of the tests that span crates: golden data of the published code, and the checks that every executor must pass.
//!
//! An executor takes part by implementing [`Runner`]; the checks in [`checks`] then run every golden case on it.

pub mod answers;
pub mod blocks;
pub mod broken;
pub mod checks;
pub mod confidence;
pub mod decoders;
pub mod family;
pub mod family_schedules;
pub mod golden;
pub mod halves;
pub mod losses;
pub mod mixed;
pub mod runner;
pub mod samplers;
pub mod sets;
pub mod sets_sampling;

pub use golden::{Golden, checkpoint, stories};
pub use runner::{OnDevice, Reference, Runner};
