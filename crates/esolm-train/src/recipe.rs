//! What to train, on what, and how: a TOML file.

use std::path::PathBuf;

use esolm::config::{AttentionKind, Family, ModelConfig, Prepend};
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// A whole recipe. Every table but `data` may be left out, and every key but `data.train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network.
    #[serde(default)]
    pub model: Model,
    /// The text.
    pub data: Data,
    /// The loss.
    #[serde(default)]
    pub loss: Loss,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How long, how often, where.
    #[serde(default)]
    pub run: Run,
}

/// The network's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// `esolm`, `mdlm` or `ar`.
    pub family: Family,
    /// Width d.
    pub hidden: usize,
    /// Transformer blocks.
    pub blocks: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the conditioning vector; an AR model has none.
    pub cond_dim: usize,
    /// Context in tokens.
    pub length: usize,
    /// Dropout probability.
    pub dropout: f64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            family: Family::EsoLm,
            hidden: 256,
            blocks: 6,
            heads: 8,
            cond_dim: 64,
            length: 128,
            dropout: 0.0,
        }
    }
}

/// The text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// UTF-8 text files to train on.
    pub train: Vec<PathBuf>,
    /// UTF-8 text files to validate on.
    #[serde(default)]
    pub holdout: Vec<PathBuf>,
    /// What stands between two documents of a file.
    #[serde(default = "separator")]
    pub separator: String,
    /// Leave out documents with characters beyond ASCII.
    #[serde(default)]
    pub ascii_only: bool,
    /// An existing tokenizer.json; without one, a byte-level BPE is trained on the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of the BPE to train, the end-of-text token included, the mask token not.
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
}

fn separator() -> String {
    "<|endoftext|>".into()
}

fn vocab_size() -> usize {
    2048
}

/// Weight of masked tokens in the diffusion loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// -alpha_t' / (1 - alpha_t): the bound itself.
    Elbo,
    /// 1: less variance, no bound.
    LowVar,
}

/// The loss. An AR model needs none of it, an MDLM `kind` alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// Share of the tokens that diffusion writes.
    pub alpha_0: f64,
    /// Each training sequence draws its own alpha_0 uniformly from this range; not in the published loss. A model that has seen many
    /// values runs well at many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_0_range: Option<[f64; 2]>,
    /// Share of the sequential loss's sequences that have one gap of random length and place instead of random masked tokens; not in
    /// the published loss. It teaches infill, and going on from a prompt.
    pub infill: f64,
    /// Share of a batch's sequences that trains the diffusion loss; the rest trains the sequential one.
    pub batch_split: f64,
    /// Weight of masked tokens in the diffusion loss.
    pub kind: LossKind,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            alpha_0: 0.25,
            alpha_0_range: None,
            infill: 0.0,
            batch_split: 0.5,
            kind: LossKind::Elbo,
        }
    }
}

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// It stays.
    Constant,
    /// It falls to `min_lr` along half a cosine.
    Cosine,
}

/// AdamW (arXiv 1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, of all parameters as in the published code.
    pub weight_decay: f64,
    /// Steps over which the learning rate rises from zero.
    pub warmup_steps: u64,
    /// What follows.
    pub schedule: LrSchedule,
    /// Where a cosine ends.
    pub min_lr: f64,
    /// Largest norm of the whole gradient; 0 for no limit.
    pub clip: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            warmup_steps: 100,
            schedule: LrSchedule::Constant,
            min_lr: 0.0,
            clip: 1.0,
        }
    }
}

/// How long, how often, where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Sequences of a micro-batch.
    pub batch: usize,
    /// Micro-batches whose gradients are averaged for one step.
    pub accumulate: usize,
    /// Tokens to train on, in whole steps.
    pub tokens: u64,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Decay of the averaged weights, which are the ones to use.
    pub ema: f64,
    /// Steps between two validations; 0 for none.
    pub validate_every: u64,
    /// Windows of the hold-out that are validated on.
    pub validate_windows: usize,
    /// Steps between two saved states; the end is saved always.
    pub save_every: u64,
    /// Steps between two lines of the log.
    pub log_every: u64,
    /// `auto`, `cpu`, `gpu` or `gpu:N`.
    pub device: String,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            batch: 32,
            accumulate: 1,
            tokens: 10_000_000,
            seed: 0,
            ema: 0.9999,
            validate_every: 500,
            validate_windows: 128,
            save_every: 500,
            log_every: 10,
            device: "cpu".into(),
        }
    }
}

