pub use esolm_core::*;

pub mod cpu;
pub mod draw;
pub mod error;
pub mod model;
