//! What a Lightning checkpoint of the published code holds: weights, EMA weights, configuration, tokenizer.
//!
//! `state_dict` names the raw weights. `ema.shadow_params` is an unnamed list in the order of `parameters()` (models/ema.py); that
//! is the order of `state_dict` without its buffers. `hyper_parameters` has the arguments of the module: `config`, a tree of
//! omegaconf objects, and the pickled `tokenizer`, whose mask token, when it has one, is the mask index (algo.py).

use std::collections::HashSet;
use std::ops::Range;

use serde::Deserialize;

use super::pickle::{MAX_BYTES, Pickle, Ref};
use super::zip::{self, Directory};
use super::{
    CheckpointError, Dtype, Guard, MAX_RANK, PREFIX, PickleError, ROTARY_BUFFER, RawTensor,
    check_name,
};
use crate::config::{
    ConfigError, Family, PartialConfig, parse_attention, parse_prepend, refuse_time_conditioning,
};

/// Storages are numbered; a longer key is none of `torch.save`.
const MAX_KEY: usize = 20;

pub(super) struct Lightning {
    /// Empty unless it was asked for.
    pub config: PartialConfig,
    pub tensors: Vec<RawTensor>,
    pub tokenizer_json: Option<String>,
}

pub(super) fn read(
    bytes: &[u8],
    raw_weights: bool,
    with_config: bool,
) -> Result<Lightning, CheckpointError> {
    let directory = Directory::read(bytes)?;
    let (folder, entry) = directory.find("data.pkl")?;
    if let Ok(order) = directory.get(&format!("{folder}/byteorder"))
        && bytes[order.data.clone()].trim_ascii() != b"little"
    {
        return Err(unlike(
            "its byteorder is not \"little\"; save it again on a little-endian machine",
        ));
    }
    let data = &bytes[entry.data.clone()];
    if data.len() > MAX_BYTES {
        return Err(PickleError::TooLarge {
            what: format!("{} bytes, at most {MAX_BYTES} are read", data.len()),
        }
        .into());
    }
    zip::check_crc("data.pkl", data, entry.crc)?;
    let pickle = Pickle::parse(data)?;
    let reader = Reader {
        pickle: &pickle,
        directory: &directory,
        folder,
    };
    let root = pickle.root();
    if pickle.dict(root).is_none() {
        return Err(unlike(format!(
            "its root is {}, a dictionary with state_dict is expected; give the .ckpt of Lightning",
            pickle.kind(root)
        )));
    }
    let raw = reader.state_dict()?;
    let tokenizer = reader.tokenizer();
    let config = if with_config {
        reader.config(tokenizer.as_ref())?
    } else {
        PartialConfig::default()
    };
    let tensors = if raw_weights { raw } else { reader.ema(raw)? };
    Ok(Lightning {
        config,
        tensors,
        tokenizer_json: tokenizer.map(|tokenizer| tokenizer.json),
    })
}

fn unlike(what: impl Into<String>) -> CheckpointError {
    CheckpointError::Lightning(what.into())
}

struct Reader<'a> {
    pickle: &'a Pickle<'a>,
    directory: &'a Directory,
    folder: &'a str,
}

