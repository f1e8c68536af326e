//! `cargo xtask results run`: trains what the plan names, measures it, and leaves records. What stands in the work folder already is
//! not made again, so a run can be interrupted at any time and taken up by the same command.

mod likelihood;
mod samples;
mod train;

pub use likelihood::report;
pub use samples::beginning;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::arguments::{Arguments, many, one};
use crate::clock;
use crate::corpus::{Documents, SEPARATOR};
use crate::failure::Error;
use crate::plan::{Model, Plan};
use crate::program::Esolm;
use crate::record::{self, Setup};

/// Everything that the stages share.
#[derive(Debug)]
struct Bench {
    esolm: Esolm,
    plan: Plan,
    /// Folder of the records.
    out: PathBuf,
    /// `--device` of every command.
    device: String,
}

impl Bench {
    /// Where a trained model lies, as seen from the work folder.
    fn model(name: &str) -> String {
        format!("train/{name}/model")
    }

    /// Forgets every answer about a model: it is another one now. What the judge said of others goes with the judge.
    fn forget(&self, model: &Model) -> Result<(), Error> {
        let is_judge = model.name == self.plan.judge.name;
        self.esolm.forget(|answer| {
            answer.starts_with(&format!("{}--", model.name)) || is_judge && answer.contains(JUDGED)
        })
    }
}

/// Ends the key of what the judge said of samples.
const JUDGED: &str = "--judged";

/// `run`.
///
/// # Errors
/// A sentence about what is missing, or about the command of `esolm` that failed.
pub fn run(words: &[String], root: &Path) -> Result<(), Error> {
    let arguments = Arguments::parse(
        words,
        &[
            one("--plan"),
            many("--train"),
            one("--holdout"),
            one("--work"),
            one("--esolm"),
            one("--out"),
            one("--device"),
        ],
    )?;
    let train = arguments.paths("--train", "the text files to learn from")?;
    let holdout = arguments.paths("--holdout", "the text file to measure on")?;
    let work = arguments.required(
        "--work",
        "a folder outside the repository for models and answers",
    )?;
    let path = |name, default: PathBuf| arguments.get(name).map_or(default, PathBuf::from);
    let plan_path = path("--plan", root.join("results/plan.json"));
    let out = path("--out", root.join("docs/results"));
    let device = arguments.get("--device").unwrap_or("auto");

    let plan = Plan::read(&plan_path)?;
    let recipe_path = plan_path.with_file_name(&plan.recipe);
    let recipe = fs::read_to_string(&recipe_path).map_err(Error::reading(&recipe_path))?;
    let (all, holdout) = (Documents::read(&train)?, Documents::read(&holdout)?);
    let (for_models, for_judge) = all.halves();
    let esolm = Esolm::new(
        &path("--esolm", root.join("target/release/esolm")),
        Path::new(work),
    )?;
    for (name, documents) in [
        ("models", &for_models),
        ("judge", &for_judge),
        ("holdout", &holdout),
    ] {
        documents.write(&esolm.path(&format!("data/{name}.txt")))?;
    }
    fs::create_dir_all(&out).map_err(|source| Error::File {
        verb: "create",
        path: out.clone(),
        source,
    })?;
    let setup = Setup {
        date: clock::now(),
        version: esolm.version()?,
        machine: machine(),
        command: format!(
            "cargo xtask results run --train {} --holdout FILE --work DIR --device {device}",
            vec!["FILE"; train.len()].join(" ")
        ),
        train: for_models.extent(),
        judge_train: for_judge.extent(),
        holdout: holdout.extent(),
        recipe,
        plan: plan.clone(),
    };
    let recipe = esolm.path("recipe.toml");
    record::replace(&recipe, &(setup.recipe.clone() + &data_section()))?;
    record::write(&out.join("setup.json"), &setup)?;

    let bench = Bench {
        esolm,
        plan,
        out,
        device: device.into(),
    };
    train::all(&bench)?;
    likelihood::all(&bench)?;
    samples::all(&bench)?;
    eprintln!("all is measured; `cargo xtask results render` makes docs/results.md of it");
    Ok(())
}

/// The recipe's section that names texts. JSON strings are TOML strings too.
fn data_section() -> String {
    format!(
        "\n[data]\ntrain = [\"data/models.txt\"]\nholdout = [\"data/holdout.txt\"]\nseparator = {}\nascii_only = true\n",
        Value::from(SEPARATOR)
    )
}

/// The processor, for the record.
fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.into());
    format!("{model}, {threads} threads, {}", std::env::consts::OS)
}
