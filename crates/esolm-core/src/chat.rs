//! Conversations: messages, and the chat template of a checkpoint, which makes the text of a prompt from them.
//!
//! Templates are programs in the language Jinja that come with a checkpoint, and are trusted as little as its other files: they read
//! nothing, and have a bounded time and bounded memory ([`ChatTemplate`]).

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

/// Who says what the model answers to.
pub const USER: &str = "user";
/// Who says what holds for the whole conversation.
pub const SYSTEM: &str = "system";
/// The model.
pub const ASSISTANT: &str = "assistant";

/// What somebody says in a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who: [`USER`], [`SYSTEM`], [`ASSISTANT`], or another role that the template knows.
    pub role: String,
    /// What.
    pub content: String,
    /// What a model thought before it, where that is not in the content itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

impl Message {
    /// A message without thoughts of its own.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            reasoning_content: None,
        }
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(USER, content)
    }

    /// What holds for the whole conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(SYSTEM, content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(ASSISTANT, content)
    }

    fn bytes(&self) -> usize {
        let thoughts = self.reasoning_content.as_ref().map_or(0, String::len);
        self.role.len() + self.content.len() + thoughts
    }
}

/// What closes the thoughts of a model that thinks before it answers.
const THOUGHT_END: &str = "</think>";
/// What opens them; some templates have written it already.
const THOUGHT_START: &str = "<think>";

/// A model's text as its thoughts and its answer proper: what stands before `</think>`, and what comes after it. A text that never closes its
/// thoughts has no answer yet.
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

/// The messages of `all` that are left when the `dropped` first ones after the system's are: the system's message stays.
pub fn without_oldest(all: &[Message], dropped: usize) -> Vec<Message> {
    let opening = opening(all);
    let kept = all.iter().skip(opening + dropped);
    all[..opening].iter().chain(kept).cloned().collect()
}

/// How many messages the oldest turn has that is left behind `dropped` messages; nothing where it is the last one.
pub fn oldest_turn(all: &[Message], dropped: usize) -> Option<usize> {
    let left = all.get(opening(all) + dropped..)?;
    let next = left.iter().skip(1).position(|m| m.role == USER)?;
    Some(next + 1)
}

/// The messages that stay whatever is dropped.
fn opening(all: &[Message]) -> usize {
    all.iter().take_while(|m| m.role == SYSTEM).count()
}

#[cfg(test)]
mod tests;
