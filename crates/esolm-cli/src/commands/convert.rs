//! `esolm convert`: any readable checkpoint as a Hugging Face folder.

use std::path::Path;

use esolm::checkpoint::write_hf_folder;

use crate::arguments::Convert;
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
    write_hf_folder(&checkpoint, out, arguments.dtype.into())?;
    if is_foreign {
        remove(&foreign)?;
    }
    let config = checkpoint.config();
    let parameters: u64 = config.parameters().iter().map(|p| p.elements()).sum();
    output::note(&format!(
        "{}: {}, {parameters} parameters as {}",
        out.display(),
        config.family,
        match arguments.dtype {
            crate::arguments::DtypeName::F32 => "f32",
            crate::arguments::DtypeName::F16 => "f16",
        }
    ));
    Ok(())
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
