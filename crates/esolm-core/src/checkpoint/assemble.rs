//! Turns files and what is known about them into a complete and consistent checkpoint.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use esolm_checkpoint::{TensorFile, TensorInfo};

use super::scalars::NoiseRange;
use super::tokenizer::TokenizerJson;
use super::{
    ChatFiles, Checkpoint, CheckpointError, FileError, STATIC_MASK, SourceKind, TOKENIZER, WEIGHTS,
    decoder, lightning, parameter, plain_name, rotary,
};
use crate::config::{Claims, ConfigError, Family, Open, PartialConfig, ReadAs};
use crate::recommended::Recommended;

/// The inputs of a checkpoint.
pub(super) struct Parts<'a> {
    /// One file, or several that together contain the weights.
    pub(super) files: Vec<TensorFile>,
    /// A configuration from outside the file, and its origin.
    pub(super) config: Option<(PartialConfig, String)>,
    /// The text of a tokenizer.json from outside the file.
    pub(super) tokenizer_json: Option<Cow<'a, str>>,
    /// Name of the file from which it was made.
    pub(super) tokenizer_name: &'a str,
    /// Claims of smaller files about the mask, and the name of one that could not be used.
    pub(super) mask: (Claims, Option<String>),
    /// Known tokens of a tokenizer without a tokenizer.json.
    pub(super) table: TokenizerJson,
    pub(super) raw_weights: bool,
    pub(super) read_as: ReadAs,
    /// The source kind to report for a safetensors file.
    pub(super) kind: SourceKind,
    /// Name of the file.
    pub(super) path: &'a Path,
}

impl Parts<'_> {
    /// Files without anything else.
    pub(super) fn new(files: Vec<TensorFile>) -> Self {
        Self {
            files,
            config: None,
            tokenizer_json: None,
            tokenizer_name: TOKENIZER,
            mask: Default::default(),
            table: TokenizerJson::default(),
            raw_weights: false,
            read_as: ReadAs::default(),
            kind: SourceKind::Safetensors,
            path: WEIGHTS.as_ref(),
        }
    }
}

impl Checkpoint {
    /// A checkpoint whose files are all available.
    pub(super) fn new(parts: Parts<'_>) -> Result<Self, CheckpointError> {
        Self::assemble(parts)?.checked()
    }

    /// Compares the additional tensors in the files with what will be computed.
    pub(super) fn checked(mut self) -> Result<Self, CheckpointError> {
        self.noise_range.settle(&self.files, &mut self.config)?;
        if let Some((file, buffer)) = &self.rotary {
            rotary::check(&self.files[*file], buffer, &self.config)?;
        }
        Ok(self)
    }

