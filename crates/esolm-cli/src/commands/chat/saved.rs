//! Conversations in files.

use std::io::Read;
use std::path::Path;

use esolm::Message;
use esolm_checkpoint::message::json_error;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::files::Pending;

/// Of the form of the file.
const VERSION: u32 = 1;
/// Bytes that are read of a file at most.
const MOST: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    esolm_chat: u32,
    /// With which it was held.
    model: String,
    messages: Vec<Message>,
}

/// Writes a conversation.
pub fn save(path: &Path, model: &str, messages: &[Message]) -> Result<(), Failure> {
    let mut file = Pending::create(path)?;
    let saved = Saved {
        esolm_chat: VERSION,
        model: model.into(),
        messages: messages.to_vec(),
    };
    file.json_line(&saved)?;
    file.commit()
}

/// Reads one.
pub fn load(path: &Path) -> Result<Vec<Message>, Failure> {
    let unusable = |why: String| {
        Failure::failed(format!(
            "{} is not a saved conversation ({why}); give a file that /save wrote",
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
    let saved: Saved =
        serde_json::from_slice(&bytes).map_err(|error| unusable(json_error(&error)))?;
    match saved.esolm_chat {
        VERSION => Ok(saved.messages),
        other => Err(unusable(format!(
            "it has version {other}, and this program reads version {VERSION}"
        ))),
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
        std::fs::write(
            &path,
            "{\"esolm_chat\": 2, \"model\": \"m\", \"messages\": []}",
        )
        .unwrap();
        assert!(load(&path).unwrap_err().message().contains("version 2"));
        std::fs::remove_file(&path).unwrap();
    }
}
