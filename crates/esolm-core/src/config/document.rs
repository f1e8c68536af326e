//! A configuration's text as JSON, including errors that a JSON parser would silently accept.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::ConfigError;
use super::fields::shown;
use crate::documents::normalize;
use crate::message::{json_error, shorten};

/// The fields of an object, and the first field at any depth that occurs twice with different values; JSON parsers keep
/// the last.
pub(super) struct Fields {
    pub map: Map<String, Value>,
    pub twin: Option<Twin>,
}

/// Number of characters kept of a field's path, more than a message shows. A hostile file may have long names, and
/// values nested within them.
const KEPT_OF_PATH: usize = 100;

/// A field that occurs twice in an object.
pub(super) struct Twin {
    /// Dotted path of its name, or the beginning of it.
    path: String,
    values: [String; 2],
}

impl Twin {
    /// The error for it; `source` names the configuration.
    pub(super) fn contradiction(self, source: &str) -> ConfigError {
        let [first, second] = self.values;
        ConfigError::Contradiction {
            first: format!("\"{}\" of {source} is {first}", shorten(&self.path)),
            second: format!("it stands there a second time and is {second}"),
            remedy: "remove the wrong one".into(),
        }
    }
}

impl Fields {
    pub(super) fn read(json: &str) -> Result<Self, ConfigError> {
        let refuse = |error| ConfigError::Json(json_error(&error));
        let text = normalize(json);
        let (mut deserializer, mut twin) = (serde_json::Deserializer::from_str(&text), None);
        let whole = Reader {
            path: "",
            twin: &mut twin,
        };
        let map = deserializer.deserialize_map(whole).map_err(refuse)?;
        deserializer.end().map_err(refuse)?;
        match map {
            Value::Object(map) => Ok(Self { map, twin }),
            _ => Err(refuse(serde_json::Error::custom("expected a map"))),
        }
    }
}

/// Reads a value; `path` is its name in messages.
struct Reader<'a> {
    path: &'a str,
    twin: &'a mut Option<Twin>,
}

/// The path of the field `name` in the object at `path`.
fn joined(path: &str, name: &str) -> String {
    let dot = if path.is_empty() { "" } else { "." };
    let whole = [path, dot, name].into_iter().flat_map(str::chars);
    whole.take(KEPT_OF_PATH).collect()
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let path = joined(self.path, &name);
            let value = access.next_value_seed(Reader {
                path: &path,
                twin: &mut *self.twin,
            })?;
            if let Some(first) = map.get(&name)
                && *first != value
                && self.twin.is_none()
            {
                let values = [shown(first), shown(&value)];
                *self.twin = Some(Twin { path, values });
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(Reader {
            path: self.path,
            twin: &mut *self.twin,
        })? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}
