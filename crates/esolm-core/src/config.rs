//! What a checkpoint says about its network: family, sizes, special tokens.
//!
//! Two formats are read: the Hugging Face `config.json` (this module), and the omegaconf objects inside a Lightning
//! checkpoint ([`crate::checkpoint`]). Both become a `PartialConfig`, whose gaps are filled from the shapes of the
//! tensors; anything that contradicts the tensors is reported.

mod claims;
mod decoder;
mod document;
mod fields;
mod partial;
mod quantization;
mod sets;
mod validate;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

pub use claims::mask_tokens;
pub(crate) use claims::{Claims, Scalar, unused_tokens};
pub use decoder::{Decoder, DecoderKind, Open};
pub use decoder::{EMBEDDING as DECODER_EMBEDDING, HEAD as DECODER_HEAD};
#[cfg(not(target_family = "wasm"))]
pub(crate) use fields::{lookup, scalar};
pub(crate) use partial::{
    PartialConfig, noise_range, other_kind, parse_attention, parse_family, parse_prepend,
};
pub use quantization::{Grid, Quantization};
pub use sets::Sets;

/// Width of the sinusoidal timestep embedding that enters `sigma_map` (`TimestepEmbedder`, models/dit.py).
pub const TIMESTEP_EMBEDDING: usize = 256;
/// Hidden width of the MLP in units of the model width (`mlp_ratio`, models/dit.py).
pub const MLP_RATIO: usize = 4;

/// Base of the rotary angles (`Rotary`, models/dit.py).
pub const ROTARY_BASE: f64 = 10000.0;

/// The mask index of models without a mask; larger than any vocabulary.
pub const NO_MASK: u32 = u32::MAX;

/// A BD3-LM without a block size.
const NO_BLOCK_SIZE: ConfigError = ConfigError::Missing {
    field: "block_size",
    expected: "the number of tokens of a block, which divides the context length",
};

/// Largest accepted sizes, chosen so that the product of two of them cannot overflow and the number of tensors stays
/// reasonable.
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
    /// The sampling settings that come with a model are unusable.
    #[error("the settings to sample with cannot be used: {0}; correct the file, or remove it")]
    Settings(String),
    /// A field is missing that cannot be derived.
    #[error("the configuration has no field \"{field}\"; add it, it must be {expected}")]
    Missing {
        /// Name of the field, including its alternative spelling.
        field: &'static str,
        /// What its value must be.
        expected: &'static str,
    },
    /// A field has a value of the wrong type or range.
    #[error("the configuration's field \"{field}\" is {found}; it must be {expected}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// The value found.
        found: String,
        /// What the value must be.
        expected: String,
    },
    /// A decoder of an unsupported kind.
    #[error(
        "the configuration's field \"{field}\" is \"{found}\": {why}, and models of that kind are not run"
    )]
    OtherKind {
        /// Name of the field.
        field: &'static str,
        /// The value found.
        found: String,
        /// What that kind is.
        why: &'static str,
    },
    /// A decoder's configuration leaves something undetermined.
    #[error("{0}")]
    Open(Open),
    /// A model was to be read as a member of another family.
    #[error("the model cannot be read as {}, since its configuration makes it {own}", .said.one())]
    OtherFamily {
        /// The family that was requested.
        said: Family,
        /// What it is, with an article.
        own: &'static str,
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

/// The supported model families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Esoteric language model: diffusion in any order, then left to right (arXiv 2506.01928).
    EsoLm,
    /// Masked diffusion language model: bidirectional, no cache.
    Mdlm,
    /// Autoregressive: causal, left to right.
    Ar,
    /// Block diffusion: blocks from left to right, diffusion within each (arXiv 2503.09573).
    Bd3Lm,
    /// Set diffusion: sets of tokens, whose positions may interleave, each set drawn given the earlier ones
    /// (kuleshov-group/setdlms).
    SetDlm,
}

impl Family {
    /// A noun phrase for a model of the family.
    pub fn one(self) -> &'static str {
        match self {
            Family::EsoLm => "an Eso-LM",
            Family::Mdlm => "an MDLM",
            Family::Ar => "an AR model",
            Family::Bd3Lm => "a BD3-LM",
            Family::SetDlm => "a SetDLM",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::EsoLm => "Eso-LM",
            Family::Mdlm => "MDLM",
            Family::Ar => "AR",
            Family::Bd3Lm => "BD3-LM",
            Family::SetDlm => "SetDLM",
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
    /// Positions attend to their own block and to the clean tokens of earlier blocks: BD3-LM.
    Block,
    /// Slots attend to the clean tokens of lower slots and to themselves: SetDLM.
    Set,
}

impl fmt::Display for AttentionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AttentionKind::Causal => "causal",
            AttentionKind::Bidirectional => "bidirectional",
            AttentionKind::Mixed => "mixed",
            AttentionKind::Block => "block",
            AttentionKind::Set => "set",
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

/// Name and shape of one parameter, as stored by PyTorch (`Linear` weights are `[out, in]`).
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

/// The user's answers to what a model's configuration leaves open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadAs {
    /// MDLM or BD3-LM, for a decoder that may be either.
    pub family: Option<Family>,
    /// Block size of a decoder that is a BD3-LM; overrides its configuration.
    pub block_size: Option<usize>,
    /// The mask token of a decoder; must agree with its files.
    pub mask: Option<u32>,
}

