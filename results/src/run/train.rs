//! Training runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Bench;
use crate::clock;
use crate::failure::Error;
use crate::plan::{Model, Plan};
use crate::program::command_line;
use crate::record::{self, Point, Training, training_file};
use crate::words;

/// Points of a loss curve that are kept.
const POINTS: usize = 60;
/// Last lines of the log that are kept.
const TAIL: usize = 4;

/// Trains every model of the plan that is not there yet.
pub fn all(bench: &Bench) -> Result<(), Error> {
    let models: Vec<&Model> = bench.plan.all().collect();
    for (index, model) in models.iter().enumerate() {
        // The first model makes the tokenizer, the rest share it.
        let tokenizer_of = (index > 0).then(|| models[0].name.as_str());
        let arguments = arguments(&bench.plan, model, tokenizer_of, &bench.device);
        let command = command_line(&arguments);
        let stamp = bench.esolm.path(&format!("train/{}.command", model.name));
        let folder = bench.esolm.path(&format!("train/{}", model.name));
        let log = folder.join("log.jsonl");
        if let Ok(old) = fs::read_to_string(&stamp)
            && old != command
        {
            return Err(Error::Usage(format!(
                "{} was trained by another command, `{old}`; delete that folder and {}, or give another --work",
                folder.display(),
                stamp.display()
            )));
        }
        if !is_finished(&log) {
            eprintln!("{} of {}: {command}", index + 1, models.len());
            bench.forget(model)?;
            let mut arguments = arguments;
            let saved =
                fs::read_dir(folder.join("state")).is_ok_and(|mut files| files.next().is_some());
            if saved {
                arguments.push("--resume".into());
            } else if stamp.is_file() && folder.is_dir() {
                // Begun by this command and ended before anything was saved.
                fs::remove_dir_all(&folder).map_err(Error::writing(&folder))?;
            }
            record::replace(&stamp, &command)?;
            bench.esolm.watch(&arguments)?;
            if !is_finished(&log) {
                return Err(Error::Data(format!(
                    "the training of {} was stopped; the same command goes on with it",
                    model.name
                )));
            }
        }
        let path = bench.out.join(training_file(&model.name));
        let mut training = read_log(&log)?;
        training.name = model.name.clone();
        training.command = command;
        training.parameters = parameters(bench, model)?;
        training.date = match record::read::<Training>(&path)? {
            Some(old) if old.tail == training.tail => old.date,
            _ => clock::now(),
        };
        record::write(&path, &training)?;
    }
    Ok(())
}

/// The command line of a training run.
fn arguments(plan: &Plan, model: &Model, tokenizer_of: Option<&str>, device: &str) -> Vec<String> {
    let mut sets: BTreeMap<&str, Value> = BTreeMap::new();
    sets.insert("model.family", model.family.clone().into());
    sets.insert("run.tokens", plan.tokens.into());
    sets.insert("run.device", device.into());
    if let Some(alpha_0) = model.alpha_0 {
        sets.insert("loss.alpha_0", alpha_0.into());
    }
    if model.name == plan.judge.name {
        sets.insert("data.train", vec!["data/judge.txt"].into());
    }
    match tokenizer_of {
        None => sets.insert("data.vocab_size", plan.vocab_size.into()),
        Some(name) => sets.insert(
            "data.tokenizer",
            format!("{}/tokenizer.json", Bench::model(name)).into(),
        ),
    };
    sets.extend(
        model
            .set
            .iter()
            .map(|(key, value)| (key.as_str(), value.clone())),
    );
    let mut arguments = words![
        "train",
        "recipe.toml",
        "--out",
        format!("train/{}", model.name)
    ];
    for (key, value) in sets {
        // Numbers and arrays are written the same in JSON and TOML; what is neither is a text.
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), String::from);
        arguments.extend(words!["--set", format!("{key}={value}")]);
    }
    arguments
}

/// How many parameters `esolm inspect` counts.
fn parameters(bench: &Bench, model: &Model) -> Result<Option<u64>, Error> {
    let answer = bench.esolm.answer(
        &format!("{}--inspect", model.name),
        &words!["inspect", Bench::model(&model.name), "--json"],
    )?;
    Ok(answer.report["parameters"].as_u64())
}

/// Whether a training came to its end; one that was stopped leaves a model too.
fn is_finished(log: &Path) -> bool {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.and_then(|line| serde_json::from_str::<Value>(line).ok())
        .is_some_and(|line| line["kind"] == "end" && line["interrupted"] == false)
}

