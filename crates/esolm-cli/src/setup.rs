//! From options to a model on a device.

use std::path::Path;

use esolm::checkpoint::{Checkpoint, CheckpointError, OpenOptions, SourceKind};
use esolm::config::{ConfigError, ModelConfig};
use esolm::network::store::stored_form;
use esolm::text::TextCodec;
use esolm::{EngineError, Error, MemoryUse, ModelFiles, Serving, ServingOptions};
use esolm_checkpoint::message::count;
use serde_json::{Map, Value, json};

use crate::arguments::{Device, Model, Source};
use crate::failure::Failure;
use crate::output;

/// The name that reports give the model inside the program.
const SHIPPED: &str = "stories";

/// `--tokenizer` of who wants none.
const NO_TOKENIZER: &str = "none";

/// Opens what `--model` or the variable ESOLM_MODEL names, else the small model inside the program; with the name that reports give it.
/// Downloads show how far they are, unless it should be `quiet`.
pub fn checkpoint(model: &Model, quiet: bool) -> Result<(Checkpoint, String), Failure> {
    let options = OpenOptions {
        read_as: model.read_as(),
        config: model.config.clone(),
        raw_weights: model.raw_weights,
        progress: !quiet,
    };
    if let Some(spec) = model
        .model
        .clone()
        .map_or_else(from_environment, |spec| Ok(Some(spec)))?
    {
        let opened = Checkpoint::open(&spec, &options);
        return Ok((opened.map_err(|error| unopened(error, model))?, spec));
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

/// Why a checkpoint was not opened. A block size that an option says is named by the option.
fn unopened(error: CheckpointError, model: &Model) -> Failure {
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
        _ => error.into(),
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

/// As [`checkpoint`], with the tokenizer that `--tokenizer` names, or its own.
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

/// As [`checkpoint`], for what works on tokens.
pub fn open_without_tokenizer(model: &Model, quiet: bool) -> Result<ModelFiles, Failure> {
    let (checkpoint, name) = checkpoint(model, quiet)?;
    Ok(ModelFiles::new(&name, checkpoint, None))
}

/// The checkpoint that `--model` or, in its place, `input` names. It holds the tokenizer that `--tokenizer` names, or its own if it has one.
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

/// Refuses a block size where blocks are not chosen: of the networks of models/dit.py they are when a text is written or a pass is made.
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

/// What `--tokenizer` says.
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

/// How a job computes with its model, by the names of the options. What the model is, its digests tell.
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

/// Says on stderr which token was taken for the mask where nothing in the checkpoint tells.
pub fn note_mask(checkpoint: &Checkpoint) {
    if !checkpoint.mask_told() {
        output::note(&format!(
            "mask: token {}, the last one, since the checkpoint names none",
            checkpoint.config().mask_index
        ));
    }
}

/// Says on stderr what was assumed of a checkpoint.
pub fn note_assumed(files: &ModelFiles) {
    if files.checkpoint().source() == SourceKind::LightningWithoutEma {
        output::note("weights: raw, since the checkpoint holds no EMA weights");
    }
    note_mask(files.checkpoint());
}

/// Loads a model onto the chosen device, and says on stderr which one that is, and what was assumed of the checkpoint.
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

/// As [`load`], for texts that come one after the other.
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

/// Whether fewer or shorter texts at once might have been possible.
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
