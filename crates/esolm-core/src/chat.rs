//! Conversations: messages, and a checkpoint's chat template, which turns them into the text of a prompt.
//!
//! Templates are Jinja programs that come with a checkpoint, and are no more trusted than its other files: they cannot
//! read anything, and run with bounded time and memory ([`ChatTemplate`]).

mod bounded;
mod clock;
mod error;
mod files;
mod guard;
mod json;
mod template;

use serde::{Deserialize, Serialize};

pub use error::ChatTemplateError;
pub use template::{ChatTemplate, Rendering};

/// Role of the user, whom the model answers.
pub const USER: &str = "user";
/// Role of instructions for the whole conversation.
pub const SYSTEM: &str = "system";
/// Role of the model.
pub const ASSISTANT: &str = "assistant";

/// A message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The role: [`USER`], [`SYSTEM`], [`ASSISTANT`], or another one that the template supports.
    pub role: String,
    /// The text.
    pub content: String,
    /// The model's reasoning before the message, if it is not part of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

impl Message {
    /// A message without separate reasoning.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            reasoning_content: None,
        }
    }

    /// A message from the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(USER, content)
    }

    /// Instructions for the whole conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(SYSTEM, content)
    }

    /// A message from the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(ASSISTANT, content)
    }

    fn bytes(&self) -> usize {
        let thoughts = self.reasoning_content.as_ref().map_or(0, String::len);
        self.role.len() + self.content.len() + thoughts
    }
}

/// Ends the reasoning of a model that thinks before it answers.
const THOUGHT_END: &str = "</think>";
/// Begins the reasoning; some templates already include it.
const THOUGHT_START: &str = "<think>";

/// Splits a model's text into its reasoning, before `</think>`, and its answer, after it. A text whose reasoning is not
/// closed has no answer yet.
pub fn split_thoughts(text: &str) -> (Option<&str>, &str) {
    let opened = text.trim_start().strip_prefix(THOUGHT_START);
    match text.split_once(THOUGHT_END) {
        Some((thoughts, answer)) => {
            let opened = thoughts.trim_start().strip_prefix(THOUGHT_START);
            let thoughts = opened.unwrap_or(thoughts).trim();
            (Some(thoughts), answer.trim_start())
        }
        None => match opened {
            Some(thoughts) => (Some(thoughts.trim()), ""),
            None => (None, text),
        },
    }
}

/// The messages of `all` without the first `dropped` ones after the system message, which stays.
pub fn without_oldest(all: &[Message], dropped: usize) -> Vec<Message> {
    let opening = opening(all);
    let kept = all.iter().skip(opening + dropped);
    all[..opening].iter().chain(kept).cloned().collect()
}

/// Number of messages in the oldest turn that remains after dropping `dropped` messages; `None` if it is the last turn.
pub fn oldest_turn(all: &[Message], dropped: usize) -> Option<usize> {
    let left = all.get(opening(all) + dropped..)?;
    let next = left.iter().skip(1).position(|m| m.role == USER)?;
    Some(next + 1)
}

/// Number of leading messages that are never dropped.
fn opening(all: &[Message]) -> usize {
    all.iter().take_while(|m| m.role == SYSTEM).count()
}

#[cfg(test)]
mod tests;
