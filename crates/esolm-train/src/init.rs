//! Initial weights for training: random ones, distributed as in the published code (models/dit.py and PyTorch's
//! defaults), or those of a checkpoint.

use esolm::checkpoint::{
    Checkpoint, CheckpointError, FileError, SourceKind, TokenizerError, read_tokenizer,
};
use esolm::config::{AttentionKind, Family, ModelConfig, ParamSpec, TIMESTEP_EMBEDDING};
use esolm::rng::Stream;
use esolm::text::TextCodec;

use crate::data::TextTokens;
use crate::recipe::Data;
use crate::weights::{assemble, specs};
use crate::{TrainError, purpose};

/// A network of the given shape with random weights.
///
/// Matrices, their biases and the embedding are uniform in +-1 / sqrt(input width); norms are one; adaLN and the output
/// layer are zero, so that training starts from a network that passes its input through (`DDiTBlock`,
/// `DDiTFinalLayer`).
///
/// # Errors
/// If the configuration is inconsistent.
pub fn random(config: &ModelConfig, seed: u64) -> Result<Checkpoint, CheckpointError> {
    let tensors = config
        .parameters()
        .into_iter()
        .zip(0..)
        .map(|(parameter, index)| {
            let values = drawn(&parameter, index, config, seed);
            (parameter, values)
        });
    assemble(&tensors.collect::<Vec<_>>(), config)
}

/// Random values for parameter number `index`.
fn drawn(parameter: &ParamSpec, index: u32, config: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, index, purpose::INIT);
    let bound = bound(&parameter.name, &parameter.shape, config);
    let mut value = || match bound {
        Bound::Constant(value) => value,
        Bound::Uniform(bound) => ((2.0 * stream.uniform() - 1.0) * bound) as f32,
    };
    (0..parameter.elements()).map(|_| value()).collect()
}

/// A checkpoint to start training from.
#[derive(Debug)]
pub struct Source {
    name: String,
    checkpoint: Checkpoint,
}

