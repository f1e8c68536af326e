//! One file a subcommand.

pub mod bench;
pub mod convert;
pub mod devices;
pub mod forward;
pub mod inspect;
pub mod replay;
pub mod sample;
