//! Jobs: each line of the input becomes a line of the output, in the same order, whatever happens. docs/scale.md
//! describes the format.
//!
//! Results are appended and flushed to disk in groups of lines. At any moment, the output therefore consists of
//! complete results and at most one partial line, which [`Output`] truncates when the job is resumed; the number of
//! results determines the next line.

mod digest;
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
use input::{Input, RawLine};
use output::Output;
use record::Record;

/// Range of the time for which lines are processed together: the work lost if a job is killed.
const SOON: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(20);
/// Lines processed together: at first, by default, and at most.
const FEW: usize = 16;
const MANY: usize = 1024;

/// What a command does with lines.
pub trait Work {
    /// A parsed line.
    type Item;
    /// The result of a line.
    type Done: Serialize;

    /// Parses a line without its id.
    ///
    /// # Errors
    /// What is wrong with it, as the part of a sentence that follows "line 3 of FILE: ".
    fn read(&self, fields: Map<String, Value>) -> Result<Self::Item, String>;

    /// Checks a line before anything is computed, if the input can be read twice.
    ///
    /// # Errors
    /// As [`Work::read`], for problems that can be found before the line's turn.
    fn look_at(&self, _: &Self::Item) -> Result<(), String> {
        Ok(())
    }

    /// The model's files; the model is not loaded yet.
    fn files(&self) -> Result<&ModelFiles, Failure>;

    /// Loads the model for `left` lines, if that number is known.
    fn load(&mut self, left: Option<u64>) -> Result<(), Failure>;

    /// Processes lines, in the given order, and adds their results to `done`: those of the first lines even if it fails,
    /// or if `stop` ends it early.
    fn run(
        &mut self,
        lines: Vec<Line<Self::Item>>,
        stop: &Arc<AtomicBool>,
        done: &mut Vec<Result<Self::Done, String>>,
    ) -> Result<(), Failure>;
}

/// A line to process.
#[derive(Debug)]
pub struct Line<T> {
    /// Its number among the lines of the whole input, from 0, not counting blank lines; determines its random numbers.
    pub number: u32,
    pub item: T,
}

/// A job as specified on the command line.
pub struct Plan<'a> {
    pub command: &'static str,
    pub job: &'a Job,
    /// Everything that its results depend on, except the input.
    pub options: Value,
    /// Number of the first line.
    pub first: u32,
    /// Number of lines to process together at first, if specified.
    pub batch: Option<usize>,
    pub quiet: bool,
}

/// A line of the output.
#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    /// Line number in the input, from 1, counting blank lines.
    line: u64,
    #[serde(flatten)]
    result: T,
}

#[derive(Serialize)]
struct Wrong {
    error: String,
}

/// Refuses output formats other than lines of JSON.
pub fn check_format(form: OutputFormat) -> Result<(), Failure> {
    match form.is_for_a_job() {
        true => Ok(()),
        false => Err(Failure::usage(
            "a job writes lines of JSON; leave --format and --json out, or give --format jsonl",
        )),
    }
}

/// Refuses an output that, itself or through its record, would replace the input.
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

/// Runs a job.
pub fn run<W: Work>(plan: &Plan, mut work: W) -> Result<(), Failure> {
    let path = plan.job.input.as_deref().unwrap_or("-".as_ref());
    let input = Input::open(path)?;
    check_output(plan.job, path)?;
    if plan.job.shard.is_some() || plan.job.resume {
        input.needs_file(plan.job)?;
    }
    // If the input can be read twice, problems with any line are reported before anything is computed.
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
        let some = lines.some(wanted, &stop)?;
        let is_full = some.len() == wanted;
        let began = Instant::now();
        // A stream cannot be read again.
        let goes_on = output.can_go_on() && left.is_some();
        let done = match some.is_empty() {
            false => chunk(plan, &mut work, some, number, goes_on, &stop),
            true if stop.load(Ordering::SeqCst) => Err(Failure::interrupted()),
            true if left.is_some() => Err(Failure::failed(format!(
                "{} has become shorter since the job began; give the file as it was",
                input.name()
            ))),
            true => break,
        };
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
        pace.took(began.elapsed(), is_full);
    }
    bar.finish_and_clear();
    finish(plan, output, &told)
}

/// Refuses an input whose line numbers exceed the maximum, if the number of lines is known in advance.
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

/// The summary printed at the end.
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

/// Decides how many lines are processed together.
struct Pace {
    lines: usize,
}

impl Pace {
    fn new(batch: Option<usize>) -> Self {
        Self {
            lines: batch.unwrap_or(FEW),
        }
    }

    /// The time that lines took; `is_full` unless there were fewer than might have been processed together.
    fn took(&mut self, time: Duration, is_full: bool) {
        self.lines = match time {
            time if time < SOON && is_full => self.lines.max(MANY.min(self.lines * 2)),
            time if time > LATE => (self.lines / 2).max(1),
            _ => self.lines,
        };
    }
}

/// A line with its id, or what is wrong with it. A bad line has an id only if the id itself is valid.
fn parse<W: Work>(work: &W, line: &RawLine) -> Result<(Option<Value>, W::Item), String> {
    let (id, fields) = line.fields()?;
    work.read(fields).map(|item| (id, item))
}

/// The results of some lines.
struct Chunk {
    text: Vec<u8>,
    /// Number of lines that have a result.
    lines: u64,
    errors: u64,
    /// The failure that ends the job after them.
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

/// Processes lines from number `first` on; `goes_on` says whether the job can be resumed if it ends.
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
    let mut done = Vec::new();
    let failed = match items.is_empty() {
        true => None,
        false => work.run(items, stop, &mut done).err(),
    };
    let is_stopped = stop.load(Ordering::SeqCst);
    let failure = failed.or_else(|| is_stopped.then(Failure::interrupted));
    let mut done = done.into_iter();
    let mut chunk = Chunk {
        failure,
        text: Vec::new(),
        lines: 0,
        errors: 0,
    };
    for (line, id, wrong) in places {
        let result = match wrong {
            Some(why) => Err(why),
            None => match done.next() {
                Some(result) => result,
                None if chunk.failure.is_some() => break,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise single lines, which are quickly done, would let a burst after them wait for its last line.
    #[test]
    fn only_as_many_lines_as_were_wanted_raise_the_pace() {
        let mut pace = Pace::new(None);
        for _ in 0..10 {
            pace.took(SOON / 2, false);
        }
        assert_eq!(pace.lines, FEW);
        pace.took(SOON / 2, true);
        assert_eq!(pace.lines, 2 * FEW);
        pace.took(LATE * 2, false);
        assert_eq!(pace.lines, FEW);
    }
}
