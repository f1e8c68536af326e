//! What is trained and measured: `results/plan.json`. Recipe fields that all models share are in a recipe beside it.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use esolm_core::config::Family;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// The plan file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The recipe of `esolm train` that all models start from, beside the plan; without a `[data]` section.
    pub recipe: String,
    /// Tokens in the vocabulary of the tokenizer that the first model makes and the others take over.
    pub vocab_size: usize,
    /// Training tokens of each model.
    pub tokens: u64,
    /// The models that are compared.
    pub models: Vec<Model>,
    /// Models that are trained and scored to find the reason for a result, and have no place in an order.
    #[serde(default)]
    pub controls: Vec<Model>,
    /// The model that judges samples. It learns from other documents than those it judges.
    pub judge: Model,
    pub likelihood: Likelihood,
    pub sampling: Sampling,
}

/// One model to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name of its files.
    pub name: String,
    /// Name in tables and plots.
    pub title: String,
    pub family: Family,
    /// alpha_0 of the training loss; Eso-LM alone has one.
    pub alpha_0: Option<f64>,
    /// Recipe fields of this model alone, `section.field` to value.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
    /// Options with which `esolm ppl` scores the whole hold-out, where those of other families do not suit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppl: Option<String>,
}

/// How the hold-out is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Likelihood {
    /// Noise draws of the NELBO, orders of the exact likelihood, and the seed of both.
    pub draws: usize,
    pub orders: usize,
    pub seed: u64,
    /// Each Eso-LM is also scored at these alpha_0, on the first windows only.
    pub cross: Vec<f64>,
    pub cross_windows: usize,
    /// On these windows each Eso-LM is scored once more at its own alpha_0 with so many orders; 0 for not.
    #[serde(default)]
    pub more_orders: usize,
}

/// How samples are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Samples of each setting, drawn as one batch.
    pub batch: usize,
    pub seed: u64,
    /// Nucleus; the published figures use 0.9.
    pub top_p: f64,
    pub grids: Vec<Grid>,
}

/// All combinations of models, alpha_0, T and schedules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Names of models.
    pub models: Vec<String>,
    /// alpha_0 at evaluation; empty: the one of training. Ignored for AR and MDLM, which have none.
    #[serde(default)]
    pub alpha_0: Vec<f64>,
    /// Steps T, of a BD3-LM those of each block; ignored for AR and for schedules that draw one token a step.
    #[serde(default)]
    pub steps: Vec<usize>,
    /// Schedules; empty: the published one of Eso-LM and MDLM, binomial. Ignored for AR.
    #[serde(default)]
    pub schedules: Vec<String>,
}

/// Schedules that draw one token a step, and so have no T.
const ONE_BY_ONE: [&str; 2] = ["first-hitting", "left-to-right"];

/// One setting: a model, its alpha_0 at evaluation if it is an Eso-LM, and T, where it has one, and the schedule if it is not AR.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    pub alpha_0: Option<f64>,
    pub steps: Option<usize>,
    pub schedule: Option<String>,
}

impl Setting {
    /// Name of its file.
    pub fn key(&self) -> String {
        let mut key = self.name.clone();
        if let Some(alpha_0) = self.alpha_0 {
            key += &format!("-a{alpha_0}");
        }
        if let Some(schedule) = &self.schedule {
            key += &format!("-{schedule}");
        }
        if let Some(steps) = self.steps {
            key += &format!("-{steps}");
        }
        key
    }
}

impl Grid {
    /// The settings of a model in this grid.
    fn settings(&self, model: &Model) -> Vec<Setting> {
        let alphas = match model.alpha_0 {
            Some(_) if !self.alpha_0.is_empty() => self.alpha_0.iter().copied().map(Some).collect(),
            own => vec![own],
        };
        let binomial = ["binomial".to_string()];
        let schedules = match self.schedules.as_slice() {
            [] => &binomial,
            some => some,
        };
        let mut settings = Vec::new();
        for alpha_0 in alphas {
            let name = model.name.clone();
            let at_alpha = Setting {
                name,
                alpha_0,
                ..Setting::default()
            };
            if model.family == Family::Ar {
                settings.push(at_alpha);
                continue;
            }
            for schedule in schedules {
                let steps = match ONE_BY_ONE.contains(&schedule.as_str()) {
                    true => vec![None],
                    false => self.steps.iter().copied().map(Some).collect(),
                };
                settings.extend(steps.into_iter().map(|steps| Setting {
                    steps,
                    schedule: Some(schedule.clone()),
                    ..at_alpha.clone()
                }));
            }
        }
        settings
    }
}

impl Plan {
    /// Reads a plan file.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::Usage`] for what no run could use.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        let plan = serde_json::from_str(&text).map_err(|error| error.to_string());
        let checked = plan.and_then(|plan: Self| plan.check().map(|()| plan));
        checked.map_err(|why| {
            let path = path.display();
            Error::Usage(format!(
                "the plan {path} is not usable: {why}; correct it as in results/plan.json"
            ))
        })
    }

    /// Why no run could use it.
    fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for model in self.all() {
            let name = &model.name;
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let why = if !names.insert(name) {
                "is the name of two models"
            } else if name.is_empty() || !name.chars().all(is_plain) {
                "names files, so only letters, digits, -, _ and . will do"
            } else if (model.family == Family::EsoLm) != model.alpha_0.is_some() {
                "needs an alpha_0 if it is an Eso-LM, and otherwise has none"
            } else {
                continue;
            };
            return Err(format!("{name:?} {why}"));
        }
        let mut sampled = self.sampling.grids.iter().flat_map(|grid| &grid.models);
        match sampled.find(|name| !self.models.iter().any(|model| model.name == **name)) {
            Some(name) => Err(format!(
                "{name:?} is sampled from and is not one of the models"
            )),
            None => Ok(()),
        }
    }

    /// The models, the controls, and then the judge.
    pub fn all(&self) -> impl Iterator<Item = &Model> {
        let models = self.models.iter().chain(&self.controls);
        models.chain([&self.judge])
    }

    /// The model of a name.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.all().find(|model| model.name == name)
    }

    /// Every setting to sample once, in the order of the grids.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        for grid in &self.sampling.grids {
            for model in grid.models.iter().filter_map(|name| self.model(name)) {
                for setting in grid.settings(model) {
                    if !settings.contains(&setting) {
                        settings.push(setting);
                    }
                }
            }
        }
        settings
    }
}
