//! Why a conversation cannot be gone on with.

use esolm_core::chat::ChatTemplateError;
use esolm_core::config::Family;

/// What is wrong with a conversation, or with the model for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The chat template.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// A model that was not trained to answer.
    #[error("{} continues text, and does not answer as decoders do that were trained for it", .family.one())]
    NotADecoder {
        /// Its family.
        family: Family,
    },
    /// The last message is too long.
    #[error(
        "the last message makes a prompt of {tokens} tokens, and the context of {context} must hold {answer} of the answer too"
    )]
    TooLong {
        /// Tokens of the prompt, nothing but what cannot be left out.
        tokens: usize,
        /// Tokens of the answer at most.
        answer: usize,
        /// Tokens of the model's context.
        context: usize,
    },
    /// Nobody said anything.
    #[error("there is no message to answer")]
    NoMessage,
}
