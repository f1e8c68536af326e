//! Values of a configuration by the paths of their fields.

use std::fmt;

use serde_json::{Map, Value};

use super::claims::Scalar;
use super::{ConfigError, invalid};
use crate::message::shorten;

/// Follows a dotted path; null counts as absent.
pub(crate) fn lookup<'a>(map: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => present(map, path),
        Some((first, rest)) => lookup(map.get(first)?.as_object()?, rest),
    }
}

pub(crate) fn scalar(value: &Value) -> Scalar {
    match value {
        Value::Bool(value) => Scalar::Truth(*value),
        Value::String(text) => Scalar::Text(text.clone()),
        Value::Number(number) => number
            .as_f64()
            .map_or_else(|| Scalar::Other(shown(value)), Scalar::Number),
        other => Scalar::Other(shown(other)),
    }
}

pub(super) fn present<'a>(map: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    map.get(field).filter(|value| !value.is_null())
}

/// A value as it stands in the file, shortened: a hostile file must not fill the terminal.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) => format!("\"{}\"", shorten(text)),
        other => other.to_string(),
    }
}

/// A number in a message: `1e308` has 309 digits without an exponent.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Figure(pub f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        match size != 0.0 && !(1e-5..1e15).contains(&size) {
            true => write!(f, "{:e}", self.0),
            false => write!(f, "{}", self.0),
        }
    }
}

/// Checks that the sections of a configuration are such where they are named: of another value everything in them would be taken for absent.
pub(super) fn section(map: &Map<String, Value>, field: &'static str) -> Result<(), ConfigError> {
    match map.get(field) {
        Some(value) if !value.is_object() => {
            Err(invalid(field, shown(value), "an object, or left out"))
        }
        _ => Ok(()),
    }
}

pub(super) fn number(
    map: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<usize>, ConfigError> {
    lookup(map, field)
        .map(|value| {
            let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
            n.ok_or_else(|| invalid(field, shown(value), "a whole number"))
        })
        .transpose()
}

pub(super) fn token(
    map: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<u32>, ConfigError> {
    lookup(map, field)
        .map(|value| {
            let n = value.as_u64().and_then(|n| u32::try_from(n).ok());
            n.ok_or_else(|| invalid(field, shown(value), "a token index, that is a whole number"))
        })
        .transpose()
}

pub(super) fn float(
    map: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<Figure>, ConfigError> {
    lookup(map, field)
        .map(|value| {
            let number = value.as_f64().map(Figure);
            number.ok_or_else(|| invalid(field, shown(value), "a number"))
        })
        .transpose()
}

pub(super) fn string<'a>(
    map: &'a Map<String, Value>,
    field: &'static str,
) -> Result<Option<&'a str>, ConfigError> {
    lookup(map, field)
        .map(|value| {
            value
                .as_str()
                .ok_or_else(|| invalid(field, shown(value), "a text in quotes"))
        })
        .transpose()
}

/// A truth in JSON's own form.
pub(super) fn boolean(
    map: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<bool>, ConfigError> {
    lookup(map, field)
        .map(|value| {
            value
                .as_bool()
                .ok_or_else(|| invalid(field, shown(value), "true or false"))
        })
        .transpose()
}

/// What the fields at `paths` say, which are spellings of one field.
pub(super) fn agreeing<T: Copy + PartialEq + fmt::Display>(
    paths: &[&'static str],
    read: impl Fn(&'static str) -> Result<Option<T>, ConfigError>,
) -> Result<Option<T>, ConfigError> {
    let mut found: Option<(&str, T)> = None;
    for &path in paths {
        let Some(value) = read(path)? else { continue };
        match found {
            Some((first, other)) if other != value => {
                return Err(ConfigError::Contradiction {
                    first: format!("the configuration's field \"{first}\" is {other}"),
                    second: format!("its field \"{path}\" is {value}"),
                    remedy: "remove the wrong one".into(),
                });
            }
            _ => found = Some((path, value)),
        }
    }
    Ok(found.map(|(_, value)| value))
}
