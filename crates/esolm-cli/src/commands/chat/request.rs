//! What options, and lines of JSON, ask for.

use esolm::checkpoint::{ChatFiles, FileError};
use esolm::{Chat, ChatOptions, Message, ModelFiles, Request};
use esolm_checkpoint::message::json_error;
use serde::Deserialize;

use crate::arguments::{Chat as Arguments, Choosing};
use crate::failure::Failure;

/// How answers are written.
pub fn options(arguments: &Arguments) -> ChatOptions {
    let filters = &arguments.filters;
    // All of them, so that none is forgotten.
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

/// The model with the chat template that was asked for.
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

/// A line of JSON: a whole conversation, or one more message of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    messages: Option<Vec<Message>>,
    content: Option<String>,
    think: Option<bool>,
    #[serde(default, with = "esolm::trace::optional_seed")]
    seed: Option<u64>,
    max_tokens: Option<usize>,
}

impl Asked {
    pub fn read(line: &str) -> Result<Self, Failure> {
        let unusable = |why: String| {
            Failure::usage(format!(
                "a line of the input cannot be used: {why}; an example is {{\"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}"
            ))
        };
        let asked: Self =
            serde_json::from_str(line).map_err(|error| unusable(json_error(&error)))?;
        if asked.messages.is_some() == asked.content.is_some() {
            return Err(unusable(
                "it must have either messages or content, not both".into(),
            ));
        }
        if asked.max_tokens == Some(0) {
            return Err(unusable("max_tokens is 0; it must be 1 or more".into()));
        }
        Ok(asked)
    }

    /// Hands the messages to the conversation, and what else it says for one answer.
    pub fn apply(self, chat: &mut Chat) {
        if let Some(messages) = self.messages {
            chat.set_messages(messages);
        }
        if let Some(content) = self.content {
            chat.push(Message::user(content));
        }
        chat.options.think = self.think.or(chat.options.think);
        chat.options.request.seed = self.seed.or(chat.options.request.seed);
        chat.options.max_tokens = self.max_tokens.or(chat.options.max_tokens);
    }
}
