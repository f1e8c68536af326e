//! Options that only a SetDLM has.

use clap::{Args, ValueEnum};
use esolm::request::InfillContext;

use super::values::at_least_one;

/// How a SetDLM goes through a text.
#[derive(Clone, Copy, Debug, Args)]
pub struct Sets {
    /// Number of masked positions, from the first one on, at which a SetDLM draws in a step. Default: the size of the largest set that it
    /// was trained on.
    #[arg(long, value_name = "PLACES", value_parser = at_least_one, allow_negative_numbers = true)]
    pub window: Option<usize>,
    /// Let a SetDLM write in an order drawn from its noise, as in training; otherwise confidence alone decides the order.
    #[arg(long)]
    pub train_order: bool,
    /// What a SetDLM sees of an infill template: both sides of a gap from the beginning, or only what stands to its left. Default: both.
    #[arg(long, value_enum, value_name = "SIDE")]
    pub infill_context: Option<ContextName>,
}

/// [`InfillContext`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ContextName {
    /// All given tokens.
    Both,
    /// Those left of what was drawn.
    Left,
}

impl From<ContextName> for InfillContext {
    fn from(name: ContextName) -> Self {
        match name {
            ContextName::Both => Self::Both,
            ContextName::Left => Self::Left,
        }
    }
}
