//! Decoders of the Qwen3, Qwen2 and Llama kinds, and the diffusion language models that are made of them: their `config.json`, and their
//! tensors.
//!
//! | `model_type` | what it is |
//! |---|---|
//! | `qwen3`, `qwen2`, `llama` | AR |
//! | `a2d-qwen3`, `a2d-qwen2`, `a2d-llama` | MDLM or BD3-LM; the file does not say which, nor how long a block is ([`super::ReadAs`]) |
//! | `sdar` | BD3-LM over Qwen3's network, with blocks of 4 unless something says otherwise |
//!
//! Nobody writes the names of the kinds that are not run into anything but `model_type`, the classes in `architectures`, or those in
//! `auto_map`; some say `qwen3` or `llada` and are something else by their classes. So all three are looked at.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::claims::Claims;
use super::fields::{agreeing, float, lookup, number, present, scalar, shown, string};
use super::partial::{PartialConfig, classes};
use super::{
    AttentionKind, ConfigError, Family, MAX_LENGTH, MAX_WIDTH, ModelConfig, NO_MASK, ParamSpec,
    Prepend, Quantization, invalid,
};
use crate::message::shorten;

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

/// What `model_type` says: the network, the family where that follows, and how the classes of its code begin.
struct Named {
    model_type: &'static str,
    kind: DecoderKind,
    family: Option<Family>,
    classes: &'static str,
}

const fn named(
    model_type: &'static str,
    kind: DecoderKind,
    family: Option<Family>,
    classes: &'static str,
) -> Named {
    Named {
        model_type,
        kind,
        family,
        classes,
    }
}

const NAMED: [Named; 7] = [
    named("qwen3", DecoderKind::Qwen3, Some(Family::Ar), "qwen3"),
    named("qwen2", DecoderKind::Qwen2, Some(Family::Ar), "qwen2"),
    named("llama", DecoderKind::Llama, Some(Family::Ar), "llama"),
    named("a2d-qwen3", DecoderKind::Qwen3, None, "a2dqwen3"),
    named("a2d-qwen2", DecoderKind::Qwen2, None, "a2dqwen2"),
    named("a2d-llama", DecoderKind::Llama, None, "a2dllama"),
    named("sdar", DecoderKind::Sdar, Some(Family::Bd3Lm), "sdar"),
];

/// How the names of classes that hold the whole network end; others have another output, or none.
const CLASS_ENDS: [&str; 5] = [
    "forcausallm",
    "formaskedlm",
    "lmheadmodel",
    "model",
    "config",
];

/// For messages.
pub(super) const MODEL_TYPES: &str = "\"qwen3\", \"qwen2\", \"llama\", \"a2d-qwen3\", \"a2d-qwen2\", \"a2d-llama\" or \"sdar\" of a decoder";

/// Kinds of decoders that are not run, by the beginnings of their names without `_` and `-`.
const OTHER_KINDS: [(&str, &str); 13] = [
    ("lladamoe", "LLaDA-MoE is a mixture of experts"),
    ("llada2", "LLaDA2 is a mixture of experts"),
    ("llada", "LLaDA has a network of its own"),
    (
        "dream",
        "Dream predicts each token from the place before it",
    ),
    (
        "fastdllm",
        "Fast-dLLM v2 predicts each token from the place before it",
    ),
    (
        "efficientdlm",
        "Efficient-DLM is a diffusion model of its own",
    ),
    ("sdarmoe", "SDAR-MoE is a mixture of experts"),
    ("qwen3moe", "it is a mixture of experts"),
    ("qwen2moe", "it is a mixture of experts"),
    (
        "qwen3next",
        "Qwen3-Next is a mixture of experts with linear attention",
    ),
    ("qwen3vl", "it reads pictures"),
    ("qwen2vl", "it reads pictures"),
    ("mixtral", "it is a mixture of experts"),
];

/// Lower case, without the signs by which spellings of a name differ.
fn plain(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    name.retain(|c| c.is_ascii_alphanumeric());
    name
}