/// The log of a training run, thinned. A resumed run repeats the steps after its last checkpoint: the last line of a step counts.
fn read_log(path: &Path) -> Result<Training, Error> {
    let text = fs::read_to_string(path).map_err(Error::reading(path))?;
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let line: Value = serde_json::from_str(line).map_err(|source| Error::Json {
            what: path.display().to_string(),
            source,
        })?;
        lines.push(line);
    }
    let of_kind = |kind: &str| -> Vec<&Value> {
        let by_step: BTreeMap<u64, &Value> = lines
            .iter()
            .filter(|line| line["kind"] == kind)
            .map(|line| (line["step"].as_u64().unwrap_or(0), line))
            .collect();
        by_step.into_values().collect()
    };
    let point = |line: &&Value| {
        Some(Point {
            tokens: line["tokens"].as_u64()?,
            loss: round(line["loss"].as_f64()?),
        })
    };
    let (steps, validations) = (of_kind("train"), of_kind("validation"));
    let last = *steps.last().ok_or_else(|| {
        Error::Data(format!(
            "{} holds no step of training; delete its folder to train anew",
            path.display()
        ))
    })?;
    let train: Vec<Point> = steps.iter().filter_map(point).collect();
    Ok(Training {
        name: String::new(),
        command: String::new(),
        date: String::new(),
        parameters: None,
        steps: last["step"].as_u64().unwrap_or(0),
        tokens: last["tokens"].as_u64().unwrap_or(0),
        seconds: last["seconds"].as_f64().unwrap_or(0.0),
        train: thin(&train, POINTS),
        validation: validations.iter().filter_map(point).collect(),
        tail: lines[lines.len().saturating_sub(TAIL)..].to_vec(),
    })
}

/// At most `most` points: the means of stretches of equal length.
fn thin(points: &[Point], most: usize) -> Vec<Point> {
    points
        .chunks(points.len().div_ceil(most).max(1))
        .map(|stretch| {
            let count = stretch.len();
            Point {
                tokens: stretch.iter().map(|point| point.tokens).sum::<u64>() / count as u64,
                loss: round(stretch.iter().map(|point| point.loss).sum::<f64>() / count as f64),
            }
        })
        .collect()
}

/// Four decimals: no more are measured.
fn round(loss: f64) -> f64 {
    (loss * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_log_counts_each_step_once() {
        let path = std::env::temp_dir().join(format!("esolm-log-{}.jsonl", std::process::id()));
        let line = |step: u64, loss: f64| {
            format!(
                "{{\"kind\":\"train\",\"step\":{step},\"tokens\":{},\"loss\":{loss},\"seconds\":{step}}}\n",
                step * 100
            )
        };
        let text = [line(1, 5.0), line(2, 9.0), line(2, 4.0), line(3, 3.0)].concat()
            + "{\"kind\":\"validation\",\"step\":3,\"tokens\":300,\"loss\":3.5}\n{\"kind\":\"end\"}\n";
        fs::write(&path, text).expect("written");
        let training = read_log(&path).expect("read");
        let ended = |interrupted: bool| {
            let line = format!("{{\"kind\":\"end\",\"interrupted\":{interrupted}}}\n");
            fs::write(&path, line).expect("written");
            is_finished(&path)
        };
        assert!(ended(false) && !ended(true));
        fs::remove_file(&path).expect("removed");
        let losses: Vec<f64> = training.train.iter().map(|point| point.loss).collect();
        assert_eq!(losses, [5.0, 4.0, 3.0]);
        assert_eq!(training.validation.len(), 1);
        assert_eq!((training.steps, training.tokens), (3, 300));
        assert_eq!(training.tail.len(), 4);
    }

    #[test]
    fn thinning_averages() {
        let points: Vec<Point> = (0..7)
            .map(|at| Point {
                tokens: at * 10,
                loss: at as f64,
            })
            .collect();
        let thinned = thin(&points, 3);
        assert_eq!(thinned.len(), 3);
        assert_eq!(
            thinned[0],
            Point {
                tokens: 10,
                loss: 1.0
            }
        );
        assert_eq!(
            thinned[2],
            Point {
                tokens: 60,
                loss: 6.0
            }
        );
        assert_eq!(thin(&points, 100), points);
    }
}
