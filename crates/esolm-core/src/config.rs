//! What a checkpoint says about its network: family, sizes, special tokens.
//!
//! Two written forms are read: the Hugging Face `config.json` (this module) and the omegaconf objects inside a Lightning
//! checkpoint ([`crate::checkpoint`]). Both go through `PartialConfig`, so that what one of them leaves out can be taken from
//! the shapes of the tensors, and what contradicts them is said in one sentence.

mod claims;
mod decoder;
mod document;
mod fields;
mod partial;
mod quantization;
mod sets;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

pub use claims::mask_tokens;
pub(crate) use claims::{Claims, Scalar, unused_tokens};
pub use decoder::{Decoder, DecoderKind, Open};
pub use decoder::{EMBEDDING as DECODER_EMBEDDING, HEAD as DECODER_HEAD};
use fields::Figure;
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

/// The mask of a model that has none, in the place of a token: above every vocabulary.
pub const NO_MASK: u32 = u32::MAX;

/// A BD3-LM without blocks.
const NO_BLOCK_SIZE: ConfigError = ConfigError::Missing {
    field: "block_size",
    expected: "the number of tokens of a block, which divides the context length",
};

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
    /// The settings that come with a model for sampling.
    #[error("the settings to sample with cannot be used: {0}; correct the file, or remove it")]
    Settings(String),
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
    /// A decoder of a kind that is not run.
    #[error(
        "the configuration's field \"{field}\" is \"{found}\": {why}, and models of that kind are not run"
    )]
    OtherKind {
        /// Name of the field.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What is said of the kind.
        why: &'static str,
    },
    /// A decoder of which something is left open.
    #[error("{0}")]
    Open(Open),
    /// A model that is to be read as one of another family.
    #[error("the model cannot be read as {}, since its configuration makes it {own}", .said.one())]
    OtherFamily {
        /// The family that was asked for.
        said: Family,
        /// What it is, with its article.
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

/// The model families that this engine runs.
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
    /// Set diffusion: sets of tokens at places that may interleave, each drawn given those before it (kuleshov-group/setdlms).
    SetDlm,
}

impl Family {
    /// A model of the family, as a sentence names it.
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

/// What somebody says of a model whose configuration leaves it open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadAs {
    /// MDLM or BD3-LM, of a decoder that may be either.
    pub family: Option<Family>,
    /// Tokens of a block of a decoder that is a BD3-LM, whatever its configuration says.
    pub block_size: Option<usize>,
    /// The mask token of a decoder, which must agree with what its files say.
    pub mask: Option<u32>,
}