    /// Selects the weights, completes the configuration from them, and checks each of them against it.
    pub(super) fn assemble(parts: Parts<'_>) -> Result<Self, CheckpointError> {
        let Parts {
            files,
            config,
            tokenizer_json,
            tokenizer_name,
            mask: (claims, unread),
            mut table,
            raw_weights,
            read_as,
            kind,
            path,
        } = parts;
        let (mut source, mut unread_tokenizer, mut pickled) = (kind, unread, None);
        let mut tokenizer_form = None;
        let lightning = match &files[..] {
            [file] => lightning::root(file).map(|root| (file, root)),
            _ => None,
        };
        let ((mut partial, origin), raw) = match lightning {
            Some((file, root)) => {
                let lightning = lightning::read(file, root, raw_weights, config.is_some())?;
                source = lightning.source;
                unread_tokenizer = lightning.unread_tokenizer.or(unread_tokenizer);
                if let Some(own) = lightning.tokenizer {
                    tokenizer_form = Some(own.as_ref().map(|own| own.1).map_err(Clone::clone));
                    pickled = own.ok().map(|own| own.0);
                }
                if lightning.table.count() > 0 {
                    table = lightning.table;
                }
                let config = match config {
                    None => (lightning.config, lightning::CONFIG.into()),
                    Some((mut given, origin)) => {
                        let added = given.add_own(lightning.config);
                        added.map_err(|error| CheckpointError::config(&origin, error))?;
                        (given, origin)
                    }
                };
                (
                    config,
                    lightning
                        .tensors
                        .into_iter()
                        .map(|tensor| (0, tensor))
                        .collect(),
                )
            }
            None if raw_weights => return Err(CheckpointError::RawWeightsNotApplicable),
            None => {
                let none = || CheckpointError::NoConfig { path: path.into() };
                if kind == SourceKind::Safetensors && files[0].root().is_some() {
                    source = SourceKind::StateDict;
                }
                let of = |(number, file): (usize, &TensorFile)| {
                    file.tensors()
                        .to_vec()
                        .into_iter()
                        .map(move |tensor| (number, tensor))
                };
                let tensors: Vec<_> = files.iter().enumerate().flat_map(of).collect();
                (config.ok_or_else(none)?, tensors)
            }
        };
        partial
            .read_as(&read_as)
            .map_err(|e| CheckpointError::config(&origin, e))?;
        partial.claims.extend(claims);
        let text = tokenizer_json.as_deref().or(pickled.as_deref());
        let tokenizer = text.and_then(TokenizerJson::parse);
        if tokenizer_json.is_some() {
            match &tokenizer {
                Some(tokenizer) => {
                    let unclear = tokenizer.tell_masks(tokenizer_name, &mut partial.claims);
                    unread_tokenizer = unclear.or(unread_tokenizer);
                }
                None => unread_tokenizer = Some(tokenizer_name.into()),
            }
            tokenizer_form = None;
        }
        let told = (partial.claims.mask()).map_err(|e| CheckpointError::config(&origin, e))?;
        let told = told.is_some();
        let open = partial.left_open(told);
        // A tokenizer that might name the mask makes for a better error.
        let is_mask_alone = |error: &ConfigError| {
            matches!(
                error,
                ConfigError::Open(Open {
                    model_type: None,
                    block_size: false,
                    ..
                })
            )
        };
        match (open, unread_tokenizer) {
            (Some(error), Some(tokenizer)) if is_mask_alone(&error) => {
                return Err(CheckpointError::MaskUnknown {
                    tokenizer,
                    field: "mask_token_id",
                });
            }
            (Some(error), _) => return Err(CheckpointError::config(&origin, error)),
            (None, Some(tokenizer)) if !told && partial.decoder.is_none() => {
                return Err(CheckpointError::MaskUnknown {
                    tokenizer,
                    field: "mask_index",
                });
            }
            _ => {}
        }
        let mut found: HashMap<String, (usize, TensorInfo)> = HashMap::with_capacity(raw.len());
        for (number, mut tensor) in raw {
            tensor.name = plain_name(&tensor.name);
            if let Some((_, twin)) = found.insert(tensor.name.clone(), (number, tensor)) {
                return Err(FileError::DuplicateTensor { name: twin.name }.into());
            }
        }
        let rotary = found.remove(rotary::BUFFER);
        let noise_range = NoiseRange::new(partial.noise_range, &mut found);
        let mut ignored: Vec<String> = found
            .remove(STATIC_MASK)
            .map(|_| STATIC_MASK.into())
            .into_iter()
            .collect();
        if partial.decoder.is_some() {
            ignored.extend(decoder::take_ignored(&partial, &mut found));
        }
        let rotary_shape = rotary.as_ref().map(|(_, buffer)| buffer.shape.as_slice());
        let mut found = parameter::gather(found, partial.quantization.as_ref())?;
        let shape = |name: &str| match name {
            rotary::BUFFER => rotary_shape,
            name => found.get(name).map(|parameter| parameter.shape.as_slice()),
        };
        let quantization = partial.quantization.clone();
        partial
            .reconcile(shape)
            .map_err(|e| CheckpointError::config(&origin, e))?;
        let config = partial
            .complete()
            .map_err(|e| CheckpointError::config(&origin, e))?;
        let tokenizer = tokenizer.filter(|tokenizer| tokenizer.count() > 0);
        let tokenizer = tokenizer.or_else(|| Some(table).filter(|table| table.count() > 0));
        let unused = match &tokenizer {
            Some(tokenizer)
                if !told
                    && config.decoder.is_none()
                    && tokenizer.count() + 1 < config.vocab_size =>
            {
                return Err(CheckpointError::PaddedMask {
                    tokens: tokenizer.count(),
                    vocab_size: config.vocab_size,
                });
            }
            Some(tokenizer) => tokenizer.unused(config.vocab_size, config.mask_index),
            None => Vec::new(),
        };

        if config.family != Family::Bd3Lm || config.decoder.is_some() {
            ignored.extend(noise_range.names());
        }
        let parameters = parameter::choose(&mut found, &config, quantization.as_ref())?;
        if let Some(name) = found.into_keys().min() {
            return Err(CheckpointError::UnexpectedTensor {
                name,
                family: config.family,
                n_blocks: config.n_blocks,
            });
        }
        let names = parameters.iter().map(|parameter| parameter.name.clone());
        Ok(Self {
            by_name: names.zip(0..).collect(),
            config,
            files,
            parameters,
            quantization,
            rotary,
            noise_range,
            ignored,
            source,
            tokenizer: None,
            tokenizer_json: tokenizer_json.map(Cow::into_owned).or(pickled),
            tokenizer_form,
            mask_told: told,
            unused,
            recommended: Recommended::default(),
            chat: ChatFiles::default(),
        })
    }
}
