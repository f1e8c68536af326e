//! What a Lightning checkpoint of the published code holds: weights, EMA weights, configuration, tokenizer.
//!
//! `state_dict` names the raw weights. `ema.shadow_params` is an unnamed list in the order of `parameters()` (models/ema.py); that
//! is the order of `state_dict` without its buffers. `hyper_parameters` has the arguments of the module: `config`, a tree of
//! omegaconf objects, and the pickled `tokenizer`, whose mask token, when it has one, is the mask index (algo.py). A configuration
//! that is given beside the file does not silence what the file says of itself.

use esolm_checkpoint::{TensorFile, TensorInfo, Value};
use thiserror::Error;

use super::tokenizer::{Tokenizer, TokenizerError, TokenizerForm, TokenizerJson};
use super::{CheckpointError, SourceKind, is_buffer, plain_name, scalars};
use crate::config::{
    Claims, ConfigError, Family, PartialConfig, Scalar, other_kind, parse_attention, parse_family,
    parse_prepend,
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
    /// What should hold EMA weights does not.
    #[error("its ema holds no list of weights (shadow_params)")]
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
    pub source: SourceKind,
    pub config: PartialConfig,
    pub tensors: Vec<TensorInfo>,
    /// The `tokenizer.json` of a pickled tokenizer with the form that it was made of, or why there is none.
    pub tokenizer: Option<Result<(String, TokenizerForm), TokenizerError>>,
    /// The tokens of a pickled tokenizer that gives none.
    pub table: TokenizerJson,
    /// What the pickled tokenizer is, where its mask token cannot be found out.
    pub unread_tokenizer: Option<String>,
}

/// The root of a file that is no `state_dict` by itself: tensors that stand in the root are one.
pub(super) fn root(file: &TensorFile) -> Option<Value<'_>> {
    let state_dict = |root: &Value<'_>| {
        root.dict().is_some() && root.get("state_dict").is_none() && !file.tensors().is_empty()
    };
    file.root().filter(|root| !state_dict(root))
}

/// Whether the file brings its own configuration.
#[cfg(not(target_family = "wasm"))]
pub(super) fn has_config(file: &TensorFile) -> bool {
    let config = root(file).and_then(|root| root.get("hyper_parameters")?.get("config"));
    config.is_some_and(|config| !config.is_none())
}

/// Reads the checkpoint; `given` tells that a configuration is given beside it, so that its own may be absent or hold references.
pub(super) fn read(
    file: &TensorFile,
    root: Value<'_>,
    raw_weights: bool,
    given: bool,
) -> Result<Lightning, CheckpointError> {
    if root.dict().is_none() {
        let found = root.to_string();
        return Err(LightningError::Root { found }.into());
    }
    if root.get("state_dict").is_none() {
        return Err(LightningError::NoStateDict.into());
    }
    let hyper_parameter =
        |name| (root.get("hyper_parameters")?.get(name)).filter(|value| !value.is_none());
    let mut config = match hyper_parameter("config") {
        Some(tree) => Tree { root: tree, given }.config()?,
        None if given => PartialConfig::default(),
        None => return Err(LightningError::NoConfig.into()),
    };
    for (end, name) in config.noise_range.iter_mut().zip(scalars::NOISE_RANGE) {
        // Training may move the range, and then the tensors hold it; the configuration only says where it began.
        *end = end.filter(|_| !file.tensors().iter().any(|t| plain_name(&t.name) == name));
    }
    // Other arguments of the module stand beside the tree.
    if let Some(root) = root.get("hyper_parameters") {
        config.claims.extend(Tree { root, given }.claims()?);
    }
    let mut unread_tokenizer = None;
    let tokenizer = hyper_parameter("tokenizer").map(Tokenizer::read);
    if let Some(tokenizer) = &tokenizer {
        match &tokenizer.mask {
            Ok(Some((name, index))) => {
                let said =
                    format!("the mask token{name} of the tokenizer in the checkpoint is {index}");
                config.claims.mask_is(said, *index);
            }
            Ok(None) => {}
            Err(what) => {
                unread_tokenizer = Some(format!("the tokenizer in the checkpoint ({what})"))
            }
        }
        (config.bos, config.eos) = (tokenizer.bos, tokenizer.eos);
    }
    let averages = root.get("ema").filter(|ema| !ema.is_none());
    let (source, tensors) = match averages {
        _ if raw_weights => (
            SourceKind::Lightning { ema: false },
            file.tensors().to_vec(),
        ),
        Some(averages) => (SourceKind::Lightning { ema: true }, ema(file, averages)?),
        None => (SourceKind::LightningWithoutEma, file.tensors().to_vec()),
    };
    let (tokenizer, table) = tokenizer
        .map(|tokenizer| (tokenizer.json, tokenizer.table))
        .unzip();
    Ok(Lightning {
        source,
        config,
        tensors,
        unread_tokenizer,
        tokenizer,
        table: table.unwrap_or_default(),
    })
}

