//! The parameters of a job, stored next to its output, so that it is not resumed with another model, another input or
//! other options.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use esolm_checkpoint::atomic;
use serde_json::{Value, json};

use super::Plan;
use super::input::Survey;
use crate::arguments::Shard;
use crate::failure::Failure;
use crate::files;

/// Suffix of a record's file name.
const SUFFIX: &str = ".job";

/// Everything that determines the results on one device.
pub struct Record(Value);

impl Record {
    /// The record of a job, given the result of a first reading of the input, and the model's identity from
    /// [`digest::model`](super::digest::model).
    pub fn new(plan: &Plan, survey: Option<&Survey>, model: Value) -> Self {
        let input = survey.map(|survey| {
            json!({ "lines": survey.lines, "bytes": survey.bytes, "sha256": survey.sha256 })
        });
        let mut options = plan.options.clone();
        options["first"] = plan.first.into();
        options["shard"] = plan.job.shard.unwrap_or(Shard::ALL).to_string().into();
        Self(json!({
            "esolm_job": 1,
            "esolm": env!("CARGO_PKG_VERSION"),
            "command": plan.command,
            "input": input,
            "model": model,
            "options": options,
        }))
    }

    /// The path of the record of an output.
    pub fn path(output: &Path) -> PathBuf {
        let mut name = output.as_os_str().to_owned();
        name.push(SUFFIX);
        name.into()
    }

    /// Writes it next to the output.
    pub fn write(&self, output: &Path) -> Result<(), Failure> {
        let path = Self::path(output);
        if atomic::is_stream(&path).map_err(|error| files::cannot_write(&path, &error))? {
            return Err(Failure::failed(format!(
                "{} is where the job's record belongs, and is not a regular file; remove it, or give another --output",
                path.display()
            )));
        }
        let text = format!("{:#}\n", self.0);
        atomic::write(&path, text).map_err(|error| files::cannot_write(&path, &error))
    }

    /// Compares it with the record next to an output that has results.
    pub fn compare(&self, output: &Path) -> Result<(), Failure> {
        let path = Self::path(output);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::failed(format!(
                "{} has results, but {}, which says what they are of, is not there; give another --output",
                output.display(),
                path.display()
            )),
            _ => Failure::failed(format!("cannot read {}: {error}; check its permissions", path.display())),
        })?;
        let there: Value = serde_json::from_slice(&text).map_err(|_| {
            Failure::failed(format!(
                "{} is damaged; give another --output",
                path.display()
            ))
        })?;
        let results = output.display();
        // Differing options are the most informative, and may be why the model differs.
        for part in ["esolm_job", "esolm", "command", "options"] {
            if let Some((what, there, here)) = difference(part, &there[part], &self.0[part]) {
                let said =
                    format!("the results in {results} were made with {what} {there}, not {here}");
                return Err(match part {
                    "esolm" | "esolm_job" => Failure::failed(format!(
                        "{said}; go on with that version, or give another --output"
                    )),
                    _ => Failure::usage(format!(
                        "{said}; give the same options, or another --output"
                    )),
                });
            }
        }
        // The model's name may change.
        let (model, own) = (&there["model"], &self.0["model"]);
        let parts = [
            "configuration",
            "weights",
            "tokenizer",
            "recommended settings",
        ];
        let changed: Vec<&str> = (parts.into_iter())
            .filter(|part| model[part] != own[part])
            .collect();
        if !changed.is_empty() {
            let changed = changed.join(" and ");
            return Err(Failure::failed(format!(
                "the model is not the one that made the results in {results}: its {changed} changed; give that model, or another --output"
            )));
        }
        match there["input"] == self.0["input"] {
            true => Ok(()),
            false => Err(Failure::failed(format!(
                "the input is not the one that the results in {results} are of; give that one, or another --output"
            ))),
        }
    }
}

/// The first field in which two records differ, with both values.
fn difference(name: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort();
        names.dedup();
        return names.into_iter().find_map(|field| {
            let inner = match name {
                "options" => field.clone(),
                _ => format!("{name}.{field}"),
            };
            let of = |object: &serde_json::Map<String, Value>| {
                object.get(field).cloned().unwrap_or(Value::Null)
            };
            difference(&inner, &of(a), &of(b))
        });
    }
    let said = |value: &Value| match value {
        Value::Null => "left out".into(),
        value => value.to_string().chars().take(80).collect(),
    };
    (a != b).then(|| (name.into(), said(a), said(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let options = |seed: u64| json!({"a": 1, "seed": seed});
        assert_eq!(difference("options", &options(1), &options(1)), None);
        let (what, there, here) =
            difference("options", &options(1), &options(2)).expect("it differs");
        assert_eq!(
            (what.as_str(), there.as_str(), here.as_str()),
            ("seed", "1", "2")
        );
        let (_, there, here) =
            difference("options", &json!({}), &json!({"a": "b"})).expect("it differs");
        assert_eq!((there.as_str(), here.as_str()), ("left out", "\"b\""));
        let (what, ..) = difference("esolm", &json!("1"), &json!("2")).expect("it differs");
        assert_eq!(what, "esolm");
    }
}
