//! `esolm convert`: any readable checkpoint as a Hugging Face folder.

use std::path::Path;

use esolm::checkpoint::{
    BESIDE, Checkpoint, StoreDtype, weights_in, write_hf_folder, written_beside,
};
use esolm::network::store::write_quantised;
use esolm::{EngineError, Weights};

use crate::arguments::{Convert, DtypeName};
use crate::failure::Failure;
use crate::{files, output, setup};

const CONFIG: &str = "config.json";
/// What a model can be converted without, even in its own folder.
const LEFT_OUT: [&str; 2] = ["tokenizer.json", "generation_config.json"];

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
    let (checkpoint, name) = setup::described(&arguments.source, &arguments.input)?;
    let written = written_beside(&checkpoint);
    let is_there = |name: &str| out.join(name).symlink_metadata().is_ok();
    // Whoever opens the folder would take these files for the new model's own. In the folder that the model comes from,
    // most of them are.
    let in_place = is_in(&name, out);
    let foreign: Vec<_> = (BESIDE.into_iter())
        .filter(|name| !written.contains(name) && (!in_place || LEFT_OUT.contains(name)))
        .filter(|name| is_there(name))
        .map(|name| out.join(name))
        .collect();
    let odd = (foreign.iter()).find(|path| path.exists() && !path.is_file());
    if let Some(path) = odd {
        return Err(Failure::usage(format!(
            "{} is not a regular file, and would be taken for that of this model, which comes without such a file; give another folder",
            path.display()
        )));
    }
    if !arguments.force {
        if let Some(path) = foreign.first() {
            return Err(Failure::usage(format!(
                "{} is there already and would be taken for this model's, which comes without such a file; give another \
                 folder, or --force to remove it",
                path.display()
            )));
        }
        if let Some(name) = [CONFIG].iter().chain(&written).find(|name| is_there(name)) {
            return Err(Failure::usage(format!(
                "{} is there already; give another folder, or --force to replace it",
                out.join(name).display()
            )));
        }
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
        remove(&out.join(name))?;
    }
    for path in &foreign {
        remove(path)?;
    }
    output::note(&summary);
    Ok(())
}

/// Whether a model is opened from a folder.
fn is_in(model: &str, folder: &Path) -> bool {
    let path = Path::new(model);
    let own = match path.is_dir() {
        true => Some(path),
        false => path.parent().filter(|_| path.exists()),
    };
    let whole = |path: &Path| match path.as_os_str().is_empty() {
        true => Path::new(".").canonicalize().ok(),
        false => path.canonicalize().ok(),
    };
    own.and_then(whole)
        .is_some_and(|own| whole(folder) == Some(own))
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
fn remove(path: &Path) -> Result<(), Failure> {
    let name = path.display();
    std::fs::remove_file(path).map_err(|error| {
        Failure::failed(format!(
            "the model is written, but the old {name} cannot be removed: {error}; remove it"
        ))
    })?;
    output::note(&format!(
        "{name} is removed: it belonged to the model before, and this one comes without such a file"
    ));
    Ok(())
}