/// Pairs the EMA list with the names of the raw weights. Buffers have no averages.
fn ema(file: &TensorFile, averages: Value<'_>) -> Result<Vec<TensorInfo>, CheckpointError> {
    let list = averages.get("shadow_params").and_then(Value::list);
    let list = list.ok_or(LightningError::NoEma)?;
    let is_buffer = |tensor: &&TensorInfo| is_buffer(&plain_name(&tensor.name));
    let (buffers, parameters): (Vec<_>, Vec<_>) = file.tensors().iter().partition(is_buffer);
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
        .chain(buffers.into_iter().cloned().map(Ok))
        .collect()
}

/// The tree of omegaconf objects; plain dictionaries serve as well.
#[derive(Clone, Copy)]
struct Tree<'a> {
    root: Value<'a>,
    /// References to other fields count as absent, since another configuration is given.
    given: bool,
}

impl<'a> Tree<'a> {
    fn field(self, path: &'static str) -> Field<'a> {
        let reference = |value: &Value<'_>| value.text().is_some_and(|text| text.starts_with("${"));
        Field {
            path,
            value: lookup(self.root, path).filter(|value| !(self.given && reference(value))),
        }
    }

    fn claims(self) -> Result<Claims, CheckpointError> {
        Claims::read("the checkpoint", |path| self.field(path).value.map(scalar))
            .map_err(|error| CheckpointError::config(CONFIG, error))
    }

    fn config(self) -> Result<PartialConfig, CheckpointError> {
        let field = |path| self.field(path);
        let either = |first, second| {
            Ok::<_, CheckpointError>(field(first).size()?.or(field(second).size()?))
        };
        let parsed = |error| CheckpointError::config(CONFIG, error);
        let family = (field("algo.name").text()?)
            .map(|name| parse_family("algo.name", name))
            .transpose()
            .map_err(parsed)?;
        // The first published MDLM had no section `algo`.
        let family = match (family, field("parameterization").text()?) {
            (None, Some("subs")) => Some(Family::Mdlm),
            (None, Some("ar")) => Some(Family::Ar),
            (None, Some(name)) => {
                let why = other_kind(name);
                let why = why.unwrap_or("other parameterizations are other kinds of models");
                let known = format!("\"subs\" or \"ar\"; {why}");
                return Err(field("parameterization").invalid(&known));
            }
            (family, _) => family,
        };
        // Fields of other families stand in the tree as well.
        let of = |wanted, path| Field {
            value: field(path).value.filter(|_| family == Some(wanted)),
            path,
        };
        Ok(PartialConfig {
            family,
            hidden: either("model.hidden_size", "model.hidden_dim")?,
            cond_dim: field("model.cond_dim").size()?,
            n_blocks: field("model.n_blocks").size()?,
            n_heads: field("model.n_heads").size()?,
            length: either("model.length", "model.model_length")?,
            vocab_size: None, // the embedding tells
            alpha_0: of(Family::EsoLm, "algo.alpha_0").number()?,
            prepend: (of(Family::Ar, "algo.prepend_token").text()?)
                .map(parse_prepend)
                .transpose()
                .map_err(parsed)?,
            bos: None,
            eos: None,
            more_eos: Vec::new(),
            dropout: field("model.dropout").number()?,
            attention: (of(Family::EsoLm, "algo.diffusion_attn_mode").text()?)
                .map(parse_attention)
                .transpose()
                .map_err(parsed)?,
            block_size: of(Family::Bd3Lm, "block_size").size()?,
            noise_range: [
                of(Family::Bd3Lm, "training.sampling_eps_min").number()?,
                of(Family::Bd3Lm, "training.sampling_eps_max").number()?,
            ],
            // Its code writes no such checkpoints.
            sets: None,
            claims: self.claims()?,
            quantization: None,
            decoder: None,
            conditioned: None,
        })
    }
}

fn scalar(value: Value<'_>) -> Scalar {
    let of = || {
        None.or_else(|| value.boolean().map(Scalar::Truth))
            .or_else(|| value.number().map(Scalar::Number))
            .or_else(|| value.text().map(|text| Scalar::Text(text.into())))
    };
    of().unwrap_or_else(|| Scalar::Other(value.to_string()))
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

pub(super) fn state(value: Value<'_>) -> Option<Value<'_>> {
    value.object()?.state
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

    fn text(&self) -> Result<Option<&'a str>, CheckpointError> {
        self.read(Value::text, "a text")
    }
}
