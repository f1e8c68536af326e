//! Reading a decoder's `config.json` and completing it.

use std::fmt;

use serde_json::{Map, Value};

use super::super::claims::Claims;
use super::super::fields::{
    Figure, agreeing, boolean, float, lookup, number, present, scalar, shown, string,
};
use super::super::partial::{PartialConfig, classes};
use super::super::{
    AttentionKind, ConfigError, Family, ModelConfig, NO_MASK, Prepend, Quantization, ROTARY_BASE,
    invalid,
};
use super::names::{NAMED, Named, check_classes, other_decoder};
use super::{Decoder, DecoderKind, EMBEDDING, HEAD};
use crate::documents::normalize;
use crate::message::{json_error, shorten};

/// What is undetermined about a decoder: only the user, or other files, can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// The `model_type`, if it is shared by MDLMs and BD3-LMs and nothing tells which this is.
    pub model_type: Option<&'static str>,
    /// Whether the block size is unknown.
    pub block_size: bool,
    /// Whether the mask token is unknown.
    pub mask: bool,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.model_type.map(|model_type| {
            format!(
                "the configuration says \"{model_type}\", which is what an MDLM and a BD3-LM are called, and not which of them the model is"
            )
        });
        let blocks = "nothing says how many tokens a block of this BD3-LM has".to_string();
        let mask = "nothing says which token is the mask, neither \"mask_token_id\" of the configuration nor a tokenizer beside the weights"
            .to_string();
        let parts = [
            family,
            self.block_size.then_some(blocks),
            self.mask.then_some(mask),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(", and "))
    }
}

/// Largest accepted number of tokens that end a text. Each token drawn is compared with all of them.
const MAX_ENDS: usize = 1024;

/// A decoder's `config.json` before it has been completed from the tensors.
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

/// Reads a decoder's `config.json`; `None` if it is not a decoder's.
pub(in super::super) fn read(
    map: &Map<String, Value>,
    source: &str,
) -> Result<Option<PartialConfig>, ConfigError> {
    // Any of its names can reveal an unsupported kind, since `model_type` may be borrowed.
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
    let ends = token_list(map, "eos_token_id")?;
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
        bos: token_list(map, "bos_token_id")?.first().copied(),
        eos: ends.first().copied(),
        more_eos: ends.get(1..).unwrap_or_default().to_vec(),
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
            eps: float(map, "rms_norm_eps")?.map_or(1e-6, |Figure(eps)| eps),
            tied: boolean(map, "tie_word_embeddings")?,
            attention_bias: boolean(map, "attention_bias")?.unwrap_or(false),
            mlp_bias: boolean(map, "mlp_bias")?.unwrap_or(false),
        }),
        ..PartialConfig::default()
    }))
}

/// Rejects settings that would change the network but are not implemented.
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
    if boolean(map, "use_sliding_window")? == Some(true) {
        return refuse(
            "use_sliding_window",
            &Value::Bool(true),
            "false, since attention goes over all tokens",
        );
    }
    if let Some(layers) = present(map, "layer_types") {
        let other = match layers.as_array() {
            Some(list) => list.iter().find(|layer| *layer != "full_attention"),
            None => Some(layers),
        };
        if let Some(other) = other {
            return refuse(
                "layer_types",
                other,
                "a list of \"full_attention\", since attention goes over all tokens",
            );
        }
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
            // Only a base.
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

/// The family, as written by this engine in the object `esolm`.
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
    Ok(base.map_or(ROTARY_BASE, |Figure(base)| base))
}

/// The error for a field that names `count` tokens.
fn too_many(field: &'static str, count: usize) -> ConfigError {
    let most = format!("a token index, or a list of at most {MAX_ENDS} such");
    invalid(field, format!("a list of {count} tokens"), most)
}

/// A token or a list of tokens, deduplicated.
fn token_list(map: &Map<String, Value>, field: &'static str) -> Result<Vec<u32>, ConfigError> {
    let list = match present(map, field) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() > MAX_ENDS => {
            return Err(too_many(field, list.len()));
        }
        Some(Value::Array(list)) => list.iter().collect(),
        Some(value) => vec![value],
    };
    let mut tokens = Vec::with_capacity(list.len());
    for value in list {
        let token = value.as_u64().and_then(|n| u32::try_from(n).ok());
        let token = token
            .ok_or_else(|| invalid(field, shown(value), "a token index, or a list of such"))?;
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    Ok(tokens)
}

