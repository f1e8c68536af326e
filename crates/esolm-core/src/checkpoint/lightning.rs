//! What a Lightning checkpoint of the published code holds: weights, EMA weights, configuration, tokenizer.
//!
//! `state_dict` names the raw weights. `ema.shadow_params` is an unnamed list in the order of `parameters()` (models/ema.py); that
//! is the order of `state_dict` without its buffers. `hyper_parameters` has the arguments of the module: `config`, a tree of
//! omegaconf objects, and the pickled `tokenizer`, whose mask token, when it has one, is the mask index (algo.py).

use esolm_checkpoint::{TensorFile, TensorInfo, Value};
use serde::Deserialize;
use thiserror::Error;

use super::{CheckpointError, PREFIX, ROTARY_BUFFER};
use crate::config::{
    ConfigError, Family, PartialConfig, parse_attention, parse_prepend, refuse_time_conditioning,
};

/// Where the configuration stands.
pub(super) const CONFIG: &str = "hyper_parameters.config";

/// What a file lacks that a Lightning checkpoint of the published code has.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum LightningError {
    /// The root is not a dictionary.
    #[error(
        "its root is {found}, a dictionary with state_dict is expected; give the .ckpt of Lightning"
    )]
    Root {
        /// What it is.
        found: String,
    },
    /// There are no weights.
    #[error("it has no state_dict; give the .ckpt of Lightning")]
    NoStateDict,
    /// There are no EMA weights, but perhaps raw ones.
    #[error("it has no EMA weights (ema.shadow_params)")]
    NoEma,
    /// The EMA weights, which have no names, are not as many as the raw ones.
    #[error(
        "ema.shadow_params lists {listed} tensors but state_dict names {parameters} parameters, so they cannot be paired"
    )]
    EmaCount {
        /// EMA weights.
        listed: usize,
        /// Raw weights without buffers.
        parameters: usize,
    },
    /// An EMA weight has another shape than the raw weight in its place.
    #[error(
        "ema.shadow_params[{index}] has shape {found:?} but {name} in state_dict has {expected:?}, so they cannot be paired"
    )]
    EmaShape {
        /// Its index.
        index: usize,
        /// Its shape.
        found: Vec<usize>,
        /// Name of the raw weight.
        name: String,
        /// Shape of the raw weight.
        expected: Vec<usize>,
    },
    /// There is no configuration.
    #[error("it has no hyper_parameters.config")]
    NoConfig,
    /// A field of the configuration refers to another one.
    #[error("its field {field} is the interpolation {text}, which is not resolved")]
    Interpolation {
        /// Dotted path of the field in `hyper_parameters.config`.
        field: &'static str,
        /// What stands there.
        text: String,
    },
}

pub(super) struct Lightning {
    /// Empty unless it was asked for.
    pub config: PartialConfig,
    pub tensors: Vec<TensorInfo>,
    pub tokenizer_json: Option<String>,
}

pub(super) fn read(
    file: &TensorFile,
    root: Value<'_>,
    raw_weights: bool,
    with_config: bool,
) -> Result<Lightning, CheckpointError> {
    if root.dict().is_none() {
        let found = root.to_string();
        return Err(LightningError::Root { found }.into());
    }
    if root.get("state_dict").is_none() {
        return Err(LightningError::NoStateDict.into());
    }
    let hyper_parameter = |name| root.get("hyper_parameters")?.get(name);
    let tokenizer = hyper_parameter("tokenizer").and_then(Tokenizer::read);
    let config = if with_config {
        let tree = hyper_parameter("config").ok_or(LightningError::NoConfig)?;
        config(tree, tokenizer.as_ref())?
    } else {
        PartialConfig::default()
    };
    let tensors = if raw_weights {
        file.tensors().to_vec()
    } else {
        ema(file, root)?
    };
    Ok(Lightning {
        config,
        tensors,
        tokenizer_json: tokenizer.map(|tokenizer| tokenizer.json),
    })
}

/// Pairs the EMA list with the names of the raw weights.
fn ema(file: &TensorFile, root: Value<'_>) -> Result<Vec<TensorInfo>, CheckpointError> {
    let list = root.get("ema").and_then(|ema| ema.get("shadow_params"));
    let list = list.and_then(Value::list).ok_or(LightningError::NoEma)?;
    let is_parameter =
        |tensor: &&TensorInfo| tensor.name.strip_prefix(PREFIX) != Some(ROTARY_BUFFER);
    let parameters: Vec<_> = file.tensors().iter().filter(is_parameter).collect();
    if list.len() != parameters.len() {
        return Err(LightningError::EmaCount {
            listed: list.len(),
            parameters: parameters.len(),
        }
        .into());
    }
    let pairs = parameters.into_iter().zip(list).enumerate();
    pairs
        .map(|(index, (parameter, value))| {
            let tensor = file.tensor(&parameter.name, value)?;
            if tensor.shape != parameter.shape {
                return Err(LightningError::EmaShape {
                    index,
                    found: tensor.shape,
                    name: tensor.name,
                    expected: parameter.shape.clone(),
                }
                .into());
            }
            Ok(tensor)
        })
        .collect()
}

