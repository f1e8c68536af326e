//! Options that only a SetDLM has.

use clap::{Args, ValueEnum};
use esolm::request::InfillContext;

use super::values::at_least_one;

/// How a SetDLM goes through a text.
#[derive(Clone, Copy, Debug, Args)]
pub struct Sets {
    /// Masked places that a SetDLM draws at in a step, from the first one on. Default: the most tokens of a set that it was trained for.
    #[arg(long, value_name = "PLACES", value_parser = at_least_one, allow_negative_numbers = true)]
    pub window: Option<usize>,
    /// Let a SetDLM go through the text in an order that its noise draws, as in training; else confidence alone decides the order.
    #[arg(long)]
    pub train_order: bool,
    /// What a SetDLM sees of a template: both sides of a gap from the beginning, or what stands left of it. Default: both.
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