/// The network behind a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Model family.
    pub family: Family,
    /// Model width d.
    pub hidden: usize,
    /// Width of the conditioning vector that adaLN layers read; 0 for networks without them. The tensors decide: most published AR models
    /// have none and most of the others have them, but all combinations exist.
    pub cond_dim: usize,
    /// Number of transformer blocks.
    pub n_blocks: usize,
    /// Number of attention heads.
    pub n_heads: usize,
    /// Context length L in tokens.
    pub length: usize,
    /// V: number of token embeddings and of logits, the mask column included.
    pub vocab_size: usize,
    /// Token index of the mask; [`NO_MASK`] for an AR decoder.
    pub mask_index: u32,
    /// Share of tokens that diffusion takes, as trained, in [0, 1]; `None` when the checkpoint does not say.
    pub alpha_0: Option<f64>,
    /// What an AR model reads before the first token.
    pub prepend: Prepend,
    /// Beginning-of-text token, when the checkpoint says.
    pub bos: Option<u32>,
    /// End-of-text token, when the checkpoint says.
    pub eos: Option<u32>,
    /// Further tokens that end a text of a decoder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_eos: Vec<u32>,
    /// Dropout probability in training; inference does not use it.
    pub dropout: f64,
    /// Attention of the diffusion phase.
    pub attention: AttentionKind,
    /// Tokens of a block, a divisor of the length, for a BD3-LM and for no other family.
    pub block_size: Option<usize>,
    /// Least and greatest share of masked tokens that a BD3-LM was trained with, in [0, 1]; `None` when the checkpoint does not say.
    pub noise_range: Option<[f64; 2]>,
    /// The noise of a SetDLM and what else it alone has; of no other family.
    #[serde(default)]
    pub sets: Option<Sets>,
    /// What a decoder of the Qwen3, Qwen2 or Llama kind has; `None` for the networks of models/dit.py.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<Decoder>,
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`. Both spellings of the width (`hidden_size`, `hidden_dim`) and of the context length
    /// (`model_length`, `length`) are known; fields that this engine has no use for are ignored.
    ///
    /// # Errors
    /// Text that is not a JSON object, absent or unusable fields, and whatever [`ModelConfig::validate`] finds.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        Self::from_json_as(json, &ReadAs::default())
    }

    /// As [`ModelConfig::from_json`], with what somebody says that the configuration leaves open.
    ///
    /// # Errors
    /// As there, and where it contradicts what is said.
    pub fn from_json_as(json: &str, said: &ReadAs) -> Result<Self, ConfigError> {
        let mut config = PartialConfig::from_json(json, "the configuration")?;
        config.read_as(said)?;
        config.complete()
    }

    /// Writes the Hugging Face form, which [`ModelConfig::from_json`] reads back to the same value.
    pub fn to_json(&self) -> String {
        self.json(true, None)
    }

    /// As [`ModelConfig::to_json`], with how the weights beside it are quantised, and without the mask index unless it was `told`: a guess
    /// must not become a fact.
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
        // The published MDLM and BD3-LM spell the width differently; their own loaders must be able to read the folder.
        let width = match self.family {
            Family::Mdlm | Family::Bd3Lm => "hidden_dim",
            Family::EsoLm | Family::Ar | Family::SetDlm => "hidden_size",
        };
        map.insert(width.into(), self.hidden.into());
        if self.cond_dim > 0 {
            map.insert("cond_dim".into(), self.cond_dim.into());
            if self.family == Family::Ar {
                // Published AR models name a cond_dim without having such layers.
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

    /// The mask token, where the model has one.
    pub fn mask(&self) -> Option<u32> {
        Some(self.mask_index).filter(|&mask| mask != NO_MASK)
    }

    /// The token that an AR model reads before a text, if it reads one there, and the configuration names it.
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

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.decoder
            .map_or(self.n_heads, |decoder| decoder.kv_heads)
    }

    /// Columns of all query heads together, which is what attention gives.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim()
    }

    /// Columns of all heads of keys, and of values, of a slot of the cache.
    pub fn kv_width(&self) -> usize {
        self.kv_heads() * self.head_dim()
    }

    /// Width inside the MLP.
    pub fn inner(&self) -> usize {
        match &self.decoder {
            Some(decoder) => decoder.inner,
            None => MLP_RATIO * self.hidden,
        }
    }

    /// Base of the rotary angles.
    pub fn rotary_base(&self) -> f64 {
        self.decoder
            .map_or(ROTARY_BASE, |decoder| decoder.rotary_base)
    }

    /// Checks that the values describe a network: sizes above zero and within bounds, heads that divide the width into even head
    /// dimensions (rotary embedding turns pairs), tokens inside the vocabulary, `alpha_0` in [0, 1], blocks that divide the length.
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
        if self.cond_dim > 0 {
            size("cond_dim", self.cond_dim, MAX_WIDTH)?;
        }
        let named = self.field_names();
        size(named.blocks, self.n_blocks, MAX_BLOCKS)?;
        size(named.heads, self.n_heads, MAX_WIDTH)?;
        size(named.length, self.length, MAX_LENGTH)?;
        if !(2..=MAX_VOCAB).contains(&self.vocab_size) {
            return Err(invalid(
                "vocab_size",
                self.vocab_size,
                format!("a whole number from 2 to {MAX_VOCAB}"),
            ));
        }
        if self.decoder.is_none()
            && (!self.hidden.is_multiple_of(self.n_heads)
                || !(self.hidden / self.n_heads).is_multiple_of(2))
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
        let ends = self.more_eos.iter().map(|&eos| ("eos_token_id", Some(eos)));
        let tokens = [
            (named.mask, self.mask()),
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
        ];
        for (field, token) in tokens.into_iter().chain(ends) {
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
            return Err(invalid("alpha_0", Figure(alpha_0), "a number from 0 to 1"));
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return Err(invalid(
                "dropout",
                Figure(self.dropout),
                "a number from 0 to 1",
            ));
        }
        if self.family != Family::Ar && self.prepend != Prepend::None {
            return Err(invalid(
                "prepend_token",
                self.prepend,
                "\"none\", since only AR models prepend a token",
            ));
        }
        let attention_fits = match self.family {
            Family::EsoLm => ![AttentionKind::Block, AttentionKind::Set].contains(&self.attention),
            Family::Mdlm => self.attention == AttentionKind::Bidirectional,
            Family::Ar => self.attention == AttentionKind::Causal,
            Family::Bd3Lm => self.attention == AttentionKind::Block,
            Family::SetDlm => self.attention == AttentionKind::Set,
        };
        if !attention_fits {
            return Err(invalid(
                "diffusion_attn_mode",
                self.attention,
                format!("left out, since {} has only one", self.family),
            ));
        }
        match (self.family, &self.sets) {
            (Family::SetDlm, None) => return Err(Sets::MISSING),
            (Family::SetDlm, Some(sets)) => sets.validate(self)?,
            (_, Some(sets)) => {
                let why = format!("left out, since {} has no sets", self.family);
                return Err(invalid(
                    "noise_config.desired_block_size",
                    sets.desired,
                    why,
                ));
            }
            (_, None) => {}
        }
        if let Some(decoder) = &self.decoder {
            decoder::validate(self, decoder)?;
        } else if self.mask().is_none() {
            return Err(invalid("mask_index", NO_MASK, "a token index"));
        }
        self.validate_blocks()
    }

    /// What the file of such a network calls its fields.
    fn field_names(&self) -> FieldNames {
        match self.decoder {
            None => FieldNames {
                blocks: "n_blocks",
                heads: "n_heads",
                length: "model_length",
                mask: "mask_index",
            },
            Some(_) => decoder::FIELD_NAMES,
        }
    }

    /// What only a BD3-LM has, and it must.
    fn validate_blocks(&self) -> Result<(), ConfigError> {
        let is_block = self.family == Family::Bd3Lm;
        match self.block_size {
            None if is_block => return Err(NO_BLOCK_SIZE),
            Some(size) if !is_block => {
                let why = format!("left out, since {} has no blocks", self.family);
                return Err(invalid("block_size", size, why));
            }
            Some(_) if self.decoder.is_some() => {}
            Some(size) if size == 0 || !self.length.is_multiple_of(size) => {
                let divides = format!(
                    "a whole number from 1 that divides the context length {}",
                    self.length
                );
                return Err(invalid("block_size", size, divides));
            }
            _ => {}
        }
        let Some([least, most]) = self.noise_range else {
            return Ok(());
        };
        if !is_block {
            let why = format!("left out, since {} has no such range", self.family);
            return Err(invalid("sampling_eps_min", Figure(least), why));
        }
        if !(most > 0.0 && most <= 1.0) {
            return Err(invalid(
                "sampling_eps_max",
                Figure(most),
                "a share of masked tokens above 0, up to 1",
            ));
        }
        if !(0.0..=most).contains(&least) {
            return Err(invalid(
                "sampling_eps_min",
                Figure(least),
                format!(
                    "a number from 0 to sampling_eps_max, which is {}",
                    Figure(most)
                ),
            ));
        }
        Ok(())
    }

    /// Every parameter of the published network in the order of PyTorch's `parameters()` (models/dit.py), in which the EMA weights of a
    /// Lightning checkpoint are listed. The buffer `rotary_emb.inv_freq` is not a parameter. Of a decoder, those of its published network.
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

    /// The biases that a network may have or lack, a list for each kind: of a kind it has all or none. The published networks have those of
    /// [`ModelConfig::parameters`]; a folded one has them where something was folded in.
    pub fn biases(&self) -> Vec<Vec<ParamSpec>> {
        if self.decoder.is_some() {
            // The configuration says which biases there are.
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

/// Names of fields that are spelt differently in the files of different networks.
struct FieldNames {
    blocks: &'static str,
    heads: &'static str,
    length: &'static str,
    mask: &'static str,
}

/// Angular frequencies of the rotary embedding, one for each pair (i, i + head_dim / 2) of a head's columns.
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