impl Source {
    /// A checkpoint, with the name used in recipes and messages: its path, or `hf:owner/name`.
    pub fn new(name: &str, checkpoint: Checkpoint) -> Self {
        Self {
            name: name.into(),
            checkpoint,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The weights for a network of `config`, which has the checkpoint's shape and vocabulary. Quantised weights become
    /// the floats that they represent. If the network has adaLN but the checkpoint does not, scale and shift are 0 and
    /// gates are 1, so that it computes the same function, and the rest of the conditioning is random with `seed`.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn weights(&self, config: &ModelConfig, seed: u64) -> Result<Checkpoint, CheckpointError> {
        let is_there = |name: &str| self.checkpoint.has(name);
        let is_added = |name: &str| !is_there(name) && is_conditioning(name);
        let all = specs(config, |name| is_there(name) || is_added(name));
        let mut tensors = Vec::with_capacity(all.len());
        for (spec, index) in all.into_iter().zip(0..) {
            let values = match &*spec.name {
                name if is_there(name) => self.checkpoint.f32(name)?,
                name if name.ends_with("adaLN_modulation.bias") => neutral(&spec, config.hidden),
                _ => drawn(&spec, index, config, seed),
            };
            tensors.push((spec, values));
        }
        assemble(&tensors, config)
    }

    /// The text of its tokenizer.json, if it has a tokenizer.
    ///
    /// # Errors
    /// If the file cannot be read, or the tokenizer is in an unknown format.
    pub(crate) fn tokenizer(&self) -> Result<Option<String>, TrainError> {
        let unusable = |error: &TokenizerError| {
            TrainError::Tokenizer(format!(
                "the tokenizer that comes with {} {error}",
                self.name
            ))
        };
        if let Some(path) = self.checkpoint.tokenizer_path() {
            let read = std::fs::read(&path).map_err(|e| FileError::io("read", &path, e));
            let bytes = read.map_err(CheckpointError::from)?;
            let (json, _) = read_tokenizer(&path, bytes).map_err(|error| unusable(&error))?;
            return Ok(Some(String::from_utf8_lossy(&json).into_owned()));
        }
        match (
            self.checkpoint.tokenizer_json(),
            self.checkpoint.tokenizer_form(),
        ) {
            (Some(json), _) => Ok(Some(json.into())),
            (None, Some(Err(error))) => Err(unusable(error)),
            (None, _) => Ok(None),
        }
    }

    /// Its tokenizer, or the recipe's if it has none, and the text of the tokenizer.json.
    ///
    /// # Errors
    /// If there is none, it does not match the weights, or the recipe names a different one.
    pub(crate) fn tokens(&self, data: &Data) -> Result<(TextTokens, String), TrainError> {
        let config = self.checkpoint.config();
        let of = |json: &str| TextTokens::of_model(json, &data.separator, config);
        let given = match &data.tokenizer {
            None => None,
            Some(path) => {
                let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
                let (json, _) = read_tokenizer(path, bytes)
                    .map_err(|error| TrainError::Tokenizer(error.to_string()))?;
                Some((path, json))
            }
        };
        let Some(own) = self.tokenizer()? else {
            let (_, json) = given.ok_or_else(|| TrainError::NoTokenizer(self.name.clone()))?;
            TextCodec::from_bytes(&json, config)?;
            let json = String::from_utf8_lossy(&json).into_owned();
            return Ok((of(&json)?, json));
        };
        TextCodec::of_checkpoint(&self.checkpoint)?;
        let tokens = of(&own)?;
        if let Some((path, json)) = given
            && !of(&String::from_utf8_lossy(&json))?.has_tokens_of(&tokens)
        {
            return Err(TrainError::OtherTokenizer {
                path: path.clone(),
                source_name: self.name.clone(),
            });
        }
        Ok((tokens, own))
    }

    /// Notes about starting from it in a network of `config`.
    pub(crate) fn notes(&self, config: &ModelConfig) -> Vec<String> {
        let (name, own) = (&self.name, self.checkpoint.config());
        let mut notes = vec![format!(
            "starting from {name}, {} of {} parameters",
            own.family.one(),
            self.checkpoint.count()
        )];
        let mut note = |is_so: bool, text: String| {
            if is_so {
                notes.push(text);
            }
        };
        note(
            self.checkpoint.source() == SourceKind::LightningWithoutEma,
            format!("{name} has no EMA weights, so its raw ones are taken"),
        );
        note(
            !self.checkpoint.mask_told(),
            format!(
                "{name} does not name its mask, so token {} is taken for it, the last one",
                own.mask_index
            ),
        );
        note(
            self.checkpoint.quantization().is_some(),
            format!(
                "{name} is quantised; what is trained are the floats that its integers stand for"
            ),
        );
        note(
            own.cond_dim == 0 && config.cond_dim > 0,
            format!(
                "{name} has no adaLN; one of model.cond_dim = {} is added, which at first changes nothing",
                config.cond_dim
            ),
        );
        note(
            own.attention == AttentionKind::Mixed && config.family == Family::EsoLm,
            format!(
                "{name} is an Eso-LM (A); what is trained is an Eso-LM (B), whose clean tokens see each other one way"
            ),
        );
        notes
    }
}

/// Whether a parameter is part of the conditioning, which not every network has.
fn is_conditioning(name: &str) -> bool {
    name.starts_with("sigma_map") || name.contains("adaLN_modulation")
}

/// The bias of an adaLN that has no effect: in a block, shift, scale and gate of attention, then of the MLP; in the
/// output layer, shift and scale.
fn neutral(spec: &ParamSpec, hidden: usize) -> Vec<f32> {
    let is_gate = |i: usize| spec.name.starts_with("blocks.") && i / hidden % 3 == 2;
    let values = 0..spec.elements() as usize;
    values.map(|i| f32::from(u8::from(is_gate(i)))).collect()
}

enum Bound {
    Constant(f32),
    Uniform(f64),
}

fn bound(name: &str, shape: &[usize], config: &ModelConfig) -> Bound {
    let zero = name.contains("adaLN_modulation") || name.starts_with("output_layer.linear");
    if zero {
        return Bound::Constant(0.0);
    }
    if name.contains("norm") {
        return Bound::Constant(1.0);
    }
    let n_in = match shape {
        [_, n_in] => *n_in,
        // The remaining biases: both of the timestep embedder, and both of the MLP.
        _ if name.starts_with("sigma_map.mlp.0") => TIMESTEP_EMBEDDING,
        _ if name.starts_with("sigma_map") => config.cond_dim,
        _ if name.ends_with("mlp.0.bias") => config.hidden,
        _ => 4 * config.hidden,
    };
    Bound::Uniform(1.0 / (n_in as f64).sqrt())
}
