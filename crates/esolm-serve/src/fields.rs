//! The fields of a request, taken one by one, so that what is left over can be refused by its name.

use serde_json::{Map, Value};

use crate::error::{ApiError, quoted};
use axum::http::StatusCode;

/// What is left of a JSON object.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let refused = |why: String| {
            let message = format!("the body is not a JSON object ({why}); send one");
            Err(ApiError::of(StatusCode::BAD_REQUEST, message))
        };
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => refused(format!("it is {}", kind(&other))),
            Err(error) => refused(error.to_string()),
        }
    }

    /// A field, unless it is missing or null.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A text.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "text")),
        }
    }

    /// True or false; missing is false.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        Ok(self.switch(name)?.unwrap_or(false))
    }

    /// True or false, or nothing.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn switch(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(switch)) => Ok(Some(switch)),
            Some(other) => Err(wrong(name, &other, "true or false")),
        }
    }

    /// A whole number from `least` to `most`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn whole(&mut self, name: &str, least: u64, most: u64) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value.as_u64().filter(|n| (least..=most).contains(n));
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => {
                let range = format!("a whole number from {least} to {most}");
                Err(wrong(name, &value, &range))
            }
        }
    }

    /// A number.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(name, &value, "a number")),
            },
        }
    }

    /// An object's fields; missing is none.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn object(&mut self, name: &str) -> Result<Self, ApiError> {
        match self.take(name) {
            None => Ok(Self(Map::new())),
            Some(Value::Object(fields)) => Ok(Self(fields)),
            Some(other) => Err(wrong(name, &other, "an object")),
        }
    }

    /// Refuses what was not taken. `foreign` are fields of OpenAI's that nothing here answers to, which may be there with a value that asks
    /// for nothing.
    ///
    /// # Errors
    /// Naming the first field.
    pub fn finish(self, foreign: &[&str]) -> Result<(), ApiError> {
        for (name, value) in self.0 {
            let asks_for_nothing = match &value {
                Value::Null | Value::Bool(false) => true,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::Bool(true) | Value::String(_) => false,
            };
            let is_foreign = foreign.contains(&name.as_str());
            if is_foreign && asks_for_nothing {
                continue;
            }
            let message = match is_foreign {
                true => format!("{name} is not supported; leave it out"),
                false => format!("there is no field {}; leave it out", quoted(&name)),
            };
            let short: String = name.chars().take(80).collect();
            return Err(ApiError::field(&short, message));
        }
        Ok(())
    }
}

/// A field that is something else than it should be.
pub fn wrong(name: &str, value: &Value, range: &str) -> ApiError {
    let shown = match value {
        Value::Array(_) | Value::Object(_) => kind(value).into(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    };
    ApiError::field(name, format!("{name} is {shown}; it must be {range}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
