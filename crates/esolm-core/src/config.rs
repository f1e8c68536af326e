//! What a checkpoint says about its network: family, sizes, special tokens.
//!
//! Two written forms are read: the Hugging Face `config.json` (this module) and the omegaconf objects inside a Lightning
//! checkpoint ([`crate::checkpoint`]). Both go through [`PartialConfig`], so that what one of them leaves out can be taken from
//! the shapes of the tensors, and what contradicts them is said in one sentence.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// Width of the sinusoidal timestep embedding that enters `sigma_map` (`TimestepEmbedder`, models/dit.py).
pub const TIMESTEP_EMBEDDING: usize = 256;
/// Hidden width of the MLP in units of the model width (`mlp_ratio`, models/dit.py).
pub const MLP_RATIO: usize = 4;

/// Largest sizes that are accepted, so that products of two of them cannot overflow and no count of tensors is absurd.
const MAX_WIDTH: usize = 1 << 16;
const MAX_BLOCKS: usize = 1 << 12;
const MAX_LENGTH: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 24;

/// Why a configuration cannot be used. Every message names the field and the remedy.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// The text is not JSON, or not a JSON object.
    #[error(
        "the configuration is not a JSON object ({0}); give the config.json that belongs to the weights"
    )]
    Json(String),
    /// A field that cannot be taken from elsewhere is absent.
    #[error("the configuration has no field \"{field}\"; add it, it must be {expected}")]
    Missing {
        /// Name of the field, with its other spelling where there is one.
        field: &'static str,
        /// What its value must be.
        expected: &'static str,
    },
    /// A field has a value of the wrong type or range.
    #[error("the configuration's field \"{field}\" is {found}; it must be {expected}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What must stand there.
        expected: String,
    },
    /// Two fields, or a field and the tensors, contradict each other.
    #[error("{first} but {second}; {remedy}")]
    Contradiction {
        /// The first statement, with its source.
        first: String,
        /// The second statement, with its source.
        second: String,
        /// What to do about it.
        remedy: String,
    },
}

/// The model families that this engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Esoteric language model: diffusion in any order, then left to right (arXiv 2506.01928).
    EsoLm,
    /// Masked diffusion language model: bidirectional, no cache.
    Mdlm,
    /// Autoregressive: causal, left to right, no conditioning.
    Ar,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::EsoLm => "Eso-LM",
            Family::Mdlm => "MDLM",
            Family::Ar => "AR",
        })
    }
}

/// Attention between the rows of the diffusion phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionKind {
    /// A slot attends to itself and lower slots: Eso-LM (B), AR.
    Causal,
    /// Every slot attends to every slot: MDLM.
    Bidirectional,
    /// Clean tokens attend to each other both ways, masked ones causally (`mixed2`): Eso-LM (A).
    Mixed,
}

impl fmt::Display for AttentionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AttentionKind::Causal => "causal",
            AttentionKind::Bidirectional => "bidirectional",
            AttentionKind::Mixed => "mixed",
        })
    }
}

/// What an AR model reads before the first token (`algo.prepend_token`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Prepend {
    /// Nothing: the first token of a text is itself the beginning-of-text token.
    #[default]
    None,
    /// The beginning-of-text token, dropped from the text.
    Bos,
    /// The mask token, dropped from the text.
    Mask,
}

impl fmt::Display for Prepend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Prepend::None => "none",
            Prepend::Bos => "bos",
            Prepend::Mask => "mask",
        })
    }
}

