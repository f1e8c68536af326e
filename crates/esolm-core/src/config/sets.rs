//! Settings found only in a SetDLM's configuration (kuleshov-group/setdlms): the noise that orders its tokens, and how
//! it is distinguished from BD3-LMs, whose model type it shares.
//!
//! ```json
//! "model_type": "bd3lm", "architectures": ["SetDLM"], "backbone_config": {"hidden_size": 768, ...},
//! "noise_config": {"_target_": "noise_schedule_noise_schedules.StaggeredNoise", "desired_block_size": 4, "max_block_size": 8}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{boolean, number, shown, string, token};
use super::{ConfigError, ModelConfig, invalid};

/// The noise class, in the module that the published exporter writes.
const NOISE: &str = "noise_schedule_noise_schedules.StaggeredNoise";
/// Field with the maximum tokens per set.
const LARGEST: &str = "noise_config.max_block_size";
const DESIRED: &str = "noise_config.desired_block_size";

/// Settings of a SetDLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sets {
    /// Tokens per set that the noise aims for, from 1 to `largest`.
    pub desired: usize,
    /// Maximum tokens per set, at most the length; this bounds how far tokens may be reordered.
    pub largest: usize,
    /// Whether the first token of a text is given and never predicted, because all texts start with the same token.
    pub keeps_first: bool,
    /// Whether tokens drawn together enter the cache in the order of the times drawn from the noise, rather than from
    /// left to right.
    pub cache_by_time: bool,
    /// The padding token, if the configuration names one. The published likelihood ignores all of its occurrences, even
    /// within a text.
    pub pad: Option<u32>,
}

impl Sets {
    /// Reads a SetDLM's settings.
    pub(super) fn read(map: &Map<String, Value>) -> Result<Option<Self>, ConfigError> {
        if let Some(target) = string(map, "noise_config._target_")?
            && target.rsplit('.').next() != Some("StaggeredNoise")
        {
            return Err(invalid(
                "noise_config._target_",
                shown(&target.into()),
                "\"StaggeredNoise\", the noise of a SetDLM",
            ));
        }
        let truth = |field, default| Ok::<_, ConfigError>(boolean(map, field)?.unwrap_or(default));
        let Some(desired) = number(map, DESIRED)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            desired,
            // The published default.
            largest: number(map, LARGEST)?.unwrap_or(desired.saturating_mul(2)),
            keeps_first: truth("keep_clean_bos", true)?,
            cache_by_time: truth("setdlm_fht_cache_order", false)?,
            pad: token(map, "pad_token_id")?,
        }))
    }

    /// Error for a SetDLM without these settings.
    pub(super) const MISSING: ConfigError = ConfigError::Missing {
        field: DESIRED,
        expected: "the number of tokens of a set that the noise aims at",
    };

    /// Checks the settings against the length and the vocabulary of `config`.
    pub(super) fn validate(&self, config: &ModelConfig) -> Result<(), ConfigError> {
        let length = config.length;
        if !(1..=length).contains(&self.largest) {
            let expected = format!("a whole number from 1 to the context length {length}");
            return Err(invalid(LARGEST, self.largest, expected));
        }
        if !(1..=self.largest).contains(&self.desired) {
            let largest = self.largest;
            let expected = format!("a whole number from 1 to max_block_size, which is {largest}");
            return Err(invalid(DESIRED, self.desired, expected));
        }
        match self.pad {
            Some(pad) if pad as usize >= config.vocab_size => Err(invalid(
                "pad_token_id",
                pad,
                format!(
                    "a token index below vocab_size, which is {}",
                    config.vocab_size
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Writes the network of `config` in the published nested layout, and its noise settings; the mask index only if
    /// `told`.
    pub(super) fn write(&self, config: &ModelConfig, told: bool, map: &mut Map<String, Value>) {
        let length = config.length;
        let mut backbone = json!({
            "_target_": "backbone_dit.DIT",
            "hidden_size": config.hidden,
            "num_layers": config.n_blocks,
            "n_heads": config.n_heads,
            "length": length,
            "block_size": length,
            "vocab_size": config.vocab_size,
            "causal_attention": false,
            "adaln": config.cond_dim > 0,
            "dropout": config.dropout,
        });
        if config.cond_dim > 0 {
            backbone["cond_dim"] = config.cond_dim.into();
        }
        let noise = json!({
            "_target_": NOISE,
            "length": length,
            "block_size": length,
            "desired_block_size": self.desired,
            "max_block_size": self.largest,
        });
        let fields = [
            ("model_type", "bd3lm".into()),
            ("architectures", json!(["SetDLM"])),
            ("backbone_config", backbone),
            ("noise_config", noise),
            ("length", length.into()),
            ("block_size", length.into()),
            ("vocab_size", config.vocab_size.into()),
            ("keep_clean_bos", self.keeps_first.into()),
            ("setdlm_fht_cache_order", self.cache_by_time.into()),
        ];
        let named = [
            ("mask_token_id", told.then_some(config.mask_index)),
            ("pad_token_id", self.pad),
        ];
        let named = named.map(|(name, token)| Some((name, token?.into())));
        let fields = fields.into_iter().chain(named.into_iter().flatten());
        map.extend(fields.map(|(name, value)| (name.to_string(), value)));
    }
}

/// Rejects a SetDLM whose sets lie within blocks; no published one does this.
pub(super) fn check_block_size(
    map: &Map<String, Value>,
    length: Option<usize>,
) -> Result<(), ConfigError> {
    match (number(map, "block_size")?, length) {
        (Some(size), Some(length)) if size != length => Err(invalid(
            "block_size",
            size,
            format!("the context length {length}, since a SetDLM has no blocks"),
        )),
        _ => Ok(()),
    }
}
