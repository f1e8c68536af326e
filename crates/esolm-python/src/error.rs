//! The library's errors as Python's exceptions. The classes are Python's own (`esolm/errors.py`); here each error finds its class, its
//! fields, and a remedy in the words of Python.

use esolm::checkpoint::CheckpointError;
use esolm::config::ConfigError;
use esolm::{EngineError, Error, ItemError, RequestError};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// An error with its way to Python.
#[derive(Debug)]
pub enum Failure {
    /// The library's.
    Esolm(Error),
    /// An argument that does not fit, in a sentence.
    Option(String),
    /// Python's own, such as `KeyboardInterrupt`.
    Python(PyErr),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Esolm(error.into())
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Python(error) => error,
            Failure::Option(message) => raised("OptionError", message, &[]),
            Failure::Esolm(error) => exception(&error),
        }
    }
}

/// What keyword arguments say, read as the library's JSON is.
///
/// # Errors
/// `OptionError` for an unknown name or a value of another type.
pub fn options<'py, T: serde::de::DeserializeOwned>(
    given: Option<&Bound<'py, PyDict>>,
) -> Result<T, Failure>
where
    T: Default,
{
    let Some(given) = given else {
        return Ok(T::default());
    };
    pythonize::depythonize(given.as_any()).map_err(|error| Failure::Option(error.to_string()))
}

/// A value of the library as Python's dictionaries and lists.
///
/// # Errors
/// When memory ends.
pub fn value<'py>(py: Python<'py>, of: &impl serde::Serialize) -> PyResult<Bound<'py, PyAny>> {
    Ok(pythonize::pythonize(py, of)?)
}

fn exception(error: &Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Checkpoint(source) | Error::Engine(EngineError::Checkpoint(source)) => {
            raised("CheckpointError", with_remedy(message, remedy(source)), &[])
        }
        Error::NeedsTokenizer | Error::Request(RequestError::NoTokenizer { .. }) => raised(
            "TextError",
            with_remedy(message, Some("load the model with tokenizer=\"tokenizer.json\"")),
            &[],
        ),
        Error::Text(_) => raised("TextError", message, &[]),
        Error::Item { index, source } => {
            let class = match source {
                ItemError::Text(_) | ItemError::Between(_) => "TextError",
                _ => "OptionError",
            };
            raised(class, message, &[("index", &index.to_string())])
        }
        Error::Range {
            option,
            value,
            range,
        } => raised(
            "OptionError",
            message,
            &[("option", option), ("value", value), ("range", range)],
        ),
        Error::NotApplicable { option, why } => {
            raised("OptionError", message, &[("option", option), ("why", why)])
        }
        Error::Engine(EngineError::HostMemory { .. }) => raised("OutOfMemoryError", message, &[]),
        Error::Engine(source) if source.device_fault().is_some() => {
            raised("DeviceError", message, &[])
        }
        Error::Engine(EngineError::NoAdapter(_) | EngineError::AdapterIndex { .. }) => raised(
            "DeviceError",
            with_remedy(message, Some("esolm.devices() lists what there is; device=\"cpu\" always works")),
            &[],
        ),
        Error::Engine(EngineError::NotFinite { .. } | EngineError::Overflow { .. }) => {
            raised("CheckpointError", message, &[])
        }
        Error::Crashed => raised("EsolmError", message, &[]),
        _ => raised("OptionError", message, &[]),
    }
}

fn remedy(error: &CheckpointError) -> Option<&'static str> {
    Some(match error {
        CheckpointError::NoConfig { .. } => "give the config.json that belongs to it as config=",
        CheckpointError::Config {
            source: ConfigError::Undecided { .. },
            ..
        } => "say read_as=\"mdlm\", or read_as=\"bd3lm\" with block_size=",
        CheckpointError::Config {
            source: ConfigError::Blocks,
            ..
        } => "give it with block_size=",
        CheckpointError::RawWeightsNotApplicable => "leave raw_weights out",
        _ => return None,
    })
}

fn with_remedy(message: String, remedy: Option<&str>) -> String {
    match remedy {
        Some(remedy) => format!("{message}; {remedy}"),
        None => message,
    }
}

/// An exception of a class of `esolm.errors`, with fields.
fn raised(class: &str, message: String, fields: &[(&str, &str)]) -> PyErr {
    Python::attach(|py| {
        let made = || -> PyResult<PyErr> {
            let exception = py
                .import("esolm.errors")?
                .getattr(class)?
                .call1((message.as_str(),))?;
            for (name, value) in fields {
                exception.setattr(*name, *value)?;
            }
            Ok(PyErr::from_value(exception))
        };
        // Without the package around it the module still says what happened.
        made().unwrap_or_else(|_| PyRuntimeError::new_err(message.clone()))
    })
}