/// Name and shape of one parameter, as PyTorch holds it (`Linear` weights are `[out, in]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParamSpec {
    /// Name without the prefix `backbone.`.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl ParamSpec {
    /// Number of values.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// The network behind a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Model family.
    pub family: Family,
    /// Model width d.
    pub hidden: usize,
    /// Width of the conditioning vector; 0 for AR, which has none.
    pub cond_dim: usize,
    /// Number of transformer blocks.
    pub n_blocks: usize,
    /// Number of attention heads.
    pub n_heads: usize,
    /// Context length L in tokens.
    pub length: usize,
    /// V: number of token embeddings and of logits, the mask column included.
    pub vocab_size: usize,
    /// Token index of the mask.
    pub mask_index: u32,
    /// Share of tokens that diffusion takes, as trained, in [0, 1]; `None` when the checkpoint does not say.
    pub alpha_0: Option<f64>,
    /// What an AR model reads before the first token.
    pub prepend: Prepend,
    /// Beginning-of-text token, when the checkpoint says.
    pub bos: Option<u32>,
    /// End-of-text token, when the checkpoint says.
    pub eos: Option<u32>,
    /// Dropout probability in training; inference does not use it.
    pub dropout: f64,
    /// Attention of the diffusion phase.
    pub attention: AttentionKind,
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`. Both spellings of the width (`hidden_size`, `hidden_dim`) and of the context length
    /// (`model_length`, `length`) are known; fields that this engine has no use for are ignored.
    ///
    /// # Errors
    /// Text that is not a JSON object, absent or unusable fields, and whatever [`ModelConfig::validate`] finds.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        PartialConfig::from_json(json)?.complete()
    }

    /// Writes the Hugging Face form, which [`ModelConfig::from_json`] reads back to the same value.
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        let model_type = match self.family {
            Family::EsoLm => "EsoLM",
            Family::Mdlm => "mdlm",
            Family::Ar => "ar",
        };
        map.insert("model_type".into(), model_type.into());
        // The published MDLM spells the width differently; its own loader must be able to read the folder.
        let width = if self.family == Family::Mdlm {
            "hidden_dim"
        } else {
            "hidden_size"
        };
        map.insert(width.into(), self.hidden.into());
        if self.family != Family::Ar {
            map.insert("cond_dim".into(), self.cond_dim.into());
        }
        map.insert("n_blocks".into(), self.n_blocks.into());
        map.insert("n_heads".into(), self.n_heads.into());
        map.insert("model_length".into(), self.length.into());
        map.insert("vocab_size".into(), self.vocab_size.into());
        map.insert("mask_index".into(), self.mask_index.into());
        map.insert("dropout".into(), self.dropout.into());
        map.insert("time_conditioning".into(), false.into());
        if let Some(alpha_0) = self.alpha_0 {
            map.insert("alpha_0".into(), alpha_0.into());
        }
        if self.family == Family::EsoLm && self.attention != AttentionKind::Causal {
            let mode = match self.attention {
                AttentionKind::Mixed => "mixed2",
                _ => "bidirectional",
            };
            map.insert("diffusion_attn_mode".into(), mode.into());
        }
        if self.family == Family::Ar {
            map.insert("prepend_token".into(), self.prepend.to_string().into());
        }
        if let Some(bos) = self.bos {
            map.insert("bos_token_id".into(), bos.into());
        }
        if let Some(eos) = self.eos {
            map.insert("eos_token_id".into(), eos.into());
        }
        let mut text = serde_json::to_string_pretty(&Value::Object(map))
            .expect("a map of numbers and strings is always JSON");
        text.push('\n');
        text
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.n_heads.max(1)
    }

    /// Checks that the values describe a network: sizes above zero and within bounds, heads that divide the width into even head
    /// dimensions (rotary embedding turns pairs), tokens inside the vocabulary, `alpha_0` in [0, 1].
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the first field that fails.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let size = |field, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                Ok(())
            } else {
                Err(invalid(
                    field,
                    value,
                    format!("a whole number from 1 to {max}"),
                ))
            }
        };
        size("hidden_size", self.hidden, MAX_WIDTH)?;
        if self.family == Family::Ar {
            if self.cond_dim != 0 {
                return Err(invalid(
                    "cond_dim",
                    self.cond_dim,
                    "0 for an AR model, which has no conditioning",
                ));
            }
        } else {
            size("cond_dim", self.cond_dim, MAX_WIDTH)?;
        }
        size("n_blocks", self.n_blocks, MAX_BLOCKS)?;
        size("n_heads", self.n_heads, MAX_WIDTH)?;
        size("model_length", self.length, MAX_LENGTH)?;
        if !(2..=MAX_VOCAB).contains(&self.vocab_size) {
            return Err(invalid(
                "vocab_size",
                self.vocab_size,
                format!("a whole number from 2 to {MAX_VOCAB}"),
            ));
        }
        if !self.hidden.is_multiple_of(self.n_heads)
            || !(self.hidden / self.n_heads).is_multiple_of(2)
        {
            return Err(invalid(
                "n_heads",
                self.n_heads,
                format!(
                    "a number that divides the width {} into heads of even size",
                    self.hidden
                ),
            ));
        }
        for (field, token) in [
            ("mask_index", Some(self.mask_index)),
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
        ] {
            if let Some(token) = token
                && token as usize >= self.vocab_size
            {
                return Err(invalid(
                    field,
                    token,
                    format!("below vocab_size, which is {}", self.vocab_size),
                ));
            }
        }
        if let Some(alpha_0) = self.alpha_0
            && !(0.0..=1.0).contains(&alpha_0)
        {
            return Err(invalid("alpha_0", alpha_0, "a number from 0 to 1"));
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return Err(invalid("dropout", self.dropout, "a number from 0 to 1"));
        }
        if self.family != Family::Ar && self.prepend != Prepend::None {
            return Err(invalid(
                "prepend_token",
                self.prepend,
                "\"none\", since only AR models prepend a token",
            ));
        }
        let attention_fits = match self.family {
            Family::EsoLm => true,
            Family::Mdlm => self.attention == AttentionKind::Bidirectional,
            Family::Ar => self.attention == AttentionKind::Causal,
        };
        if !attention_fits {
            return Err(invalid(
                "diffusion_attn_mode",
                self.attention,
                format!("left out, since {} has only one", self.family),
            ));
        }
        Ok(())
    }

    /// Every parameter in the order of PyTorch's `parameters()` (models/dit.py), in which the EMA weights of a Lightning
    /// checkpoint are listed. The buffer `rotary_emb.inv_freq` is not a parameter.
    pub fn parameters(&self) -> Vec<ParamSpec> {
        let (d, c, v) = (self.hidden, self.cond_dim, self.vocab_size);
        let conditioned = self.family != Family::Ar;
        let mut list = Vec::with_capacity(9 + 10 * self.n_blocks);
        let mut push = |name: String, shape: &[usize]| {
            list.push(ParamSpec {
                name,
                shape: shape.to_vec(),
            })
        };
        push("vocab_embed.embedding".into(), &[v, d]);
        if conditioned {
            push("sigma_map.mlp.0.weight".into(), &[c, TIMESTEP_EMBEDDING]);
            push("sigma_map.mlp.0.bias".into(), &[c]);
            push("sigma_map.mlp.2.weight".into(), &[c, c]);
            push("sigma_map.mlp.2.bias".into(), &[c]);
        }
        for block in 0..self.n_blocks {
            let mut push =
                |name: &str, shape: &[usize]| push(format!("blocks.{block}.{name}"), shape);
            push("norm1.weight", &[d]);
            push("attn_qkv.weight", &[3 * d, d]);
            push("attn_out.weight", &[d, d]);
            push("norm2.weight", &[d]);
            push("mlp.0.weight", &[MLP_RATIO * d, d]);
            push("mlp.0.bias", &[MLP_RATIO * d]);
            push("mlp.2.weight", &[d, MLP_RATIO * d]);
            push("mlp.2.bias", &[d]);
            if conditioned {
                push("adaLN_modulation.weight", &[6 * d, c]);
                push("adaLN_modulation.bias", &[6 * d]);
            }
        }
        push("output_layer.norm_final.weight".into(), &[d]);
        push("output_layer.linear.weight".into(), &[v, d]);
        push("output_layer.linear.bias".into(), &[v]);
        if conditioned {
            push("output_layer.adaLN_modulation.weight".into(), &[2 * d, c]);
            push("output_layer.adaLN_modulation.bias".into(), &[2 * d]);
        }
        list
    }
}

fn invalid(
    field: &'static str,
    found: impl fmt::Display,
    expected: impl Into<String>,
) -> ConfigError {
    ConfigError::Invalid {
        field,
        found: found.to_string(),
        expected: expected.into(),
    }
}

/// A configuration as written, before what it leaves out is taken from the tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PartialConfig {
    pub family: Option<Family>,
    pub hidden: Option<usize>,
    pub cond_dim: Option<usize>,
    pub n_blocks: Option<usize>,
    pub n_heads: Option<usize>,
    pub length: Option<usize>,
    pub vocab_size: Option<usize>,
    pub mask_index: Option<u32>,
    pub alpha_0: Option<f64>,
    pub prepend: Option<Prepend>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub dropout: Option<f64>,
    pub attention: Option<AttentionKind>,
}

impl PartialConfig {
    pub(crate) fn from_json(json: &str) -> Result<Self, ConfigError> {
        let map: Map<String, Value> =
            serde_json::from_str(json).map_err(|e| ConfigError::Json(e.to_string()))?;
        refuse_time_conditioning(map.get("time_conditioning").and_then(Value::as_bool))?;
        Ok(Self {
            family: match string(&map, "model_type")? {
                None => None,
                Some("EsoLM") => Some(Family::EsoLm),
                Some("mdlm" | "DUO") => Some(Family::Mdlm),
                Some("ar" | "AR") => Some(Family::Ar),
                Some(other) => {
                    return Err(invalid("model_type", format!("{other:?}"), MODEL_TYPES));
                }
            },
            hidden: either(&map, "hidden_size", "hidden_dim")?,
            cond_dim: number(&map, "cond_dim")?,
            n_blocks: number(&map, "n_blocks")?,
            n_heads: number(&map, "n_heads")?,
            length: either(&map, "model_length", "length")?,
            vocab_size: number(&map, "vocab_size")?,
            mask_index: token(&map, "mask_index")?,
            alpha_0: float(&map, "alpha_0")?,
            prepend: string(&map, "prepend_token")?
                .map(parse_prepend)
                .transpose()?,
            bos: token(&map, "bos_token_id")?,
            eos: token(&map, "eos_token_id")?,
            dropout: float(&map, "dropout")?,
            attention: string(&map, "diffusion_attn_mode")?
                .map(parse_attention)
                .transpose()?,
        })
    }

    /// Fills what was left out and compares what was said with the shapes of the tensors. `shape` looks a tensor up by its name
    /// without `backbone.`.
    pub(crate) fn reconcile<'a>(
        &mut self,
        shape: impl Fn(&str) -> Option<&'a [usize]>,
    ) -> Result<(), ConfigError> {
        let has = |name: &str| shape(name).is_some();
        let conditioned = has("sigma_map.mlp.0.weight") || has("blocks.0.adaLN_modulation.weight");
        match self.family {
            None if !conditioned => self.family = Some(Family::Ar),
            None if self.alpha_0.is_some() => self.family = Some(Family::EsoLm),
            None => {}
            Some(Family::Ar) if conditioned => {
                return Err(ConfigError::Contradiction {
                    first: "the configuration says the model is AR".into(),
                    second: "the file holds conditioning tensors (sigma_map, adaLN_modulation), which AR models have not".into(),
                    remedy: "set \"model_type\" to \"EsoLM\" or \"mdlm\"".into(),
                });
            }
            Some(family @ (Family::EsoLm | Family::Mdlm))
                if !conditioned && has("vocab_embed.embedding") =>
            {
                return Err(ConfigError::Contradiction {
                    first: format!("the configuration says the model is {family}"),
                    second: "the file holds no sigma_map and no adaLN_modulation tensors, as an AR model".into(),
                    remedy: "set \"model_type\" to \"ar\", or give the weights that belong to this configuration".into(),
                });
            }
            Some(_) => {}
        }
        if self.family == Some(Family::Ar) {
            // The published AR configuration names a cond_dim too; nothing in the network has that size.
            self.cond_dim = Some(0);
        } else if let Some(&[c, _]) = shape("sigma_map.mlp.0.weight") {
            agree("cond_dim", &mut self.cond_dim, c, "sigma_map.mlp.0.weight")?;
        }
        if let Some(&[v, d]) = shape("vocab_embed.embedding") {
            agree(
                "vocab_size",
                &mut self.vocab_size,
                v,
                "vocab_embed.embedding",
            )?;
            agree("hidden_size", &mut self.hidden, d, "vocab_embed.embedding")?;
        }
        if self.n_blocks.is_none() {
            let counted = (0..MAX_BLOCKS)
                .take_while(|i| has(&format!("blocks.{i}.norm1.weight")))
                .count();
            self.n_blocks = (counted > 0).then_some(counted);
        }
        if let (Some(d), Some(&[half_head])) = (self.hidden, shape("rotary_emb.inv_freq"))
            && half_head > 0
            && half_head <= MAX_WIDTH
            && d.is_multiple_of(2 * half_head)
        {
            agree(
                "n_heads",
                &mut self.n_heads,
                d / (2 * half_head),
                "rotary_emb.inv_freq",
            )?;
        }
        Ok(())
    }

    /// The finished configuration, or the field that is missing.
    pub(crate) fn complete(self) -> Result<ModelConfig, ConfigError> {
        let missing = |field, expected| ConfigError::Missing { field, expected };
        let family = self.family.ok_or(missing("model_type", MODEL_TYPES))?;
        let vocab_size = self.vocab_size.ok_or(missing(
            "vocab_size",
            "the number of token embeddings, mask included",
        ))?;
        let config = ModelConfig {
            family,
            hidden: self.hidden.ok_or(missing(
                "hidden_size (or hidden_dim)",
                "the width of the model",
            ))?,
            cond_dim: match family {
                Family::Ar => 0,
                _ => self
                    .cond_dim
                    .ok_or(missing("cond_dim", "the width of the conditioning vector"))?,
            },
            n_blocks: self
                .n_blocks
                .ok_or(missing("n_blocks", "the number of transformer blocks"))?,
            n_heads: self
                .n_heads
                .ok_or(missing("n_heads", "the number of attention heads"))?,
            length: self.length.ok_or(missing(
                "model_length (or length)",
                "the context length in tokens",
            ))?,
            vocab_size,
            // Published: without a mask token in the tokenizer, one is appended to the vocabulary (algo.py, AbsorbingState).
            mask_index: match self.mask_index {
                Some(index) => index,
                None => u32::try_from(vocab_size.saturating_sub(1)).map_err(|_| {
                    invalid(
                        "vocab_size",
                        vocab_size,
                        format!("a whole number from 2 to {MAX_VOCAB}"),
                    )
                })?,
            },
            alpha_0: self.alpha_0,
            prepend: self.prepend.unwrap_or_default(),
            bos: self.bos,
            eos: self.eos,
            dropout: self.dropout.unwrap_or(0.1), // the published default; inference does not use it
            attention: match family {
                Family::EsoLm => self.attention.unwrap_or(AttentionKind::Causal),
                Family::Mdlm => AttentionKind::Bidirectional,
                Family::Ar => AttentionKind::Causal,
            },
        };
        config.validate()?;
        Ok(config)
    }
}

const MODEL_TYPES: &str = "\"EsoLM\", \"mdlm\" (or \"DUO\"), or \"ar\"";

/// Folding and sampling rest on a constant time input; a network that was trained with a live one would give wrong text silently.
pub(crate) fn refuse_time_conditioning(value: Option<bool>) -> Result<(), ConfigError> {
    if value == Some(true) {
        return Err(invalid(
            "time_conditioning",
            "true",
            "false, since only networks whose time input is constant can be run",
        ));
    }
    Ok(())
}

/// `algo.diffusion_attn_mode` of the published configuration.
pub(crate) fn parse_attention(text: &str) -> Result<AttentionKind, ConfigError> {
    match text {
        "causal" => Ok(AttentionKind::Causal),
        "bidirectional" => Ok(AttentionKind::Bidirectional),
        "mixed" | "mixed2" => Ok(AttentionKind::Mixed),
        other => Err(invalid(
            "diffusion_attn_mode",
            format!("{other:?}"),
            "\"causal\", \"bidirectional\", \"mixed\" or \"mixed2\"",
        )),
    }
}

/// `algo.prepend_token` of the published configuration.
pub(crate) fn parse_prepend(text: &str) -> Result<Prepend, ConfigError> {
    match text {
        "none" => Ok(Prepend::None),
        "bos" => Ok(Prepend::Bos),
        "mask" => Ok(Prepend::Mask),
        other => Err(invalid(
            "prepend_token",
            format!("{other:?}"),
            "\"none\", \"bos\" or \"mask\"",
        )),
    }
}

/// Takes `found` from a tensor where the configuration is silent, and compares where it is not.
fn agree(
    field: &'static str,
    said: &mut Option<usize>,
    found: usize,
    tensor: &str,
) -> Result<(), ConfigError> {
    match *said {
        Some(value) if value != found => Err(ConfigError::Contradiction {
            first: format!("the configuration's field \"{field}\" is {value}"),
            second: format!("the shape of tensor {tensor} makes it {found}"),
            remedy: "give the configuration that belongs to these weights".into(),
        }),
        _ => {
            *said = Some(found);
            Ok(())
        }
    }
}

fn present<'a>(map: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    map.get(field).filter(|value| !value.is_null())
}

/// A value as it stands in the file, shortened: a hostile file must not fill the terminal.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        other => other.to_string(),
    }
}

fn number(map: &Map<String, Value>, field: &'static str) -> Result<Option<usize>, ConfigError> {
    present(map, field)
        .map(|value| {
            let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
            n.ok_or_else(|| invalid(field, shown(value), "a whole number"))
        })
        .transpose()
}

fn token(map: &Map<String, Value>, field: &'static str) -> Result<Option<u32>, ConfigError> {
    present(map, field)
        .map(|value| {
            let n = value.as_u64().and_then(|n| u32::try_from(n).ok());
            n.ok_or_else(|| invalid(field, shown(value), "a token index, that is a whole number"))
        })
        .transpose()
}

fn float(map: &Map<String, Value>, field: &'static str) -> Result<Option<f64>, ConfigError> {
    present(map, field)
        .map(|value| {
            value
                .as_f64()
                .ok_or_else(|| invalid(field, shown(value), "a number"))
        })
        .transpose()
}

fn string<'a>(
    map: &'a Map<String, Value>,
    field: &'static str,
) -> Result<Option<&'a str>, ConfigError> {
    present(map, field)
        .map(|value| {
            value
                .as_str()
                .ok_or_else(|| invalid(field, shown(value), "a text in quotes"))
        })
        .transpose()
}

fn either(
    map: &Map<String, Value>,
    first: &'static str,
    second: &'static str,
) -> Result<Option<usize>, ConfigError> {
    match (number(map, first)?, number(map, second)?) {
        (Some(a), Some(b)) if a != b => Err(ConfigError::Contradiction {
            first: format!("the configuration's field \"{first}\" is {a}"),
            second: format!("its other spelling \"{second}\" is {b}"),
            remedy: "remove the wrong one".into(),
        }),
        (a, b) => Ok(a.or(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESOLM: &str = r#"{"model_type":"EsoLM","hidden_size":64,"cond_dim":32,"n_blocks":4,"n_heads":4,"model_length":32,
        "vocab_size":97,"mask_index":96,"alpha_0":0.5}"#;

    #[test]
    fn both_spellings_are_read() {
        let a = ModelConfig::from_json(ESOLM).unwrap();
        let b = ModelConfig::from_json(
            &ESOLM
                .replace("hidden_size", "hidden_dim")
                .replace("model_length", "length"),
        )
        .unwrap();
        assert_eq!(a, b);
        assert_eq!(
            (a.hidden, a.length, a.head_dim(), a.mask_index),
            (64, 32, 16, 96)
        );
        assert_eq!((a.attention, a.alpha_0), (AttentionKind::Causal, Some(0.5)));
        // The published upload script leaves the default hidden_size beside the hidden_dim that it sets.
        ModelConfig::from_json(&ESOLM.replace("{", r#"{"hidden_dim":64,"#)).unwrap();
    }

    #[test]
    fn json_round_trip() {
        let base = ModelConfig::from_json(ESOLM).unwrap();
        let mdlm = ModelConfig {
            family: Family::Mdlm,
            attention: AttentionKind::Bidirectional,
            alpha_0: None,
            ..base.clone()
        };
        let ar = ModelConfig {
            family: Family::Ar,
            cond_dim: 0,
            prepend: Prepend::Mask,
            bos: Some(95),
            eos: Some(94),
            ..base.clone()
        };
        let a = ModelConfig {
            attention: AttentionKind::Mixed,
            dropout: 0.05,
            mask_index: 3,
            ..base.clone()
        };
        for config in [base, mdlm, ar, a] {
            assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config);
        }
    }

    #[test]
    fn bad_fields_are_named() {
        for (from, to, words) in [
            ("\"EsoLM\"", "\"llama\"", ["model_type", "llama", "EsoLM"]),
            (
                "\"hidden_size\":64",
                "\"hidden_size\":64,\"hidden_dim\":63",
                ["hidden_size", "hidden_dim", "63"],
            ),
            (
                "\"hidden_size\":64",
                "\"hidden_size\":\"wide\"",
                ["hidden_size", "wide", "whole number"],
            ),
            (
                "\"hidden_size\":64,",
                "",
                ["hidden_size", "hidden_dim", "width"],
            ),
            (
                "\"hidden_size\":64",
                "\"hidden_size\":4294967296",
                ["hidden_size", "4294967296", "65536"],
            ),
            (
                "\"n_heads\":4",
                "\"n_heads\":3",
                ["n_heads", "3", "divides"],
            ),
            ("\"n_heads\":4", "\"n_heads\":64", ["n_heads", "64", "even"]),
            ("\"n_heads\":4", "\"n_heads\":0", ["n_heads", "0", "from 1"]),
            (
                "\"mask_index\":96",
                "\"mask_index\":97",
                ["mask_index", "97", "vocab_size"],
            ),
            (
                "\"alpha_0\":0.5",
                "\"alpha_0\":1.5",
                ["alpha_0", "1.5", "0 to 1"],
            ),
            (
                "\"alpha_0\":0.5",
                "\"time_conditioning\":true",
                ["time_conditioning", "true", "false"],
            ),
            (
                "\"alpha_0\":0.5",
                "\"prepend_token\":\"bos\"",
                ["prepend_token", "bos", "AR"],
            ),
            (
                "\"alpha_0\":0.5",
                "\"diffusion_attn_mode\":\"odd\"",
                ["diffusion_attn_mode", "odd", "mixed2"],
            ),
            (
                "\"n_blocks\":4",
                "\"n_blocks\":-1",
                ["n_blocks", "-1", "whole number"],
            ),
            ("}", "", ["not a JSON object", "config.json", "EOF"]),
        ] {
            let message = ModelConfig::from_json(&ESOLM.replace(from, to))
                .unwrap_err()
                .to_string();
            for word in words {
                assert!(message.contains(word), "{message:?} lacks {word:?}");
            }
        }
    }

    #[test]
    fn parameters_count_as_published() {
        // The published small model has 170 million parameters (arXiv 2506.01928, section 5), embedding and output included.
        let small = r#"{"model_type":"EsoLM","hidden_size":768,"cond_dim":128,"n_blocks":12,"n_heads":12,"model_length":1024,"vocab_size":50258}"#;
        let config = ModelConfig::from_json(small).unwrap();
        let total: u64 = config.parameters().iter().map(ParamSpec::elements).sum();
        assert_eq!(total, 169_627_218);
        assert_eq!(config.mask_index, 50257);
        assert_eq!(config.parameters().len(), 9 + 10 * 12 + 1);
    }
}
