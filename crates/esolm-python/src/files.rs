//! What a model is loaded from, and what it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use esolm::checkpoint::{ChatFiles, Checkpoint, FileError, OpenOptions};
use esolm::config::{AttentionKind, DecoderKind, Family, ModelConfig, ReadAs};
use esolm::likelihood::Purpose;
use esolm::text::TextCodec;
use esolm::{
    Activations, DeviceInfo, Likelihood, LoadOptions, ModelFiles, Precision, Recommended, Request,
    Weights, cpu,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Failure;
use crate::value::{options, value};
use crate::wait::wait_for;

/// How a model is opened, and loaded.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    device: Option<String>,
    weights: Option<Weights>,
    activations: Activations,
    kv_cache: Precision,
    variants: String,
    raw_weights: bool,
    /// MDLM or BD3-LM, of a decoder that may be either. `as` is a word of Python's own.
    #[serde(rename = "as_")]
    family: Option<Family>,
    block_size: Option<usize>,
    config: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    chat_template: Option<PathBuf>,
    /// What headers call the model.
    name: Option<String>,
}

/// The name of the small model inside the package.
const SHIPPED: &str = "stories";

impl Load {
    /// How the device is to hold it.
    pub fn options(&self) -> Result<LoadOptions, Failure> {
        Ok(LoadOptions {
            device: self.device.as_deref().unwrap_or("auto").parse()?,
            weights: self.weights,
            activations: self.activations,
            kv_cache: self.kv_cache,
            variants: self.variants.parse()?,
        })
    }

    /// Opens a checkpoint, without loading its weights; without a source the small model inside the package.
    pub fn open(&self, source: Option<&str>) -> Result<ModelFiles, Failure> {
        let read_as = ReadAs {
            family: self.family,
            block_size: self.block_size,
            mask: None,
        };
        // Of two downloads of a file at the same time the second would be refused, even if Ctrl-C ended the wait for the first.
        static DOWNLOAD: Mutex<()> = Mutex::new(());
        let is_download = source.is_some_and(|source| source.starts_with("hf:"));
        let _turn = is_download.then(|| DOWNLOAD.lock().unwrap_or_else(PoisonError::into_inner));
        let checkpoint = match source {
            Some(source) => Checkpoint::open(
                source,
                &OpenOptions {
                    config: self.config.clone(),
                    raw_weights: self.raw_weights,
                    progress: false,
                    read_as,
                },
            )?,
            None if self.config.is_some() || self.raw_weights || self.family.is_some() => {
                return Err(Failure::new(
                    "option",
                    "config, raw_weights and as_ say how to read a checkpoint; name the checkpoint",
                ));
            }
            None => shipped()?,
        };
        self.check_block_size(checkpoint.config())?;
        let codec = match &self.tokenizer {
            Some(path) => Some(TextCodec::from_file(path, checkpoint.config())?),
            None => TextCodec::of_checkpoint(&checkpoint)?,
        };
        let name = self.name.as_deref().or(source).unwrap_or(SHIPPED);
        let chat = self.chat_files(&checkpoint)?;
        Ok(ModelFiles::new(name, checkpoint, codec).with_chat_files(chat))
    }

    /// Blocks are chosen here of a decoder alone; of other networks they are when a text is written.
    fn check_block_size(&self, config: &ModelConfig) -> Result<(), Failure> {
        let is_used = config.block_size.is_some() && config.decoder.is_some();
        if self.block_size.is_none() || is_used {
            return Ok(());
        }
        let why = match (config.family, &config.decoder) {
            (Family::Bd3Lm, None) => "a BD3-LM that was trained with blocks of a certain size",
            (family, _) => family.one(),
        };
        let message = format!(
            "block_size does not apply to loading {why}; leave it out, or give it to generate()"
        );
        Err(Failure::new("option", message).with(json!({"option": "block_size", "why": why})))
    }

    fn chat_files(&self, checkpoint: &Checkpoint) -> Result<ChatFiles, Failure> {
        let read = |path: &Path, error| {
            Failure::from(esolm::Error::Checkpoint(
                FileError::io("read", path, error).into(),
            ))
        };
        let mut chat = checkpoint.chat_files().clone();
        if let Some(path) = &self.tokenizer {
            let beside = ChatFiles::beside(path).map_err(|(path, error)| read(&path, error))?;
            if beside != ChatFiles::default() {
                chat = beside;
            }
        }
        if let Some(path) = &self.chat_template {
            let text = std::fs::read_to_string(path);
            chat.template = Some(text.map_err(|error| read(path, error))?);
        }
        Ok(chat)
    }
}

