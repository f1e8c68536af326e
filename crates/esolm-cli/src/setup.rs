//! From options to a model on a device.

use std::path::Path;

use esolm::checkpoint::{Checkpoint, CheckpointError, FileError, OpenOptions, SourceKind};
use esolm::config::{ConfigError, ModelConfig};
use esolm::network::store::stored_form;
use esolm::text::TextCodec;
use esolm::{EngineError, Error, MemoryUse, ModelFiles, Serving, ServingOptions};
use esolm_checkpoint::message::count;
use serde_json::{Map, Value, json};

use crate::arguments::{Device, Model, Source};
use crate::failure::Failure;
use crate::output;

/// The name of the built-in model in reports.
const SHIPPED: &str = "stories";

/// The value of `--tokenizer` for none.
const NO_TOKENIZER: &str = "none";

/// Opens the checkpoint given by `--model` or the variable ESOLM_MODEL, by default the small built-in model; also
/// returns its name in reports. Downloads show a progress bar unless `quiet`.
pub fn checkpoint(model: &Model, quiet: bool) -> Result<(Checkpoint, String), Failure> {
    let options = OpenOptions {
        read_as: model.read_as(),
        config: model.config.clone(),
        raw_weights: model.raw_weights,
        progress: !quiet,
    };
    let (spec, name) = match model.model.clone() {
        Some(spec) => (Some(spec.clone()), spec),
        None => {
            let spec = from_environment()?;
            let name = format!("ESOLM_MODEL={}", spec.as_deref().unwrap_or_default());
            (spec, name)
        }
    };
    if let Some(spec) = spec {
        let opened = Checkpoint::open(&spec, &options);
        let opened = opened.map_err(|error| unopened(error, model, &name));
        return Ok((opened?, spec));
    }
    if options.config.is_some() || options.raw_weights || options.read_as.family.is_some() {
        return Err(Failure::usage(
            "--config, --raw-weights and --as say how to read a checkpoint; name it with --model",
        ));
    }
    let weights = esolm_stories::WEIGHTS.to_vec();
    let checkpoint = Checkpoint::from_safetensors_bytes(esolm_stories::CONFIG, weights)?;
    let checkpoint = checkpoint
        .with_tokenizer_json(esolm_stories::TOKENIZER)
        .with_generation_config(esolm_stories::GENERATION, SHIPPED)?;
    Ok((checkpoint, SHIPPED.into()))
}

/// The error for a checkpoint that was not opened, which `name` names. A wrong block size from an option is attributed to
/// the option.
fn unopened(error: CheckpointError, model: &Model, name: &str) -> Failure {
    let names_file = match &error {
        CheckpointError::File(error) => matches!(error, FileError::Io { .. }),
        _ => model.model.is_some(),
    };
    match (&error, model.block_size) {
        (
            CheckpointError::Config {
                source:
                    ConfigError::Invalid {
                        field: "block_size",
                        found,
                        expected,
                    },
                ..
            },
            Some(size),
        ) if *found == size.to_string() => {
            Failure::usage(format!("--block-size is {size}; it must be {expected}"))
        }
        _ if names_file => error.into(),
        _ => Failure::from(error).about(name),
    }
}

fn from_environment() -> Result<Option<String>, Failure> {
    let spec = std::env::var_os("ESOLM_MODEL").filter(|spec| !spec.is_empty());
    let text = spec.map(|spec| spec.into_string()).transpose();
    text.map_err(|_| {
        Failure::usage(
            "the variable ESOLM_MODEL is not UTF-8 text; name the checkpoint with --model",
        )
    })
}

/// As [`checkpoint`], with the tokenizer given by `--tokenizer`, or the checkpoint's own.
pub fn open(source: &Source, quiet: bool) -> Result<ModelFiles, Failure> {
    let (checkpoint, name) = checkpoint(&source.model, quiet)?;
    let codec = match Choice::of(source) {
        Choice::None => None,
        Choice::File(path) => Some(TextCodec::from_file(path, checkpoint.config())?),
        Choice::Own => Some(TextCodec::of_checkpoint(&checkpoint)?.ok_or_else(|| {
            let why = match checkpoint.tokenizer_form() {
                Some(Err(error)) => format!("the tokenizer that comes with the checkpoint {error}"),
                _ => "the checkpoint comes without a tokenizer".into(),
            };
            Failure::failed(format!(
                "{why}; give its tokenizer.json with --tokenizer FILE, or --tokenizer none to print token numbers"
            ))
        })?),
    };
    Ok(ModelFiles::new(&name, checkpoint, codec))
}

