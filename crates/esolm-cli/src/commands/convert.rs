//! `esolm convert`: any readable checkpoint as a Hugging Face folder.

use std::path::Path;

use esolm::checkpoint::{Checkpoint, StoreDtype, write_hf_folder};
use esolm::network::store::write_quantised;
use esolm::{EngineError, Weights};

use crate::arguments::{Convert, DtypeName};
use crate::failure::Failure;
use crate::{files, output, setup};

pub fn run(arguments: &Convert) -> Result<(), Failure> {
    let out = &arguments.output;
    files::check_folder(out)?;
    if !arguments.force && out.join("model.safetensors").exists() {
        return Err(Failure::usage(format!(
            "{} holds a model already; give another folder, or --force to replace it",
            out.display()
        )));
    }
    let (checkpoint, _) = setup::described(&arguments.source, &arguments.input)?;
    // Whatever opens the folder would take it for the model's own.
    let foreign = out.join("tokenizer.json");
    let has_tokenizer =
        checkpoint.tokenizer_path().is_some() || checkpoint.tokenizer_json().is_some();
    let is_foreign = !has_tokenizer && foreign.symlink_metadata().is_ok();
    if is_foreign && !arguments.force {
        return Err(Failure::usage(format!(
            "{} is there already and would be taken for this model's, which comes without a tokenizer; give another \
             folder, or --force to remove it",
            foreign.display()
        )));
    }
    match arguments.dtype {
        DtypeName::F32 => write_hf_folder(&checkpoint, out, StoreDtype::F32)?,
        DtypeName::F16 => write_hf_folder(&checkpoint, out, StoreDtype::F16)?,
        DtypeName::Q8 => quantised(&checkpoint, out, Weights::Q8)?,
        DtypeName::Q4 => quantised(&checkpoint, out, Weights::Q4)?,
    }
    if is_foreign {
        remove(&foreign)?;
    }
    output::note(&format!(
        "{}: {}, {} parameters as {}",
        out.display(),
        checkpoint.config().family,
        checkpoint.count(),
        arguments.dtype
    ));
    Ok(())
}

fn quantised(checkpoint: &Checkpoint, out: &Path, weights: Weights) -> Result<(), Failure> {
    write_quantised(checkpoint, out, weights).map_err(|error| match error {
        EngineError::Overflow { .. } => Failure::failed(format!("{error}; use --dtype f32")),
        error => error.into(),
    })
}

/// Removes the tokenizer of the model that was replaced.
fn remove(path: &Path) -> Result<(), Failure> {
    let name = path.display();
    std::fs::remove_file(path).map_err(|error| {
        Failure::failed(format!(
            "the model is written, but the old {name} cannot be removed: {error}; remove it"
        ))
    })?;
    output::note(&format!(
        "{name} is removed: it belonged to the model before, and this one comes without a tokenizer"
    ));
    Ok(())
}
