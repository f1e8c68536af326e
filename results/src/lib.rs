//! Results in miniature: trains small models of every family through the program `esolm`, measures likelihood and samples, and makes
//! docs/results.md of the records. Nothing here knows Burn; what is measured is what a user gets.

pub mod arguments;
pub mod clock;
pub mod compare;
pub mod corpus;
pub mod failure;
pub mod metrics;
pub mod plan;
pub mod program;
pub mod published;
pub mod record;
pub mod render;
pub mod run;
pub mod tensors;
