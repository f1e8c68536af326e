//! Results in miniature: trains small models of every family through the program `esolm`, measures likelihood and samples, and renders
//! docs/results.md from the records. Nothing here knows Burn; what is measured is what a user gets.

pub mod arguments;
pub mod compare;
pub mod corpus;
pub mod error;
pub mod metrics;
pub mod plan;
pub mod program;
pub mod record;
pub mod render;
pub mod reports;
pub mod run;
