//! Errors of conversations.

use esolm_core::chat::ChatTemplateError;
use esolm_core::config::Family;

/// What is wrong with a conversation, or with the model for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The chat template is not usable.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// The model was not trained to answer.
    #[error("{} continues text, and does not answer as decoders do that were trained for it", .family.one())]
    NotADecoder {
        /// The model's family.
        family: Family,
    },
    /// The prompt does not fit even without the turns that can be dropped.
    #[error(
        "the last message makes a prompt of {tokens} tokens, and the context of {context} must hold {answer} of the answer too"
    )]
    TooLong {
        /// Tokens of the prompt without those turns.
        tokens: usize,
        /// Maximum tokens of the answer.
        answer: usize,
        /// Tokens of the model's context.
        context: usize,
    },
    /// There are no messages.
    #[error("there is no message to answer")]
    NoMessage,
}