/// The network of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Model family.
    pub family: Family,
    /// Model width d.
    pub hidden: usize,
    /// Width of the conditioning vector read by adaLN layers; 0 for networks without them. The tensors decide: most
    /// published AR models have none and most of the others do, but all combinations exist.
    pub cond_dim: usize,
    /// Number of transformer blocks.
    pub n_blocks: usize,
    /// Number of attention heads.
    pub n_heads: usize,
    /// Context length L in tokens.
    pub length: usize,
    /// V: number of token embeddings and of logits, including the mask.
    pub vocab_size: usize,
    /// Index of the mask token; [`NO_MASK`] for an AR decoder.
    pub mask_index: u32,
    /// Fraction of tokens written by diffusion, as trained, in [0, 1]; `None` if the checkpoint does not say.
    pub alpha_0: Option<f64>,
    /// What an AR model reads before the first token.
    pub prepend: Prepend,
    /// Beginning-of-text token, if the checkpoint names one.
    pub bos: Option<u32>,
    /// End-of-text token, if the checkpoint names one.
    pub eos: Option<u32>,
    /// Further tokens that end a decoder's text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_eos: Vec<u32>,
    /// Dropout probability in training; unused for inference.
    pub dropout: f64,
    /// Attention of the diffusion phase.
    pub attention: AttentionKind,
    /// Tokens per block, a divisor of the length; BD3-LMs only.
    pub block_size: Option<usize>,
    /// Range of the fraction of masked tokens that a BD3-LM was trained with, within [0, 1]; `None` if the checkpoint
    /// does not say.
    pub noise_range: Option<[f64; 2]>,
    /// The noise and other settings of a SetDLM; `None` for other families.
    #[serde(default)]
    pub sets: Option<Sets>,
    /// Settings of decoders of the Qwen3, Qwen2 or Llama kind; `None` for the networks of models/dit.py.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<Decoder>,
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`. Both spellings of the width (`hidden_size`, `hidden_dim`) and of the context
    /// length (`model_length`, `length`) are supported; unused fields are ignored.
    ///
    /// # Errors
    /// If the text is not a JSON object, a field is missing or unusable, or [`ModelConfig::validate`] fails.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        Self::from_json_as(json, &ReadAs::default())
    }

    /// Like [`ModelConfig::from_json`], with the user's answers to what the configuration leaves open.
    ///
    /// # Errors
    /// See [`ModelConfig::from_json`]; also if the answers contradict the configuration.
    pub fn from_json_as(json: &str, said: &ReadAs) -> Result<Self, ConfigError> {
        let mut config = PartialConfig::from_json(json, "the configuration")?;
        config.read_as(said)?;
        config.complete()
    }

    /// The Hugging Face form, which [`ModelConfig::from_json`] reads back to the same value.
    pub fn to_json(&self) -> String {
        self.json(true, None)
    }

    /// Like [`ModelConfig::to_json`], with the quantisation of the accompanying weights. The mask index is omitted
    /// unless `told`, so that a guess does not turn into a fact.
    pub(crate) fn json(&self, told: bool, quantization: Option<&Quantization>) -> String {
        let mut map = Map::new();
        match (&self.decoder, &self.sets) {
            (Some(decoder), _) => decoder::fields(self, decoder, &mut map),
            (None, Some(sets)) => sets.write(self, told, &mut map),
            (None, None) => self.published_fields(told, &mut map),
        }
        if let Some(block_size) = self.block_size {
            map.insert("block_size".into(), block_size.into());
        }
        if let Some(bos) = self.bos {
            map.insert("bos_token_id".into(), bos.into());
        }
        match (self.eos, &self.more_eos[..]) {
            (Some(eos), []) => {
                map.insert("eos_token_id".into(), eos.into());
            }
            (None, []) => {}
            (eos, more) => {
                let all: Vec<u32> = eos.into_iter().chain(more.iter().copied()).collect();
                map.insert("eos_token_id".into(), all.into());
            }
        }
        if let Some(quantization) = quantization {
            map.insert(quantization::FIELD.into(), quantization.to_json());
        }
        let mut text = serde_json::to_string_pretty(&Value::Object(map))
            .expect("a map of numbers and strings is always JSON");
        text.push('\n');
        text
    }

    /// The fields of a network of models/dit.py.
    fn published_fields(&self, told: bool, map: &mut Map<String, Value>) {
        let model_type = match self.family {
            Family::EsoLm => "EsoLM",
            Family::Mdlm => "mdlm",
            Family::Ar => "ar",
            Family::Bd3Lm | Family::SetDlm => "bd3lm",
        };
        map.insert("model_type".into(), model_type.into());
        // The published MDLM and BD3-LM spell the width differently, and their own loaders must be able to read the
        // folder.
        let width = match self.family {
            Family::Mdlm | Family::Bd3Lm => "hidden_dim",
            Family::EsoLm | Family::Ar | Family::SetDlm => "hidden_size",
        };
        map.insert(width.into(), self.hidden.into());
        if self.cond_dim > 0 {
            map.insert("cond_dim".into(), self.cond_dim.into());
            if self.family == Family::Ar {
                // Published AR models specify a cond_dim without having such layers.
                map.insert("adaln".into(), true.into());
            }
        }
        map.insert("n_blocks".into(), self.n_blocks.into());
        map.insert("n_heads".into(), self.n_heads.into());
        map.insert("model_length".into(), self.length.into());
        map.insert("vocab_size".into(), self.vocab_size.into());
        if told {
            map.insert("mask_index".into(), self.mask_index.into());
        }
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
        if let Some([least, most]) = self.noise_range {
            map.insert("sampling_eps_min".into(), least.into());
            map.insert("sampling_eps_max".into(), most.into());
        }
    }

    /// The mask token, if the model has one.
    pub fn mask(&self) -> Option<u32> {
        Some(self.mask_index).filter(|&mask| mask != NO_MASK)
    }

    /// The token that an AR model reads before a text, if there is one and the configuration names it.
    pub fn prepended(&self) -> Option<u32> {
        match (self.family, self.prepend) {
            (Family::Ar, Prepend::Bos) => self.bos,
            (Family::Ar, Prepend::Mask) => Some(self.mask_index),
            _ => None,
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        match &self.decoder {
            Some(decoder) => decoder.head_dim,
            None => self.hidden / self.n_heads.max(1),
        }
    }

    /// Number of key-value heads.
    pub fn kv_heads(&self) -> usize {
        self.decoder
            .map_or(self.n_heads, |decoder| decoder.kv_heads)
    }

    /// Total columns of the query heads, which is also the width of attention's output.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim()
    }

    /// Total columns of the key heads, or of the value heads, per cache slot.
    pub fn kv_width(&self) -> usize {
        self.kv_heads() * self.head_dim()
    }

    /// Inner width of the MLP.
    pub fn inner(&self) -> usize {
        match &self.decoder {
            Some(decoder) => decoder.inner,
            None => MLP_RATIO * self.hidden,
        }
    }

    /// Base of the rotary frequencies.
    pub fn rotary_base(&self) -> f64 {
        self.decoder
            .map_or(ROTARY_BASE, |decoder| decoder.rotary_base)
    }

    /// All parameters of the published network in the order of PyTorch's `parameters()` (models/dit.py), which is the
    /// order of the EMA weights in a Lightning checkpoint. The buffer `rotary_emb.inv_freq` is not a parameter. For a
    /// decoder, the parameters of its published network.
    pub fn parameters(&self) -> Vec<ParamSpec> {
        if let Some(decoder) = &self.decoder {
            return decoder::parameters(self, decoder);
        }
        let (d, c, v) = (self.hidden, self.cond_dim, self.vocab_size);
        let conditioned = self.cond_dim > 0;
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

    /// Optional biases, one list per kind; a network has all biases of a kind or none. The published networks have
    /// those in [`ModelConfig::parameters`]; a folded one has them where something was folded in.
    pub fn biases(&self) -> Vec<Vec<ParamSpec>> {
        if self.decoder.is_some() {
            // The configuration specifies which biases there are.
            return Vec::new();
        }
        let (d, v) = (self.hidden, self.vocab_size);
        let spec = |name: String, width| ParamSpec {
            name,
            shape: vec![width],
        };
        let in_blocks = [
            ("norm1", d),
            ("attn_qkv", 3 * d),
            ("attn_out", d),
            ("norm2", d),
            ("mlp.0", MLP_RATIO * d),
            ("mlp.2", d),
        ];
        let of_block = |(layer, width)| {
            let specs = (0..self.n_blocks).map(|block| format!("blocks.{block}.{layer}.bias"));
            specs.map(|name| spec(name, width)).collect()
        };
        let after = [("norm_final", d), ("linear", v)];
        let of_output = |(layer, width)| vec![spec(format!("output_layer.{layer}.bias"), width)];
        let mut kinds: Vec<Vec<_>> = in_blocks.into_iter().map(of_block).collect();
        kinds.extend(after.into_iter().map(of_output));
        kinds
    }
}

/// Angular frequencies of the rotary embedding, one per pair (i, i + head_dim / 2) of a head's columns.
pub fn rotary_frequencies(head_dim: usize, base: f64) -> impl Iterator<Item = f32> {
    (0..head_dim / 2).map(move |i| (1.0 / base.powf(2.0 * i as f64 / head_dim as f64)) as f32)
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

#[cfg(test)]
mod tests;
