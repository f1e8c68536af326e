//! What a model writes while somebody reads along: texts, and answers.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use esolm::trace::{Event, Footer, Header};
use esolm::{Answer, ChatEvent, Error};
use futures_core::Stream;
use pyo3::prelude::*;

use crate::error::Failure;
use crate::value::value;
use crate::wait::{Held, wait};

/// The runs of a model that have begun and not ended, with the thread that reads each. A call from that same thread would wait for ever, as
/// the model waits for the thread to read on.
#[derive(Clone)]
pub struct UnderWay {
    runs: Arc<Mutex<HashMap<u64, ThreadId>>>,
    /// The process whose thread computes. A fork has no such thread.
    process: u32,
}

impl UnderWay {
    /// None yet, of a model that this process has loaded.
    pub fn new() -> Self {
        Self {
            runs: Arc::default(),
            process: std::process::id(),
        }
    }

    /// Checks that this thread may call the model.
    ///
    /// # Errors
    /// With the code `busy` in a fork of the model's process, and while the thread itself has a run to read.
    pub fn check(&self) -> Result<(), Failure> {
        self.check_but(None)
    }

    fn check_process(&self) -> Result<(), Failure> {
        match std::process::id() == self.process {
            true => Ok(()),
            false => Err(Failure::new(
                "busy",
                "the model was loaded before this process was forked, and its thread stayed behind; load it in this process (with multiprocessing, \
                 use the start method \"spawn\")",
            )),
        }
    }

    fn check_but(&self, run: Option<u64>) -> Result<(), Failure> {
        self.check_process()?;
        let here = thread::current().id();
        let runs = lock(&self.runs);
        let mut others = runs.iter().filter(|(id, _)| Some(**id) != run);
        match others.any(|(_, reader)| *reader == here) {
            false => Ok(()),
            true => Err(Failure::new(
                "busy",
                "the model is still writing what this thread has not read to its end; read its `result` or `answer` first, or `close()` it",
            )),
        }
    }

    fn enter(&self, run: u64) -> Result<(), Failure> {
        self.check_but(Some(run))?;
        lock(&self.runs).insert(run, thread::current().id());
        Ok(())
    }

    fn leave(&self, run: u64) {
        lock(&self.runs).remove(&run);
    }
}

/// What is told of a run; the last of it ends the run.
trait Told: Send {
    fn is_last(&self) -> bool;
}

impl Told for Event {
    fn is_last(&self) -> bool {
        matches!(self, Self::Footer(_))
    }
}

impl Told for ChatEvent {
    fn is_last(&self) -> bool {
        matches!(self, Self::Answer(_))
    }
}

/// A run and what became of it.
enum State<S: Send, E> {
    Ready(Held<S>),
    /// Somebody waits for an event.
    Read,
    /// It has ended; these events were not read yet.
    Over(VecDeque<E>),
}

struct Run<S: Send, E> {
    id: u64,
    state: Mutex<State<S, E>>,
    stop: Arc<AtomicBool>,
    /// Given up, perhaps while another thread waited for an event.
    closed: AtomicBool,
    under_way: UnderWay,
}

impl<S, E> Run<S, E>
where
    S: Stream<Item = Result<E, Error>> + Send + Unpin,
    E: Told,
{
    fn new(run: S, stop: Arc<AtomicBool>, under_way: UnderWay) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State::Ready(Held::new(run))),
            stop,
            closed: AtomicBool::new(false),
            under_way,
        }
    }

    /// The next event; nothing after the last one.
    fn next(&self, py: Python<'_>) -> Result<Option<E>, Failure> {
        let mut state = lock(&self.state);
        let mut run = match std::mem::replace(&mut *state, State::Read) {
            State::Ready(run) => run,
            State::Over(mut left) => {
                let event = left.pop_front();
                *state = State::Over(left);
                return Ok(event);
            }
            State::Read => {
                // In a fork nobody waits any more.
                self.under_way.check_process()?;
                return Err(Failure::new(
                    "busy",
                    "another thread waits for the next step of this run; read it in one thread",
                ));
            }
        };
        drop(state);
        if let Err(failure) = self.under_way.enter(self.id) {
            self.put_back(State::Ready(run));
            return Err(failure);
        }
        let told = wait(py, next(&mut *run));
        let (state, told) = match told {
            Ok(Some(Ok(event))) if event.is_last() => {
                (State::Over(VecDeque::new()), Ok(Some(event)))
            }
            Ok(Some(Ok(event))) => (State::Ready(run), Ok(Some(event))),
            Ok(Some(Err(error))) => (State::Over(VecDeque::new()), Err(error.into())),
            Ok(None) => (State::Over(VecDeque::new()), Ok(None)),
            Err(interrupt) => (
                State::Over(self.last(py, run)),
                Err(Failure::Python(interrupt)),
            ),
        };
        self.put_back(state);
        told
    }

    /// What is still told of a run that an interrupt ends: at most the pass under way, and the end. A second interrupt does without.
    fn last(&self, py: Python<'_>, mut run: Held<S>) -> VecDeque<E> {
        self.stop();
        let mut left = VecDeque::new();
        while let Ok(Some(Ok(event))) = wait(py, next(&mut *run)) {
            left.push_back(event);
        }
        left
    }
}