impl Recipe {
    /// Reads a recipe, with `table.key=value` overrides on top.
    ///
    /// # Errors
    /// Text that is no TOML, unknown keys, and values that make no sense.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, TrainError> {
        let recipe = |e: toml::de::Error| TrainError::Recipe(one_line(&e.to_string()));
        let mut table: toml::Table = text.parse().map_err(recipe)?;
        for assignment in overrides {
            set(&mut table, assignment)?;
        }
        let parsed: Self = table.try_into().map_err(recipe)?;
        parsed.check()?;
        Ok(parsed)
    }

    /// The recipe with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables of numbers, texts and lists are TOML")
    }

    /// Tokens of one step.
    pub fn step_tokens(&self) -> u64 {
        (self.run.batch * self.run.accumulate * self.model.length) as u64
    }

    /// Number of steps.
    pub fn steps(&self) -> u64 {
        self.run.tokens.div_ceil(self.step_tokens())
    }

    /// Sequences of a micro-batch that train the diffusion loss.
    pub fn diffusion_rows(&self) -> usize {
        match self.model.family {
            Family::EsoLm => (self.run.batch as f64 * self.loss.batch_split).round() as usize,
            Family::Mdlm => self.run.batch,
            Family::Ar => 0,
        }
    }

    /// The configuration of the network over a tokenizer of `tokens` tokens, whose end-of-text token is `end`.
    ///
    /// # Errors
    /// What [`ModelConfig::validate`] finds.
    pub fn config(&self, tokens: usize, end: u32) -> Result<ModelConfig, TrainError> {
        let Model {
            family,
            hidden,
            blocks,
            heads,
            cond_dim,
            length,
            dropout,
        } = self.model;
        let config = ModelConfig {
            family,
            hidden,
            cond_dim: if family == Family::Ar { 0 } else { cond_dim },
            n_blocks: blocks,
            n_heads: heads,
            length,
            vocab_size: tokens + 1,
            mask_index: tokens as u32,
            alpha_0: (family == Family::EsoLm).then_some(self.loss.alpha_0),
            prepend: Prepend::None,
            bos: Some(end),
            eos: Some(end),
            dropout,
            attention: match family {
                Family::Mdlm => AttentionKind::Bidirectional,
                _ => AttentionKind::Causal,
            },
        };
        config.validate()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), TrainError> {
        let (loss, optimizer, run) = (&self.loss, &self.optimizer, &self.run);
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let below_one = |x: f64| (0.0..1.0).contains(&x);
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let at_least_zero = |x: f64| x >= 0.0 && x.is_finite();
        let few = |n: usize| (1..=1 << 16).contains(&n);
        const ONE_OR_MORE: &str = "a whole number from 1 to 65536";
        const SHARE: &str = "a number from 0 to 1";
        const BELOW_ONE: &str = "a number from 0 to below 1";
        let range = loss.alpha_0_range.unwrap_or([0.0, 1.0]);
        let checks: [(&'static str, String, bool, &str); 20] = [
            (
                "loss.alpha_0_range",
                format!("{range:?}"),
                share(range[0]) && share(range[1]) && range[0] <= range[1],
                "two numbers from 0 to 1, the first not above the second",
            ),
            (
                "loss.infill",
                loss.infill.to_string(),
                share(loss.infill),
                SHARE,
            ),
            (
                "data.train",
                format!("{:?}", self.data.train),
                !self.data.train.is_empty(),
                "a list of text files",
            ),
            (
                "data.separator",
                format!("{:?}", self.data.separator),
                !self.data.separator.is_empty(),
                "a text",
            ),
            (
                "model.length",
                self.model.length.to_string(),
                few(self.model.length) && self.model.length > 1,
                "a whole number from 2 to 65536",
            ),
            (
                "model.dropout",
                self.model.dropout.to_string(),
                below_one(self.model.dropout),
                BELOW_ONE,
            ),
            (
                "model.heads",
                self.model.heads.to_string(),
                self.model.heads > 0,
                ONE_OR_MORE,
            ),
            (
                "loss.alpha_0",
                loss.alpha_0.to_string(),
                share(loss.alpha_0),
                SHARE,
            ),
            (
                "loss.batch_split",
                loss.batch_split.to_string(),
                share(loss.batch_split),
                SHARE,
            ),
            (
                "optimizer.lr",
                optimizer.lr.to_string(),
                positive(optimizer.lr),
                "a number above 0",
            ),
            (
                "optimizer.beta_1",
                optimizer.beta_1.to_string(),
                below_one(optimizer.beta_1),
                BELOW_ONE,
            ),
            (
                "optimizer.beta_2",
                optimizer.beta_2.to_string(),
                below_one(optimizer.beta_2),
                BELOW_ONE,
            ),
            (
                "optimizer.epsilon",
                optimizer.epsilon.to_string(),
                positive(optimizer.epsilon),
                "a number above 0",
            ),
            (
                "optimizer.weight_decay",
                optimizer.weight_decay.to_string(),
                at_least_zero(optimizer.weight_decay),
                "0 or more",
            ),
            (
                "optimizer.min_lr",
                optimizer.min_lr.to_string(),
                at_least_zero(optimizer.min_lr),
                "0 or more",
            ),
            (
                "optimizer.clip",
                optimizer.clip.to_string(),
                at_least_zero(optimizer.clip),
                "0 or more",
            ),
            (
                "run.batch",
                run.batch.to_string(),
                few(run.batch),
                ONE_OR_MORE,
            ),
            (
                "run.accumulate",
                run.accumulate.to_string(),
                few(run.accumulate),
                ONE_OR_MORE,
            ),
            (
                "run.ema",
                run.ema.to_string(),
                below_one(run.ema),
                BELOW_ONE,
            ),
            (
                "run.log_every",
                run.log_every.to_string(),
                run.log_every > 0,
                "1 or more",
            ),
        ];
        for (key, value, sound, expected) in checks {
            if !sound {
                return Err(TrainError::Value {
                    key,
                    value,
                    expected: expected.into(),
                });
            }
        }
        if self.run.tokens == 0
            || self.steps() > u64::from(u32::MAX) / (run.batch * run.accumulate) as u64
        {
            return Err(TrainError::Value {
                key: "run.tokens",
                value: run.tokens.to_string(),
                expected: "at least 1, and at most 2^32 sequences".into(),
            });
        }
        Ok(())
    }
}

