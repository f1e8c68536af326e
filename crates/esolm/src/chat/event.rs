//! Events of an answer.

use esolm_core::chat::{Message, split_thoughts};
use esolm_core::stop::Finish;
use esolm_core::trace;
use serde::{Deserialize, Serialize};

/// An event of an answer. As JSON it has the field `event`: `prompt`, `step` or `answer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum ChatEvent {
    /// The answer starts.
    Prompt(ChatPrompt),
    /// A pass has run.
    Step(ChatStep),
    /// The answer is complete.
    Answer(Answer),
}

/// The prompt that the model continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatPrompt {
    /// The text that the chat template made of the messages.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How many of the first tokens are still in the cache.
    pub cached: usize,
    /// Number of messages after the system message that were left out because they no longer fit the context.
    pub dropped: usize,
    /// Maximum tokens of the answer.
    pub max_tokens: usize,
    /// The seed of its random numbers.
    #[serde(with = "trace::seed")]
    pub seed: u64,
}

/// A pass. The texts of all steps, concatenated, are the text of the answer; tokens known after a gap are reported
/// again in every step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatStep {
    /// Its number in the plan, from 0.
    pub step: usize,
    /// Number of steps in the plan.
    pub steps: usize,
    /// Text added to the answer, up to the first unknown token.
    pub text: String,
    /// The positions after it up to the end of the current block: the text of each known token, and `None` for an
    /// unknown one.
    pub open: Vec<Option<String>>,
    /// Tokens of the answer so far, without those after a gap.
    pub tokens: usize,
    /// Rows of the pass.
    pub rows: usize,
    /// Seconds since the answer started.
    pub seconds: f64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Everything that the model wrote, without special tokens.
    pub text: String,
    /// The thoughts that precede the content, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The text without the thoughts.
    pub content: String,
    /// The tokens of the text.
    pub tokens: Vec<u32>,
    /// Why the answer ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of those were in the cache.
    pub cached: usize,
    /// Passes of the network.
    pub passes: usize,
    /// Total rows of these passes.
    pub rows: usize,
    /// Seconds from the first pass to the last token.
    pub seconds: f64,
}

impl Answer {
    /// The answer as a message of the conversation. Its text includes the thoughts; most templates leave out those of
    /// past turns.
    pub fn message(&self) -> Message {
        Message::assistant(self.text.clone())
    }

    /// Tokens per second.
    pub fn rate(&self) -> f64 {
        self.tokens.len() as f64 / self.seconds.max(1e-9)
    }

    pub(super) fn with_text(mut self, text: String) -> Self {
        let (reasoning, content) = split_thoughts(&text);
        self.reasoning = reasoning.map(String::from);
        self.content = content.into();
        self.text = text;
        self
    }
}
