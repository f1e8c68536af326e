//! A text under way.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::trace::{Event, Footer, Header};
use pyo3::prelude::*;

use crate::error::{Failure, value};
use crate::wait::wait;

/// Texts under way: an iterator of steps, each a dictionary with what it revealed. Leaving the loop early, or Ctrl-C, ends the run after the
/// pass under way; `result()` then has what was written so far.
#[pyclass(frozen, module = "esolm")]
pub struct Generation {
    /// Away while an event is waited for.
    run: Mutex<Option<esolm::Generation>>,
    stop: Arc<AtomicBool>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    header: Option<Header>,
    footer: Option<Footer>,
}

impl Generation {
    pub fn new(run: esolm::Generation) -> Self {
        Self {
            stop: run.stop_flag(),
            run: Mutex::new(Some(run)),
            told: Mutex::default(),
        }
    }

    /// The next event; nothing after the footer.
    fn event(&self, py: Python<'_>) -> Result<Option<Event>, Failure> {
        let mut run = lock(&self.run).take().ok_or_else(|| {
            Failure::Option("another thread waits for this generation's next step; wait for it there".into())
        })?;
        let event = wait(py, run.next());
        *lock(&self.run) = Some(run);
        let event = event.map_err(|interrupt| {
            self.stop.store(true, Ordering::SeqCst);
            Failure::Python(interrupt)
        })?;
        let event = event.transpose()?;
        match &event {
            Some(Event::Header(header)) => lock(&self.told).header = Some(header.clone()),
            Some(Event::Footer(footer)) => lock(&self.told).footer = Some(footer.clone()),
            _ => {}
        }
        Ok(event)
    }
}

#[pymethods]
impl Generation {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            match self.event(py)? {
                Some(Event::Header(_)) => {}
                Some(Event::Step(step)) => return Ok(Some(value(py, &step)?)),
                Some(Event::Footer(_)) | None => return Ok(None),
            }
        }
    }

    /// What decides what is written: family, length, schedule, seed and the given tokens. Runs the model up to its beginning.
    fn header<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if lock(&self.told).header.is_none() {
            self.event(py)?;
        }
        let told = lock(&self.told);
        value(py, &told.header)
    }

    /// The texts, with why each ends and what the run cost. Lets the run go to its end.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        while lock(&self.told).footer.is_none() && self.event(py)?.is_some() {}
        let told = lock(&self.told);
        match &told.footer {
            Some(footer) => value(py, footer),
            None => Err(Failure::from(esolm::Error::Stopped).into()),
        }
    }

    /// Ends the run after the pass under way.
    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A lock whose holder panicked holds what it held.
fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
