//! Error types. Messages say what is wrong; each front end adds which option to change, in its own terms.

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
    /// The tokenizer is unusable, or cannot encode a text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Text was given to a model that was loaded without a tokenizer.
    #[error("the model was loaded without a tokenizer, which texts need")]
    NeedsTokenizer,
    /// The request does not fit the model.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The plan does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The given arrays do not make valid rows.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The device failed, or something does not fit it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A text could not be scored.
    #[error(transparent)]
    Likelihood(LikelihoodError),
    /// One of several texts could not be scored.
    #[error("text {index}: {source}")]
    Item {
        /// Index of the text among those given, from 0.
        index: usize,
        /// The reason.
        source: ItemError,
    },
    /// A value is out of range.
    #[error("{option} is {value}; it must be {range}")]
    Range {
        /// Name of the field.
        option: &'static str,
        /// Its value.
        value: String,
        /// The allowed values.
        range: String,
    },
    /// An option does not apply to this family of models.
    #[error("{option} does not apply to {why}; leave it out")]
    NotApplicable {
        /// Name of the field.
        option: &'static str,
        /// The family, and what it does instead.
        why: &'static str,
    },
    /// The windows are longer than the model's context.
    #[error(
        "windows of {length} tokens are more than the model's context of {context}; use at most that"
    )]
    Context {
        /// Tokens per window.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The number of orders differs from the number of sequences.
    #[error("there are {} for {}; give one for each", count(*.orders, "order"), count(*.sequences, "sequence"))]
    Orders {
        /// Number of orders given.
        orders: usize,
        /// Number of sequences given.
        sequences: usize,
    },
    /// Token sequences are longer than the model's context.
    #[error(
        "the sequences have {length} tokens, but the model's context is {context}; give shorter ones"
    )]
    LongSequences {
        /// Tokens per sequence.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// No document was given, or none is left.
    #[error("there is no document to score{}; give other text", left_out(*.dropped))]
    NoDocument {
        /// Documents skipped for non-ASCII characters.
        dropped: usize,
    },
    /// The tokens given are so few that the model predicts none of them.
    #[error("there is no token to score; give longer windows or more text")]
    NoToken,
    /// Neither of the two likelihoods was requested.
    #[error(
        "neither the exact likelihood nor the NELBO is left to compute; ask for one draw or more"
    )]
    NothingToCompute,
    /// A conversation cannot continue.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The caller stopped the call.
    #[error("stopped before it was done")]
    Stopped,
    /// The model's thread panicked, which is a bug in esolm.
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

/// Why one of several texts could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// It cannot be tokenized.
    #[error(transparent)]
    Text(#[from] TextError),
    /// It does not fit the model's context, or has nothing before it.
    #[error("it {0}")]
    Between(#[from] BetweenError),
    /// It has a gap, but the model reads only from left to right.
    #[error(
        "it has a gap, and {} does not read what comes after one; use an Eso-LM, an MDLM or a SetDLM", .0.one()
    )]
    LeftToRight(Family),
    /// A question has no choices.
    #[error("it has no choices; give at least one")]
    NoChoices,
    /// A choice is empty.
    #[error("it has an empty choice; give it at least one character")]
    EmptyChoice,
}

