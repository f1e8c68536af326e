//! Answers of a chat model.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::{Answering, ChatOptions, Message, Request};
use serde_json::{Map, Value};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Failure, camel};
use crate::json::{json, parse};

/// What is asked for a text, and not for an answer.
const NOT_ASKED: [&str; 9] = [
    "prompt",
    "infill",
    "length",
    "batch",
    "first",
    "bos",
    "stop",
    "stop_strings",
    "logprobs",
];

/// The options of an answer from their JSON: those of a request, and two more.
pub fn options(text: &str) -> Result<ChatOptions, Failure> {
    let mut fields: Map<String, Value> = parse(text)?;
    let own = |value: Option<Value>| value.unwrap_or(Value::Null).to_string();
    let think = own(fields.remove("think"));
    let max_tokens = own(fields.remove("max_tokens"));
    // The conversation says what is written, and the model where it ends.
    if let Some(name) = NOT_ASKED.iter().find(|name| fields.contains_key(**name)) {
        let message = format!(
            "{} is not an option of an answer; leave it out",
            camel(name)
        );
        return Err(Failure::new("option", message));
    }
    let request: Request = parse(&Value::Object(fields).to_string())?;
    let named = |name: &str, failure: Failure| failure.about(name);
    Ok(ChatOptions {
        request,
        max_tokens: parse(&max_tokens).map_err(|failure| named("maxTokens", failure))?,
        think: parse(&think).map_err(|failure| named("think", failure))?,
    })
}

/// The messages of a conversation from their JSON.
pub fn messages(text: &str) -> Result<Vec<Message>, Failure> {
    parse(text).map_err(|failure| failure.about("messages"))
}

/// An answer under way. Freeing it ends it after the pass under way.
#[wasm_bindgen]
pub struct WasmAnswer {
    /// Away while its next event is waited for.
    answering: Cell<Option<Answering>>,
    stop: Arc<AtomicBool>,
}

impl From<Answering> for WasmAnswer {
    fn from(answering: Answering) -> Self {
        Self {
            stop: answering.stop_flag(),
            answering: Cell::new(Some(answering)),
        }
    }
}

#[wasm_bindgen]
impl WasmAnswer {
    /// JSON of the next event: the prompt, a step or the answer; nothing after the answer or an error.
    ///
    /// # Errors
    /// When the messages make no prompt, the device fails, or the event before is still waited for.
    pub async fn next(&self) -> Result<Option<String>, Failure> {
        let mut answering = self.answering.take().ok_or_else(|| {
            Failure::new(
                "busy",
                "the event before this one is still to come; wait for it first",
            )
        })?;
        let event = answering.next().await;
        self.answering.set(Some(answering));
        event.transpose()?.map(|event| json(&event)).transpose()
    }

    /// Ends the answer after the pass under way; what was written still comes.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
