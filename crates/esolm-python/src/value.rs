//! Values on their way between Python and the library.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::error::Failure;

/// How deep what is given may be nested. Nothing that means anything is deeper.
const DEPTH: usize = 8;

/// A value of the library as Python's dictionaries, lists and numbers.
///
/// # Errors
/// When memory ends.
pub fn value<'py>(py: Python<'py>, of: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let value = pythonize::pythonize(py, of)?;
    // In JSON large seeds are strings, for JavaScript's sake; Python's numbers have no bounds.
    if let Ok(fields) = value.cast::<PyDict>()
        && let Some(seed) = fields.get_item("seed")?
        && let Ok(digits) = seed.cast::<PyString>()
        && let Ok(seed) = digits.to_cow()?.parse::<u64>()
    {
        fields.set_item("seed", seed)?;
    }
    Ok(value)
}

/// Options as the library reads them from JSON. What is `None` counts as left out.
///
/// # Errors
/// `OptionError` with the name of the first option whose value does not fit; `ArgumentError` for a value that nothing takes.
pub fn options<T: DeserializeOwned>(given: &Bound<'_, PyDict>) -> Result<T, Failure> {
    read(Value::Object(fields(given)?))
}

/// As [`options`], not read yet.
pub fn fields(given: &Bound<'_, PyDict>) -> Result<Map<String, Value>, Failure> {
    let mut fields = Map::new();
    for (name, value) in given {
        if !value.is_none() {
            let name: String = name.extract().map_err(Failure::Python)?;
            let value = plain(&name, &value)?;
            fields.insert(name, value);
        }
    }
    Ok(fields)
}

/// Reads JSON. What does not fit is refused by its name.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let name = error.path().to_string();
        let what = error.into_inner().to_string();
        if let Some(misfit) = misfit(&what) {
            let failure = Failure::new("option", misfit);
            return match name == "." {
                true => failure,
                false => failure.about(&name),
            };
        }
        let is_named = name == "." || what.contains(&name);
        let message = match is_named {
            true => what,
            false => format!("{name}: {what}"),
        };
        Failure::new("option", message)
    })
}

/// What serde says of a value that does not fit, in the words of Python.
fn misfit(what: &str) -> Option<String> {
    let told = ["invalid type: ", "invalid value: "];
    let told = told.iter().find_map(|kind| what.strip_prefix(kind))?;
    let (found, wanted) = told.rsplit_once(", expected ")?;
    let found = match found {
        "null" => "None",
        "map" => "a dictionary",
        "sequence" => "a list",
        "boolean `true`" => "True",
        "boolean `false`" => "False",
        other => {
            let kinds = ["string ", "integer ", "floating point "];
            let value = kinds.iter().find_map(|kind| other.strip_prefix(kind));
            value.unwrap_or(other).trim_matches('`')
        }
    };
    let wanted = match wanted {
        "u8" | "u16" | "u64" | "usize" => "a whole number from 0 on",
        "u32" => "a whole number from 0 on, less than 2^32",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "True or False",
        "a string" | "string or map" => "a text",
        "path string" => "a path",
        "a sequence" => "a list",
        "a map" => "a dictionary",
        other if other.starts_with("struct ") => "a dictionary",
        other => other,
    };
    Some(format!("got {found}; give {wanted}"))
}

/// An argument as the library reads it from JSON.
///
/// # Errors
/// As [`options`].
pub fn argument<T: DeserializeOwned>(name: &str, given: &Bound<'_, PyAny>) -> Result<T, Failure> {
    read(plain(name, given)?).map_err(|failure| failure.about(name))
}

/// An argument as JSON, not read yet.
///
/// # Errors
/// As [`options`]; `TextError` for a text that has no UTF-8.
pub fn plain(name: &str, given: &Bound<'_, PyAny>) -> Result<Value, Failure> {
    json(given, DEPTH).map_err(|error| named(name, error))
}

fn named(name: &str, error: Refused) -> Failure {
    match error {
        Refused::Python(error) => Failure::Python(error),
        Refused::Type(kind) => Failure::new(
            "type",
            format!(
                "{name} has or holds a value of type {kind}; give numbers, texts, or lists and dictionaries of them"
            ),
        ),
        Refused::Surrogate => Failure::new(
            "text",
            format!(
                "{name} holds half of a surrogate pair, which is not a character; give a text without it"
            ),
        ),
        Refused::Deep => Failure::new(
            "option",
            format!("{name} is nested too deep; give a flatter value"),
        ),
    }
}

/// Why something is no value of an option.
enum Refused {
    Type(String),
    /// A text that UTF-8 cannot hold.
    Surrogate,
    Deep,
    Python(PyErr),
}

impl From<PyErr> for Refused {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

fn json(given: &Bound<'_, PyAny>, depth: usize) -> Result<Value, Refused> {
    let below = depth.checked_sub(1).ok_or(Refused::Deep)?;
    if given.is_none() {
        return Ok(Value::Null);
    }
    if let Ok(truth) = given.cast::<PyBool>() {
        return Ok(truth.is_true().into());
    }
    if let Ok(words) = given.cast::<PyString>() {
        return Ok(text(words)?.into());
    }
    if given.is_instance_of::<PyInt>() {
        return Ok(match given.extract::<u64>() {
            Ok(number) => number.into(),
            Err(_) => match given.extract::<i64>() {
                Ok(number) => number.into(),
                // Too large for any option: it is refused with its digits.
                Err(_) => given.str()?.to_cow()?.into_owned().into(),
            },
        });
    }
    if let Ok(number) = given.cast::<PyFloat>() {
        let number = Number::from_f64(number.value());
        // One that is not finite is refused by its name.
        return Ok(match number {
            Some(number) => Value::Number(number),
            None => given.str()?.to_cow()?.into_owned().into(),
        });
    }
    if let Ok(fields) = given.cast::<PyDict>() {
        let fields = fields.iter().map(|(name, value)| {
            let name = name.cast::<PyString>().map_err(|_| kind(&name))?;
            Ok((text(name)?, json(&value, below)?))
        });
        return fields
            .collect::<Result<Map<_, _>, Refused>>()
            .map(Value::Object);
    }
    if let Ok(list) = given.cast::<PyList>() {
        return list.iter().map(|value| json(&value, below)).collect();
    }
    if let Ok(tuple) = given.cast::<PyTuple>() {
        return tuple.iter().map(|value| json(&value, below)).collect();
    }
    // Paths, and what numpy and its kin have.
    for method in ["__fspath__", "tolist"] {
        if given.hasattr(method)? {
            return json(&given.call_method0(method)?, below);
        }
    }
    Err(kind(given))
}

fn text(of: &Bound<'_, PyString>) -> Result<String, Refused> {
    match of.to_cow() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Refused::Surrogate),
    }
}

fn kind(of: &Bound<'_, PyAny>) -> Refused {
    match of.get_type().name() {
        Ok(name) => Refused::Type(name.to_string()),
        Err(error) => Refused::Python(error),
    }
}
