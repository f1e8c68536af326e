//! Structured values cross between Rust and JavaScript as JSON text.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Failure, camel};

/// Serializes a value as JSON.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| {
        Failure::new(
            "internal",
            format!("an answer cannot be written as JSON ({error}); report it"),
        )
    })
}

/// Parses options from JSON. Anything that does not fit is refused by name.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    // Parsed through a `Value`, whose errors do not mention lines and columns: callers pass objects, not JSON text.
    let value: Value = serde_json::from_str(text).map_err(|error| {
        Failure::new(
            "option",
            format!("the options are not valid JSON: {error}; check their values"),
        )
    })?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let name = camel(&error.path().to_string());
        let what = error.into_inner().to_string();
        let is_named = name == "." || what.contains(&name);
        let message = if is_named {
            what
        } else {
            format!("{name}: {what}")
        };
        Failure::new("option", message)
    })
}
