//! Jobs: every line of an input becomes a line of the output, in the same order, whatever happens in between. docs/scale.md has the schema.
//!
//! Results are appended and brought to the disk some lines at a time. So at any moment the output is a whole number of results and at most
//! one torn line, which [`Output`] cuts off when the job goes on; how many there are says which line is next.

mod digest;
pub mod fields;
mod input;
mod output;
mod record;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use esolm::ModelFiles;
use esolm_checkpoint::message::count;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::arguments::{Job, OutputFormat, Shard};
use crate::failure::Failure;
use crate::{files, interrupts, output as print};
pub use input::syntax;
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

    /// Looks at a line before anything is computed, where the input can be read twice.
    ///
    /// # Errors
    /// As [`Work::read`], for what need not wait until the line's turn comes.
    fn look_at(&self, _: &Self::Item) -> Result<(), String> {
        Ok(())
    }

    /// The model, which is not loaded yet.
    fn files(&self) -> Result<&ModelFiles, Failure>;

    /// Loads the model, for as many lines as are `left` if that is known.
    fn load(&mut self, left: Option<u64>) -> Result<(), Failure>;

    /// Does some lines, in the same order. `stop` ends it early, with those that are done by then.
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
pub fn check_format(form: OutputFormat) -> Result<(), Failure> {
    match form.is_for_a_job() {
        true => Ok(()),
        false => Err(Failure::usage(
            "a job writes lines of JSON; leave --format and --json out, or give --format jsonl",
        )),
    }
}

/// The results, and the record beside them, must not replace what they are made from.
fn check_output(job: &Job, input: &Path) -> Result<(), Failure> {
    let Some(output) = job.output.as_deref().filter(|path| *path != "-") else {
        return Ok(());
    };
    files::check_apart([input], output)?;
    let record = Record::path(output);
    match files::is_same(input, &record) {
        true => Err(Failure::usage(format!(
            "the record of a job with the output {} would replace the input {}; give another --output",
            output.display(),
            record.display()
        ))),
        false => Ok(()),
    }
}

/// Does a job.
pub fn run<W: Work>(plan: &Plan, mut work: W) -> Result<(), Failure> {
    let path = plan.job.input.as_deref().unwrap_or("-".as_ref());
    let input = Input::open(path)?;
    check_output(plan.job, path)?;
    if plan.job.shard.is_some() || plan.job.resume {
        input.needs_file(plan.job)?;
    }
    // Where the input can be read twice, what is wrong with any line is said before anything is computed.
    let survey = input.survey(|line| {
        let seen = parse(&work, line).and_then(|(_, item)| work.look_at(&item));
        match plan.job.keep_going {
            true => Ok(()),
            false => seen,
        }
    })?;
    let shard = plan.job.shard.unwrap_or(Shard::ALL);
    let range = survey.as_ref().map(|survey| shard.range(survey.lines));
    check_numbers(plan, range.as_ref())?;
    let mut lines = input.lines()?;
    for _ in 0..range.as_ref().map_or(0, |range| range.start) {
        lines.next()?;
    }
    let record = || {
        let model = digest::model(work.files()?)?;
        Ok(Record::new(plan, survey.as_ref(), model))
    };
    let mut output = Output::open(plan.job, record, &mut lines)?;
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
        let goes_on = output.can_go_on();
        let done = chunk(plan, &mut work, some, number, goes_on, &stop);
        let done = done.unwrap_or_else(Chunk::failed);
        output.append(&done.text)?;
        told.lines += done.lines;
        told.errors += done.errors;
        told.seconds = bar.elapsed().as_secs_f64();
        if let Some(failure) = done.failure {
            bar.finish_and_clear();
            if !plan.quiet && failure.is_interrupt() {
                print::note(&told.interrupted(goes_on));
            }
            return Err(failure);
        }
        number += done.lines;
        bar.inc(done.lines);
        pace.took(began.elapsed());
    }
    bar.finish_and_clear();
    finish(plan, output, &told)
}

/// Refuses lines whose numbers go beyond the largest, where it is known beforehand how many there are.
fn check_numbers(plan: &Plan, range: Option<&Range<u64>>) -> Result<(), Failure> {
    let end = u64::from(plan.first) + range.map_or(0, |range| range.end);
    match u32::try_from(end) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::usage(format!(
            "--first {} gives the last line the number {}, and numbers go to {}; give a smaller one",
            plan.first,
            end - 1,
            u32::MAX - 1
        ))),
    }
}

/// What is said at the end.
#[derive(Default)]
struct Told {
    lines: u64,
    errors: u64,
    seconds: f64,
}

impl Told {
    fn done(&self) -> String {
        let errors = match self.errors {
            0 => String::new(),
            n => format!(", {n} of which could not be done: their results say why"),
        };
        let lines = count(self.lines, "line");
        format!("{lines} in {:.1} s{errors}", self.seconds)
    }

    fn interrupted(&self, can_go_on: bool) -> String {
        let remedy = match can_go_on {
            true => "; the same command with --resume goes on",
            false => "",
        };
        format!("interrupted after {}{remedy}", self.done())
    }
}

fn finish(plan: &Plan, output: Output, told: &Told) -> Result<(), Failure> {
    output.finish()?;
    if !plan.quiet {
        print::note(&match told.lines {
            0 => "no line was left to do".into(),
            _ => told.done(),
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

/// The results of some lines.
struct Chunk {
    text: Vec<u8>,
    /// Lines that have one.
    lines: u64,
    errors: u64,
    /// What ends the job behind them.
    failure: Option<Failure>,
}

impl Chunk {
    fn failed(failure: Failure) -> Self {
        Self {
            text: Vec::new(),
            lines: 0,
            errors: 0,
            failure: Some(failure),
        }
    }
}

/// Does lines from number `first` on; `goes_on` tells that the job can go on behind them if it ends.
fn chunk<W: Work>(
    plan: &Plan,
    work: &mut W,
    lines: Vec<RawLine>,
    first: u64,
    goes_on: bool,
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
    let is_stopped = stop.load(Ordering::SeqCst);
    let mut done = done.into_iter();
    let mut chunk = Chunk {
        failure: is_stopped.then(Failure::interrupted),
        text: Vec::new(),
        lines: 0,
        errors: 0,
    };
    for (line, id, wrong) in places {
        let result = match wrong {
            Some(why) => Err(why),
            None => match done.next() {
                Some(result) => result,
                None if is_stopped => break,
                None => return Err(esolm::Error::Crashed.into()),
            },
        };
        let id = id.as_ref();
        let text = &mut chunk.text;
        let written = match result {
            Ok(result) => serde_json::to_writer(text, &Written { id, line, result }),
            Err(error) if plan.job.keep_going => {
                chunk.errors += 1;
                let result = Wrong { error };
                serde_json::to_writer(text, &Written { id, line, result })
            }
            Err(why) => {
                let remedy = match goes_on {
                    true => {
                        "give --resume --keep-going to note it and go on, or correct it and give another --output"
                    }
                    false => "correct it, or give --keep-going to note it and go on",
                };
                let failure = Failure::failed(format!("line {line} of {name}: {why}; {remedy}"));
                chunk.failure = Some(failure);
                break;
            }
        };
        written.map_err(|error| Failure::output(&io::Error::from(error)))?;
        chunk.text.push(b'\n');
        chunk.lines += 1;
    }
    Ok(chunk)
}
