//! What can go wrong. The messages say what is wrong and with what; each front end adds in its own words which option to change.

use esolm_core::checkpoint::CheckpointError;
use esolm_core::config::Family;
use esolm_core::documents::BetweenError;
use esolm_core::message::count;
use esolm_core::plan::PlanError;
use esolm_core::request::RequestError;
use esolm_core::rows::RowsError;
use esolm_core::text::TextError;
use serde::{Deserialize, Serialize};

use crate::chat::ChatError;
use crate::memory::{MemoryRoom, MemoryUse};

use crate::weights::Weights;

/// An error of a [`Model`](crate::Model).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer, or a text for it.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A text for a model that was loaded without a tokenizer.
    #[error("the model was loaded without a tokenizer, which texts need")]
    NeedsTokenizer,
    /// The request does not fit the model.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The plan does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Rows that cannot be made from given arrays.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The device failed, or something does not fit it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A text that cannot be scored.
    #[error(transparent)]
    Likelihood(LikelihoodError),
    /// One of several texts cannot be scored.
    #[error("text {index}: {source}")]
    Item {
        /// Index of the text among those given, from 0.
        index: usize,
        /// Why.
        source: ItemError,
    },
    /// A value out of its range.
    #[error("{option} is {value}; it must be {range}")]
    Range {
        /// Name of the field.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        range: String,
    },
    /// An option that a model of this family does not have.
    #[error("{option} does not apply to {why}; leave it out")]
    NotApplicable {
        /// Name of the field.
        option: &'static str,
        /// The family, and what it does instead.
        why: &'static str,
    },
    /// Longer windows than the model's context.
    #[error(
        "windows of {length} tokens are more than the model's context of {context}; use at most that"
    )]
    Context {
        /// Tokens of a window.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Not one order a sequence.
    #[error("there are {} for {}; give one for each", count(*.orders, "order"), count(*.sequences, "sequence"))]
    Orders {
        /// Orders given.
        orders: usize,
        /// Sequences given.
        sequences: usize,
    },
    /// Sequences of tokens that are longer than the model's context.
    #[error(
        "the sequences have {length} tokens, but the model's context is {context}; give shorter ones"
    )]
    LongSequences {
        /// Tokens of a sequence.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// No document was given, or none is left.
    #[error("there is no document to score{}; give other text", left_out(*.dropped))]
    NoDocument {
        /// Documents that were left out for their characters.
        dropped: usize,
    },
    /// Nothing predicts the few tokens that there are.
    #[error("there is no token to score; give longer windows or more text")]
    NoToken,
    /// Neither likelihood was asked for.
    #[error(
        "neither the exact likelihood nor the NELBO is left to compute; ask for one draw or more"
    )]
    NothingToCompute,
    /// A conversation that cannot be gone on with.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The call was stopped by its caller.
    #[error("stopped before it was done")]
    Stopped,
    /// The model's thread panicked: a fault of esolm.
    #[error("the model's thread ended unexpectedly; load the model again, and report it")]
    Crashed,
}

fn left_out(dropped: usize) -> String {
    match dropped {
        0 => String::new(),
        n => format!(" ({n} with characters beyond ASCII left out)"),
    }
}

impl From<LikelihoodError> for Error {
    fn from(error: LikelihoodError) -> Self {
        match error {
            LikelihoodError::Engine(error) => Self::Engine(error),
            error => Self::Likelihood(error),
        }
    }
}

/// Why one of several texts cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// It cannot become tokens.
    #[error(transparent)]
    Text(#[from] TextError),
    /// It does not fit the model's context, or nothing is before it.
    #[error("it {0}")]
    Between(#[from] BetweenError),
    /// A middle for a model that reads from left to right.
    #[error(
        "it has a gap, and {} does not read what comes after one; use an Eso-LM, an MDLM or a SetDLM", .0.one()
    )]
    LeftToRight(Family),
    /// A question without answers.
    #[error("it has no choices; give at least one")]
    NoChoices,
    /// An answer of no characters.
    #[error("it has an empty choice; give it at least one character")]
    EmptyChoice,
}