/// What is said of a kind of decoder that is not run.
pub(super) fn other_decoder(name: &str) -> Option<&'static str> {
    let name = plain(name);
    // The class without what converted it.
    let name = name.strip_prefix("a2d").unwrap_or(&name);
    let kind = |(start, _): &&(&str, &str)| name.starts_with(start);
    OTHER_KINDS.iter().find(kind).map(|(_, why)| *why)
}

/// A decoder as its `config.json` says, before the tensors were seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartialDecoder {
    model_type: &'static str,
    kind: DecoderKind,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    inner: usize,
    rotary_base: f64,
    eps: f64,
    tied: Option<bool>,
    attention_bias: bool,
    mlp_bias: bool,
}

/// Reads a decoder's `config.json`; `None` for one that is of no decoder.
pub(super) fn read(
    map: &Map<String, Value>,
    source: &str,
) -> Result<Option<PartialConfig>, ConfigError> {
    // What is not run is told by any of its names, since `model_type` may be another's.
    let refused = |field, name: &str, why| ConfigError::OtherKind {
        field,
        found: shorten(name),
        why,
    };
    for (field, class) in classes(map) {
        if let Some(why) = other_decoder(class) {
            return Err(refused(field, class, why));
        }
    }
    let Some(model_type) = string(map, "model_type")? else {
        return Ok(None);
    };
    if let Some(why) = other_decoder(model_type) {
        return Err(refused("model_type", model_type, why));
    }
    let lower = model_type.to_ascii_lowercase();
    let is_named = |named: &&Named| named.model_type == lower.replace('_', "-");
    let Some(named) = NAMED.iter().find(is_named) else {
        return Ok(None);
    };
    check_classes(map, named)?;
    check_unused(map)?;
    let family = match present(map, "esolm") {
        Some(own) => Some(own_family(own, named)?),
        None => named.family,
    };
    let is_block = family != Some(Family::Ar) && family != Some(Family::Mdlm);
    let size = |field| number(map, field);
    let needed =
        |field, expected| number(map, field)?.ok_or(ConfigError::Missing { field, expected });
    let hidden = needed("hidden_size", "the width of the model")?;
    Ok(Some(PartialConfig {
        family,
        hidden: Some(hidden),
        n_blocks: Some(needed("num_hidden_layers", "the number of layers")?),
        n_heads: Some(needed("num_attention_heads", "the number of heads")?),
        length: Some(needed(
            "max_position_embeddings",
            "the context length in tokens",
        )?),
        vocab_size: Some(needed("vocab_size", "the number of token embeddings")?),
        bos: first_token(map, "bos_token_id")?,
        eos: first_token(map, "eos_token_id")?,
        block_size: match is_block {
            true => size("block_size")?,
            false => None,
        },
        claims: Claims::read_mask(source, |path| lookup(map, path).map(scalar))?,
        quantization: Quantization::read(map)?,
        decoder: Some(PartialDecoder {
            model_type: named.model_type,
            kind: named.kind,
            kv_heads: size("num_key_value_heads")?,
            head_dim: size("head_dim")?,
            inner: needed("intermediate_size", "the width inside the MLP")?,
            rotary_base: rotary_base(map)?,
            eps: float(map, "rms_norm_eps")?.unwrap_or(1e-6),
            tied: truth(map, "tie_word_embeddings")?,
            attention_bias: truth(map, "attention_bias")?.unwrap_or(false),
            mlp_bias: truth(map, "mlp_bias")?.unwrap_or(false),
        }),
        ..PartialConfig::default()
    }))
}

/// Every class that would load the model elsewhere must be one of the network that `model_type` names.
fn check_classes(map: &Map<String, Value>, named: &Named) -> Result<(), ConfigError> {
    for (field, class) in classes(map) {
        let name = plain(class);
        let end = name.strip_prefix(named.classes);
        if !end.is_some_and(|end| CLASS_ENDS.contains(&end)) {
            return Err(ConfigError::Contradiction {
                first: format!("\"model_type\" is \"{}\"", named.model_type),
                second: format!(
                    "the class in \"{field}\" is \"{}\", which is not a language model of that kind",
                    shorten(class)
                ),
                remedy: "give a model whose class and type agree".into(),
            });
        }
    }
    Ok(())
}

