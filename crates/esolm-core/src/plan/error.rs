use thiserror::Error;

use super::types::Schedule;
use crate::config::{AttentionKind, Family};

/// Why a plan cannot be made or is not valid. Every message is one sentence with the remedy.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PlanError {
    /// A value out of its range.
    #[error("{name} is {value}; it must be {range}")]
    Range {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        range: String,
    },
    /// Batch times length is too large.
    #[error(
        "{sequences} sequences of {length} tokens are more than {max} tokens; take a smaller batch or a shorter length"
    )]
    TooManyTokens {
        /// Sequences in the batch.
        sequences: usize,
        /// Tokens per sequence.
        length: usize,
        /// Most tokens in all.
        max: usize,
    },
    /// A given token that does not fit.
    #[error("sequence {sequence}: the given token at position {position} {reason}")]
    Known {
        /// Index within the batch.
        sequence: usize,
        /// Its natural position.
        position: u32,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// A model that starts from a token it does not name.
    #[error(
        "an AR model starts from the beginning-of-text token, which the configuration does not name; set \"bos_token_id\" in config.json"
    )]
    NoBos,
    /// AR with a schedule of another family.
    #[error(
        "an AR model writes from left to right alone; use the schedule left-to-right, or a model of another family"
    )]
    ArSchedule,
    /// A gap for an AR model to fill.
    #[error(
        "text {sequence} has a gap before the token at position {position}, and an AR model fills none, since it only continues what it is given; use an Eso-LM, an MDLM, a BD3-LM or a SetDLM"
    )]
    ArGap {
        /// Index of the text within the batch.
        sequence: usize,
        /// Natural position of the first given token behind the gap.
        position: u32,
    },
    /// A schedule of another family.
    #[error("the schedule {schedule} {why}")]
    Schedule {
        /// The schedule.
        schedule: Schedule,
        /// What it does, and the remedy.
        why: &'static str,
    },
    /// An attention that the family cannot be sampled with.
    #[error("{family} with {attention} attention cannot be sampled; {remedy}")]
    Attention {
        /// The family.
        family: Family,
        /// Its attention.
        attention: AttentionKind,
        /// Why, and what can.
        remedy: &'static str,
    },
    /// A plan for another model.
    #[error(
        "the plan is for a vocabulary of {vocab_size} with the mask token {mask_index}, which the model does not have; give a plan made for this model"
    )]
    OtherModel {
        /// V of the plan.
        vocab_size: usize,
        /// Its mask token.
        mask_index: u32,
    },
    /// A plan for an Eso-LM with another attention.
    #[error(
        "the plan is for an Eso-LM with {planned} attention, and the model has {own} attention; give a plan made for this model"
    )]
    OtherAttention {
        /// Attention of the plan.
        planned: AttentionKind,
        /// That of the model.
        own: AttentionKind,
    },
    /// Recorded arrays that are not a complete run.
    #[error("the recorded run cannot be replayed: {0}; give the arrays of one complete run")]
    Recorded(String),
    /// A plan file that is not valid.
    #[error("the plan is not valid: {0}; write it again, in the form of docs/plan-format.md")]
    Invalid(String),
}
