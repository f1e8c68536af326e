//! What options, and lines of JSON, ask for.

use std::num::NonZeroUsize;

use esolm::checkpoint::{ChatFiles, FileError};
use esolm::{Chat, ChatOptions, Message, ModelFiles, Request};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::messages::{self, MESSAGES};
use crate::arguments::{Chat as Arguments, Choosing};
use crate::failure::Failure;
use crate::fields::{self, COUNT, Form, SEED, SWITCH, TEXT};

/// How answers are written.
pub fn options(arguments: &Arguments) -> ChatOptions {
    let filters = &arguments.filters;
    // Lists all fields, so that none is forgotten.
    let Choosing {
        confidence,
        prompt_tail,
        suppress_tokens,
        begin_suppress_tokens,
    } = &arguments.choosing;
    ChatOptions {
        request: Request {
            steps: arguments.steps,
            confidence_threshold: arguments.confidence_threshold,
            confidence: confidence.map(Into::into),
            prompt_tail: prompt_tail.map(Into::into),
            suppress_tokens: suppress_tokens.clone(),
            begin_suppress_tokens: begin_suppress_tokens.clone(),
            block_size: arguments.source.model.block_size,
            top_k: filters.top_k,
            top_p: filters.top_p,
            top_p_crossing: filters.top_p_crossing.map(Into::into),
            min_p: filters.min_p,
            temperature: arguments.temperature,
            seed: arguments.seed,
            stop_strings: arguments.stop_string.clone(),
            ..Request::default()
        },
        max_tokens: arguments.max_tokens,
        think: match (arguments.think, arguments.no_think) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
    }
}

/// The model, with the requested chat template.
pub fn with_template(files: ModelFiles, arguments: &Arguments) -> Result<ModelFiles, Failure> {
    let cannot_read = |path: &std::path::Path, error| {
        Failure::from(esolm::Error::Checkpoint(
            FileError::io("read", path, error).into(),
        ))
    };
    let mut chat = files.checkpoint().chat_files().clone();
    if let Some(path) = &arguments.source.tokenizer {
        let beside = ChatFiles::beside(path).map_err(|(path, error)| cannot_read(&path, error))?;
        if beside != ChatFiles::default() {
            chat = beside;
        }
    }
    if let Some(path) = &arguments.chat_template {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::failed(format!(
                "cannot read {}: {error}; check the path",
                path.display()
            ))
        })?;
        chat.template = Some(text);
    }
    Ok(files.with_chat_files(chat))
}

const FORM: Form = Form {
    fields: &[
        ("messages", MESSAGES),
        ("content", TEXT),
        ("think", SWITCH),
        ("seed", SEED),
        ("max_tokens", COUNT),
    ],
    called: "lines for `chat`",
    page: "docs/chat.md",
};

/// The fields of a line.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Given {
    messages: Option<Vec<Value>>,
    content: Option<String>,
    think: Option<bool>,
    #[serde(with = "esolm::trace::optional_seed")]
    seed: Option<u64>,
    max_tokens: Option<NonZeroUsize>,
}

/// The messages in a line.
#[derive(Debug)]
enum Said {
    /// Replaces the whole conversation.
    Whole(Vec<Message>),
    /// Adds a message of the user.
    Next(String),
}

/// A line of JSON: a whole conversation, or one more message, and how this answer is written.
#[derive(Debug)]
pub struct Asked {
    said: Said,
    think: Option<bool>,
    seed: Option<u64>,
    max_tokens: Option<usize>,
}

impl Asked {
    /// Parses a line.
    ///
    /// # Errors
    /// What is wrong with it, as part of a sentence.
    pub fn read(line: &str) -> Result<Self, String> {
        let given: Given = fields::read(fields::object(line.as_bytes())?, &FORM, &Map::new())?;
        let said = match (given.messages, given.content) {
            (Some(messages), None) => Said::Whole(messages::read(messages)?),
            (None, Some(content)) => Said::Next(content),
            (None, None) => return Err("it has neither messages nor content; give one".into()),
            (Some(_), Some(_)) => {
                return Err("it has both messages and content; give one of them".into());
            }
        };
        Ok(Self {
            said,
            think: given.think,
            seed: given.seed,
            max_tokens: given.max_tokens.map(NonZeroUsize::get),
        })
    }

    /// Applies the messages, and the settings for one answer, to the conversation.
    pub fn apply(self, chat: &mut Chat) {
        match self.said {
            Said::Whole(messages) => chat.set_messages(messages),
            Said::Next(content) => chat.push(Message::user(content)),
        }
        chat.options.think = self.think.or(chat.options.think);
        chat.options.request.seed = self.seed.or(chat.options.request.seed);
        chat.options.max_tokens = self.max_tokens.or(chat.options.max_tokens);
    }
}
