//! From options to a checkpoint, its tokenizer and an engine on a device.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm::text::TextCodec;
use esolm::{Engine, EngineOptions};

use crate::arguments::{Device, Model};
use crate::failure::Failure;

/// The name that reports give the model inside the program.
const SHIPPED: &str = "stories";

/// Opens what `--model` or the variable ESOLM_MODEL names, else the small model inside the program; with the name that reports give it.
pub fn open(model: &Model) -> Result<(Checkpoint, String), Failure> {
    let options = OpenOptions {
        config: model.config.clone(),
        raw_weights: model.raw_weights,
    };
    if let Some(spec) = model
        .model
        .clone()
        .map_or_else(from_environment, |spec| Ok(Some(spec)))?
    {
        return Ok((Checkpoint::open(&spec, &options)?, spec));
    }
    if options.config.is_some() || options.raw_weights {
        return Err(Failure::usage(
            "--config and --raw-weights say how to read a checkpoint; name it with --model",
        ));
    }
    let weights = esolm_stories::WEIGHTS.to_vec();
    let checkpoint = Checkpoint::from_safetensors_bytes(esolm_stories::CONFIG, weights)?;
    let checkpoint = checkpoint.with_tokenizer_json(esolm_stories::TOKENIZER);
    Ok((checkpoint, SHIPPED.into()))
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

/// The tokenizer of a checkpoint, or nothing for `--tokenizer none`.
pub fn codec(checkpoint: &Checkpoint, chosen: Option<&Path>) -> Result<Option<TextCodec>, Failure> {
    if chosen == Some(Path::new("none")) {
        return Ok(None);
    }
    let file: Option<PathBuf> = chosen
        .map(Path::to_path_buf)
        .or_else(|| checkpoint.tokenizer_path());
    let config = checkpoint.config();
    Ok(Some(match (file, checkpoint.tokenizer_json()) {
        (Some(file), _) => TextCodec::from_file(&file, config)?,
        (None, Some(json)) => TextCodec::from_bytes(json.as_bytes(), config)?,
        (None, None) => {
            return Err(Failure::failed(
                "the checkpoint comes without a tokenizer; give its tokenizer.json with --tokenizer FILE, or --tokenizer none to \
                 print token numbers",
            ));
        }
    }))
}

/// Loads a checkpoint onto the chosen device, and says on stderr which one that is.
pub fn load(checkpoint: &Checkpoint, device: &Device, quiet: bool) -> Result<Engine, Failure> {
    let options = EngineOptions {
        device: device.device,
        weights: device.weights,
        kv_cache: device.kv_cache,
        variants: device.variants,
    };
    let engine = pollster::block_on(Engine::load(checkpoint, &options))?;
    if !quiet {
        crate::output::note(&format!("device: {}", engine.device()));
    }
    Ok(engine)
}

/// Becomes true at the first Ctrl-C, which ends the work after the step under way. A second one ends the program at once. Where the
/// system allows no handler Ctrl-C still works, but `without` comes true, and is said.
pub fn interrupts(without: &str) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let handler = ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if handler.is_err() {
        crate::output::note(&format!("{without}: the system allows no handler"));
    }
    flag
}
