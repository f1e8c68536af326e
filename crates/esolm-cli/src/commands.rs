//! One file per subcommand.

pub mod bench;
pub mod chat;
pub mod convert;
pub mod devices;
pub mod forward;
pub mod inspect;
pub mod manual;
pub mod ppl;
pub mod replay;
pub mod sample;
pub mod score;
pub mod serve;
pub mod train;
