//! `POST /v1/chat/completions`: the checkpoint's chat template turns the messages into a prompt, which is then handled
//! like any other.

use std::time::{SystemTime, UNIX_EPOCH};

use esolm::{ChatTemplate, Message, Rendering, answer_ends, drawn_as_answers, usual_answer};
use serde_json::Value;

use super::ask::{Ask, Prompt, Streaming, choices, sampling, tokens_to_write};
use crate::app::Model;
use crate::error::ApiError;
use crate::fields::{Fields, wrong};

/// Fields of OpenAI's chat completions for features that are not supported.
const FOREIGN: [&str; 20] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "metadata",
    "modalities",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "store",
    "tool_choice",
    "tools",
    "top_logprobs",
    "user",
];

impl Ask {
    /// Parses the fields of a chat request, except the model's name, which has already been taken.
    ///
    /// # Errors
    /// Naming the first unusable field, or if the messages cannot be turned into a prompt.
    pub fn read_chat(mut fields: Fields, model: &Model) -> Result<Self, ApiError> {
        let messages = messages(fields.take("messages"))?;
        let mut own = fields.object("chat_template_kwargs")?;
        let think = own.switch("enable_thinking")?;
        own.finish(&[])?;
        let newer = tokens_to_write(&mut fields, "max_completion_tokens", 1)?;
        let older = tokens_to_write(&mut fields, "max_tokens", 1)?;
        if older.is_some_and(|older| newer.is_some_and(|newer| newer != older)) {
            let message = "max_tokens and max_completion_tokens are two names for the same and differ; give one of them";
            return Err(ApiError::field("max_tokens", message));
        }
        let max_tokens = newer.or(older);
        let n = choices(&mut fields)?;
        let Streaming {
            stream,
            include_usage,
            include_steps,
        } = Streaming::read(&mut fields)?;
        let request = sampling(&mut fields)?;
        if let Some(format) = fields.take("response_format")
            && format["type"] != "text"
        {
            let message = "response_format must be {\"type\": \"text\"}, or left out";
            return Err(ApiError::field("response_format", message));
        }
        fields.finish(&FOREIGN)?;
        let template = model.chat.as_ref().as_ref();
        let template = template.map_err(|why| {
            let message = format!("{why}; ask /v1/completions to continue text");
            ApiError::field("model", message)
        })?;
        let prompt = prompt(template, &messages, think, model)?;
        let config = model.serving.config();
        let longest = model.serving.length();
        // The prompt leaves room for one token at least.
        let usual = usual_answer(config, longest).min(longest - prompt.len());
        Ok(Self {
            request: drawn_as_answers(
                request.or(&model.recommended, config),
                config,
                max_tokens.unwrap_or(usual),
            ),
            prompts: vec![Prompt::Tokens(prompt)],
            suffix: None,
            max_tokens: Some(max_tokens.unwrap_or(usual)),
            n,
            logprobs: None,
            echo: false,
            stream,
            include_usage,
            include_steps,
            ends: answer_ends(template, &model.codec, config),
        })
    }
}

/// The prompt tokens of a conversation.
fn prompt(
    template: &ChatTemplate,
    messages: &[Message],
    think: Option<bool>,
    model: &Model,
) -> Result<Vec<u32>, ApiError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
    let how = Rendering {
        add_generation_prompt: true,
        enable_thinking: think,
        now: seconds.map_or(0, |since| since.as_secs()),
    };
    let refused = |why: String| ApiError::field("messages", why);
    let text = (template.render(messages, how)).map_err(|error| refused(error.to_string()))?;
    let tokens = (model.codec.encode(&text)).map_err(|error| refused(error.to_string()))?;
    let most = model.serving.length();
    if tokens.len() >= most {
        return Err(refused(format!(
            "messages make a prompt of {} tokens, and a text has at most {most} with its answer; {}",
            tokens.len(),
            match messages {
                [_] => "shorten the message",
                _ => "leave out the oldest",
            }
        )));
    }
    Ok(tokens)
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, ApiError> {
    let range = "a list of messages, each with a role and a content";
    let items = match value {
        Some(Value::Array(items)) if !items.is_empty() => items,
        None => {
            return Err(ApiError::field(
                "messages",
                format!("messages is missing; give {range}"),
            ));
        }
        Some(Value::Array(_)) => {
            return Err(ApiError::field(
                "messages",
                "messages is an empty list; give at least one",
            ));
        }
        Some(other) => return Err(wrong("messages", &other, range)),
    };
    items.into_iter().enumerate().map(message).collect()
}

fn message((index, item): (usize, Value)) -> Result<Message, ApiError> {
    let at = |what: &str| ApiError::field("messages", format!("messages[{index}]{what}"));
    let Value::Object(mut fields) = item else {
        return Err(at(" is not an object; give its role and its content"));
    };
    let Some(Value::String(role)) = fields.remove("role") else {
        return Err(at(".role must be text, such as \"user\""));
    };
    let content = match fields.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let parts: Option<Vec<&str>> = parts.iter().map(|part| part["text"].as_str()).collect();
            parts
                .ok_or_else(|| at(".content holds what is not text; only text is read"))?
                .concat()
        }
        _ => return Err(at(".content must be text, or a list of parts of text")),
    };
    let reasoning_content = match fields.remove("reasoning_content") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => return Err(at(".reasoning_content must be text")),
    };
    fields.remove("name");
    // Fields of an earlier answer that clients send back; accepted if empty.
    if let Some((name, _)) = fields.iter().find(|(_, value)| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }) {
        let name: String = name.chars().take(40).collect();
        return Err(at(&format!(".{name} is not supported; leave it out")));
    }
    Ok(Message {
        role,
        content,
        reasoning_content,
    })
}