fn shipped() -> Result<Checkpoint, Failure> {
    let weights = esolm_stories::WEIGHTS.to_vec();
    let checkpoint = Checkpoint::from_safetensors_bytes(esolm_stories::CONFIG, weights)?;
    Ok(checkpoint
        .with_tokenizer_json(esolm_stories::TOKENIZER)
        .with_generation_config(esolm_stories::GENERATION, SHIPPED)?)
}

/// The source of a model as text. A path and a name are both text in Python.
pub fn source(given: Option<PathBuf>) -> Result<Option<String>, Failure> {
    let text = given.map(|path| path.into_os_string().into_string());
    text.transpose().map_err(|path| {
        let message = format!("the path {path:?} is not UTF-8 text; give another path");
        Failure::new("checkpoint", message)
    })
}

/// What a checkpoint is, from its configuration and tensor directory. Nothing is loaded.
#[pyfunction]
pub fn inspect<'py>(
    py: Python<'py>,
    given: Option<PathBuf>,
    how: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    let load: Load = options(how)?;
    let source = source(given)?;
    let files = wait_for(py, move || load.open(source.as_deref()))??;
    let config = files.config();
    let forms = [Weights::F32, Weights::F16, Weights::Q8, Weights::Q4];
    let inspected = Inspected {
        info: Info::of(&files),
        form: files.checkpoint().source().to_string(),
        mask_told: files.checkpoint().mask_told(),
        memory: forms
            .map(|form| (form.to_string(), cpu::memory_needed(config, form)[0]))
            .into(),
        cache_bytes: cpu::memory_needed(config, Weights::F32)[1],
        ignored: files.checkpoint().ignored(),
    };
    value(py, &inspected)
}

/// What a model is.
#[derive(Serialize)]
pub struct Info<'a> {
    name: &'a str,
    family: Family,
    attention: AttentionKind,
    /// The network of a decoder.
    decoder: Option<DecoderKind>,
    hidden: usize,
    n_blocks: usize,
    n_heads: usize,
    length: usize,
    vocab_size: usize,
    /// None of a model that has none.
    mask_index: Option<u32>,
    alpha_0: Option<f64>,
    block_size: Option<usize>,
    parameters: u64,
    bos: Option<u32>,
    eos: Option<u32>,
    /// The token that texts open with.
    opening: Option<u32>,
    has_tokenizer: bool,
    /// Whether its likelihoods are exact, rather than bounds.
    exact: bool,
    recommended: &'a Recommended,
    file_bytes: u64,
}

impl<'a> Info<'a> {
    pub fn of(files: &'a ModelFiles) -> Self {
        let config = files.config();
        let ends = files.codec().map(TextCodec::ends);
        let scored = Likelihood::default().resolve(config, Purpose::Score);
        Self {
            name: files.name(),
            family: config.family,
            attention: config.attention,
            decoder: config.decoder.map(|decoder| decoder.kind),
            hidden: config.hidden,
            n_blocks: config.n_blocks,
            n_heads: config.n_heads,
            length: config.length,
            vocab_size: config.vocab_size,
            mask_index: config.mask(),
            alpha_0: config.alpha_0,
            block_size: config.block_size,
            parameters: files.checkpoint().count(),
            bos: ends.as_ref().map_or(config.bos, |ends| ends.bos),
            eos: ends.as_ref().map_or(config.eos, |ends| ends.eos),
            opening: Request::default().opening(config, files.codec()),
            has_tokenizer: ends.is_some(),
            exact: scored.is_ok_and(|scored| scored.orders > 0),
            recommended: files.recommended(),
            file_bytes: files.checkpoint().file_bytes(),
        }
    }
}

/// What a checkpoint is.
#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    info: Info<'a>,
    form: String,
    /// False where the last token was taken for the mask.
    mask_told: bool,
    /// Bytes that loading takes on the CPU, by the form of the weights.
    memory: BTreeMap<String, u64>,
    /// Bytes of the cache of a text as long as the context.
    cache_bytes: u64,
    /// Tensors in the files that nothing is computed with.
    ignored: &'a [String],
}

/// What a model is loaded as.
#[derive(Serialize)]
pub struct Loaded<'a> {
    /// Of a model that can be talked to.
    pub chat: Option<Talks>,
    pub device: Device<'a>,
}

/// How a model is talked to.
#[derive(Serialize)]
pub struct Talks {
    /// Whether its template asks if it is to think first.
    pub think: bool,
}

#[derive(Serialize)]
pub struct Device<'a> {
    #[serde(flatten)]
    pub info: &'a DeviceInfo,
    /// One line for people.
    pub text: String,
}
