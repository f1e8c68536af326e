//! Decoders of the Qwen3, Qwen2 and Llama kinds, and the diffusion language models that are made of them: their `config.json`, and their
//! tensors.
//!
//! | `model_type` | what it is |
//! |---|---|
//! | `qwen3`, `qwen2`, `llama` | AR |
//! | `a2d-qwen3`, `a2d-qwen2`, `a2d-llama` | MDLM or BD3-LM; the file does not say which, nor how long a block is ([`super::ReadAs`]) |
//! | `sdar` | BD3-LM over Qwen3's network, with blocks of 4 unless something says otherwise |

mod names;
mod read;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::Figure;
use super::{
    ConfigError, Family, FieldNames, MAX_LENGTH, MAX_WIDTH, ModelConfig, NO_MASK, ParamSpec,
    invalid,
};
pub(super) use names::MODEL_TYPES;
use names::NAMED;
pub use read::Open;
pub(super) use read::{PartialDecoder, read};

/// What a decoder's file calls its fields.
pub(super) const FIELD_NAMES: FieldNames = FieldNames {
    blocks: "num_hidden_layers",
    heads: "num_attention_heads",
    length: "max_position_embeddings",
    mask: "mask_token_id",
};

/// What a decoder has beside the sizes that every network has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    /// Which published network it is.
    pub kind: DecoderKind,
    /// Heads of keys and values, a divisor of the heads: query head h reads head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Width of a head; heads times this need not be the width of the model.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub inner: usize,
    /// Base of the rotary angles.
    pub rotary_base: f64,
    /// Added to the mean square in every norm.
    pub eps: f64,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Whether the four products of attention have biases. Those for q, k and v of a Qwen2 have them in any case.
    pub attention_bias: bool,
    /// Whether the three products of the MLP have biases.
    pub mlp_bias: bool,
}

impl Decoder {
    /// Whether q and k of every head pass a norm before they are turned.
    pub fn has_qk_norm(&self) -> bool {
        matches!(self.kind, DecoderKind::Qwen3 | DecoderKind::Sdar)
    }

    fn has_qkv_bias(&self) -> bool {
        self.attention_bias || self.kind == DecoderKind::Qwen2
    }
}

/// The published networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderKind {
    /// With norms of q and k.
    Qwen3,
    /// With biases of q, k and v.
    Qwen2,
    /// With neither; SmolLM2 too.
    Llama,
    /// Qwen3's network as SDAR names it.
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

/// The tensor of the embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The tensor of an output matrix of its own.
pub const HEAD: &str = "lm_head.weight";

/// Checks what only a decoder has.
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
        // Texts need not be whole blocks of the context.
        Some(size) if !(1..=config.length.min(MAX_LENGTH)).contains(&size) => Err(invalid(
            "block_size",
            size,
            format!("from 1 to the context length {}", config.length),
        )),
        _ => Ok(()),
    }
}

/// Every parameter of the published network, in its order.
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

/// The fields of a `config.json` in the published form.
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
