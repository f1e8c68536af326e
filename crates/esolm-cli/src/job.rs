//! Jobs: every line of an input becomes a line of the output, in the same order, whatever happens in between. docs/scale.md has the schema.
//!
//! Results are appended and brought to the disk some lines at a time. So at any moment the output is a whole number of results and at most
//! one torn line, which [`Output`] cuts off when the job goes on; how many there are says which line is next.

mod input;
mod output;
mod record;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::arguments::{FormatName, Job, Shard};
use crate::failure::Failure;
use crate::{interrupts, output as print};
pub use input::reason;
use input::{Input, RawLine};
use output::Output;
use record::Record;

/// Most bytes of lines that are done together.
const MOST_BYTES: usize = 4 << 20;
/// Lines that are done together take about so long: that much is lost where a job is killed.
const SOON: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(20);
/// How many they are at first, if nobody says, and at most.
const FEW: usize = 16;
const MANY: usize = 1024;

/// What a command makes of lines.
pub trait Work {
    /// A line that was understood.
    type Item;
    /// What comes of it.
    type Done: Serialize;

    /// Reads a line without its id.
    ///
    /// # Errors
    /// What is wrong with it, as the part of a sentence that follows "line 3 of FILE: ".
    fn read(&self, fields: Map<String, Value>) -> Result<Self::Item, String>;

    /// Loads the model, for as many lines as are `left` if that is known.
    fn load(&mut self, left: Option<u64>) -> Result<(), Failure>;

    /// Does some lines, in the same order. `stop` ends it early, with [`Failure::interrupted`].
    fn run(
        &mut self,
        lines: Vec<Line<Self::Item>>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<Result<Self::Done, String>>, Failure>;
}

/// A line to do.
#[derive(Debug)]
pub struct Line<T> {
    /// Its number among the lines of the whole input, from 0, blank ones not counted: what its random numbers are keyed by.
    pub number: u32,
    pub item: T,
}

/// A job as the command line asks for it.
pub struct Plan<'a> {
    pub command: &'static str,
    pub job: &'a Job,
    /// What its results depend on, beside the input.
    pub options: Value,
    /// Number of the first line.
    pub first: u32,
    /// Lines to do together at first, if somebody said.
    pub batch: Option<usize>,
    pub quiet: bool,
}

/// A line of the output.
#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    /// Number of the line in the input, from 1, blank ones counted.
    line: u64,
    #[serde(flatten)]
    result: T,
}

#[derive(Serialize)]
struct Wrong {
    error: String,
}

/// A job writes lines of JSON, and nothing else was asked for.
pub fn check_format(format: Option<FormatName>) -> Result<(), Failure> {
    match format {
        Some(FormatName::Text) => Err(Failure::usage(
            "a job writes lines of JSON; leave --format out, or give --format jsonl",
        )),
        _ => Ok(()),
    }
}

/// Does a job.
pub fn run<W: Work>(plan: &Plan, mut work: W) -> Result<(), Failure> {
    let path = plan.job.input.as_deref().unwrap_or("-".as_ref());
    let input = Input::open(path)?;
    if plan.job.shard.is_some() || plan.job.resume {
        input.needs_file(plan.job)?;
    }
    // Where the input can be read twice, what is wrong with any line is said before anything is computed.
    let survey = input.survey(|line| match plan.job.keep_going {
        true => Ok(()),
        false => parse(&work, line).map(drop),
    })?;
    let shard = plan.job.shard.unwrap_or(Shard::ALL);
    let range = survey.as_ref().map(|survey| shard.range(survey.lines));
    let mut lines = input.lines()?;
    for _ in 0..range.as_ref().map_or(0, |range| range.start) {
        lines.next()?;
    }
    let record = Record::new(plan, survey);
    let mut output = Output::open(plan.job, &record, &mut lines)?;
    let mut number = range.as_ref().map_or(0, |range| range.start) + output.done();
    let end = range.map_or(u64::MAX, |range| range.end);
    if number >= end {
        return finish(plan, output, &Told::default());
    }
    let left = (end < u64::MAX).then_some(end - number);
    work.load(left)?;

    let stop = Arc::new(AtomicBool::new(false));
    interrupts::stop(stop.clone());
    let bar = print::lines(plan.quiet, left);
    let mut pace = Pace::new(plan.batch);
    let mut told = Told::default();
    while number < end {
        let wanted = pace.lines.min((end - number) as usize);
        let mut some = Vec::new();
        let mut bytes = 0;
        while some.len() < wanted && bytes < MOST_BYTES {
            let Some(raw) = lines.next()? else { break };
            bytes += raw.bytes.len();
            some.push(raw);
        }
        if some.is_empty() {
            break;
        }
        let began = Instant::now();
        let count = some.len() as u64;
        let done = chunk(plan, &mut work, some, number, &stop);
        let (text, failure) = match done {
            Ok((text, errors, failure)) => {
                told.errors += errors;
                (text, failure)
            }
            Err(failure) => (Vec::new(), Some(failure)),
        };
        output.append(&text)?;
        if let Some(failure) = failure {
            bar.finish_and_clear();
            return Err(failure);
        }
        told.lines += count;
        number += count;
        bar.inc(count);
        pace.took(began.elapsed());
    }
    bar.finish_and_clear();
    told.seconds = bar.elapsed().as_secs_f64();
    finish(plan, output, &told)
}

