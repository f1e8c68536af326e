//! What is trained and measured: `results/plan.json`. Recipe fields that all models share stand in a recipe beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Error;

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
    /// Models that are trained and scored to find the reason of a result, and stand in no order.
    #[serde(default)]
    pub controls: Vec<Model>,
    /// The model that judges samples. It learns from other documents than those it judges.
    pub judge: Model,
    /// How the hold-out is scored.
    pub likelihood: Likelihood,
    /// How samples are drawn.
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
    /// `ar`, `mdlm` or `esolm`.
    pub family: String,
    /// alpha_0 of the training loss; Eso-LM alone has one.
    #[serde(default)]
    pub alpha_0: Option<f64>,
    /// Recipe fields of this model alone, `section.field` to value.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
}

/// How the hold-out is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Likelihood {
    /// Noise draws of the NELBO.
    pub draws: usize,
    /// Orders of the exact likelihood.
    pub orders: usize,
    /// Seed of both.
    pub seed: u64,
    /// Each Eso-LM is also scored at these alpha_0 ...
    pub cross: Vec<f64>,
    /// ... on the first windows only.
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
    /// Seed of all.
    pub seed: u64,
    /// Nucleus; the published figures use 0.9.
    pub top_p: f64,
    /// Which settings.
    pub grids: Vec<Grid>,
}

/// All combinations of models, alpha_0, T and schedules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Names of models.
    pub models: Vec<String>,
    /// alpha_0 at evaluation; empty: the one of training. Left out for AR and MDLM, which have none.
    #[serde(default)]
    pub alpha_0: Vec<f64>,
    /// Steps T; ignored for AR.
    #[serde(default)]
    pub steps: Vec<usize>,
    /// Schedules; empty: the published one, binomial. Ignored for AR.
    #[serde(default)]
    pub schedules: Vec<String>,
}

/// One setting of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Name of the model.
    pub model: String,
    /// alpha_0 at evaluation, for an Eso-LM.
    pub alpha_0: Option<f64>,
    /// T and schedule, for all but AR.
    pub steps: Option<(usize, String)>,
}

impl Setting {
    /// Name of its file.
    pub fn key(&self) -> String {
        let mut key = self.model.clone();
        if let Some(alpha_0) = self.alpha_0 {
            key += &format!("-a{alpha_0}");
        }
        if let Some((steps, schedule)) = &self.steps {
            key += &format!("-{schedule}-{steps}");
        }
        key
    }
}

impl Plan {
    /// Reads a plan file.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Json`], and [`Error::Usage`] for what no run could use.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::reading(path))?;
        let plan: Self = serde_json::from_str(&text).map_err(|source| {
            Error::Usage(format!(
                "the plan {} is not usable: {source}; docs/results.md shows the one that it was made with",
                path.display()
            ))
        })?;
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        for model in self.all() {
            if !names.insert(&model.name) {
                return Err(Error::Usage(format!(
                    "two models of the plan are called {:?}; give each its own name",
                    model.name
                )));
            }
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if model.name.is_empty() || !model.name.chars().all(is_plain) {
                return Err(Error::Usage(format!(
                    "the plan calls a model {:?}; use letters, digits, - _ and . alone, since files are named after it",
                    model.name
                )));
            }
            let needs = model.family == "esolm";
            if !["ar", "mdlm", "esolm"].contains(&model.family.as_str())
                || needs != model.alpha_0.is_some()
            {
                return Err(Error::Usage(format!(
                    "the model {:?} of the plan has family {:?}; use ar or mdlm without alpha_0, or esolm with it",
                    model.name, model.family
                )));
            }
        }
        for name in self.sampling.grids.iter().flat_map(|grid| &grid.models) {
            if !self.models.iter().any(|model| model.name == *name) {
                return Err(Error::Usage(format!(
                    "the plan samples from {name:?}, which is none of its models; name one of them"
                )));
            }
        }
        Ok(())
    }

    /// The models, the controls, and then the judge.
    pub fn all(&self) -> impl Iterator<Item = &Model> {
        self.models
            .iter()
            .chain(&self.controls)
            .chain([&self.judge])
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
                let mut alphas: Vec<Option<f64>> = match model.alpha_0 {
                    Some(_) if !grid.alpha_0.is_empty() => {
                        grid.alpha_0.iter().copied().map(Some).collect()
                    }
                    own => vec![own],
                };
                alphas.dedup();
                let schedules = match grid.schedules.is_empty() {
                    true => vec!["binomial".to_string()],
                    false => grid.schedules.clone(),
                };
                let steps: Vec<Option<(usize, String)>> = match model.family.as_str() {
                    "ar" => vec![None],
                    _ => schedules
                        .iter()
                        .flat_map(|schedule| {
                            grid.steps
                                .iter()
                                .map(|&steps| Some((steps, schedule.clone())))
                        })
                        .collect(),
                };
                for alpha_0 in alphas {
                    for steps in &steps {
                        let setting = Setting {
                            model: model.name.clone(),
                            alpha_0,
                            steps: steps.clone(),
                        };
                        if !settings.contains(&setting) {
                            settings.push(setting);
                        }
                    }
                }
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plan of the repository.
    fn shipped() -> Plan {
        Plan::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("plan.json")).expect("usable")
    }

    #[test]
    fn the_shipped_plan_is_usable() {
        let plan = shipped();
        let settings = plan.settings();
        assert!(!settings.is_empty());
        let mut keys: Vec<String> = settings.iter().map(Setting::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), settings.len(), "each setting has its own file");
    }

    #[test]
    fn grids_are_products() {
        let mut plan = shipped();
        let grid = |models: &[&str], alpha_0: &[f64], schedules: &[&str]| Grid {
            models: models.iter().copied().map(String::from).collect(),
            alpha_0: alpha_0.into(),
            steps: vec![4, 8],
            schedules: schedules.iter().copied().map(String::from).collect(),
        };
        plan.sampling.grids = vec![
            grid(&["ar"], &[], &[]),
            grid(&["mdlm"], &[1.0, 0.5], &[]),
            grid(&["esolm-0.25"], &[1.0, 0.5], &["binomial", "blocks"]),
            grid(&["esolm-0.25"], &[1.0], &["blocks"]),
        ];
        let keys: Vec<String> = plan.settings().iter().map(Setting::key).collect();
        assert_eq!(
            keys,
            [
                "ar",
                "mdlm-binomial-4",
                "mdlm-binomial-8",
                "esolm-0.25-a1-binomial-4",
                "esolm-0.25-a1-binomial-8",
                "esolm-0.25-a1-blocks-4",
                "esolm-0.25-a1-blocks-8",
                "esolm-0.25-a0.5-binomial-4",
                "esolm-0.25-a0.5-binomial-8",
                "esolm-0.25-a0.5-blocks-4",
                "esolm-0.25-a0.5-blocks-8",
            ]
        );
    }

    #[test]
    fn unusable_plans_are_refused() {
        let mut plan = shipped();
        plan.sampling.grids[0].models = vec!["nobody".into()];
        assert!(plan.check().is_err());
        let mut plan = shipped();
        plan.judge.name = plan.models[0].name.clone();
        assert!(plan.check().is_err());
        let mut plan = shipped();
        plan.models[0].alpha_0 = Some(0.5);
        assert!(plan.check().is_err(), "an AR model has no alpha_0");
        let mut plan = shipped();
        plan.models[0].name = "../ar".into();
        assert!(plan.check().is_err());
    }
}
