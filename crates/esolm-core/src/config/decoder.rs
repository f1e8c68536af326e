//! Decoders of the Qwen3, Qwen2 and Llama kinds, and diffusion language models derived from them: their `config.json`
//! and their tensors.
//!
//! | `model_type` | what it is |
//! |---|---|
//! | `qwen3`, `qwen2`, `llama` | AR |
//! | `a2d-qwen3`, `a2d-qwen2`, `a2d-llama` | MDLM or BD3-LM; the file says neither which, nor the block size ([`super::ReadAs`]) |
//! | `sdar` | BD3-LM with Qwen3's network, with blocks of 4 by default |

mod names;
mod read;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::Figure;
use super::validate::FieldNames;
use super::{ConfigError, Family, MAX_LENGTH, MAX_WIDTH, ModelConfig, NO_MASK, ParamSpec, invalid};
pub(super) use names::MODEL_TYPES;
use names::NAMED;
pub use read::Open;
pub(super) use read::{PartialDecoder, read};

/// Names of fields in a decoder's configuration.
pub(super) const FIELD_NAMES: FieldNames = FieldNames {
    blocks: "num_hidden_layers",
    heads: "num_attention_heads",
    length: "max_position_embeddings",
    mask: "mask_token_id",
};

/// What a decoder's configuration has in addition to the sizes common to all networks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    /// The published network.
    pub kind: DecoderKind,
    /// Key-value heads, a divisor of the number of heads: query head h reads head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Width of a head; the heads' total width may differ from the model width.
    pub head_dim: usize,
    /// Inner width of the MLP.
    pub inner: usize,
    /// Base of the rotary frequencies.
    pub rotary_base: f64,
    /// Added to the mean square in every norm.
    pub eps: f64,
    /// Whether the output matrix is tied to the embedding.
    pub tied: bool,
    /// Whether the four projections of attention have biases. In a Qwen2, those of q, k and v always do.
    pub attention_bias: bool,
    /// Whether the three projections of the MLP have biases.
    pub mlp_bias: bool,
}

impl Decoder {
    /// Whether q and k of every head are normalised before the rotary embedding.
    pub fn has_qk_norm(&self) -> bool {
        matches!(self.kind, DecoderKind::Qwen3 | DecoderKind::Sdar)
    }

    fn has_qkv_bias(&self) -> bool {
        self.attention_bias || self.kind == DecoderKind::Qwen2
    }
}

/// The supported published networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderKind {
    /// Normalises q and k.
    Qwen3,
    /// Has biases for q, k and v.
    Qwen2,
    /// Has neither; also SmolLM2.
    Llama,
    /// Qwen3's network under SDAR's name.
    Sdar,
}

impl fmt::Display for DecoderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Qwen3 => "Qwen3",
            Self::Qwen2 => "Qwen2",
            Self::Llama => "Llama",
            Self::Sdar => "SDAR",
        })
    }
}

/// Name of the embedding tensor.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the output matrix, if it is not tied.
pub const HEAD: &str = "lm_head.weight";

/// Checks the settings that only decoders have.
pub(super) fn validate(config: &ModelConfig, decoder: &Decoder) -> Result<(), ConfigError> {
    let sizes = [
        ("num_key_value_heads", decoder.kv_heads),
        ("head_dim", decoder.head_dim),
        ("intermediate_size", decoder.inner),
    ];
    for (field, value) in sizes {
        if !(1..=MAX_WIDTH).contains(&value) {
            let expected = format!("a whole number from 1 to {MAX_WIDTH}");
            return Err(invalid(field, value, expected));
        }
    }
    let heads = config.n_heads;
    if !heads.is_multiple_of(decoder.kv_heads) {
        return Err(invalid(
            "num_key_value_heads",
            decoder.kv_heads,
            format!("a divisor of num_attention_heads, which is {heads}"),
        ));
    }
    if !decoder.head_dim.is_multiple_of(2) {
        return Err(invalid(
            "head_dim",
            decoder.head_dim,
            "even, since rotary embedding turns pairs",
        ));
    }
    if heads.saturating_mul(decoder.head_dim) > MAX_WIDTH {
        return Err(invalid(
            "num_attention_heads",
            heads,
            format!(
                "at most {}, for heads of {} columns",
                MAX_WIDTH / decoder.head_dim,
                decoder.head_dim
            ),
        ));
    }
    if !(decoder.rotary_base >= 1.0 && decoder.rotary_base <= 1e12) {
        return Err(invalid(
            "rope_theta",
            Figure(decoder.rotary_base),
            "a number from 1 to 1e12",
        ));
    }
    if !(decoder.eps > 0.0 && decoder.eps <= 1.0) {
        return Err(invalid(
            "rms_norm_eps",
            Figure(decoder.eps),
            "a number above 0, up to 1",
        ));
    }
    let is_allowed = match config.family {
        Family::EsoLm | Family::SetDlm => false,
        Family::Ar => config.mask_index == NO_MASK,
        Family::Mdlm | Family::Bd3Lm => true,
    };
    if !is_allowed {
        return Err(invalid(
            "model_type",
            config.family,
            "that of an AR model, an MDLM or a BD3-LM",
        ));
    }
    match config.block_size {
        // The context need not be a whole number of blocks.
        Some(size) if !(1..=config.length.min(MAX_LENGTH)).contains(&size) => Err(invalid(
            "block_size",
            size,
            format!("from 1 to the context length {}", config.length),
        )),
        _ => Ok(()),
    }
}