impl Reader<'_> {
    fn state_dict(&self) -> Result<Vec<RawTensor>, CheckpointError> {
        let pickle = self.pickle;
        let dict = pickle.get(pickle.root(), "state_dict");
        let dict =
            dict.ok_or_else(|| unlike("it has no state_dict; give the .ckpt of Lightning"))?;
        let pairs = pickle.dict(dict).ok_or_else(|| {
            unlike(format!(
                "its state_dict is {}, a dictionary is expected",
                pickle.kind(dict)
            ))
        })?;
        let mut seen = HashSet::new();
        let mut tensors = Vec::new();
        for &(key, value) in pairs {
            let name = pickle.text(key).ok_or_else(|| {
                unlike(format!(
                    "a name in its state_dict is {}, a text is expected",
                    pickle.kind(key)
                ))
            })?;
            check_name(name)?;
            // Before anything is copied: a hostile file could repeat one name without end.
            if !seen.insert(name) {
                return Err(CheckpointError::DuplicateTensor { name: name.into() });
            }
            tensors.push(self.tensor(name, value)?);
        }
        Ok(tensors)
    }

    /// Pairs the EMA list with the names of the raw weights.
    fn ema(&self, raw: Vec<RawTensor>) -> Result<Vec<RawTensor>, CheckpointError> {
        let pickle = self.pickle;
        let list = pickle
            .get(pickle.root(), "ema")
            .filter(|&ema| !pickle.is_none(ema))
            .and_then(|ema| pickle.get(ema, "shadow_params"));
        let Some(list) = list.and_then(|list| pickle.list(list)) else {
            return Err(unlike(
                "it has no EMA weights (ema.shadow_params); take state_dict with --raw-weights",
            ));
        };
        let parameters: Vec<RawTensor> = raw
            .into_iter()
            .filter(|tensor| tensor.name.strip_prefix(PREFIX) != Some(ROTARY_BUFFER))
            .collect();
        if list.len() != parameters.len() {
            return Err(unlike(format!(
                "ema.shadow_params lists {} tensors but state_dict names {} parameters, so they cannot be paired; take state_dict with --raw-weights",
                list.len(),
                parameters.len()
            )));
        }
        parameters
            .into_iter()
            .zip(list)
            .enumerate()
            .map(|(index, (parameter, &value))| {
                let tensor = self.tensor(&parameter.name, value)?;
                if tensor.shape != parameter.shape {
                    return Err(unlike(format!(
                        "ema.shadow_params[{index}] has shape {:?} but {} in state_dict has {:?}, so they cannot be paired; \
                         take state_dict with --raw-weights",
                        tensor.shape, parameter.name, parameter.shape
                    )));
                }
                Ok(tensor)
            })
            .collect()
    }

    /// Finds the values of a tensor in the file. `value` is the record of a call of `torch._utils._rebuild_tensor_v2(storage,
    /// offset, size, stride, ...)`, perhaps inside one of `_rebuild_parameter(tensor, ...)`.
    fn tensor(&self, name: &str, value: Ref) -> Result<RawTensor, CheckpointError> {
        let pickle = self.pickle;
        let fail = |what: String| unlike(format!("tensor {name} {what}"));
        let mut value = value;
        let args = loop {
            let call = pickle
                .object(value)
                .and_then(|(class, args, _)| Some((pickle.global(class)?, pickle.tuple(args)?)));
            match call {
                Some((("torch._utils", "_rebuild_parameter"), &[inner, ..])) if inner != value => {
                    let inner_class = pickle
                        .object(inner)
                        .and_then(|(class, _, _)| pickle.global(class));
                    if inner_class == Some(("torch._utils", "_rebuild_parameter")) {
                        return Err(fail(
                            "is a parameter of a parameter; write the checkpoint again".into(),
                        ));
                    }
                    value = inner;
                }
                Some((("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor"), args)) => {
                    break args;
                }
                _ => {
                    return Err(fail(format!(
                        "is {}, a dense tensor is expected; save plain tensors",
                        pickle.kind(value)
                    )));
                }
            }
        };
        let &[storage, offset, size, stride, ..] = args else {
            return Err(fail(
                "is described by too few values; write the checkpoint again".into(),
            ));
        };
        let shape = self.sizes(size).ok_or_else(|| {
            fail(format!(
                "has no shape of up to {MAX_RANK} sizes; write the checkpoint again"
            ))
        })?;
        let strides = self
            .sizes(stride)
            .filter(|strides| strides.len() == shape.len());
        let strides = strides.ok_or_else(|| {
            fail("has no strides that fit its shape; write the checkpoint again".into())
        })?;
        let elements = shape
            .iter()
            .try_fold(1usize, |product, &n| product.checked_mul(n));
        let elements = elements.ok_or_else(|| {
            fail(format!(
                "has the absurd shape {shape:?}; write the checkpoint again"
            ))
        })?;
        if !contiguous(&shape, &strides) {
            return Err(fail(format!(
                "of shape {shape:?} has strides {strides:?}; save it after .contiguous()"
            )));
        }

        let (key, dtype) = self.storage(storage).map_err(&fail)?;
        let entry = self.directory.get(&format!("{}/data/{key}", self.folder))?;
        let range = dtype.size().and_then(|bytes| {
            let start = usize::try_from(pickle.int(offset)?)
                .ok()?
                .checked_mul(bytes)?;
            let end = start.checked_add(elements.checked_mul(bytes)?)?;
            (end <= entry.data.len()).then(|| entry.data.start + start..entry.data.start + end)
        });
        let range: Range<usize> = range.ok_or_else(|| {
            fail(format!("of shape {shape:?} reaches beyond its storage data/{key} of {} bytes; the file is damaged, copy it again", entry.data.len()))
        })?;
        let guard = Guard {
            entry: format!("data/{key}"),
            range: entry.data.clone(),
            crc: entry.crc,
        };
        Ok(RawTensor {
            name: name.into(),
            dtype,
            shape,
            range,
            guard: Some(guard),
        })
    }

    /// Key and element type of a storage: the persistent id `('storage', class, key, location, elements)`.
    fn storage(&self, value: Ref) -> Result<(&str, Dtype), String> {
        let pickle = self.pickle;
        let id = pickle.persistent(value).and_then(|id| pickle.tuple(id));
        let Some(&[tag, class, key, ..]) = id else {
            return Err(format!(
                "has {} where its storage is expected; write the checkpoint again",
                pickle.kind(value)
            ));
        };
        let key = pickle.text(key).filter(|key| {
            !key.is_empty() && key.len() <= MAX_KEY && key.bytes().all(|b| b.is_ascii_digit())
        });
        let (Some("storage"), Some(key)) = (pickle.text(tag), key) else {
            return Err("names no storage of the file; write the checkpoint again".into());
        };
        let other = |name: &str, size| Dtype::Other(name.into(), Some(size));
        let dtype = match pickle.global(class) {
            Some(("torch", "FloatStorage")) => Dtype::F32,
            Some(("torch", "HalfStorage")) => Dtype::F16,
            Some(("torch", "BFloat16Storage")) => Dtype::Bf16,
            Some(("torch", "DoubleStorage")) => other("f64", 8),
            Some(("torch", "LongStorage")) => other("i64", 8),
            Some(("torch", "IntStorage")) => other("i32", 4),
            Some(("torch", "ShortStorage")) => other("i16", 2),
            Some(("torch", "CharStorage")) => other("i8", 1),
            Some(("torch", "ByteStorage")) => other("u8", 1),
            Some(("torch", "BoolStorage")) => other("bool", 1),
            _ => {
                return Err(format!(
                    "has a storage of {}, float, half or bfloat16 is expected; convert it first",
                    pickle.kind(class)
                ));
            }
        };
        Ok((key, dtype))
    }

    fn sizes(&self, value: Ref) -> Option<Vec<usize>> {
        let items = self
            .pickle
            .tuple(value)
            .filter(|items| items.len() <= MAX_RANK)?;
        items
            .iter()
            .map(|&item| usize::try_from(self.pickle.int(item)?).ok())
            .collect()
    }

    fn hyper_parameter(&self, name: &str) -> Option<Ref> {
        let all = self.pickle.get(self.pickle.root(), "hyper_parameters")?;
        self.pickle.get(all, name)
    }

    /// The tree of omegaconf objects; plain dictionaries serve as well.
    fn config(&self, tokenizer: Option<&Tokenizer>) -> Result<PartialConfig, CheckpointError> {
        let root = self.hyper_parameter("config").ok_or_else(|| {
            unlike("it has no hyper_parameters.config; give a configuration with --config FILE")
        })?;
        self.fields(root, tokenizer)
            .map_err(|e| CheckpointError::config("hyper_parameters.config", e))
    }

    fn fields(
        &self,
        root: Ref,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<PartialConfig, ConfigError> {
        let field = |path: &'static str| Field {
            pickle: self.pickle,
            path,
            value: self.lookup(root, path),
        };
        let either =
            |first, second| Ok::<_, ConfigError>(field(first).size()?.or(field(second).size()?));
        let algorithm = field("algo.name");
        let family = match algorithm.text()? {
            None => None,
            Some("esolm") => Some(Family::EsoLm),
            Some("mdlm") => Some(Family::Mdlm),
            Some("ar") => Some(Family::Ar),
            Some(_) => {
                return Err(algorithm
                    .invalid("\"esolm\", \"mdlm\" or \"ar\"; other algorithms cannot be run"));
            }
        };
        refuse_time_conditioning(field("algo.time_conditioning").boolean()?)?;
        let esolm = family == Some(Family::EsoLm);
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
            alpha_0: if esolm {
                field("algo.alpha_0").number()?
            } else {
                None
            },
            prepend: if family == Some(Family::Ar) {
                field("algo.prepend_token")
                    .text()?
                    .map(parse_prepend)
                    .transpose()?
            } else {
                None
            },
            bos: special(|tokenizer| tokenizer.bos),
            eos: special(|tokenizer| tokenizer.eos),
            dropout: field("model.dropout").number()?,
            attention: if esolm {
                field("algo.diffusion_attn_mode")
                    .text()?
                    .map(parse_attention)
                    .transpose()?
            } else {
                None
            },
        })
    }

    /// Follows a dotted path; `None` and omegaconf's mark for a missing value count as absent.
    fn lookup(&self, root: Ref, path: &str) -> Option<Ref> {
        let mut value = self.unwrap(root);
        for key in path.split('.') {
            value = self.unwrap(self.pickle.get(value, key)?);
        }
        (!self.pickle.is_none(value) && self.pickle.text(value) != Some("???")).then_some(value)
    }

    /// The content of an omegaconf container or node, which stands in the object's state.
    fn unwrap(&self, value: Ref) -> Ref {
        let state = self.pickle.object(value).and_then(|(_, _, state)| state);
        state
            .and_then(|state| {
                self.pickle
                    .get(state, "_content")
                    .or_else(|| self.pickle.get(state, "_val"))
            })
            .unwrap_or(value)
    }

    /// The pickled `transformers` tokenizer, as far as it can be read; nothing depends on it but the mask index.
    fn tokenizer(&self) -> Option<Tokenizer> {
        let pickle = self.pickle;
        let state = |value| pickle.object(value).and_then(|(_, _, state)| state);
        let outer = state(self.hyper_parameter("tokenizer")?)?;
        let inner = state(pickle.get(outer, "_tokenizer")?)?;
        let json = self.bytes_of(inner)?;
        let TokenizerJson { added_tokens } = serde_json::from_str(&json).ok()?;
        let id = |name: &str| {
            // Newer versions keep the special tokens in one map, older ones in fields of their own.
            let map = pickle.get(outer, "_special_tokens_map");
            let token = map
                .and_then(|map| pickle.get(map, name))
                .or_else(|| pickle.get(outer, &format!("_{name}")))?;
            let content = pickle
                .text(token)
                .or_else(|| pickle.text(pickle.get(state(token)?, "content")?))?;
            added_tokens
                .iter()
                .find(|token| token.content == content)
                .map(|token| token.id)
        };
        Some(Tokenizer {
            mask: id("mask_token"),
            bos: id("bos_token"),
            eos: id("eos_token"),
            json,
        })
    }

    /// The text of a bytes value. Protocol 2 has no bytes: it calls `_codecs.encode(text, 'latin1')`.
    fn bytes_of(&self, value: Ref) -> Option<String> {
        let pickle = self.pickle;
        let Some((class, args, _)) = pickle.object(value) else {
            return pickle.text(value).map(str::to_string);
        };
        let (Some(("_codecs", "encode")), Some(&[text, encoding])) =
            (pickle.global(class), pickle.tuple(args))
        else {
            return None;
        };
        if pickle.text(encoding) != Some("latin1") {
            return None;
        }
        let bytes = pickle
            .text(text)?
            .chars()
            .map(|c| u8::try_from(u32::from(c)).ok())
            .collect::<Option<Vec<u8>>>()?;
        String::from_utf8(bytes).ok()
    }
}

