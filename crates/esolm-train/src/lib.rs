//! Training of the Eso-LM family (*Esoteric Language Models*, arXiv 2506.01928) on any Burn device.
//!
//! Data flows one way: [`recipe`] -> [`data`] -> [`loss`] (texts and noise to rows) -> `pass` (rows to -log p, on [`ops`]) ->
//! [`optimizer`] -> [`state`] and a Hugging Face folder; [`train`](train()) is the loop around it.

mod batch;
mod curve;
pub mod data;
mod error;
pub mod init;
mod log;
pub mod loss;
mod memory;
pub mod ops;
pub mod optimizer;
mod pass;
pub mod recipe;
mod resume;
pub mod state;
mod train;
pub mod weights;

pub use batch::{Batch, BatchBuilder};
pub use error::{Changed, TokenizerMark, TrainError};
pub use init::Source;
pub use log::{Line, read_log};
pub use pass::scored_nll;
pub use recipe::Recipe;
pub use resume::{is_same_place, resumed_recipe, saved_recipe};
pub use train::{Ended, Event, Options, evaluate, train};

/// What random streams of training are for; a purpose for each, so that none shares numbers with another.
pub(crate) mod purpose {
    use esolm::rng::Purpose;

    const BASE: u32 = 0x7472_6169;
    /// First weights; the sequence is the number of the parameter.
    pub const INIT: Purpose = Purpose::Other(BASE);
    /// Order of documents and windows; the sequence is the epoch.
    pub const EPOCH: Purpose = Purpose::Other(BASE + 1);
    /// What the loss has beyond the published one; the sequence is the number of the text.
    pub const WIDEN: Purpose = Purpose::Other(BASE + 2);
}
