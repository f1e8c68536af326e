//! The Python package `esolm`: this library's front door with the names and habits of Python. Options are keyword arguments under the
//! library's own names, results are dictionaries with the fields of its JSON, and errors are exceptions with the library's fields.

mod error;
mod generation;
mod model;
mod wait;

use pyo3::prelude::*;

/// What the package `esolm` is made of; `import esolm` is the way in.
#[pymodule]
mod _esolm {
    #[pymodule_export]
    use super::generation::Generation;
    #[pymodule_export]
    use super::model::{Model, devices, inspect};

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
