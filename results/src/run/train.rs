//! Training runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::kept::is_same;
use super::{Bench, HOLDOUT, JUDGE, MODELS, RECIPE, measure};
use crate::error::Error;
use crate::plan::{Model, Plan};
use crate::program::{self, json_lines};
use crate::record::Answer;
use crate::record::{self, Point, Training, training_file};
use crate::reports::{Inspected, LogLine};

/// Points of a loss curve that are kept.
const POINTS: usize = 60;
/// Last lines of the log that are kept.
const TAIL: usize = 4;

/// Trains every model of the plan that is not there yet, and that a record is missing of.
pub fn all(bench: &Bench) -> Result<(), Error> {
    let needed = needed(bench)?;
    let count = bench.plan.all().count();
    for (index, model) in bench.plan.all().enumerate() {
        let name = &model.name;
        let command = command(&bench.plan, model, &bench.esolm.device)?;
        if !needed.contains(name) {
            eprintln!("model {} of {count}: {name} has all its records", index + 1);
            continue;
        }
        eprintln!("model {} of {count}: {command}", index + 1);
        let mut training = read_log(&train(bench, model, &command)?)?;
        if let Some(kept) = bench.kept.training(&command) {
            // What else is kept belongs to the model that it was measured with, and was judged by.
            match kept.validation == training.validation {
                true => continue,
                false => return Err(came_out_otherwise(bench, name)),
            }
        }
        let inspect = format!("esolm inspect train/{name}/model --json");
        let key = format!("{name}--inspect");
        let inspected: Answer<Inspected> = bench.esolm.answer(&key, inspect, program::json)?;
        let path = bench.out.join(training_file(name));
        let old = record::read::<Training>(&path)?.filter(|old| old.tail == training.tail);
        training.date = old.map_or_else(record::now, |old| old.date);
        training.name = name.clone();
        training.command = command;
        training.parameters = Some(inspected.report.parameters);
        record::write(&path, &training)?;
    }
    Ok(())
}

/// The models that must be there: those without a record of their training, those that something is to be measured with, and for their
/// tokenizer the first one.
fn needed(bench: &Bench) -> Result<BTreeSet<String>, Error> {
    let mut needed = measure::needed(bench);
    for model in bench.plan.all() {
        let command = command(&bench.plan, model, &bench.esolm.device)?;
        if bench.kept.training(&command).is_none() {
            needed.insert(model.name.clone());
        }
    }
    if !needed.is_empty() {
        needed.insert(bench.plan.models[0].name.clone());
    }
    Ok(needed)
}

fn came_out_otherwise(bench: &Bench, name: &str) -> Error {
    Error::Data(format!(
        "the training of {name} came out otherwise than its record in {} says, so that nothing there can be kept; leave --keep-records out to measure everything anew",
        bench.out.display()
    ))
}

/// Trains a model to its end, if that has not happened yet, and returns where its log is.
fn train(bench: &Bench, model: &Model, command: &str) -> Result<PathBuf, Error> {
    let folder = bench.esolm.path(&format!("train/{}", model.name));
    let stamp = folder.with_file_name(format!("{}.command", model.name));
    let log = folder.join("log.jsonl");
    let inputs = inputs(bench, model)?;
    let before = fs::read_to_string(&stamp).ok();
    let other = before.as_ref();
    if let Some(other) = other.and_then(|before| difference(before, command, &inputs)) {
        return Err(Error::Usage(format!(
            "{} was trained {other}; delete that folder and {}, or give another --work",
            folder.display(),
            stamp.display()
        )));
    }
    if is_finished(&log) {
        return Ok(log);
    }
    bench.forget(model)?;
    let is_saved = fs::read_dir(folder.join("state")).is_ok_and(|mut files| files.next().is_some());
    if !is_saved && before.is_some() && folder.is_dir() {
        // Begun by this command and ended before anything was saved.
        fs::remove_dir_all(&folder).map_err(Error::file("delete", &folder))?;
    }
    record::replace(&stamp, format!("{command}\n{inputs}").as_bytes())?;
    let resume = if is_saved { " --resume" } else { "" };
    bench.esolm.run(&format!("{command}{resume}"), true)?;
    if !is_finished(&log) {
        let name = &model.name;
        let why = "was stopped; give the same command again to continue it";
        return Err(Error::Data(format!("the training of {name} {why}")));
    }
    Ok(log)
}

/// The files that a model is trained with, a line each behind its digest.
fn inputs(Bench { esolm, plan, .. }: &Bench, model: &Model) -> Result<String, Error> {
    let mut names = [RECIPE, MODELS, JUDGE, HOLDOUT].map(String::from).to_vec();
    if model != &plan.models[0] {
        names.push(tokenizer(plan));
    }
    let digests = esolm.digests(&names)?;
    let lines = digests.iter();
    Ok(lines
        .map(|(name, digest)| format!("{digest}  {name}\n"))
        .collect())
}