/// `table.key=value`; what is no TOML value is a text.
fn set(table: &mut toml::Table, assignment: &str) -> Result<(), TrainError> {
    let wrong = || TrainError::Override(assignment.into());
    let (path, value) = assignment.split_once('=').ok_or_else(wrong)?;
    let (section, key) = path.trim().split_once('.').ok_or_else(wrong)?;
    let value = value.trim();
    let value = format!("x = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    table
        .entry(section)
        .or_insert_with(|| toml::Value::Table(toml::Table::new()))
        .as_table_mut()
        .ok_or_else(wrong)?
        .insert(key.into(), value);
    Ok(())
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_and_defaults() {
        let text = "[data]\ntrain = [\"a.txt\"]\n[run]\nbatch = 4\n";
        let sets = [
            "run.batch=8".to_string(),
            "loss.alpha_0 = 0.5".into(),
            "data.tokenizer=t.json".into(),
            "model.family=ar".into(),
        ];
        let recipe = Recipe::parse(text, &sets).unwrap();
        assert_eq!(recipe.run.batch, 8);
        assert_eq!(recipe.loss.alpha_0, 0.5);
        assert_eq!(recipe.data.tokenizer, Some("t.json".into()));
        assert_eq!(recipe.model.family, Family::Ar);
        assert_eq!(recipe.optimizer, Optimizer::default());
        assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).unwrap(), recipe);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
            Recipe::parse("[data]\ntrain = [\"a.txt\"]\n", &sets)
                .unwrap_err()
                .to_string()
        };
        for (set, named) in [
            ("run.batch=0", "run.batch"),
            ("run.batsch=1", "batsch"),
            ("loss.alpha_0=2", "loss.alpha_0"),
            ("optimizer.lr=nan", "optimizer.lr"),
            ("model.family=gpt", "gpt"),
            ("data.train=[]", "data.train"),
            ("run", "run"),
        ] {
            let message = refused(&[set]);
            assert!(message.contains(named), "{set}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
