//! Recipes: a TOML file that says what to train, on what, and how.

mod families;
mod text;

use std::path::PathBuf;

use esolm::config::{AttentionKind, ConfigError, Family, ModelConfig, Prepend, Sets};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::loss::BlockNoise;

/// A complete recipe. Every table except `data` may be left out, and every key except `data.train`.
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
    /// Duration, intervals, device.
    #[serde(default)]
    pub run: Run,
}

/// The network's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// `esolm`, `mdlm`, `ar`, `bd3lm` or `setdlm`.
    pub family: Family,
    /// Width d.
    pub hidden: usize,
    /// Transformer blocks.
    pub blocks: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the conditioning vector. AR models and SetDLMs have none, unless they start from a checkpoint that
    /// does. 0, for a network without adaLN, is only allowed when starting from a checkpoint.
    pub cond_dim: usize,
    /// Context in tokens.
    pub length: usize,
    /// Dropout probability.
    pub dropout: f64,
    /// Tokens per block of a BD3-LM, a divisor of the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// Tokens per set that a SetDLM's noise aims for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_size: Option<usize>,
    /// Maximum tokens per set of a SetDLM. Default: twice `set_size`, as published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_set_size: Option<usize>,
    /// The checkpoint whose weights training starts from, a path or `hf:owner/name`; by default they are random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
}

impl Model {
    /// Whether networks of this family are trained with adaLN.
    pub fn is_conditioned(&self) -> bool {
        is_conditioned(self.family)
    }
}

/// Whether networks of a family are trained with adaLN.
fn is_conditioned(family: Family) -> bool {
    !matches!(family, Family::Ar | Family::SetDlm)
}

impl Default for Model {
    fn default() -> Self {
        Self {
            family: text::DEFAULT,
            hidden: 256,
            blocks: 6,
            heads: 8,
            cond_dim: 64,
            length: 128,
            dropout: 0.0,
            block_size: None,
            set_size: None,
            max_set_size: None,
            init: None,
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
    /// Separates documents in a file.
    #[serde(default = "separator")]
    pub separator: String,
    /// Skip documents with non-ASCII characters.
    #[serde(default)]
    pub ascii_only: bool,
    /// An existing tokenizer.json; by default, a byte-level BPE is trained on the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of the BPE to train, including the end-of-text token but not the mask token.
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
    /// 1: less variance, but not a bound.
    LowVar,
}

/// The loss. AR models and SetDLMs use none of these settings, an MDLM only `kind`, and a BD3-LM `kind`, `noise_range`
/// and `resample`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// Fraction of the tokens that diffusion writes.
    pub alpha_0: f64,
    /// Each training sequence draws its own alpha_0 uniformly from this range; not part of the published loss. A model
    /// trained on many values works well with many values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_0_range: Option<[f64; 2]>,
    /// Fraction of the sequential loss's sequences that have a single gap of random length and place instead of random
    /// masked tokens; not part of the published loss. It teaches infilling, and continuing a prompt.
    pub infill: f64,
    /// Fraction of a batch's sequences that train the diffusion loss; the rest train the sequential loss.
    pub batch_split: f64,
    /// Weight of masked tokens in the diffusion loss.
    pub kind: LossKind,
    /// Range of the times of a BD3-LM's blocks, i.e. of the fraction of masked tokens. Default: that of the bound,
    /// 0.001 to 1. A narrower range has less variance, but is not a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_range: Option<[f64; 2]>,
    /// Mask a BD3-LM's blocks again if their fraction of masked tokens is outside `noise_range`, as is possible in the
    /// published code.
    pub resample: bool,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            alpha_0: 0.25,
            alpha_0_range: None,
            infill: 0.0,
            batch_split: 0.5,
            kind: LossKind::Elbo,
            noise_range: None,
            resample: false,
        }
    }
}

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// Constant.
    Constant,
    /// Decreases to `min_lr` along half a cosine.
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
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, applied to all parameters as in the published code.
    pub weight_decay: f64,
    /// Steps over which the learning rate rises from zero.
    pub warmup_steps: u64,
    /// The schedule after the warm-up.
    pub schedule: LrSchedule,
    /// Final learning rate of a cosine schedule.
    pub min_lr: f64,
    /// Maximum norm of the whole gradient; 0 for no limit.
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

