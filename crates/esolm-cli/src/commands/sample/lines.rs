//! `esolm sample --input`: every line is a text to write, with what it says for itself in the place of the options.

mod batches;
mod running;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use esolm::config::{Family, ModelConfig};
use esolm::plan::Plan;
use esolm::{Error, Model, ModelFiles, Request, Serving};
use serde_json::{Map, Value};

use super::given;
use super::report::TextLine;
use crate::arguments::Sample;
use crate::failure::Failure;
use crate::job::fields::{self, Field};
use crate::job::{self, Line, Work};
use crate::setup;

const COUNT: &str = "a whole number, 1 or more";
const SHARE: &str = "a number from 0 to 1";
const SWITCH: &str = "true or false";
const TOKENS: &str = "a list of tokens, each by its number or its name";

/// The fields of a [`Request`] that a line has. Those that are left out here are the job's, or of several texts.
const FIELDS: [Field; 25] = [
    ("prompt", "a text"),
    (
        "infill",
        "a template with gaps, such as \"Once ____ a time\"",
    ),
    ("length", COUNT),
    ("alpha_0", SHARE),
    ("steps", COUNT),
    (
        "schedule",
        "one of \"binomial\", \"blocks\", \"blocks-shuffled\", \"left-to-right\", \"block\", \"block-autoregressive\", \"first-hitting\" and \"confidence\"",
    ),
    ("sar_steps", COUNT),
    ("confidence_threshold", SHARE),
    (
        "confidence",
        "one of \"model\", \"tempered\", \"drawn\", \"random\" and \"leftmost\"",
    ),
    ("block_size", COUNT),
    ("prompt_tail", "one of \"shared\", \"own\" and \"blind\""),
    ("window", COUNT),
    ("train_order", SWITCH),
    ("infill_context", "\"both\" or \"left\""),
    ("top_k", COUNT),
    ("top_p", "a number above 0, up to 1"),
    ("top_p_crossing", "\"keep\" or \"drop\""),
    ("min_p", SHARE),
    ("suppress_tokens", TOKENS),
    ("begin_suppress_tokens", TOKENS),
    ("temperature", "0 or a number from 1e-6 to 1e6"),
    (
        "seed",
        "a whole number from 0 to 18446744073709551615, and as text where it is above 2^53",
    ),
    ("stop", "a list of \"eos\" and \"entropy\""),
    ("stop_strings", "a text or a list of texts"),
    ("bos", SWITCH),
];

/// So many different sets of options are looked at before anything is computed; further ones when their turn comes.
const LOOKED_AT: usize = 1000;

/// Whether a running batch does not take the texts of a plan: its places are as long as the context.
fn is_for_batches(plan: &Plan) -> bool {
    plan.window.is_some()
}

/// Whether a line by itself asks for such a text, where the job does not. What the model's family cannot write is refused elsewhere.
fn asks_for_batches(line: &Request, config: &ModelConfig) -> bool {
    let slides =
        matches!(config.family, Family::Bd3Lm | Family::SetDlm) && config.decoder.is_none();
    slides && line.length.is_some_and(|length| length > config.length)
}

pub fn run(arguments: &Sample) -> Result<(), Failure> {
    job::check_format(arguments.form)?;
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
    let in_batches = is_for_batches(&plan);
    let Ok(Value::Object(defaults)) = serde_json::to_value(&request) else {
        return Err(Error::Crashed.into());
    };
    let mut options = setup::identity(&arguments.source, &arguments.device, &files)?;
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
        in_batches: Cell::new(in_batches),
        looked_at: RefCell::default(),
        loaded: Loaded::Not(Some(Box::new(files))),
    };
    job::run(&plan, work)
}

struct Writer<'a> {
    arguments: &'a Sample,
    /// The request of a line that says nothing.
    defaults: Map<String, Value>,
    /// Whether a running batch does not take all of the texts.
    in_batches: Cell<bool>,
    /// What is wrong with options that lines ask for, by all of these but the prompt and the seed.
    looked_at: RefCell<HashMap<String, Result<(), String>>>,
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
        if fields.get("prompt").is_some_and(Value::is_array) {
            return Err("its prompt is a list; give one text a line".into());
        }
        fields::read(fields, &FIELDS, "sample", &self.defaults)
    }

    fn look_at(&self, request: &Request) -> Result<(), String> {
        let Loaded::Not(Some(files)) = &self.loaded else {
            return Ok(());
        };
        // A template is part of what its options must fit, so it is looked at when its turn comes.
        if request.infill.is_none() {
            self.check_options(files, request)?;
        }
        if asks_for_batches(request, files.config()) {
            self.in_batches.set(true);
        }
        Ok(())
    }

    fn files(&self) -> Result<&ModelFiles, Failure> {
        match &self.loaded {
            Loaded::Not(Some(files)) => Ok(files),
            _ => Err(Error::Crashed.into()),
        }
    }

    fn load(&mut self, left: Option<u64>) -> Result<(), Failure> {
        let Loaded::Not(files) = &mut self.loaded else {
            return Ok(());
        };
        let (arguments, files) = (self.arguments, *files.take().ok_or(Error::Crashed)?);
        self.loaded = match self.in_batches.get() {
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

impl Writer<'_> {
    /// Refuses options that the model does not have, whatever the prompt is.
    fn check_options(&self, files: &ModelFiles, request: &Request) -> Result<(), String> {
        let options = Request {
            prompt: Vec::new(),
            seed: Some(0),
            ..request.clone()
        };
        let Ok(key) = serde_json::to_string(&options) else {
            return Ok(());
        };
        let mut looked_at = self.looked_at.borrow_mut();
        if let Some(seen) = looked_at.get(&key) {
            return seen.clone();
        }
        if looked_at.len() >= LOOKED_AT {
            return Ok(());
        }
        let seen = match files.plan(&options) {
            Err(error @ (Error::Request(_) | Error::Text(_) | Error::Plan(_))) => {
                Err(error.to_string())
            }
            _ => Ok(()),
        };
        looked_at.insert(key, seen.clone());
        seen
    }
}

#[cfg(test)]
mod tests {
    use esolm::plan::Schedule;
    use serde_json::json;

    use super::*;

    /// The fields that are the job's, or of several texts.
    const NOT_OF_A_LINE: [&str; 4] = ["batch", "first", "logprobs", "decode_as"];

    #[test]
    fn every_field_of_a_request_is_a_lines_or_the_jobs() {
        let Ok(Value::Object(all)) = serde_json::to_value(Request::default()) else {
            panic!("not an object")
        };
        let mut known: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        known.extend(NOT_OF_A_LINE);
        known.sort_unstable();
        let all: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(known, all);
    }

    /// What messages say that a field may be is read.
    #[test]
    fn what_is_named_is_read() {
        for (name, what) in FIELDS {
            for value in what.split('"').skip(1).step_by(2) {
                let value = match name {
                    "stop" => json!([value]),
                    _ => json!(value),
                };
                let line = json!({ name: value });
                serde_json::from_value::<Request>(line.clone())
                    .unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
        let (_, schedules) = FIELDS[5];
        for schedule in Schedule::ALL {
            assert!(schedules.contains(&format!("\"{schedule}\"")), "{schedule}");
        }
    }
}