/// Strides of a tensor without gaps, outermost first; those of dimensions of size one do not matter.
fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    for (&n, &stride) in shape.iter().zip(strides).rev() {
        if n != 1 && stride != expected {
            return shape.contains(&0);
        }
        expected = expected.saturating_mul(n);
    }
    true
}

struct Tokenizer {
    mask: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    json: String,
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
    pickle: &'a Pickle<'a>,
    path: &'static str,
    value: Option<Ref>,
}

impl<'a> Field<'a> {
    fn invalid(&self, expected: &str) -> ConfigError {
        let found = self
            .value
            .map_or("absent".into(), |value| self.pickle.kind(value));
        let expected = match self.value.and_then(|value| self.pickle.text(value)) {
            Some(text) if text.starts_with("${") => format!(
                "{expected}, and interpolations are not resolved; give a configuration with --config FILE"
            ),
            _ => expected.into(),
        };
        ConfigError::Invalid {
            field: self.path,
            found,
            expected,
        }
    }

    fn read<T>(
        &self,
        read: impl Fn(Ref) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>, ConfigError> {
        self.value
            .map(|value| read(value).ok_or_else(|| self.invalid(expected)))
            .transpose()
    }

    fn size(&self) -> Result<Option<usize>, ConfigError> {
        self.read(
            |value| usize::try_from(self.pickle.int(value)?).ok(),
            "a whole number",
        )
    }

    fn number(&self) -> Result<Option<f64>, ConfigError> {
        self.read(|value| self.pickle.number(value), "a number")
    }

    fn boolean(&self) -> Result<Option<bool>, ConfigError> {
        self.read(|value| self.pickle.boolean(value), "True or False")
    }

    fn text(&self) -> Result<Option<&'a str>, ConfigError> {
        self.read(|value| self.pickle.text(value), "a text")
    }
}