/// Duration, intervals, device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Sequences per micro-batch.
    pub batch: usize,
    /// Micro-batches whose gradients are averaged for one step. Diffusion times are antithetic within each; in the
    /// published code of Eso-LMs, over all of a step.
    pub accumulate: usize,
    /// Tokens to train on, rounded up to whole steps.
    pub tokens: u64,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Decay of the averaged weights, which are the ones to use.
    pub ema: f64,
    /// Steps between validations; 0 for none.
    pub validate_every: u64,
    /// Maximum windows of the hold-out to validate on.
    pub validate_windows: usize,
    /// Steps between saved states; the last step is always saved.
    pub save_every: u64,
    /// Steps between lines in the log.
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
    /// Tokens per step.
    pub fn step_tokens(&self) -> u64 {
        (self.run.batch * self.run.accumulate * self.model.length) as u64
    }

    /// Total number of steps.
    pub fn steps(&self) -> u64 {
        self.steps_after(0)
    }

    /// Number of steps left after `tokens` tokens.
    pub fn steps_after(&self, tokens: u64) -> u64 {
        let left = self.run.tokens.saturating_sub(tokens);
        left.div_ceil(self.step_tokens())
    }

    /// Sequences per micro-batch that train the diffusion loss.
    pub fn diffusion_rows(&self) -> usize {
        match self.model.family {
            Family::EsoLm => (self.run.batch as f64 * self.loss.batch_split).round() as usize,
            Family::Mdlm | Family::Bd3Lm => self.run.batch,
            Family::Ar | Family::SetDlm => 0,
        }
    }

    /// The noise settings of a BD3-LM.
    pub fn block_noise(&self) -> Option<BlockNoise> {
        Some(BlockNoise {
            size: self.model.block_size?,
            range: self.loss.noise_range.unwrap_or(BlockNoise::WHOLE),
            resample: self.loss.resample,
        })
    }

    /// The configuration of the network, for a tokenizer of `tokens` tokens with end-of-text token `end`.
    ///
    /// # Errors
    /// Errors of [`ModelConfig::validate`].
    pub fn config(&self, tokens: usize, end: u32) -> Result<ModelConfig, TrainError> {
        let Model {
            family,
            hidden,
            blocks,
            heads,
            cond_dim,
            length,
            dropout,
            block_size,
            set_size,
            max_set_size,
            init: _,
        } = self.model;
        let conditioned = self.model.is_conditioned();
        let config = ModelConfig {
            family,
            hidden,
            cond_dim: if conditioned { cond_dim } else { 0 },
            n_blocks: blocks,
            n_heads: heads,
            length,
            vocab_size: tokens + 1,
            mask_index: tokens as u32,
            alpha_0: (family == Family::EsoLm).then_some(self.loss.alpha_0),
            prepend: Prepend::None,
            bos: Some(end),
            eos: Some(end),
            more_eos: Vec::new(),
            dropout,
            attention: match family {
                Family::Mdlm => AttentionKind::Bidirectional,
                Family::Bd3Lm => AttentionKind::Block,
                Family::SetDlm => AttentionKind::Set,
                Family::EsoLm | Family::Ar => AttentionKind::Causal,
            },
            block_size,
            noise_range: self.block_noise().map(|noise| noise.range),
            sets: set_size.map(|desired| Sets {
                desired,
                largest: max_set_size.unwrap_or(desired.saturating_mul(2)),
                keeps_first: true,
                cache_by_time: false,
                pad: None,
            }),
            decoder: None,
        };
        if config.cond_dim == 0 && conditioned && self.model.init.is_none() {
            // Networks without adaLN can be run, but the published ones of these families are trained with it.
            return Err(ConfigError::Invalid {
                field: "cond_dim",
                found: "0".into(),
                expected: format!(
                    "a whole number above 0 for {family}, which is trained with adaLN"
                ),
            }
            .into());
        }
        config.validate()?;
        Ok(config)
    }

    /// The configuration of a network that continues with the weights and the vocabulary of a network of `start`.
    ///
    /// # Errors
    /// Errors of [`ModelConfig::validate`].
    pub fn config_from(&self, start: &ModelConfig) -> Result<ModelConfig, TrainError> {
        let family = self.model.family;
        let own = self.config(start.vocab_size - 1, 0)?;
        let config = ModelConfig {
            cond_dim: match self.model.is_conditioned() {
                true => self.model.cond_dim,
                false => start.cond_dim,
            },
            vocab_size: start.vocab_size,
            mask_index: start.mask_index,
            bos: start.bos,
            eos: start.eos,
            more_eos: start.more_eos.clone(),
            // Other families have none.
            prepend: match family {
                Family::Ar => start.prepend,
                _ => Prepend::None,
            },
            // Settings of a SetDLM that are not part of a recipe.
            sets: own.sets.map(|sets| Sets {
                desired: sets.desired,
                largest: sets.largest,
                ..start.sets.unwrap_or(sets)
            }),
            ..own
        };
        config.validate()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), TrainError> {
        const COUNT: &str = "a whole number from 1 to 65536";
        const SHARE: &str = "a number from 0 to 1";
        const BELOW_ONE: &str = "a number from 0 to below 1";
        const BELOW_ONE_STORED: &str = "a number from 0 to below 1 as a 32-bit float";
        const ABOVE_ZERO: &str = "a number above 0";
        const ABOVE_ZERO_STORED: &str = "a number above 0 as a 32-bit float";
        const ZERO_OR_MORE: &str = "0 or more";
        const ZERO_OR_MORE_STORED: &str = "0 or more as a 32-bit float";
        let (data, model, loss, run) = (&self.data, &self.model, &self.loss, &self.run);
        let adam = &self.optimizer;
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let below_one = |x: f64| (0.0..1.0).contains(&x);
        let above_zero = |x: f64| x > 0.0 && x.is_finite();
        let not_below_zero = |x: f64| x >= 0.0 && x.is_finite();
        let count = |n: usize| (1..=1 << 16).contains(&n);
        // The optimizer computes with these in 32 bits, where 0.99999999 is 1 and 1e-50 is 0: it would divide 0 by 0.
        let stored = |x: f64| f64::from(x as f32);

        let (train, separator) = (format!("{:?}", data.train), format!("{:?}", data.separator));
        must(
            "data.train",
            train,
            !data.train.is_empty(),
            "a list of text files",
        )?;
        must(
            "data.separator",
            separator,
            !data.separator.is_empty(),
            "a text",
        )?;
        let long = (2..=1 << 16).contains(&model.length);
        must(
            "model.length",
            model.length,
            long,
            "a whole number from 2 to 65536",
        )?;
        must("model.heads", model.heads, count(model.heads), COUNT)?;
        // The BPE trainer reserves memory for all of them.
        must(
            "data.vocab_size",
            data.vocab_size,
            data.tokenizer.is_some()
                || model.init.is_some()
                || (257..=1 << 20).contains(&data.vocab_size),
            "a whole number from 257 (all bytes and the end-of-text token) to 1048576",
        )?;
        must(
            "model.dropout",
            model.dropout,
            below_one(model.dropout),
            BELOW_ONE,
        )?;
        must("loss.alpha_0", loss.alpha_0, share(loss.alpha_0), SHARE)?;
        let [low, high] = loss.alpha_0_range.unwrap_or([0.0, 1.0]);
        let ascending = share(low) && share(high) && low <= high;
        let two = "two numbers from 0 to 1, the first not above the second";
        must(
            "loss.alpha_0_range",
            format!("[{low}, {high}]"),
            ascending,
            two,
        )?;
        self.check_blocks()?;
        self.check_sets()?;
        must("loss.infill", loss.infill, share(loss.infill), SHARE)?;
        must(
            "loss.batch_split",
            loss.batch_split,
            share(loss.batch_split),
            SHARE,
        )?;
        must("optimizer.lr", adam.lr, above_zero(adam.lr), ABOVE_ZERO)?;
        must(
            "optimizer.beta_1",
            adam.beta_1,
            below_one(stored(adam.beta_1)),
            BELOW_ONE_STORED,
        )?;
        must(
            "optimizer.beta_2",
            adam.beta_2,
            below_one(stored(adam.beta_2)),
            BELOW_ONE_STORED,
        )?;
        must(
            "optimizer.epsilon",
            adam.epsilon,
            above_zero(stored(adam.epsilon)),
            ABOVE_ZERO_STORED,
        )?;
        let decay = adam.weight_decay;
        must(
            "optimizer.weight_decay",
            decay,
            not_below_zero(stored(decay)),
            ZERO_OR_MORE_STORED,
        )?;
        must(
            "optimizer.min_lr",
            adam.min_lr,
            not_below_zero(adam.min_lr),
            ZERO_OR_MORE,
        )?;
        must(
            "optimizer.clip",
            adam.clip,
            not_below_zero(adam.clip),
            ZERO_OR_MORE,
        )?;
        must("run.batch", run.batch, count(run.batch), COUNT)?;
        // Each loss divides by its own number of tokens, so a fraction that is rounded to nothing would silently drop
        // half of the bound.
        let rows = self.diffusion_rows();
        let splits =
            model.family == Family::EsoLm && loss.batch_split > 0.0 && loss.batch_split < 1.0;
        must(
            "run.batch",
            run.batch,
            !splits || (rows > 0 && rows < run.batch),
            &format!(
                "so large that loss.batch_split = {} leaves a sequence to each loss",
                loss.batch_split
            ),
        )?;
        must(
            "run.accumulate",
            run.accumulate,
            count(run.accumulate),
            COUNT,
        )?;
        must("run.ema", run.ema, below_one(run.ema), BELOW_ONE)?;
        must(
            "run.validate_windows",
            run.validate_windows,
            data.holdout.is_empty() || run.validate_windows > 0,
            "1 or more; run.validate_every = 0 turns validation off",
        )?;
        must(
            "run.log_every",
            run.log_every,
            run.log_every > 0,
            "1 or more",
        )?;
        // Texts are numbered in 32 bits.
        let most = u64::from(u32::MAX) / (run.batch * run.accumulate) as u64;
        let few = run.tokens > 0 && self.steps() <= most;
        must(
            "run.tokens",
            run.tokens,
            few,
            "at least 1, and at most 2^32 sequences",
        )?;
        // Report problems with the shape before a tokenizer is trained; the vocabulary is not known yet.
        self.config(1 << 8, 0).map(drop)
    }
}

/// An error that names the key, unless its value is `sound`.
fn must(
    key: &'static str,
    value: impl std::fmt::Display,
    sound: bool,
    expected: &str,
) -> Result<(), TrainError> {
    if sound {
        return Ok(());
    }
    Err(TrainError::Value {
        key: key.into(),
        value: value.to_string(),
        expected: expected.into(),
    })
}

#[cfg(test)]
mod tests;