/// As [`checkpoint`], for commands that work on tokens.
pub fn open_without_tokenizer(model: &Model, quiet: bool) -> Result<ModelFiles, Failure> {
    let (checkpoint, name) = checkpoint(model, quiet)?;
    Ok(ModelFiles::new(&name, checkpoint, None))
}

/// The checkpoint given by `input`, or else by `--model`, with the tokenizer given by `--tokenizer`, or its own if it
/// has one.
pub fn described(source: &Source, input: &Option<String>) -> Result<(Checkpoint, String), Failure> {
    let model = Model {
        model: input.clone().or_else(|| source.model.model.clone()),
        ..source.model.clone()
    };
    let (checkpoint, name) = checkpoint(&model, false)?;
    check_block_size(&model, checkpoint.config())?;
    note_mask(&checkpoint);
    let checkpoint = match Choice::of(source) {
        Choice::Own => checkpoint,
        Choice::None => checkpoint.without_tokenizer(),
        Choice::File(path) => {
            TextCodec::from_file(path, checkpoint.config())?;
            checkpoint.with_tokenizer_file(path)
        }
    };
    Ok((checkpoint, name))
}

/// Refuses a block size where it cannot be chosen. For the networks of models/dit.py, it can be chosen when a text is
/// written or a pass is run.
pub fn check_block_size(model: &Model, config: &ModelConfig) -> Result<(), Failure> {
    Err(Failure::usage(
        match (model.block_size, config.block_size, &config.decoder) {
            (None, ..) | (_, Some(_), Some(_)) => return Ok(()),
            (_, Some(own), None) => format!(
                "--block-size changes the blocks that `sample` and `forward` take, and here this BD3-LM has those of {} that it was \
                 trained with; leave it out",
                count(own, "token")
            ),
            (_, None, _) => format!(
                "--block-size is for BD3-LMs, and this is {}; leave it out",
                config.family.one()
            ),
        },
    ))
}

/// The value of `--tokenizer`.
enum Choice<'a> {
    Own,
    None,
    File(&'a Path),
}

impl<'a> Choice<'a> {
    fn of(source: &'a Source) -> Self {
        match source.tokenizer.as_deref() {
            None => Self::Own,
            Some(path) if path == Path::new(NO_TOKENIZER) => Self::None,
            Some(path) => Self::File(path),
        }
    }
}

/// The options that affect the results of a job, by name. The model itself is identified by its digests.
pub fn identity(
    source: &Source,
    device: &Device,
    files: &ModelFiles,
) -> Result<Map<String, Value>, Failure> {
    let weights = match device.weights {
        Some(weights) => weights,
        None => pollster::block_on(stored_form(files.checkpoint())).map_err(Error::from)?,
    };
    let fields = json!({
        "raw_weights": source.model.raw_weights,
        "weights": weights,
        "activations": device.activations,
        "kv_cache": device.kv_cache,
    });
    Ok(match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    })
}

/// Reports on stderr which token is taken as the mask, if nothing in the checkpoint determines it.
pub fn note_mask(checkpoint: &Checkpoint) {
    if !checkpoint.mask_told() {
        output::note(&format!(
            "mask: token {}, the last one, since the checkpoint names none",
            checkpoint.config().mask_index
        ));
    }
}

/// Reports on stderr what was assumed about a checkpoint.
pub fn note_assumed(files: &ModelFiles) {
    if files.checkpoint().source() == SourceKind::LightningWithoutEma {
        output::note("weights: raw, since the checkpoint holds no EMA weights");
    }
    note_mask(files.checkpoint());
}

/// Loads a model onto the chosen device; reports on stderr which device it is, and what was assumed about the
/// checkpoint.
pub fn load(files: ModelFiles, device: &Device, quiet: bool) -> Result<esolm::Model, Failure> {
    if !quiet {
        note_assumed(&files);
    }
    let model = esolm::Model::load_blocking(files, device.options())?;
    if !quiet {
        output::note(&format!("device: {}", model.device()));
    }
    Ok(model)
}

/// As [`load`], for a running batch of texts.
pub fn serve(
    files: ModelFiles,
    device: &Device,
    options: ServingOptions,
    quiet: bool,
) -> Result<Serving, Error> {
    if !quiet {
        note_assumed(&files);
    }
    let serving = pollster::block_on(Serving::start(files, device.options(), options))?;
    if !quiet {
        let texts = count(options.places, "text");
        output::note(&format!("device: {}, {texts} at once", serving.device()));
    }
    Ok(serving)
}

/// Whether the error might not occur with fewer or shorter texts at once.
pub fn is_of_memory(error: &Error) -> bool {
    matches!(
        error,
        Error::Engine(
            EngineError::HostMemory {
                purpose: MemoryUse::Batch { .. },
                ..
            } | EngineError::Memory { .. }
                | EngineError::DeviceMemory(_)
        )
    )
}
