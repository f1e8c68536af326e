//! `esolm sample --input`: each line is a text to write; its fields override the options.

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
use crate::fields::{self, COUNT, Field, Form, SEED, SWITCH, TEXT};

use crate::job::{self, Line, Work};
use crate::setup;

const SHARE: &str = "a number from 0 to 1";
const TOKENS: &str = "a list of tokens, each by its number or its name";

/// The fields of a [`Request`] that a line may have. The others are set for the whole job, or concern several texts.
const FIELDS: [Field; 25] = [
    ("prompt", TEXT),
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
    ("seed", SEED),
    ("stop", "a list of \"eos\" and \"entropy\""),
    ("stop_strings", "a text or a list of texts"),
    ("bos", SWITCH),
];

const FORM: Form = Form {
    fields: &FIELDS,
    called: "lines for `sample`",
    page: "docs/scale.md",
};

/// Number of distinct sets of options checked before anything is computed; others are checked when their turn comes.
const LOOKED_AT: usize = 1000;

/// Whether a plan's text must be written in separate batches: the places of a running batch are as long as the context.
fn is_for_batches(plan: &Plan) -> bool {
    plan.window.is_some()
}

/// Whether a line, unlike the job, asks for such a text. What the model's family cannot write is refused elsewhere.
fn asks_for_batches(line: &Request, config: &ModelConfig) -> bool {
    let slides =
        matches!(config.family, Family::Bd3Lm | Family::SetDlm) && config.decoder.is_none();
    slides && line.length.is_some_and(|length| length > config.length)
}

pub fn run(arguments: &Sample) -> Result<(), Failure> {
    job::check_format(arguments.form)?;
    let files = setup::open(&arguments.source, arguments.quiet)?;
    let request = Request {
        // Without its own number of texts or seed, a line gets the same ones in any shard.
        batch: None,
        first: 0,
        seed: Some(arguments.seed.unwrap_or(0)),
        ..given::request(arguments)?
    };
    // Bad options are reported before anything is read.
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
    /// The request of a line without fields.
    defaults: Map<String, Value>,
    /// Whether some texts need separate batches.
    in_batches: Cell<bool>,
    /// Whether the options of lines are valid, keyed by all of them except prompt and seed.
    looked_at: RefCell<HashMap<String, Result<(), String>>>,
    loaded: Loaded,
}

/// The loaded model.
enum Loaded {
    Not(Option<Box<ModelFiles>>),
    Running(Serving),
    /// The model, and the maximum number of texts at once.
    Batches(Model, usize),
}

impl Work for Writer<'_> {
    type Item = Request;
    type Done = TextLine;

    fn read(&self, fields: Map<String, Value>) -> Result<Request, String> {
        if fields.get("prompt").is_some_and(Value::is_array) {
            return Err("its prompt is a list; give one text a line".into());
        }
        fields::read(fields, &FORM, &self.defaults)
    }

    fn look_at(&self, request: &Request) -> Result<(), String> {
        let Loaded::Not(Some(files)) = &self.loaded else {
            return Ok(());
        };
        // Options have to fit the template, so a line with one is checked when its turn comes.
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
        done: &mut Vec<Result<TextLine, String>>,
    ) -> Result<(), Failure> {
        let raw = self.arguments.raw;
        match &mut self.loaded {
            Loaded::Not(_) => Err(Error::Crashed.into()),
            Loaded::Running(serving) => running::write(serving, lines, raw, stop, done),
            Loaded::Batches(model, most) => batches::write(model, lines, raw, stop, most, done),
        }
    }
}

impl Writer<'_> {
    /// Refuses options that the model does not support, whatever the prompt.
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

    /// The fields that are set for the whole job, or concern several texts.
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

    /// Every value that messages suggest for a field is accepted.
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
