//! The native half of the Python package `esolm`: the library's front door, called with dictionaries of options and answering with
//! dictionaries of results. `python/esolm` makes of it what people see.

mod error;
mod files;
mod model;
mod remedy;
mod run;
mod value;
mod wait;

use pyo3::prelude::*;

/// What the package `esolm` is made of; `import esolm` is the way in.
#[pymodule]
mod _esolm {
    #[pymodule_export]
    use super::files::inspect;
    #[pymodule_export]
    use super::model::{Model, devices};
    #[pymodule_export]
    use super::run::{Answering, Generation};

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