/// What would change the network and is not computed.
fn check_unused(map: &Map<String, Value>) -> Result<(), ConfigError> {
    let refuse = |field, value: &Value, expected: &str| Err(invalid(field, shown(value), expected));
    for field in ["num_experts", "num_local_experts", "n_routed_experts"] {
        if let Some(value) = present(map, field)
            && value != &Value::from(0)
        {
            return refuse(
                field,
                value,
                "left out, since mixtures of experts are not run",
            );
        }
    }
    if let Some(value) = present(map, "hidden_act")
        && value != "silu"
        && value != "swish"
    {
        return refuse("hidden_act", value, "\"silu\"");
    }
    if truth(map, "use_sliding_window")? == Some(true) {
        return refuse(
            "use_sliding_window",
            &Value::Bool(true),
            "false, since attention goes over all tokens",
        );
    }
    let layers = present(map, "layer_types").and_then(Value::as_array);
    let mut layers = layers.into_iter().flatten();
    if let Some(layer) = layers.find(|layer| *layer != "full_attention") {
        return refuse(
            "layer_types",
            layer,
            "a list of \"full_attention\", since attention goes over all tokens",
        );
    }
    if let Some(value) = present(map, "partial_rotary_factor")
        && value.as_f64() != Some(1.0)
    {
        return refuse(
            "partial_rotary_factor",
            value,
            "1, since whole heads are turned",
        );
    }
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(value) = present(map, field) else {
            continue;
        };
        let Some(object) = value.as_object() else {
            return refuse(field, value, "an object, or left out");
        };
        let kinds = ["rope_type", "type"].into_iter();
        let kind = kinds.filter_map(|kind| present(object, kind)).next();
        let is_plain = match kind {
            Some(kind) => kind == "default",
            // A base alone.
            None => object.keys().all(|key| key == "rope_theta"),
        };
        if !is_plain {
            let kind = kind.map_or_else(|| "an object without a type".into(), shown);
            return Err(invalid(
                field,
                kind,
                "null or of the type \"default\", since rotary angles are not scaled",
            ));
        }
    }
    Ok(())
}

/// What this engine wrote of the family, in the object `esolm`.
fn own_family(own: &Value, named: &Named) -> Result<Family, ConfigError> {
    let expected = "an object whose \"family\" is \"mdlm\" or \"bd3lm\"";
    let family = match own.get("family").and_then(Value::as_str) {
        Some("mdlm") => Family::Mdlm,
        Some("bd3lm") => Family::Bd3Lm,
        _ => return Err(invalid("esolm", shown(own), expected)),
    };
    match named.family {
        Some(other) if other != family => Err(ConfigError::Contradiction {
            first: format!("\"model_type\" is \"{}\"", named.model_type),
            second: format!("\"esolm.family\" makes it {}", family.one()),
            remedy: "remove the wrong one".into(),
        }),
        _ => Ok(family),
    }
}

fn rotary_base(map: &Map<String, Value>) -> Result<f64, ConfigError> {
    const PATHS: [&str; 3] = [
        "rope_theta",
        "rope_parameters.rope_theta",
        "rope_scaling.rope_theta",
    ];
    let base = agreeing(&PATHS, |path| float(map, path))?;
    Ok(base.unwrap_or(super::ROTARY_BASE))
}

fn truth(map: &Map<String, Value>, field: &'static str) -> Result<Option<bool>, ConfigError> {
    present(map, field)
        .map(|value| {
            let truth = value.as_bool();
            truth.ok_or_else(|| invalid(field, shown(value), "true or false"))
        })
        .transpose()
}

/// A token, or the first of a list of tokens.
fn first_token(map: &Map<String, Value>, field: &'static str) -> Result<Option<u32>, ConfigError> {
    let Some(value) = present(map, field) else {
        return Ok(None);
    };
    let value = match value {
        Value::Array(list) => match list.first() {
            None => return Ok(None),
            Some(first) => first,
        },
        value => value,
    };
    // Some files say that there is none by a number below zero.
    if value.as_i64().is_some_and(|token| token < 0) {
        return Ok(None);
    }
    let token = value.as_u64().and_then(|n| u32::try_from(n).ok());
    token
        .map(Some)
        .ok_or_else(|| invalid(field, shown(value), "a token index, or a list of such"))
}