/// The tree of omegaconf objects; plain dictionaries serve as well.
fn config(
    root: Value<'_>,
    tokenizer: Option<&Tokenizer>,
) -> Result<PartialConfig, CheckpointError> {
    let field = |path: &'static str| Field {
        path,
        value: lookup(root, path),
    };
    let either =
        |first, second| Ok::<_, CheckpointError>(field(first).size()?.or(field(second).size()?));
    let parsed = |error| CheckpointError::config(CONFIG, error);
    let algorithm = field("algo.name");
    let family = match algorithm.text()? {
        None => None,
        Some("esolm") => Some(Family::EsoLm),
        Some("mdlm") => Some(Family::Mdlm),
        Some("ar") => Some(Family::Ar),
        Some(_) => {
            return Err(
                algorithm.invalid("\"esolm\", \"mdlm\" or \"ar\"; other algorithms cannot be run")
            );
        }
    };
    refuse_time_conditioning(field("algo.time_conditioning").boolean()?).map_err(parsed)?;
    // Fields of other families stand in the tree as well.
    let of = |wanted, path| Field {
        path,
        value: (family == Some(wanted))
            .then(|| lookup(root, path))
            .flatten(),
    };
    let special = |token: fn(&Tokenizer) -> Option<u32>| tokenizer.and_then(token);
    Ok(PartialConfig {
        family,
        hidden: either("model.hidden_size", "model.hidden_dim")?,
        cond_dim: field("model.cond_dim").size()?,
        n_blocks: field("model.n_blocks").size()?,
        n_heads: field("model.n_heads").size()?,
        length: either("model.length", "model.model_length")?,
        vocab_size: None, // the embedding tells
        mask_index: special(|tokenizer| tokenizer.mask),
        alpha_0: of(Family::EsoLm, "algo.alpha_0").number()?,
        prepend: (of(Family::Ar, "algo.prepend_token").text()?)
            .map(parse_prepend)
            .transpose()
            .map_err(parsed)?,
        bos: special(|tokenizer| tokenizer.bos),
        eos: special(|tokenizer| tokenizer.eos),
        dropout: field("model.dropout").number()?,
        attention: (of(Family::EsoLm, "algo.diffusion_attn_mode").text()?)
            .map(parse_attention)
            .transpose()
            .map_err(parsed)?,
    })
}

/// Follows a dotted path; `None` and omegaconf's mark for a missing value count as absent.
fn lookup<'a>(root: Value<'a>, path: &str) -> Option<Value<'a>> {
    let mut value = unwrap(root);
    for key in path.split('.') {
        value = unwrap(value.get(key)?);
    }
    (!value.is_none() && value.text() != Some("???")).then_some(value)
}

/// The content of an omegaconf container or node, which stands in the object's state.
fn unwrap(value: Value<'_>) -> Value<'_> {
    state(value)
        .and_then(|state| state.get("_content").or_else(|| state.get("_val")))
        .unwrap_or(value)
}

fn state(value: Value<'_>) -> Option<Value<'_>> {
    value.object()?.state
}

/// The pickled `transformers` tokenizer, as far as it can be read; nothing depends on it but the special tokens.
struct Tokenizer {
    mask: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    json: String,
}

impl Tokenizer {
    fn read(value: Value<'_>) -> Option<Self> {
        let outer = state(value)?;
        let json = text_of_bytes(state(outer.get("_tokenizer")?)?)?;
        let TokenizerJson { added_tokens } = serde_json::from_str(&json).ok()?;
        let id = |name: &str| {
            // Newer versions keep the special tokens in one map, older ones in fields of their own.
            let map = outer.get("_special_tokens_map");
            let token = map
                .and_then(|map| map.get(name))
                .or_else(|| outer.get(&format!("_{name}")))?;
            let content = token
                .text()
                .or_else(|| state(token)?.get("content")?.text())?;
            added_tokens
                .iter()
                .find(|token| token.content == content)
                .map(|token| token.id)
        };
        Some(Self {
            mask: id("mask_token"),
            bos: id("bos_token"),
            eos: id("eos_token"),
            json,
        })
    }
}

/// The text of a bytes value. Protocol 2 has no bytes: it calls `_codecs.encode(text, 'latin1')`.
fn text_of_bytes(value: Value<'_>) -> Option<String> {
    let Some(call) = value.object() else {
        return value.text().map(str::to_string);
    };
    let mut args = call.args.tuple()?;
    let (text, encoding) = (args.next()?, args.next()?);
    if call.class.global() != Some(("_codecs", "encode")) || encoding.text() != Some("latin1") {
        return None;
    }
    let bytes = text
        .text()?
        .chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok()
}

#[derive(Deserialize)]
struct TokenizerJson {
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// One value of the configuration with its path, for messages.
struct Field<'a> {
    path: &'static str,
    value: Option<Value<'a>>,
}

impl<'a> Field<'a> {
    fn invalid(&self, expected: &str) -> CheckpointError {
        let found = self
            .value
            .map_or("absent".into(), |value| value.to_string());
        match self.value.and_then(Value::text) {
            Some(text) if text.starts_with("${") => LightningError::Interpolation {
                field: self.path,
                text: found,
            }
            .into(),
            _ => CheckpointError::config(
                CONFIG,
                ConfigError::Invalid {
                    field: self.path,
                    found,
                    expected: expected.into(),
                },
            ),
        }
    }

    fn read<T>(
        &self,
        read: impl Fn(Value<'a>) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>, CheckpointError> {
        self.value
            .map(|value| read(value).ok_or_else(|| self.invalid(expected)))
            .transpose()
    }

    fn size(&self) -> Result<Option<usize>, CheckpointError> {
        self.read(|value| usize::try_from(value.int()?).ok(), "a whole number")
    }

    fn number(&self) -> Result<Option<f64>, CheckpointError> {
        self.read(Value::number, "a number")
    }

    fn boolean(&self) -> Result<Option<bool>, CheckpointError> {
        self.read(Value::boolean, "True or False")
    }

    fn text(&self) -> Result<Option<&'a str>, CheckpointError> {
        self.read(Value::text, "a text")
    }
}