/// How the training that left this stamp differs from the one by `command` with `inputs`, if it does. The stamps of earlier versions hold
/// only the command.
fn difference(stamp: &str, command: &str, inputs: &str) -> Option<String> {
    let (trained_by, before) = stamp.split_once('\n').unwrap_or((stamp, ""));
    if !is_same(trained_by, command) {
        return Some(format!("by another command, `{trained_by}`"));
    }
    let is_other = |line: &&str| !before.lines().any(|old| old == *line);
    let others = inputs.lines().filter(is_other);
    let names: Vec<&str> = others
        .filter_map(|line| Some(line.split_once("  ")?.1))
        .collect();
    (!before.is_empty() && !names.is_empty())
        .then(|| format!("with another {}", names.join(" and another ")))
}

/// The tokenizer that the first model makes.
fn tokenizer(plan: &Plan) -> String {
    format!("train/{}/model/tokenizer.json", plan.models[0].name)
}

/// The command line of a training run. The first model makes the tokenizer, the others share it.
fn command(plan: &Plan, model: &Model, device: &str) -> Result<String, Error> {
    let first = &plan.models[0];
    let mut fields = BTreeMap::from([
        ("model.family".to_string(), json!(model.family)),
        ("run.tokens".into(), json!(plan.tokens)),
        ("run.device".into(), json!(device)),
        match model == first {
            true => ("data.vocab_size".into(), json!(plan.vocab_size)),
            false => ("data.tokenizer".into(), json!(tokenizer(plan))),
        },
    ]);
    if let Some(alpha_0) = model.alpha_0 {
        fields.insert("loss.alpha_0".into(), alpha_0.into());
    }
    if model == &plan.judge {
        fields.insert("data.train".into(), json!([JUDGE]));
    }
    fields.extend(model.set.clone());
    let mut command = format!("esolm train recipe.toml --out train/{}", model.name);
    for (key, value) in fields {
        // Numbers and arrays are written the same in JSON and TOML; everything else is text.
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), String::from);
        let quoted = shlex::try_quote(&value).map_err(|error| {
            let field = format!("{key}={value}");
            Error::Usage(format!("the plan sets {field:?}: {error}; correct it"))
        })?;
        command += &format!(" --set {key}={quoted}");
    }
    Ok(command)
}

/// Whether a training came to its end; one that was stopped leaves a model too.
fn is_finished(log: &Path) -> bool {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.and_then(|line| serde_json::from_str(line).ok())
        == Some(LogLine::End { interrupted: false })
}

/// The log of a training run, thinned. A resumed run repeats the steps after its last checkpoint: the last line of a step counts.
fn read_log(path: &Path) -> Result<Training, Error> {
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let mut tail: Vec<Value> = json_lines(&text).map_err(Error::json(path.display()))?;
    let lines: Vec<LogLine> = json_lines(&text).map_err(Error::json(path.display()))?;
    let (mut train, mut validation) = (BTreeMap::new(), BTreeMap::new());
    let mut last = None;
    for line in lines {
        match line {
            LogLine::Train {
                step,
                tokens,
                loss,
                seconds,
            } => {
                train.insert(step, Point { tokens, loss });
                last = Some((step, tokens, seconds));
            }
            LogLine::Validation { step, tokens, loss } => {
                validation.insert(step, Point { tokens, loss });
            }
            LogLine::Start {} | LogLine::End { .. } => {}
        }
    }
    let Some((steps, tokens, seconds)) = last else {
        let path = path.display();
        return Err(Error::Data(format!(
            "{path} holds no step of training; delete its folder to train anew"
        )));
    };
    Ok(Training {
        steps,
        tokens,
        seconds,
        train: thin(&train.into_values().collect::<Vec<_>>(), POINTS),
        validation: thin(&validation.into_values().collect::<Vec<_>>(), usize::MAX),
        tail: tail.split_off(tail.len().saturating_sub(TAIL)),
        ..Training::default()
    })
}

/// At most `most` points: the means of stretches of equal length, with four decimals, since no more are measured.
fn thin(points: &[Point], most: usize) -> Vec<Point> {
    let mean = |stretch: &[Point]| {
        let loss = stretch.iter().map(|point| point.loss).sum::<f64>() / stretch.len() as f64;
        Point {
            tokens: stretch.iter().map(|point| point.tokens).sum::<u64>() / stretch.len() as u64,
            loss: (loss * 1e4).round() / 1e4,
        }
    };
    points
        .chunks(points.len().div_ceil(most).max(1))
        .map(mean)
        .collect()
}
