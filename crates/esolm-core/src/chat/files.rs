//! The chat template in a checkpoint's files, and the tokens that it names.

use serde_json::{Map, Value};

use super::error::ChatTemplateError;
use crate::checkpoint::{ChatFiles, TOKENIZER_CONFIG};
use crate::documents::normalize;
use crate::message::{json_error, shorten};

/// Special tokens that templates know by name.
const NAMED: [&str; 6] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
];

/// What the files say.
#[derive(Debug)]
pub(super) struct Told {
    pub source: String,
    /// Special tokens by their names in templates.
    pub tokens: Vec<(&'static str, String)>,
}

/// What the files say.
pub(super) fn read(files: &ChatFiles) -> Result<Told, ChatTemplateError> {
    let config = match &files.tokenizer_config {
        None => Map::new(),
        Some(text) => match serde_json::from_str(&normalize(text)) {
            Ok(Value::Object(config)) => config,
            Ok(_) => return Err(unusable("it is not a JSON object".into())),
            Err(error) => return Err(unusable(json_error(&error))),
        },
    };
    let source = match &files.template {
        Some(template) => normalize(template).into_owned(),
        None => own(&config)?,
    };
    let text = |token: &Value| Some(token.as_str().or(token["content"].as_str())?.to_string());
    let token = |name| Some((name, text(config.get(name)?)?));
    Ok(Told {
        source,
        tokens: NAMED.into_iter().filter_map(token).collect(),
    })
}

fn unusable(why: String) -> ChatTemplateError {
    let file = TOKENIZER_CONFIG;
    ChatTemplateError::File { file, why }
}

/// The template in a `tokenizer_config.json`: a text, or the one called default of several.
fn own(config: &Map<String, Value>) -> Result<String, ChatTemplateError> {
    let list = match config.get("chat_template") {
        None | Some(Value::Null) => return Err(ChatTemplateError::Missing),
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(_) => {
            return Err(unusable(
                "its \"chat_template\" is neither a text nor a list of texts with names".into(),
            ));
        }
    };
    let mut names = Vec::new();
    for entry in list {
        match (entry["name"].as_str(), entry["template"].as_str()) {
            (Some("default"), Some(text)) => return Ok(text.into()),
            (Some(name), Some(_)) => names.push(format!("\"{}\"", shorten(name))),
            _ => {
                return Err(unusable(
                    "its \"chat_template\" has an entry without a name and a template".into(),
                ));
            }
        }
    }
    names.truncate(8);
    let names = names.join(", ");
    Err(ChatTemplateError::NoDefault { names })
}
