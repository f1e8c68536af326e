//! The messages of a conversation in JSON, as in lines and saved conversations.

use esolm::Message;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fields::{self, Form, TEXT};

/// A description of a list of messages.
pub const MESSAGES: &str = "a list of messages, each with a role and a content";

const FORM: Form = Form {
    fields: &[
        ("role", TEXT),
        ("content", TEXT),
        ("reasoning_content", TEXT),
    ],
    called: "messages",
    page: "docs/chat.md",
};

#[derive(Deserialize, Default)]
#[serde(default)]
struct Given {
    role: Option<String>,
    content: Option<String>,
    reasoning_content: Option<String>,
}

/// Parses messages one by one.
///
/// # Errors
/// What is wrong with the first bad one, as part of a sentence.
pub fn read(all: Vec<Value>) -> Result<Vec<Message>, String> {
    let read = |(index, value)| one(value).map_err(|why| format!("messages[{index}]: {why}"));
    all.into_iter().enumerate().map(read).collect()
}

fn one(value: Value) -> Result<Message, String> {
    let Value::Object(fields) = value else {
        return Err("it is not an object; give one with a role and a content".into());
    };
    let given: Given = fields::read(fields, &FORM, &Map::new())?;
    let missing = |name: &str| format!("it has no {name}; give it as a text");
    Ok(Message {
        role: given.role.ok_or_else(|| missing("role"))?,
        content: given.content.ok_or_else(|| missing("content"))?,
        reasoning_content: given.reasoning_content,
    })
}
