//! What is told of an answer.

use esolm_core::chat::{Message, split_thoughts};
use esolm_core::stop::Finish;
use esolm_core::trace;
use serde::{Deserialize, Serialize};

/// What happened to an answer. As JSON it has the field `event`: `prompt`, `step` or `answer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum ChatEvent {
    /// It begins.
    Prompt(ChatPrompt),
    /// A pass was made.
    Step(ChatStep),
    /// It is written.
    Answer(Answer),
}

/// What the model goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatPrompt {
    /// What the chat template made of the messages.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How many of them, from the first on, stand in the cache from before.
    pub cached: usize,
    /// Messages after the system's that no longer fit the context and were left out.
    pub dropped: usize,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// The seed of its random numbers.
    #[serde(with = "trace::seed")]
    pub seed: u64,
}

/// A pass. The text of an answer is that of all its steps one after the other; what is known behind a gap is told anew with each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatStep {
    /// Its number in the plan, from 0.
    pub step: usize,
    /// Steps that the plan has.
    pub steps: usize,
    /// Text that joined the answer, up to the first place that is not known.
    pub text: String,
    /// The places behind it up to the end of the block under way: the text of each token that is known, nothing where none is.
    pub open: Vec<Option<String>>,
    /// Tokens of the answer so far, without those behind a gap.
    pub tokens: usize,
    /// Rows of the pass.
    pub rows: usize,
    /// Seconds since the answer began.
    pub seconds: f64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// All that the model wrote, without special tokens.
    pub text: String,
    /// What it thought first, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The text without those thoughts.
    pub content: String,
    /// The tokens of the text.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of those stood in the cache.
    pub cached: usize,
    /// Passes of the network.
    pub passes: usize,
    /// Rows that went through it.
    pub rows: usize,
    /// From the first pass to the last token.
    pub seconds: f64,
}

impl Answer {
    /// The answer as a message of the conversation. The thoughts stay in its text; most templates leave those of past turns out.
    pub fn message(&self) -> Message {
        Message::assistant(self.text.clone())
    }

    /// Tokens a second.
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
