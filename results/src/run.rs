//! `cargo xtask results run`: trains what the plan names, measures it, and leaves records. What is already in the work folder is not
//! made again, so a run can be interrupted at any time and continued by the same command. On demand the records that are there already are
//! kept too, though the models that they are of are not there any more.

mod kept;
mod measure;
mod train;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::arguments::Common;
use crate::corpus::{Documents, SEPARATOR};
use crate::error::Error;
use crate::plan::{Model, Plan};
use crate::program::Esolm;
use crate::record::{self, SETUP, Setup};
use kept::Kept;

/// What training and measuring share.
#[derive(Debug)]
struct Bench {
    esolm: Esolm,
    plan: Plan,
    /// Folder of the records.
    out: PathBuf,
    /// What was there before, to be kept.
    kept: Kept,
}

/// What the work folder holds from the beginning: the text of the models and of the judge, the hold-out, and the recipe.
const MODELS: &str = "data/models.txt";
const JUDGE: &str = "data/judge.txt";
const HOLDOUT: &str = "data/holdout.txt";
const RECIPE: &str = "recipe.toml";
/// Ends the key of the judge's answers about samples.
const JUDGED: &str = "--judged";

impl Bench {
    /// Forgets every answer about a model, because it is trained anew; with the judge, also the judge's answers about others.
    fn forget(&self, model: &Model) -> Result<(), Error> {
        let is_judge = model.name == self.plan.judge.name;
        let prefix = format!("{}--", model.name);
        self.esolm
            .forget(|key| key.starts_with(&prefix) || is_judge && key.ends_with(JUDGED))
    }
}

/// `run`.
///
/// # Errors
/// A sentence about what is missing, or about the command of `esolm` that failed.
pub fn run(path: &Path, keep_records: bool, common: &Common) -> Result<(), Error> {
    let plan = Plan::read(path)?;
    let recipe_path = path.with_file_name(&plan.recipe);
    let recipe = fs::read_to_string(&recipe_path).map_err(Error::file("read", &recipe_path))?;
    let [for_models, for_judge] = Documents::read(&common.train)?.halves();
    let holdout = Documents::read(std::slice::from_ref(&common.holdout))?;
    let esolm = Esolm::new(common)?;
    let setup = Setup {
        date: record::now(),
        version: esolm.run("esolm --version", false)?.trim().into(),
        machine: machine(),
        command: format!(
            "cargo xtask results run --train{} --holdout FILE --work DIR --device {}{}",
            " FILE".repeat(common.train.len()),
            common.device,
            if keep_records { " --keep-records" } else { "" }
        ),
        train: for_models.extent(),
        judge_train: for_judge.extent(),
        holdout: holdout.extent(),
        recipe,
        plan: plan.clone(),
    };
    let out = common.out.clone();
    let kept = match keep_records {
        true => Kept::read(&out, &setup)?,
        false => {
            Kept::remove_others(&out, &setup)?;
            Kept::default()
        }
    };
    for (name, text) in [
        (MODELS, for_models.joined()),
        (JUDGE, for_judge.joined()),
        (HOLDOUT, holdout.joined()),
        (RECIPE, setup.recipe.clone() + &data_section()),
    ] {
        record::replace(&esolm.path(name), text.as_bytes())?;
    }
    record::write(&out.join(SETUP), &setup)?;

    let bench = Bench {
        esolm,
        plan,
        out,
        kept,
    };
    train::all(&bench)?;
    measure::likelihoods(&bench)?;
    measure::samples(&bench)?;
    eprintln!("everything is measured; `cargo xtask results render` writes docs/results.md");
    Ok(())
}

/// The recipe's section that names texts. JSON strings are TOML strings too.
fn data_section() -> String {
    format!(
        "\n[data]\ntrain = [\"{MODELS}\"]\nholdout = [\"{HOLDOUT}\"]\nseparator = {}\nascii_only = true\n",
        Value::from(SEPARATOR)
    )
}

/// The processor, for the record.
fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(std::env::consts::ARCH, |(_, model)| model.trim());
    format!("{model}, {threads} threads, {}", std::env::consts::OS)
}