impl<S: Send, E> Run<S, E> {
    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Gives the run up. What another thread waits for still comes.
    fn close(&self) {
        self.stop();
        self.closed.store(true, Ordering::SeqCst);
        let mut state = lock(&self.state);
        // Whoever reads it will give it up.
        if !matches!(*state, State::Read) {
            let given_up = std::mem::replace(&mut *state, State::Over(VecDeque::new()));
            // Other threads run while the run is dropped, and may ask for its state.
            drop(state);
            self.under_way.leave(self.id);
            drop(given_up);
        }
    }

    /// Keeps what became of the run that this thread has read.
    fn put_back(&self, state: State<S, E>) {
        if matches!(state, State::Over(_)) {
            self.under_way.leave(self.id);
        }
        *lock(&self.state) = state;
        if self.closed.load(Ordering::SeqCst) {
            self.close();
        }
    }
}

impl<S: Send, E> Drop for Run<S, E> {
    fn drop(&mut self) {
        self.under_way.leave(self.id);
    }
}

async fn next<S: Stream + Unpin>(run: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *run).poll_next(context)).await
}

/// Texts under way: an iterator of steps (`esolm.types.Step`). `Model.generate` makes one; nothing happens before its first step is asked for.
/// Leaving the loop early leaves the model busy with it: read its `result`, `close()` it, or use it in a `with` block.
#[pyclass(frozen, module = "esolm")]
pub struct Generation {
    run: Run<esolm::Generation, Event>,
    headers: Mutex<Vec<Header>>,
    footer: Mutex<Option<Footer>>,
}

impl Generation {
    pub fn new(run: esolm::Generation, under_way: UnderWay) -> Self {
        let stop = run.stop_flag();
        Self {
            run: Run::new(run, stop, under_way),
            headers: Mutex::default(),
            footer: Mutex::default(),
        }
    }

    fn event(&self, py: Python<'_>) -> Result<Option<Event>, Failure> {
        let event = self.run.next(py)?;
        match &event {
            Some(Event::Header(header)) => lock(&self.headers).push(header.clone()),
            Some(Event::Footer(footer)) => *lock(&self.footer) = Some(footer.clone()),
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

    /// What decides what is written (`esolm.types.Header`), one for each attempt so far. Runs the model up to the beginning of the first.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        // The first event is the first header.
        if lock(&self.headers).is_empty() {
            self.event(py)?;
        }
        let headers = lock(&self.headers).clone();
        headers.iter().map(|header| value(py, header)).collect()
    }

    /// The texts, with why each ends and what the run cost (`esolm.types.Result`). Lets the run go to its end.
    #[getter]
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        while lock(&self.footer).is_none() {
            if self.event(py)?.is_none() {
                return Err(no_end("result"));
            }
        }
        let footer = lock(&self.footer).clone();
        value(py, &footer)
    }

    /// Ends the run after the pass under way; the result then has what was written so far.
    fn stop(&self) {
        self.run.stop();
    }

    /// Gives the run up where it has not ended, so that the model is free for other calls. Leaving a `with` block does this too.
    fn close(&self) {
        self.run.close();
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (kind, error, trace))]
    fn __exit__(
        &self,
        kind: Option<Bound<'_, PyAny>>,
        error: Option<Bound<'_, PyAny>>,
        trace: Option<Bound<'_, PyAny>>,
    ) {
        let _ = (kind, error, trace);
        self.run.close();
    }
}

/// An answer under way: an iterator of events (`esolm.types.ChatEvent`). `Model.chat` makes one. As a `Generation` it keeps the model busy until
/// its `answer` is read or it is closed.
#[pyclass(frozen, module = "esolm")]
pub struct Answering {
    run: Run<esolm::Answering, ChatEvent>,
    answer: Mutex<Option<Answer>>,
}

impl Answering {
    pub fn new(run: esolm::Answering, under_way: UnderWay) -> Self {
        let stop = run.stop_flag();
        Self {
            run: Run::new(run, stop, under_way),
            answer: Mutex::default(),
        }
    }

    fn event(&self, py: Python<'_>) -> Result<Option<ChatEvent>, Failure> {
        let event = self.run.next(py)?;
        if let Some(ChatEvent::Answer(answer)) = &event {
            *lock(&self.answer) = Some(answer.clone());
        }
        Ok(event)
    }
}

#[pymethods]
impl Answering {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let event = self.event(py)?;
        event.map(|event| value(py, &event)).transpose()
    }

    /// The answer (`esolm.types.Answer`). Lets the model write to the end.
    #[getter]
    fn answer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        while lock(&self.answer).is_none() {
            if self.event(py)?.is_none() {
                return Err(no_end("answer"));
            }
        }
        let answer = lock(&self.answer).clone();
        value(py, &answer)
    }

    /// Ends the answer after the pass under way; what was written still comes.
    fn stop(&self) {
        self.run.stop();
    }

    /// Gives the answer up where it has not ended, so that the model is free for other calls. Leaving a `with` block does this too.
    fn close(&self) {
        self.run.close();
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (kind, error, trace))]
    fn __exit__(
        &self,
        kind: Option<Bound<'_, PyAny>>,
        error: Option<Bound<'_, PyAny>>,
        trace: Option<Bound<'_, PyAny>>,
    ) {
        let _ = (kind, error, trace);
        self.run.close();
    }
}

fn no_end(what: &str) -> PyErr {
    let message = format!(
        "there is no {what}, as the run failed or was closed before its end; begin another"
    );
    Failure::new("stopped", message).into()
}

/// What a lock guards, also where its last holder panicked.
pub fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
