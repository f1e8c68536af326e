//! JSON written by users, such as the lines of jobs and conversations. Errors are described in terms of JSON, not of
//! the Rust types.

use esolm_checkpoint::message::{json_error, shorten};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub const TEXT: &str = "a text";
pub const COUNT: &str = "a whole number, 1 or more";
pub const SWITCH: &str = "true or false";
pub const SEED: &str = "a whole number from 0 to 18446744073709551615, or its digits as text";

/// The name of a field, and a description of its values.
pub type Field = (&'static str, &'static str);

/// The fields that an object may have.
pub struct Form {
    pub fields: &'static [Field],
    /// What such objects are called, in the plural.
    pub called: &'static str,
    /// The page that documents them.
    pub page: &'static str,
}

/// Parses a text as an object.
///
/// # Errors
/// What it is instead, as part of a sentence.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        format!("it is not UTF-8 text (byte {at} is not part of a character)")
    })?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("it is not a JSON object ({})", syntax(&error)))?;
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Array(_) => Err("it is not a JSON object, but a list".into()),
        _ => Err("it is not a JSON object, but a single value".into()),
    }
}

/// The JSON parser's message for invalid JSON, with the position of the error.
pub fn syntax(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it ends too early".into();
    }
    let why = json_error(error);
    let why = why.split(" at line ").next().unwrap_or_default();
    match error.line() {
        0 | 1 => format!("{why} at byte {}", error.column()),
        line => format!("{why} at byte {} of line {line}", error.column()),
    }
}

/// Parses the fields of an object. Missing and `null` fields are taken from `defaults`.
///
/// # Errors
/// What is wrong with the first bad field, as part of a sentence.
pub fn read<T: DeserializeOwned>(
    fields: Map<String, Value>,
    form: &Form,
    defaults: &Map<String, Value>,
) -> Result<T, String> {
    let mut all = defaults.clone();
    let mut given: Vec<(&Field, Value)> = Vec::new();
    for (name, value) in fields {
        let Some(field) = form.fields.iter().find(|(known, _)| *known == name) else {
            let (name, Form { called, page, .. }) = (shorten(&name), form);
            return Err(format!(
                "it has the field {name:?}, which {called} do not have; see {page}"
            ));
        };
        if !value.is_null() {
            given.push((field, value.clone()));
            all.insert(name, value);
        }
    }
    serde_json::from_value(Value::Object(all)).map_err(|error| {
        let is_bad = |(name, _): &Field, value: &Value| {
            let mut one = defaults.clone();
            one.insert((*name).into(), value.clone());
            serde_json::from_value::<T>(Value::Object(one)).is_err()
        };
        match given.iter().find(|(field, value)| is_bad(field, value)) {
            Some(((name, what), value)) => {
                let value = shorten(&value.to_string());
                format!("its {name} is {value}; it must be {what}")
            }
            // Each is valid by itself, but not together.
            None => error.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Fields {
        count: Option<usize>,
        name: String,
    }

    const FORM: Form = Form {
        fields: &[("count", "a whole number"), ("name", TEXT)],
        called: "lines for `count`",
        page: "docs/count.md",
    };

    fn read_from(value: Value) -> Result<Fields, String> {
        let Value::Object(fields) = value else {
            panic!("not an object")
        };
        let Value::Object(defaults) = json!({"name": "none"}) else {
            panic!("not an object")
        };
        read(fields, &FORM, &defaults)
    }

    #[test]
    fn what_is_wrong_is_said_of_the_field() {
        let read = read_from(json!({"count": 3, "name": null})).expect("good fields");
        assert_eq!((read.count, &read.name[..]), (Some(3), "none"));
        for (line, said) in [
            (
                json!({"count": "3"}),
                "its count is \"3\"; it must be a whole number",
            ),
            (
                json!({"count": 1.5}),
                "its count is 1.5; it must be a whole number",
            ),
            (
                json!({"count": -1, "name": "a"}),
                "its count is -1; it must be a whole number",
            ),
            (
                json!({"name": ["a"], "count": 1}),
                "its name is [\"a\"]; it must be a text",
            ),
            (
                json!({"nmae": "a"}),
                "it has the field \"nmae\", which lines for `count` do not have; see docs/count.md",
            ),
        ] {
            assert_eq!(read_from(line).expect_err("a bad line"), said);
        }
    }

    #[test]
    fn what_is_no_object_is_said_with_its_place() {
        for (text, said) in [
            (&b"[1]"[..], "it is not a JSON object, but a list"),
            (b"7", "it is not a JSON object, but a single value"),
            (b"{\"a\": 1", "it is not a JSON object (it ends too early)"),
            (
                b"{\"a\": x}",
                "it is not a JSON object (expected value at byte 7)",
            ),
            (
                b"{\n  \"a\": x}",
                "it is not a JSON object (expected value at byte 8 of line 2)",
            ),
            (
                b"{\"\xff",
                "it is not UTF-8 text (byte 2 is not part of a character)",
            ),
        ] {
            assert_eq!(object(text).expect_err("no object"), said);
        }
        assert_eq!(object(b"{\"a\": 1}").expect("an object").len(), 1);
    }
}