/// Why texts could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum LikelihoodError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A text contains a token that cannot be scored.
    #[error(
        "text {text} holds the token {token}, which is the model's mask or beyond its vocabulary of {vocab}; use text made for this model"
    )]
    Token {
        /// Index of the text, from 0.
        text: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// An order is not a permutation.
    #[error(
        "the order of text {text} is not a permutation of 0..{length}; each position must stand in it once"
    )]
    Order {
        /// Index of the text, from 0.
        text: usize,
        /// Tokens of the text.
        length: usize,
    },
    /// An order does not start with the token that nothing predicts.
    #[error(
        "the order of text {text} does not begin with position 0, whose token this model is always given; put it first"
    )]
    FirstOfOrder {
        /// Index of the text, from 0.
        text: usize,
    },
    /// The family has no exact likelihood.
    #[error(
        "{0} has no exact likelihood, since its clean tokens attend to later ones; ask for the NELBO alone"
    )]
    NoExact(&'static str),
    /// The AR model prepends a token that its configuration does not name.
    #[error(
        "the AR model opens texts with a token that its configuration does not name; add bos_token_id to it"
    )]
    NoBos,
    /// A result is not a number.
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
    /// The weights as read are finite, but not as computed with: folding them together overflows, or the target format
    /// cannot represent them.
    #[error("the weights made of tensor {tensor} reach {value:?}, more than {weights} holds")]
    Overflow {
        /// The tensor's name without `backbone.`.
        tensor: String,
        /// The first weight that is out of range.
        value: f32,
        /// The target format.
        weights: Weights,
    },
    /// Not available on a GPU.
    #[error("{what} are for the CPU only")]
    CpuOnly {
        /// "activations of 8 bits".
        what: String,
    },
    /// 8-bit activations were requested with floating-point weights.
    #[error("activations of 8 bits go with q8 or q4 weights, and the weights are {weights}")]
    Activations {
        /// The weight format requested.
        weights: Weights,
    },
    /// No adapter is available.
    #[error("no GPU adapter was found ({0})")]
    NoAdapter(String),
    /// No adapter has the requested index.
    #[error("there is no GPU adapter {index} among the {count} here")]
    AdapterIndex {
        /// The index requested.
        index: usize,
        /// How many adapters there are.
        count: usize,
    },
    /// An option has an unknown value.
    #[error("`{value}` is not a {option}; use {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// The adapter exists, but its driver refuses to create a device.
    #[error("the driver of {adapter} refuses a device ({why})")]
    Refused {
        /// Name of the adapter.
        adapter: String,
        /// The driver's message.
        why: String,
    },
    /// The device failed or was lost.
    #[error("the GPU stopped working ({0})")]
    Device(String),
    /// Something exceeds a limit of the device.
    #[error("{what} needs {} MiB, but this device holds at most {} MiB in one piece", mib(*.bytes), mib(*.limit))]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Bytes needed.
        bytes: u64,
        /// Bytes available.
        limit: u64,
    },
    /// The device is out of memory.
    #[error("the GPU has no memory left for this ({0})")]
    DeviceMemory(String),
    /// The driver rejects a kernel.
    #[error("the GPU's driver refuses a kernel ({0})")]
    Kernel(String),
    /// The host is out of memory.
    #[error("{purpose} needs {} MiB of memory, {}", mib(*.bytes), left(.room.as_ref()))]
    HostMemory {
        /// What the memory is for.
        purpose: MemoryUse,
        /// Bytes needed.
        bytes: u64,
        /// What is available, if the system reports it.
        room: Option<MemoryRoom>,
    },
    /// The system could not start a thread.
    #[error("a thread could not be started ({0})")]
    Thread(String),
    /// The kernels do not support a shape.
    #[error("the GPU kernels do not take {0}")]
    Shape(String),
    /// Rows, tokens or noise are inconsistent.
    #[error("the pass is inconsistent: {0}")]
    Rows(String),
    /// A row's logits are not finite: some number overflowed on the way.
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
    /// The token drawn is the mask.
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

/// What failed on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceFault {
    /// Its driver refuses to create a device.
    Refused,
    /// It was lost, or stopped working.
    Lost,
    /// It is out of memory, or its largest buffer is too small.
    Memory,
    /// Its driver rejects a kernel.
    Kernel,
    /// Its kernels do not support one of the model's shapes.
    Shape,
}

impl EngineError {
    /// What failed on the GPU, if the error is the GPU's and not caused by the request; another device might not fail.
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

    /// Whether it concerns the text that it names rather than all of them: the network's numbers depend on the text.
    pub fn is_of_text(&self) -> bool {
        matches!(self, Self::NotFinite { .. } | Self::MaskDrawn { .. })
    }

    /// The message without the name of the GPU, to be shown beside it.
    pub(crate) fn of_named_gpu(&self) -> String {
        match self {
            Self::Refused { why, .. } => format!("its driver refuses a device ({why})"),
            error => error.to_string(),
        }
    }

    /// A driver's refusal to create a device, its message put on one line.
    pub(crate) fn refused(adapter: &str, error: &impl std::fmt::Display) -> Self {
        let text = error.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        Self::Refused {
            adapter: adapter.into(),
            why: words.join(" ").chars().take(300).collect(),
        }
    }

    /// A lost device, with the first line of its message.
    pub(crate) fn lost(error: &impl std::fmt::Debug) -> Self {
        let text = format!("{error:?}");
        let line = text.split('\n').next().unwrap_or_default();
        Self::Device(line.chars().take(300).collect())
    }
}