/// Why texts cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum LikelihoodError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A token that no text holds.
    #[error(
        "text {text} holds the token {token}, which is the model's mask or beyond its vocabulary of {vocab}; use text made for this model"
    )]
    Token {
        /// Index of the text, from 0.
        text: usize,
        /// The token.
        token: u32,
        /// V.
        vocab: usize,
    },
    /// An order that is not a permutation.
    #[error(
        "the order of text {text} is not a permutation of 0..{length}; each position must stand in it once"
    )]
    Order {
        /// Index of the text, from 0.
        text: usize,
        /// Tokens of the text.
        length: usize,
    },
    /// An order that does not begin with what nothing predicts.
    #[error(
        "the order of text {text} does not begin with position 0, whose token this model is always given; put it first"
    )]
    FirstOfOrder {
        /// Index of the text, from 0.
        text: usize,
    },
    /// A family without an exact likelihood.
    #[error(
        "{0} has no exact likelihood, since its clean tokens attend to later ones; ask for the NELBO alone"
    )]
    NoExact(&'static str),
    /// An AR model that prepends a token it does not name.
    #[error(
        "the AR model opens texts with a token that its configuration does not name; add bos_token_id to it"
    )]
    NoBos,
    /// A result that is not a number.
    #[error(
        "the probability of text {text} is not finite; the model's weights are damaged, or f16 does not hold them"
    )]
    NotFinite {
        /// Index of the text, from 0.
        text: usize,
    },
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights that were read are finite, but what is computed with is not: folded together they overflow, or the precision that they
    /// are to be stored in does not hold them.
    #[error("the weights made of tensor {tensor} reach {value:?}, more than {weights} holds")]
    Overflow {
        /// The tensor's name without `backbone.`.
        tensor: String,
        /// The first such weight.
        value: f32,
        /// What it was to be stored in.
        weights: Weights,
    },
    /// Something that no GPU computes.
    #[error("{what} are for the CPU only")]
    CpuOnly {
        /// "activations of 8 bits".
        what: String,
    },
    /// Activations of 8 bits beside weights that are floats.
    #[error("activations of 8 bits go with q8 or q4 weights, and the weights are {weights}")]
    Activations {
        /// Those asked for.
        weights: Weights,
    },
    /// No adapter answers to the choice.
    #[error("no GPU adapter was found ({0})")]
    NoAdapter(String),
    /// The adapter's index is not there.
    #[error("there is no GPU adapter {index} among the {count} here")]
    AdapterIndex {
        /// The index asked for.
        index: usize,
        /// How many adapters there are.
        count: usize,
    },
    /// An unknown value of an option.
    #[error("`{value}` is not a {option}; use {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// The values it takes.
        allowed: &'static str,
    },
    /// An adapter is there, but gives no device.
    #[error("the driver of {adapter} refuses a device ({why})")]
    Refused {
        /// Name of the adapter.
        adapter: String,
        /// The driver's own words.
        why: String,
    },
    /// The device failed or went away.
    #[error("the GPU stopped working ({0})")]
    Device(String),
    /// Something is larger than the device takes.
    #[error("{what} needs {} MiB, but this device holds at most {} MiB in one piece", mib(*.bytes), mib(*.limit))]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Its bytes.
        bytes: u64,
        /// The bytes that fit.
        limit: u64,
    },
    /// The device's memory does not suffice.
    #[error("the GPU has no memory left for this ({0})")]
    DeviceMemory(String),
    /// The device refuses a kernel.
    #[error("the GPU's driver refuses a kernel ({0})")]
    Kernel(String),
    /// The machine's own memory does not suffice.
    #[error("{purpose} needs {} MiB of memory, {}", mib(*.bytes), left(.room.as_ref()))]
    HostMemory {
        /// What the memory is for.
        purpose: MemoryUse,
        /// Bytes that it needs.
        bytes: u64,
        /// What there is, if the system tells.
        room: Option<MemoryRoom>,
    },
    /// The system gives no thread.
    #[error("a thread could not be started ({0})")]
    Thread(String),
    /// A shape that the kernels do not take.
    #[error("the GPU kernels do not take {0}")]
    Shape(String),
    /// Rows, tokens or noise that do not fit each other.
    #[error("the pass is inconsistent: {0}")]
    Rows(String),
    /// A row's logits are not finite: numbers overflowed on the way to them.
    #[error(
        "the network gives no finite logits for position {position} of text {text}: its weights are damaged, or its numbers too large for the \
         precision"
    )]
    NotFinite {
        /// Number of the text.
        text: u32,
        /// Position in the text, from 0.
        position: u32,
    },
    /// A token drawn is the mask.
    #[error(
        "the network prefers the mask to every token at position {position} of text {text}, so its weights are damaged"
    )]
    MaskDrawn {
        /// Number of the text.
        text: u32,
        /// Position in the text, from 0.
        position: u32,
    },
}

fn left(room: Option<&MemoryRoom>) -> String {
    match room {
        Some(MemoryRoom { bytes, limit }) => format!("but {limit} leaves {} MiB", bytes >> 20),
        None => "which the system does not give".into(),
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// What a GPU failed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceFault {
    /// Its driver refuses a device.
    Refused,
    /// It was lost, or stopped working.
    Lost,
    /// Its memory does not suffice, or it holds too little in one piece.
    Memory,
    /// Its driver refuses a kernel.
    Kernel,
    /// The kernels do not take a shape of this model on it.
    Shape,
}

impl EngineError {
    /// What a GPU failed at, if the error is one of a GPU and not of what was asked of it: on another device it might not happen.
    pub fn device_fault(&self) -> Option<DeviceFault> {
        match self {
            Self::Refused { .. } => Some(DeviceFault::Refused),
            Self::Device(_) => Some(DeviceFault::Lost),
            Self::Memory { .. } | Self::DeviceMemory(_) => Some(DeviceFault::Memory),
            Self::Kernel(_) => Some(DeviceFault::Kernel),
            Self::Shape(_) => Some(DeviceFault::Shape),
            Self::Checkpoint(_)
            | Self::NoAdapter(_)
            | Self::AdapterIndex { .. }
            | Self::Option { .. }
            | Self::HostMemory { .. }
            | Self::Thread(_)
            | Self::Rows(_)
            | Self::Overflow { .. }
            | Self::CpuOnly { .. }
            | Self::Activations { .. }
            | Self::NotFinite { .. }
            | Self::MaskDrawn { .. } => None,
        }
    }

    /// The sentence beside the name of the GPU, which it leaves out.
    pub(crate) fn of_named_gpu(&self) -> String {
        match self {
            Self::Refused { why, .. } => format!("its driver refuses a device ({why})"),
            error => error.to_string(),
        }
    }

    /// The words of a driver that refuses a device, on one line.
    pub(crate) fn refused(adapter: &str, error: &impl std::fmt::Display) -> Self {
        let text = error.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        Self::Refused {
            adapter: adapter.into(),
            why: words.join(" ").chars().take(300).collect(),
        }
    }

    /// The device's own words on one line.
    pub(crate) fn lost(error: &impl std::fmt::Debug) -> Self {
        let text = format!("{error:?}");
        let line = text.split('\n').next().unwrap_or_default();
        Self::Device(line.chars().take(300).collect())
    }
}
