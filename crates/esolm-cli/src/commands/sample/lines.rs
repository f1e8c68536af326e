//! `esolm sample --input`: every line is a text to write, with what it says for itself in the place of the options.

mod batches;
mod running;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use esolm::{Error, Model, ModelFiles, Request, Serving};
use serde_json::{Map, Value};

use super::given;
use super::report::TextLine;
use crate::arguments::Sample;
use crate::failure::Failure;
use crate::job::{self, Line, Work};
use crate::setup;

/// The fields of a [`Request`] that a line does not have: they are the job's, or of several texts.
const NOT_OF_A_LINE: [&str; 4] = ["batch", "first", "logprobs", "decode_as"];

pub fn run(arguments: &Sample) -> Result<(), Failure> {
    job::check_format(arguments.form.format)?;
    let files = setup::open(&arguments.source, arguments.quiet)?;
    let request = Request {
        // What does not say its number of texts, or its seed, is the same in any shard.
        batch: None,
        first: 0,
        seed: Some(arguments.seed.unwrap_or(0)),
        ..given::request(arguments)?
    };
    // Bad options are said before anything is read.
    let (_, plan) = files.plan(&request)?;
    let in_batches = plan.window.is_some();
    let Ok(Value::Object(defaults)) = serde_json::to_value(&request) else {
        return Err(Error::Crashed.into());
    };
    let mut options = setup::identity(&arguments.source, &arguments.device);
    options.extend(defaults.clone());
    options.insert("raw".into(), arguments.raw.into());
    let plan = job::Plan {
        command: "sample",
        job: &arguments.job,
        options: Value::Object(options),
        first: arguments.first,
        batch: arguments.batch,
        quiet: arguments.quiet,
    };
    let work = Writer {
        arguments,
        defaults,
        in_batches,
        loaded: Loaded::Not(Some(Box::new(files))),
    };
    job::run(&plan, work)
}

struct Writer<'a> {
    arguments: &'a Sample,
    /// The request of a line that says nothing.
    defaults: Map<String, Value>,
    /// Whether a running batch does not take such texts.
    in_batches: bool,
    loaded: Loaded,
}

/// What writes.
enum Loaded {
    Not(Option<Box<ModelFiles>>),
    Running(Serving),
    /// With the most texts at once.
    Batches(Model, usize),
}

impl Work for Writer<'_> {
    type Item = Request;
    type Done = TextLine;

    fn read(&self, fields: Map<String, Value>) -> Result<Request, String> {
        let mut all = self.defaults.clone();
        for (name, value) in fields {
            if !all.contains_key(&name) || NOT_OF_A_LINE.contains(&&name[..]) {
                return Err(format!(
                    "it has the field {name:?}, which no line to sample has; see docs/scale.md"
                ));
            }
            if name == "prompt" && value.is_array() {
                return Err("its prompt is a list; give one text a line".into());
            }
            if !value.is_null() {
                all.insert(name, value);
            }
        }
        serde_json::from_value(Value::Object(all)).map_err(|error| {
            let why = job::reason(&error);
            format!("it does not say what to write ({why})")
        })
    }

    fn load(&mut self, left: Option<u64>) -> Result<(), Failure> {
        let Loaded::Not(files) = &mut self.loaded else {
            return Ok(());
        };
        let (arguments, files) = (self.arguments, *files.take().ok_or(Error::Crashed)?);
        self.loaded = match self.in_batches {
            true => {
                let model = setup::load(files, &arguments.device, arguments.quiet)?;
                Loaded::Batches(model, arguments.batch.unwrap_or(usize::MAX))
            }
            false => Loaded::Running(running::load(arguments, files, left)?),
        };
        Ok(())
    }

    fn run(
        &mut self,
        lines: Vec<Line<Request>>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<Result<TextLine, String>>, Failure> {
        let raw = self.arguments.raw;
        match &mut self.loaded {
            Loaded::Not(_) => Err(Error::Crashed.into()),
            Loaded::Running(serving) => running::write(serving, lines, raw, stop),
            Loaded::Batches(model, most) => batches::write(model, lines, raw, stop, most),
        }
    }
}
