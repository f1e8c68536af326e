//! The fields of a line. What is wrong with one is said in words of JSON, not of the types that the program reads it into.

use esolm_checkpoint::message::shorten;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The name of a field, and what its value must be.
pub type Field = (&'static str, &'static str);

/// Reads the fields of a line for a command. What a line leaves out, or sets to `null`, is as in `defaults`.
///
/// # Errors
/// What is wrong with the first bad field, as the part of a sentence.
pub fn read<T: DeserializeOwned>(
    fields: Map<String, Value>,
    known: &[Field],
    command: &str,
    defaults: &Map<String, Value>,
) -> Result<T, String> {
    let mut all = defaults.clone();
    let mut given: Vec<(&Field, Value)> = Vec::new();
    for (name, value) in fields {
        let Some(field) = known.iter().find(|(known, _)| *known == name) else {
            let name = shorten(&name);
            return Err(format!(
                "it has the field {name:?}, which lines for `{command}` do not have; see docs/scale.md"
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
            // Each is good, and together they are not.
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

    const KNOWN: [Field; 2] = [("count", "a whole number"), ("name", "a text")];

    fn read_from(value: Value) -> Result<Fields, String> {
        let Value::Object(fields) = value else {
            panic!("not an object")
        };
        let Value::Object(defaults) = json!({"name": "none"}) else {
            panic!("not an object")
        };
        read(fields, &KNOWN, "count", &defaults)
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
                "it has the field \"nmae\", which lines for `count` do not have; see docs/scale.md",
            ),
        ] {
            assert_eq!(read_from(line).expect_err("a bad line"), said);
        }
    }
}
