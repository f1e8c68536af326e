//! A generation under way.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use esolm::Progress;
use esolm::config::ModelConfig;
use esolm::plan::{Phase, Plan};
use esolm::request::{Resolved, Settings};
use esolm::text::TextCodec;
use serde::Serialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Failure, json};
use crate::model::Shared;

/// Version of the trace format.
const TRACE: u32 = 1;

/// The first line of a trace, with the plan.
#[derive(Serialize)]
pub struct Header<'a> {
    pub esolm_trace: u32,
    pub esolm: &'static str,
    pub model: &'a str,
    #[serde(flatten)]
    pub settings: &'a Settings,
    pub vocab_size: usize,
    pub mask_index: u32,
    pub nfe: usize,
    pub known: &'a [Vec<(u32, u32)>],
    pub plan: &'a Plan,
}

impl<'a> Header<'a> {
    pub fn new(resolved: &'a Resolved, config: &ModelConfig, plan: &'a Plan) -> Self {
        Self {
            esolm_trace: TRACE,
            esolm: env!("CARGO_PKG_VERSION"),
            model: "",
            settings: &resolved.settings,
            vocab_size: config.vocab_size,
            mask_index: config.mask_index,
            nfe: plan.nfe(),
            known: &resolved.given.known,
            plan,
        }
    }
}

/// A revealed token with what it says.
#[derive(Serialize)]
struct Revealed {
    sequence: u32,
    position: u32,
    token: u32,
    text: String,
}

/// A line of a trace, with texts.
#[derive(Serialize)]
struct Step {
    step: usize,
    steps: usize,
    phase: Phase,
    revealed: Vec<Revealed>,
    rows: usize,
    cache_length: usize,
    seconds: f64,
}

/// The last line of a trace, and what the package needs besides.
#[derive(Serialize)]
struct Footer<'a> {
    tokens: &'a [Vec<u32>],
    text: Vec<String>,
    interrupted: bool,
    seconds: f64,
    pieces: BTreeMap<u32, String>,
    nfe: usize,
    rows: usize,
    /// Texts in which the model went on with a given word of the template; they are to be drawn again.
    broken: Vec<usize>,
    /// Whether there are any.
    redraw: bool,
}

/// A generation under way.
#[wasm_bindgen]
pub struct WasmRun {
    shared: Rc<Shared>,
    resolved: Resolved,
    plan: Plan,
    header: String,
    progress: RefCell<Option<Progress>>,
    done: Cell<bool>,
}

impl WasmRun {
    pub fn new(
        shared: Rc<Shared>,
        resolved: Resolved,
        plan: Plan,
        header: String,
        progress: Progress,
    ) -> Self {
        Self {
            shared,
            resolved,
            plan,
            header,
            progress: RefCell::new(Some(progress)),
            done: Cell::new(false),
        }
    }

    fn codec(&self) -> Option<&TextCodec> {
        self.shared.codec.as_ref()
    }

    fn piece(&self, token: u32) -> String {
        self.codec()
            .map_or_else(String::new, |codec| codec.decode(&[token]))
    }
}

#[wasm_bindgen]
impl WasmRun {
    /// JSON of the trace's first line, with the plan.
    pub fn header(&self) -> String {
        self.header.clone()
    }

    /// Runs a step and gives the JSON of one, nothing when all are done.
    ///
    /// # Errors
    /// When the device fails, or another call is under way.
    // One thread: nobody else can hold the cells while this waits, but through a call that is refused as busy.
    #[allow(clippy::await_holding_refcell_ref)]
    pub async fn next(&self) -> Result<Option<String>, Failure> {
        let mut engine = self.shared.engine()?;
        let mut slot = self
            .progress
            .try_borrow_mut()
            .map_err(|_| Failure::busy())?;
        let Some(progress) = slot.as_mut() else {
            return Ok(None);
        };
        let event = match progress.next(&mut engine, &self.plan).await {
            Ok(Some(event)) => event,
            Ok(None) => {
                self.done.set(true);
                return Ok(None);
            }
            Err(error) => {
                // Nothing more comes of it, and the model is free for another run.
                slot.take();
                self.shared.running.set(false);
                return Err(error.into());
            }
        };
        let revealed = event.revealed.iter().map(|one| Revealed {
            sequence: one.sequence,
            position: one.position,
            token: one.token,
            text: self.piece(one.token),
        });
        json(&Step {
            step: event.step,
            steps: event.steps,
            phase: event.phase,
            revealed: revealed.collect(),
            rows: event.rows,
            cache_length: event.cache_length,
            seconds: event.seconds,
        })
        .map(Some)
    }

    /// Ends the run after the steps so far and gives the JSON of the trace's last line.
    ///
    /// # Errors
    /// As `next`, and when the run was ended before.
    #[allow(clippy::await_holding_refcell_ref)]
    pub async fn stop(&self) -> Result<String, Failure> {
        let mut engine = self.shared.engine()?;
        let progress = (self.progress.try_borrow_mut())
            .map_err(|_| Failure::busy())?
            .take()
            .ok_or_else(|| Failure::new("busy", "the run has ended; start another one"))?;
        self.shared.running.set(false);
        let generation = progress.stop(&mut engine, &self.plan).await?;
        let interrupted = !self.done.get();
        let tokens = &generation.tokens;
        let broken = match interrupted {
            true => Vec::new(),
            false => self.resolved.broken(tokens, self.codec()),
        };
        let pieces = tokens
            .iter()
            .flatten()
            .map(|&token| (token, self.piece(token)));
        json(&Footer {
            text: self.resolved.texts(tokens, self.codec(), false),
            interrupted,
            seconds: generation.seconds,
            pieces: match self.codec() {
                Some(_) => pieces.collect(),
                None => BTreeMap::new(),
            },
            nfe: generation.nfe,
            rows: generation.rows,
            redraw: !broken.is_empty(),
            broken,
            tokens,
        })
    }
}

impl Drop for WasmRun {
    fn drop(&mut self) {
        if let Some(mut progress) = self.progress.take() {
            self.shared.running.set(false);
            wasm_bindgen_futures::spawn_local(async move { progress.settle().await });
        }
    }
}
