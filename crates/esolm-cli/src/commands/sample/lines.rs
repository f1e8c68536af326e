//! `esolm sample --input`: every line is a text to write, with what it says for itself in the place of the options.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::text::Altered;
use esolm::trace::Event;
use esolm::{EngineError, Error, ModelFiles, Request};
use serde_json::{Map, Value};

use super::given;
use super::report::{self, TextLine};
use crate::arguments::Sample;
use crate::failure::Failure;
use crate::job::{self, Line, Work};
use crate::setup;

/// What a line may say, beside its id; the names are those of [`Request`].
const FIELDS: [&str; 17] = [
    "prompt",
    "infill",
    "length",
    "alpha_0",
    "steps",
    "schedule",
    "sar_steps",
    "block_size",
    "top_k",
    "top_p",
    "top_p_crossing",
    "min_p",
    "temperature",
    "seed",
    "stop",
    "stop_strings",
    "bos",
];

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
    files.plan(&request)?;
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
    let work = Writing {
        arguments,
        defaults,
        files: Some(files),
        model: None,
        most: usize::MAX,
    };
    job::run(&plan, work)
}

struct Writing<'a> {
    arguments: &'a Sample,
    /// The request of a line that says nothing.
    defaults: Map<String, Value>,
    /// Until the model is loaded.
    files: Option<ModelFiles>,
    model: Option<esolm::Model>,
    /// Texts of a batch that fit in memory, as far as is known.
    most: usize,
}

/// A text that can be written.
struct Ready {
    number: u32,
    request: Request,
    altered: Option<Altered>,
}

impl Ready {
    /// Whether both can be written in one batch, this one right behind the other.
    fn follows(&self, other: &Self) -> bool {
        let rest = |request: &Request| Request {
            prompt: Vec::new(),
            ..request.clone()
        };
        self.number == other.number + 1
            && self.request.prompt.is_empty() == other.request.prompt.is_empty()
            && rest(&self.request) == rest(&other.request)
    }
}

impl Work for Writing<'_> {
    type Item = Request;
    type Done = TextLine;

    fn read(&self, fields: Map<String, Value>) -> Result<Request, String> {
        let mut all = self.defaults.clone();
        for (name, value) in fields {
            if !FIELDS.contains(&&name[..]) {
                let known = FIELDS.join(", ");
                return Err(format!(
                    "it has the field {name:?}, which is none of id, {known}"
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

    fn load(&mut self) -> Result<(), Failure> {
        if let Some(files) = self.files.take() {
            let model = setup::load(files, &self.arguments.device, self.arguments.quiet)?;
            self.model = Some(model);
        }
        Ok(())
    }

    fn run(
        &mut self,
        lines: Vec<Line<Request>>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<Result<TextLine, String>>, Failure> {
        let model = self.model.clone().ok_or(Error::Crashed)?;
        let mut ready: Vec<Ready> = Vec::new();
        // A place for each line; what is wrong with it, or nothing yet.
        let mut wrong: Vec<Option<String>> = Vec::new();
        for Line { number, item } in lines {
            let request = Request {
                first: number,
                ..item
            };
            match model.plan(&request) {
                Ok((header, _)) => {
                    wrong.push(None);
                    ready.push(Ready {
                        number,
                        request: Request {
                            first: 0,
                            ..request
                        },
                        altered: header.altered,
                    });
                }
                Err(error @ (Error::Request(_) | Error::Text(_) | Error::Plan(_))) => {
                    wrong.push(Some(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut written = Vec::with_capacity(ready.len());
        for group in ready.chunk_by(|one, next| next.follows(one)) {
            self.write(&model, group, stop, &mut written)?;
        }
        let mut written = written.into_iter();
        let results = wrong.into_iter().map(|wrong| match wrong {
            Some(why) => Ok(Err(why)),
            None => written.next().map(Ok).ok_or(Error::Crashed.into()),
        });
        results.collect()
    }
}

impl Writing<'_> {
    /// Writes texts that go together, in as many batches as memory asks for.
    fn write(
        &mut self,
        model: &esolm::Model,
        group: &[Ready],
        stop: &Arc<AtomicBool>,
        written: &mut Vec<TextLine>,
    ) -> Result<(), Failure> {
        let mut rest = group;
        while !rest.is_empty() {
            let (batch, others) = rest.split_at(rest.len().min(self.most));
            match self.batch(model, batch, stop) {
                Ok(lines) => {
                    written.extend(lines);
                    rest = others;
                }
                Err(Refused::Memory(_)) if batch.len() > 1 => self.most = batch.len() / 2,
                Err(Refused::Memory(error)) => return Err(error.into()),
                Err(Refused::Failure(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    fn batch(
        &self,
        model: &esolm::Model,
        batch: &[Ready],
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<TextLine>, Refused> {
        let crashed = || Refused::Failure(Error::Crashed.into());
        let first = batch.first().ok_or_else(crashed)?;
        let prompts = batch.iter().flat_map(|text| text.request.prompt.clone());
        let generation = model.generate(Request {
            prompt: prompts.collect(),
            batch: Some(batch.len()),
            first: first.number,
            ..first.request.clone()
        });
        let (generation, ended) = {
            let generation = generation.unobserved();
            let flag = generation.stop_flag();
            (generation, flag)
        };
        let (mut header, mut footer) = (None, None);
        for event in generation.blocking() {
            if stop.load(Ordering::SeqCst) {
                ended.store(true, Ordering::SeqCst);
            }
            match event.map_err(Refused::from)? {
                Event::Header(begun) => drop(header.get_or_insert(begun)),
                Event::Step(_) => {}
                Event::Footer(last) => footer = Some(last),
            }
        }
        let (header, footer) = header.zip(footer).ok_or_else(crashed)?;
        if footer.interrupted {
            return Err(Refused::Failure(Failure::interrupted()));
        }
        let lines = report::lines(model, &header, &footer, self.arguments.raw);
        let lines = lines.into_iter().zip(batch);
        let line = |(line, text): (TextLine, &Ready)| TextLine {
            altered: text.altered.clone(),
            ..line
        };
        Ok(lines.map(line).collect())
    }
}

/// Why a batch was not written.
enum Refused {
    /// A smaller one may fit.
    Memory(Error),
    Failure(Failure),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::Engine(
                EngineError::HostMemory { .. }
                | EngineError::Memory { .. }
                | EngineError::DeviceMemory(_),
            ) => Self::Memory(error),
            error => Self::Failure(error.into()),
        }
    }
}
