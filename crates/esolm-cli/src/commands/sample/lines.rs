//! `esolm sample --input`: every line is a text to write, with what it says for itself in the place of the options.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use esolm::{
    EngineError, Error, MemoryUse, ModelFiles, Request, Serving, ServingError, ServingOptions,
    TextRequest, Writing,
};
use serde_json::{Map, Value};

use super::given;
use super::report::{Sequence, TextLine};
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

/// Texts that are written at once, if nobody says how many and memory suffices.
const PLACES: usize = 32;
/// Texts that wait for a place: as many as any number of lines that are done together.
const QUEUE: usize = 1 << 20;
/// How often a wait for a text looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

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
    let (header, _) = files.plan(&request)?;
    if header.window.is_some() {
        return Err(Failure::usage(format!(
            "a job writes texts within the model's context of {} tokens; give a --length up to that",
            files.config().length
        )));
    }
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
        files: Some(files),
        serving: None,
    };
    job::run(&plan, work)
}

struct Writer<'a> {
    arguments: &'a Sample,
    /// The request of a line that says nothing.
    defaults: Map<String, Value>,
    /// Until the model is loaded.
    files: Option<ModelFiles>,
    serving: Option<Serving>,
}

impl Work for Writer<'_> {
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

    fn load(&mut self, left: Option<u64>) -> Result<(), Failure> {
        let Sample {
            source,
            device,
            batch,
            quiet,
            ..
        } = self.arguments;
        let Some(mut files) = self.files.take() else {
            return Ok(());
        };
        let left = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let mut places = batch.unwrap_or(PLACES).min(left).max(1);
        self.serving = loop {
            let options = ServingOptions {
                places,
                queue: QUEUE,
            };
            match setup::serve(files, device, options, *quiet) {
                Ok(serving) => break Some(serving),
                // Fewer texts at once may fit.
                Err(error) if is_of_memory(&error) && places > 1 => {
                    places /= 2;
                    files = setup::open(source, true)?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        Ok(())
    }

    fn run(
        &mut self,
        lines: Vec<Line<Request>>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<Result<TextLine, String>>, Failure> {
        let serving = self.serving.as_ref().ok_or(Error::Crashed)?;
        // All of them wait for a place at once, so that none is free while there are any.
        let mut under_way = Vec::with_capacity(lines.len());
        for Line { number, item } in lines {
            let request = Request {
                first: number,
                ..item
            };
            let text = TextRequest {
                request,
                ..TextRequest::default()
            };
            under_way.push(match serving.write(vec![text]) {
                Ok(mut writings) => Ok(writings.pop().ok_or(Error::Crashed)?),
                Err(ServingError::Model(
                    error @ (Error::Request(_) | Error::Text(_) | Error::Plan(_)),
                )) => Err(error.to_string()),
                Err(error) => return Err(refused(error)),
            });
        }
        let mut results = Vec::with_capacity(under_way.len());
        for writing in under_way {
            results.push(match writing {
                Ok(writing) => Ok(self.line(serving, writing, stop)?),
                Err(why) => Err(why),
            });
        }
        Ok(results)
    }
}

impl Writer<'_> {
    /// Waits for a text.
    fn line(
        &self,
        serving: &Serving,
        writing: Writing,
        stop: &AtomicBool,
    ) -> Result<TextLine, Failure> {
        let resolved = writing.resolved().clone();
        let written = wait_for(writing.finish(), stop).ok_or_else(Failure::interrupted)?;
        let written = written.map_err(refused)?;
        let text = match serving.codec() {
            Some(codec) if self.arguments.raw => Some(codec.decode(&written.tokens)),
            codec => codec.map(|_| written.text),
        };
        let logprobs = written.log_probs.into_iter();
        Ok(TextLine {
            seed: Some(resolved.options.seed),
            run_on: written.ran_on,
            altered: resolved.given.altered.clone(),
            sequence: Sequence {
                sequence: resolved.options.first_sequence,
                text,
                tokens: written.tokens,
                finish: written.finish,
                logprobs: (resolved.logprobs)
                    .then(|| logprobs.map(|told| told.map(|told| told.logp)).collect()),
            },
        })
    }
}

/// What comes of `work`, or nothing where `stop` ends the wait for it.
fn wait_for<T>(work: impl Future<Output = T>, stop: &AtomicBool) -> Option<T> {
    /// Wakes the thread that waits.
    struct Waiting(Thread);
    impl Wake for Waiting {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut work = pin!(work);
    let waker = Arc::new(Waiting(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    while !stop.load(Ordering::SeqCst) {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return Some(done);
        }
        thread::park_timeout(LOOK);
    }
    None
}

fn is_of_memory(error: &Error) -> bool {
    matches!(
        error,
        Error::Engine(
            EngineError::HostMemory {
                purpose: MemoryUse::Batch { .. },
                ..
            } | EngineError::Memory { .. }
                | EngineError::DeviceMemory(_)
        )
    )
}

fn refused(error: ServingError) -> Failure {
    match error {
        ServingError::Model(error) => error.into(),
        error => Failure::failed(error.to_string()),
    }
}
