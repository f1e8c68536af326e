//! `esolm convert`: any readable checkpoint as a Hugging Face folder.

use std::path::Path;

use esolm::checkpoint::{Checkpoint, StoreDtype, weights_in, write_hf_folder};
use esolm::network::store::write_quantised;
use esolm::{EngineError, Recommended, Weights};

use crate::arguments::{Convert, DtypeName};
use crate::failure::Failure;
use crate::{files, output, setup};

pub fn run(arguments: &Convert) -> Result<(), Failure> {
    let out = &arguments.output;
    files::check_folder(out)?;
    let old = weights_in(out);
    if !arguments.force && !old.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds a model already; give another folder, or --force to replace it",
            out.display()
        )));
    }
    let (checkpoint, _) = setup::described(&arguments.source, &arguments.input)?;
    // Whoever opens the folder would take these files for the new model's own.
    let has_tokenizer =
        checkpoint.tokenizer_path().is_some() || checkpoint.tokenizer_json().is_some();
    let has_settings = *checkpoint.recommended() != Recommended::default();
    let beside = [
        ("tokenizer.json", has_tokenizer, "a tokenizer"),
        ("generation_config.json", has_settings, "settings"),
    ];
    let foreign: Vec<_> = (beside.into_iter())
        .filter(|(_, has, _)| !has)
        .map(|(name, _, what)| (out.join(name), what))
        .filter(|(path, _)| path.symlink_metadata().is_ok())
        .collect();
    let odd = (foreign.iter()).find(|(path, _)| path.exists() && !path.is_file());
    if let Some((path, what)) = odd {
        return Err(Failure::usage(format!(
            "{} is not a regular file, and would be taken for that of this model, which comes without {what}; give another folder",
            path.display()
        )));
    }
    if let Some((path, what)) = foreign.first()
        && !arguments.force
    {
        return Err(Failure::usage(format!(
            "{} is there already and would be taken for this model's, which comes without {what}; give another \
             folder, or --force to remove it",
            path.display()
        )));
    }
    let shard_bytes = (arguments.shard_size as u64).saturating_mul(1_000_000);
    let floats = |dtype| write_hf_folder(&checkpoint, out, dtype, shard_bytes);
    let written = match arguments.dtype {
        DtypeName::F32 => floats(StoreDtype::F32)?,
        DtypeName::F16 => floats(StoreDtype::F16)?,
        DtypeName::Q8 => quantised(&checkpoint, out, Weights::Q8, shard_bytes)?,
        DtypeName::Q4 => quantised(&checkpoint, out, Weights::Q4, shard_bytes)?,
    };
    let parameters = match arguments.dtype {
        // Parameters are written as they are stored; those already folded stay folded.
        DtypeName::F32 | DtypeName::F16 => checkpoint.stored_count(),
        DtypeName::Q8 | DtypeName::Q4 => checkpoint.count(),
    };
    let summary = format!(
        "{}: {}, {parameters} parameters as {}",
        out.display(),
        checkpoint.config().family,
        arguments.dtype
    );
    // Releases files that it may have been read from and that are now removed.
    drop(checkpoint);
    for name in old.iter().filter(|name| !written.contains(name)) {
        remove(&out.join(name), "such a file")?;
    }
    for (path, what) in &foreign {
        remove(path, what)?;
    }
    output::note(&summary);
    Ok(())
}

fn quantised(
    checkpoint: &Checkpoint,
    out: &Path,
    weights: Weights,
    shard_bytes: u64,
) -> Result<Vec<String>, Failure> {
    write_quantised(checkpoint, out, weights, shard_bytes).map_err(|error| match error {
        EngineError::Overflow { .. } => Failure::failed(format!("{error}; use --dtype f32")),
        error => error.into(),
    })
}

/// Removes a file of the model that was replaced.
fn remove(path: &Path, what: &str) -> Result<(), Failure> {
    let name = path.display();
    std::fs::remove_file(path).map_err(|error| {
        Failure::failed(format!(
            "the model is written, but the old {name} cannot be removed: {error}; remove it"
        ))
    })?;
    output::note(&format!(
        "{name} is removed: it belonged to the model before, and this one comes without {what}"
    ));
    Ok(())
}