/// The tensor of the embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The tensor of an output matrix of its own.
pub const HEAD: &str = "lm_head.weight";

impl PartialDecoder {
    /// Takes from the tensors what the file left out. `shape` looks one up by its name.
    pub(super) fn reconcile<'a>(&mut self, shape: impl Fn(&str) -> Option<&'a [usize]>) {
        if shape(EMBEDDING).is_some() {
            self.tied.get_or_insert(shape(HEAD).is_none());
        }
    }

    /// Whether a model whose configuration says `own` may be read as one of `family`.
    pub(super) fn may_be(&self, own: Option<Family>, family: Family) -> bool {
        match own {
            Some(own) => own == family,
            None => matches!(family, Family::Mdlm | Family::Bd3Lm),
        }
    }

    /// Whether the file says that the output matrix is the embedding.
    pub(crate) fn is_tied(&self) -> bool {
        self.tied == Some(true)
    }

    /// How to name a model whose family nothing told.
    pub(super) fn undecided(&self) -> ConfigError {
        ConfigError::Undecided {
            model_type: self.model_type,
        }
    }
}

impl PartialConfig {
    /// The finished configuration of a decoder.
    pub(super) fn complete_decoder(
        &self,
        partial: &PartialDecoder,
    ) -> Result<ModelConfig, ConfigError> {
        let family = self.family.ok_or_else(|| partial.undecided())?;
        let (heads, hidden) = (self.n_heads.unwrap_or(0), self.hidden.unwrap_or(0));
        let head_dim = match partial.head_dim {
            Some(width) => width,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(invalid(
                    "num_attention_heads",
                    heads,
                    format!("a divisor of the width {hidden}, as there is no \"head_dim\""),
                ));
            }
        };
        let vocab_size = self.vocab_size.unwrap_or(0);
        let mask_index = match (family, self.claims.mask()?) {
            // A token that tokenizers have for other models, if any.
            (Family::Ar, _) => NO_MASK,
            (_, Some((said, index))) if index as usize >= vocab_size => {
                return Err(ConfigError::Contradiction {
                    first: said.into(),
                    second: format!(
                        "a token index must be below vocab_size, which is {vocab_size}"
                    ),
                    remedy: "correct it, or give the configuration that belongs to these weights"
                        .into(),
                });
            }
            (_, Some((_, index))) => index,
            (_, None) => {
                return Err(ConfigError::Missing {
                    field: "mask_token_id",
                    expected: "the index of the mask token, since no tokenizer beside the weights names one",
                });
            }
        };
        let config = ModelConfig {
            family,
            hidden,
            cond_dim: 0,
            n_blocks: self.n_blocks.unwrap_or(0),
            n_heads: heads,
            length: self.length.unwrap_or(0),
            vocab_size,
            mask_index,
            alpha_0: None,
            prepend: Prepend::None,
            bos: self.bos,
            eos: self.eos,
            dropout: 0.0,
            attention: match family {
                Family::Mdlm => AttentionKind::Bidirectional,
                Family::Bd3Lm => AttentionKind::Block,
                Family::EsoLm | Family::Ar | Family::SetDlm => AttentionKind::Causal,
            },
            block_size: match family {
                // What the published models have that do not say.
                Family::Bd3Lm if partial.kind == DecoderKind::Sdar => self.block_size.or(Some(4)),
                Family::Bd3Lm => Some(self.block_size.ok_or(ConfigError::Blocks)?),
                _ => None,
            },
            noise_range: None,
            sets: None,
            decoder: Some(Decoder {
                kind: partial.kind,
                kv_heads: partial.kv_heads.unwrap_or(heads),
                head_dim,
                inner: partial.inner,
                rotary_base: partial.rotary_base,
                eps: partial.eps,
                tied: partial.tied.unwrap_or(false),
                attention_bias: partial.attention_bias,
                mlp_bias: partial.mlp_bias,
            }),
        };
        config.validate()?;
        Ok(config)
    }
}

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
            decoder.rotary_base,
            "a number from 1 to 1e12",
        ));
    }
    if !(decoder.eps > 0.0 && decoder.eps <= 1.0) {
        return Err(invalid(
            "rms_norm_eps",
            decoder.eps,
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
    let is = |named: &&Named| {
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
