//! Errors on their way to Python, where they are exceptions with a `code`, a message and the fields of the library's error. The classes are
//! Python's own (`esolm/errors.py`); `remedy.rs` says what helps.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use serde_json::{Map, Value};

use crate::value::value;

/// What went wrong.
#[derive(Debug)]
pub enum Failure {
    /// Something of esolm's.
    Told(Box<Told>),
    /// Something of Python's own, such as `KeyboardInterrupt`.
    Python(PyErr),
}

/// An error of esolm as Python shows it.
#[derive(Debug)]
pub struct Told {
    /// What a program can tell it by; it decides the class.
    code: &'static str,
    /// What is wrong, and what helps.
    message: String,
    /// The fields of the library's error.
    data: Map<String, Value>,
}

impl Failure {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self::Told(Box::new(Told {
            code,
            message: message.into(),
            data: Map::new(),
        }))
    }

    /// The same with the fields of a JSON object.
    #[must_use]
    pub fn with(mut self, fields: Value) -> Self {
        if let (Self::Told(told), Value::Object(fields)) = (&mut self, fields) {
            told.data.extend(fields);
        }
        self
    }

    pub fn with_remedy(code: &'static str, error: &impl ToString, remedy: &str) -> Self {
        Self::new(code, format!("{}; {remedy}", error.to_string()))
    }

    /// The same about a certain argument.
    #[must_use]
    pub fn about(mut self, name: &str) -> Self {
        if let Self::Told(told) = &mut self {
            told.message = format!("{name}: {}", told.message);
        }
        self
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Python(error) => error,
            Failure::Told(told) => told.raised(),
        }
    }
}

impl Told {
    fn raised(&self) -> PyErr {
        Python::attach(|py| {
            let made = || -> PyResult<PyErr> {
                let data = value(py, &self.data)?;
                let exception = py.import("esolm.errors")?.getattr("_made")?.call1((
                    self.code,
                    self.message.as_str(),
                    data,
                ))?;
                Ok(PyErr::from_value(exception))
            };
            // Without the package around it the module still says what happened.
            made().unwrap_or_else(|_| PyRuntimeError::new_err(self.message.clone()))
        })
    }
}