impl ModelConfig {
    /// Adds the end-of-text tokens named by a `generation_config.json`. Only for decoders; other networks name theirs
    /// in the configuration.
    ///
    /// # Errors
    /// If the text is not a JSON object, the field is not a token or a list of tokens, or there are too many with those
    /// of the configuration. Tokens outside the vocabulary are ignored, since they are never drawn.
    pub(crate) fn add_ends(&mut self, json: &str) -> Result<(), ConfigError> {
        if self.decoder.is_none() {
            return Ok(());
        }
        let map: Map<String, Value> = serde_json::from_str(&normalize(json)).map_err(|error| {
            let why = json_error(&error);
            ConfigError::Settings(format!("they are not a JSON object ({why})"))
        })?;
        let field = "eos_token_id";
        for token in token_list(&map, field)? {
            if token as usize >= self.vocab_size {
                continue;
            }
            let eos = *self.eos.get_or_insert(token);
            if token != eos && !self.more_eos.contains(&token) {
                self.more_eos.push(token);
            }
        }
        match 1 + self.more_eos.len() {
            count if count > MAX_ENDS => Err(too_many(field, count)),
            _ => Ok(()),
        }
    }
}

impl PartialDecoder {
    /// Fills in from the tensors what the file left out. `shape` looks up a tensor by name.
    pub(in super::super) fn reconcile<'a>(&mut self, shape: impl Fn(&str) -> Option<&'a [usize]>) {
        if shape(EMBEDDING).is_some() {
            self.tied.get_or_insert(shape(HEAD).is_none());
        }
    }

    /// Whether a model whose configuration says `own` may be read as a member of `family`.
    pub(in super::super) fn may_be(&self, own: Option<Family>, family: Family) -> bool {
        match own {
            Some(own) => own == family,
            None => matches!(family, Family::Mdlm | Family::Bd3Lm),
        }
    }

    /// Block size of published models that do not state it.
    fn usual_block_size(&self) -> Option<usize> {
        (self.kind == DecoderKind::Sdar).then_some(4)
    }

    /// Whether the file says that the output matrix is tied to the embedding.
    pub(crate) fn is_tied(&self) -> bool {
        self.tied == Some(true)
    }
}

impl PartialConfig {
    /// What neither a decoder's configuration nor the user has determined.
    pub(crate) fn left_open(&self, is_mask_known: bool) -> Option<ConfigError> {
        let decoder = self.decoder.as_ref()?;
        let is_blocks = self.family == Some(Family::Bd3Lm);
        let block_size = self.block_size.or(decoder.usual_block_size());
        let open = Open {
            model_type: self.family.is_none().then_some(decoder.model_type),
            block_size: is_blocks && block_size.is_none(),
            // An AR decoder has no mask, whatever its tokenizer contains.
            mask: self.family != Some(Family::Ar) && !is_mask_known,
        };
        let is_open = open.model_type.is_some() || open.block_size || open.mask;
        is_open.then_some(ConfigError::Open(open))
    }

    /// Completes the configuration of a decoder.
    pub(in super::super) fn complete_decoder(
        &self,
        partial: &PartialDecoder,
    ) -> Result<ModelConfig, ConfigError> {
        let mask = self.claims.mask()?;
        if let Some(open) = self.left_open(mask.is_some()) {
            return Err(open);
        }
        let family = self.family.unwrap_or(Family::Ar);
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
        let mask_index = match (family, mask) {
            // Any mask in its tokenizer is there for other models.
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
            (_, mask) => mask.map_or(NO_MASK, |(_, index)| index),
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
            more_eos: self.more_eos.clone(),
            dropout: 0.0,
            attention: match family {
                Family::Mdlm => AttentionKind::Bidirectional,
                Family::Bd3Lm => AttentionKind::Block,
                Family::EsoLm | Family::Ar | Family::SetDlm => AttentionKind::Causal,
            },
            block_size: match family {
                Family::Bd3Lm => self.block_size.or(partial.usual_block_size()),
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
