//! Conversations saved in files.

use std::io::Read;
use std::path::Path;

use esolm::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::messages::{self, MESSAGES};
use crate::failure::Failure;
use crate::fields::{self, Form, TEXT};
use crate::files::Pending;

/// Version of the file format.
const VERSION: u32 = 1;
/// Maximum bytes read from a file.
const MOST: u64 = 64 << 20;

const FORM: Form = Form {
    fields: &[("esolm_chat", "1"), ("model", TEXT), ("messages", MESSAGES)],
    called: "saved conversations",
    page: "docs/chat.md",
};

#[derive(Serialize)]
struct Saved<'a> {
    esolm_chat: u32,
    /// The model's name.
    model: &'a str,
    messages: &'a [Message],
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Given {
    esolm_chat: Option<u32>,
    model: Option<String>,
    messages: Option<Vec<Value>>,
}

/// Saves a conversation.
pub fn save(path: &Path, model: &str, messages: &[Message]) -> Result<(), Failure> {
    let mut file = Pending::create(path)?;
    let saved = Saved {
        esolm_chat: VERSION,
        model,
        messages,
    };
    file.json_line(&saved)?;
    file.commit()
}

/// Loads a conversation.
pub fn load(path: &Path) -> Result<Vec<Message>, Failure> {
    let unusable = |why: String| {
        Failure::failed(format!(
            "{} is not a saved conversation: {why}; give a file that /save wrote",
            path.display()
        ))
    };
    let cannot = |error| {
        Failure::failed(format!(
            "cannot read {}: {error}; check the path",
            path.display()
        ))
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    let read = file.take(MOST + 1).read_to_end(&mut bytes);
    read.map_err(cannot)?;
    if bytes.len() as u64 > MOST {
        return Err(unusable("it is too long".into()));
    }
    messages_in(&bytes).map_err(unusable)
}

/// The messages in a file's text.
fn messages_in(bytes: &[u8]) -> Result<Vec<Message>, String> {
    let fields = fields::object(bytes)?;
    // Other versions have other fields.
    if let Some(version) = fields.get("esolm_chat").and_then(Value::as_u64)
        && version != u64::from(VERSION)
    {
        return Err(format!(
            "it has version {version}, and this program reads version {VERSION}"
        ));
    }
    let given: Given = fields::read(fields, &FORM, &Map::new())?;
    match (given.esolm_chat, given.model, given.messages) {
        (None, ..) => Err("it has no esolm_chat".into()),
        (_, None, _) => Err("it has no model".into()),
        (.., None) => Err("it has no messages".into()),
        (.., Some(messages)) => messages::read(messages),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again() {
        let path = std::env::temp_dir().join(format!("esolm-saved-{}.json", std::process::id()));
        let messages = vec![Message::system("s"), Message::user("a\n\"b\"")];
        save(&path, "m", &messages).unwrap();
        assert_eq!(load(&path).unwrap(), messages);
        for (text, said) in [
            ("{\"esolm_chat\": 2, \"turns\": []}", "version 2"),
            (
                "{\"esolm_chat\": \"1\"}",
                "its esolm_chat is \"1\"; it must be 1",
            ),
            ("{\"model\": \"m\"}", "it has no esolm_chat"),
            (
                "{\"esolm_chat\": 1, \"model\": \"m\"}",
                "it has no messages",
            ),
            (
                "{\"esolm_chat\": 1, \"model\": \"m\",\n \"messages\": [}",
                "expected value at byte 15 of line 2",
            ),
            (
                "{\"esolm_chat\": 1, \"model\": \"m\", \"messages\": {}}",
                "its messages is {}; it must be a list of messages",
            ),
            (
                "{\"esolm_chat\": 1, \"model\": \"m\", \"messages\": [{\"role\": \"user\"}]}",
                "messages[0]: it has no content",
            ),
            (
                "{\"esolm_chat\": 1, \"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": 7}]}",
                "messages[0]: its content is 7; it must be a text",
            ),
            (
                "{\"esolm_chat\": 1, \"mdoel\": \"m\"}",
                "the field \"mdoel\"",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = load(&path).unwrap_err();
            assert!(refused.message().contains(said), "{}", refused.message());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
