//! From options to a model on a device.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm::text::TextCodec;
use esolm::{Error, ModelFiles};

use crate::arguments::{Device, Model};
use crate::failure::{Failure, INTERRUPTED};
use crate::output;

/// The model that ships, relative to the repository.
const SHIPPED: &str = "models/stories";

/// `--tokenizer` of who wants none.
pub const NO_TOKENIZER: &str = "none";

/// What `--config` and `--raw-weights` say about opening a checkpoint.
pub fn open_options(config: &Option<PathBuf>, raw_weights: bool) -> OpenOptions {
    OpenOptions {
        config: config.clone(),
        raw_weights,
    }
}

/// Opens what `--model` names, or the small model that ships; with the name that reports give it.
pub fn checkpoint(model: &Model) -> Result<(Checkpoint, String), Failure> {
    let (spec, name) = match &model.model {
        Some(spec) => (spec.clone(), spec.clone()),
        None => default_model()?,
    };
    let options = open_options(&model.config, model.raw_weights);
    Ok((Checkpoint::open(&spec, &options)?, name))
}

/// As [`checkpoint`], with the tokenizer that `--tokenizer` names, or its own.
pub fn open(model: &Model, tokenizer: Option<&Path>) -> Result<ModelFiles, Failure> {
    let (checkpoint, name) = checkpoint(model)?;
    let codec = match tokenizer {
        Some(path) if path == Path::new(NO_TOKENIZER) => None,
        Some(path) => Some(TextCodec::from_file(path, checkpoint.config())?),
        None => Some(TextCodec::of_checkpoint(&checkpoint)?.ok_or(Error::NoTokenizer)?),
    };
    Ok(ModelFiles::new(&name, checkpoint, codec))
}

/// As [`open`], for what works on tokens.
pub fn open_without_tokenizer(model: &Model) -> Result<ModelFiles, Failure> {
    open(model, Some(Path::new(NO_TOKENIZER)))
}

/// Place and name: what ESOLM_MODEL says, else models/stories above the executable, else the one of the source tree this was built from.
fn default_model() -> Result<(String, String), Failure> {
    if let Some(spec) = std::env::var_os("ESOLM_MODEL").filter(|spec| !spec.is_empty()) {
        let spec = spec.into_string().map_err(|_| {
            Failure::usage(
                "the variable ESOLM_MODEL is not UTF-8 text; name the checkpoint with --model",
            )
        })?;
        return Ok((spec.clone(), spec));
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    executable
        .ancestors()
        .chain(source.ancestors())
        .map(|folder| folder.join(SHIPPED))
        .find(|folder| folder.join("model.safetensors").is_file())
        .map(|folder| (folder.display().to_string(), SHIPPED.into()))
        .ok_or_else(|| {
            Failure::failed(format!(
                "the small model {SHIPPED} is not near this program; name a checkpoint with --model"
            ))
        })
}

/// Loads a model onto the chosen device, and says on stderr which one that is.
pub fn load(files: ModelFiles, device: &Device, quiet: bool) -> Result<esolm::Model, Failure> {
    let model = esolm::Model::load_blocking(files, device.options())?;
    if !quiet {
        output::note(&format!("device: {}", model.device()));
    }
    Ok(model)
}

/// Sets `flag` at the first Ctrl-C, which ends the work after the step under way. A second one ends the program at once. Where the
/// system allows no handler Ctrl-C still works, but `without` comes true, and is said.
pub fn interrupts(flag: Arc<AtomicBool>, without: &str) {
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED.into());
        }
    });
    if handler.is_err() {
        output::note(&format!("{without}: the system allows no handler"));
    }
}