/// All parameters of the published network, in order.
pub(super) fn parameters(config: &ModelConfig, decoder: &Decoder) -> Vec<ParamSpec> {
    let (d, v) = (config.hidden, config.vocab_size);
    let (q, kv) = (
        config.n_heads * decoder.head_dim,
        decoder.kv_heads * decoder.head_dim,
    );
    let inner = decoder.inner;
    let mut list = Vec::with_capacity(3 + 16 * config.n_blocks);
    let mut push = |name: String, shape: &[usize]| {
        list.push(ParamSpec {
            name,
            shape: shape.to_vec(),
        });
    };
    push(EMBEDDING.into(), &[v, d]);
    for block in 0..config.n_blocks {
        let mut linear = |name: &str, [rows, columns]: [usize; 2], bias: bool| {
            push(
                format!("model.layers.{block}.{name}.weight"),
                &[rows, columns],
            );
            if bias {
                push(format!("model.layers.{block}.{name}.bias"), &[rows]);
            }
        };
        let qkv_bias = decoder.has_qkv_bias();
        linear("self_attn.q_proj", [q, d], qkv_bias);
        linear("self_attn.k_proj", [kv, d], qkv_bias);
        linear("self_attn.v_proj", [kv, d], qkv_bias);
        linear("self_attn.o_proj", [d, q], decoder.attention_bias);
        linear("mlp.gate_proj", [inner, d], decoder.mlp_bias);
        linear("mlp.up_proj", [inner, d], decoder.mlp_bias);
        linear("mlp.down_proj", [d, inner], decoder.mlp_bias);
        let mut norm = |name: &str, width: usize| {
            push(format!("model.layers.{block}.{name}.weight"), &[width]);
        };
        if decoder.has_qk_norm() {
            norm("self_attn.q_norm", decoder.head_dim);
            norm("self_attn.k_norm", decoder.head_dim);
        }
        norm("input_layernorm", d);
        norm("post_attention_layernorm", d);
    }
    push("model.norm.weight".into(), &[d]);
    if !decoder.tied {
        push(HEAD.into(), &[v, d]);
    }
    list
}

/// Writes the fields of a `config.json` in the published form.
pub(super) fn fields(config: &ModelConfig, decoder: &Decoder, map: &mut Map<String, Value>) {
    let is = |named: &&names::Named| {
        named.kind == decoder.kind && named.family.unwrap_or(config.family) == config.family
    };
    let named = NAMED.iter().find(is);
    let (model_type, class) = match (decoder.kind, config.family) {
        (DecoderKind::Sdar, _) => ("sdar", "SDARForCausalLM".to_string()),
        (kind, Family::Ar) => (
            named.map_or("", |named| named.model_type),
            format!("{kind}ForCausalLM"),
        ),
        (kind, _) => (
            named.map_or("", |named| named.model_type),
            format!("A2D{kind}LMHeadModel"),
        ),
    };
    let mut add = |field: &str, value: Value| {
        map.insert(field.into(), value);
    };
    add("model_type", model_type.into());
    add("architectures", vec![class].into());
    add("hidden_size", config.hidden.into());
    add("num_hidden_layers", config.n_blocks.into());
    add("num_attention_heads", config.n_heads.into());
    add("num_key_value_heads", decoder.kv_heads.into());
    add("head_dim", decoder.head_dim.into());
    add("intermediate_size", decoder.inner.into());
    add("max_position_embeddings", config.length.into());
    add("vocab_size", config.vocab_size.into());
    add("hidden_act", "silu".into());
    add("rms_norm_eps", decoder.eps.into());
    add("rope_theta", decoder.rotary_base.into());
    add("tie_word_embeddings", decoder.tied.into());
    add("attention_bias", decoder.attention_bias.into());
    add("mlp_bias", decoder.mlp_bias.into());
    if config.family != Family::Ar {
        add("mask_token_id", config.mask_index.into());
        let family = match config.family {
            Family::Mdlm => "mdlm",
            _ => "bd3lm",
        };
        add("esolm", serde_json::json!({ "family": family }));
    }
}