/// What is said at the end.
#[derive(Default)]
struct Told {
    lines: u64,
    errors: u64,
    seconds: f64,
}

fn finish(plan: &Plan, output: Output, told: &Told) -> Result<(), Failure> {
    output.finish()?;
    if !plan.quiet {
        let errors = match told.errors {
            0 => String::new(),
            n => format!(", {n} of which could not be done: their results say why"),
        };
        print::note(&match told.lines {
            0 => "no line was left to do".into(),
            n => format!("{n} lines in {:.1} s{errors}", told.seconds),
        });
    }
    Ok(())
}

/// How many lines are done together.
struct Pace {
    lines: usize,
}

impl Pace {
    fn new(batch: Option<usize>) -> Self {
        Self {
            lines: batch.unwrap_or(FEW),
        }
    }

    fn took(&mut self, time: Duration) {
        self.lines = match time {
            time if time < SOON => self.lines.max(MANY.min(self.lines * 2)),
            time if time > LATE => (self.lines / 2).max(1),
            _ => self.lines,
        };
    }
}

/// A line with its id, or what is wrong with it. Of a bad line there is an id only where it is one.
fn parse<W: Work>(work: &W, line: &RawLine) -> Result<(Option<Value>, W::Item), String> {
    let (id, fields) = line.fields()?;
    work.read(fields).map(|item| (id, item))
}

/// The results of lines from number `first` on as bytes, how many of them are errors, and what ends the job behind them.
type Chunk = (Vec<u8>, u64, Option<Failure>);

fn chunk<W: Work>(
    plan: &Plan,
    work: &mut W,
    lines: Vec<RawLine>,
    first: u64,
    stop: &Arc<AtomicBool>,
) -> Result<Chunk, Failure> {
    let name = lines[0].name.clone();
    let (mut places, mut items) = (Vec::new(), Vec::new());
    for (number, line) in (first..).zip(lines) {
        let number = u32::try_from(number + u64::from(plan.first)).map_err(|_| {
            Failure::failed(format!(
                "line {} of {name} would be text number {}, and they go to {}; give a smaller --first, or a shorter file",
                line.number, number + u64::from(plan.first), u32::MAX
            ))
        })?;
        let read = parse(work, &line);
        let is_bad = read.is_err();
        let id = line.fields().ok().and_then(|(id, _)| id);
        let wrong = match read {
            Ok((_, item)) => {
                items.push(Line { number, item });
                None
            }
            Err(why) => Some(why),
        };
        places.push((line.number, id, wrong));
        if is_bad && !plan.job.keep_going {
            break;
        }
    }
    let done = match items.is_empty() {
        true => Vec::new(),
        false => work.run(items, stop)?,
    };
    let mut done = done.into_iter();
    let (mut text, mut errors) = (Vec::new(), 0);
    for (line, id, wrong) in places {
        let result = match wrong {
            Some(why) => Err(why),
            None => done
                .next()
                .ok_or(esolm::Error::Crashed)
                .map_err(Failure::from)?,
        };
        let id = id.as_ref();
        let written = match result {
            Ok(result) => serde_json::to_writer(&mut text, &Written { id, line, result }),
            Err(error) if plan.job.keep_going => {
                errors += 1;
                let result = Wrong { error };
                serde_json::to_writer(&mut text, &Written { id, line, result })
            }
            Err(why) => {
                let failure = Failure::failed(format!(
                    "line {line} of {name}: {why}; correct it, or give --keep-going to note it and go on"
                ));
                return Ok((text, errors, Some(failure)));
            }
        };
        written.map_err(|error| Failure::output(&io::Error::from(error)))?;
        text.push(b'\n');
    }
    let is_stopped = stop.load(Ordering::SeqCst);
    Ok((text, errors, is_stopped.then(Failure::interrupted)))
}
