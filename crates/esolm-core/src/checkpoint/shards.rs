//! Weights in several files: an index names them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use esolm_checkpoint::TensorFile;
use serde::Deserialize;

use super::CheckpointError;
use crate::documents::normalize;
use crate::message::{json_error, shorten};

/// The names that `save_pretrained` gives an index.
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const PYTORCH_INDEX: &str = "pytorch_model.bin.index.json";

#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

fn parse(text: &str) -> Result<Index, String> {
    let index: Index =
        serde_json::from_str(&normalize(text)).map_err(|error| json_error(&error))?;
    let foreign = |name: &&String| {
        name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', '\0'])
    };
    if let Some(name) = index.weight_map.values().find(foreign) {
        return Err(format!(
            "it names \"{}\", which is not a file beside it",
            shorten(name)
        ));
    }
    if index.weight_map.is_empty() {
        return Err("it names no file".into());
    }
    Ok(index)
}

/// The files that the text of an index names.
pub(super) fn files(text: &str) -> Result<BTreeSet<String>, String> {
    Ok(parse(text)?.weight_map.into_values().collect())
}

/// Opens the files of an index, which stand beside it and hold what it says.
pub(super) fn open(path: &Path, text: &str) -> Result<Vec<TensorFile>, CheckpointError> {
    let fail = |problem| CheckpointError::Index {
        path: path.into(),
        problem,
    };
    let index = parse(text).map_err(fail)?;
    let mut expected: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, file) in &index.weight_map {
        expected.entry(file).or_default().insert(tensor);
    }
    let open = |(file, expected): (&str, BTreeSet<&str>)| {
        let shard = TensorFile::open(path.with_file_name(file))?;
        let found = shard.tensors().iter().map(|tensor| tensor.name.as_str());
        let found: BTreeSet<&str> = found.collect();
        if let Some(name) = expected.symmetric_difference(&found).next() {
            let (name, file) = (shorten(name), shorten(file));
            return Err(fail(match found.contains(&*name) {
                true => format!("{file} holds tensor {name}, which it does not list"),
                false => format!("{file} does not hold tensor {name}"),
            }));
        }
        Ok(shard)
    };
    expected.into_iter().map(open).collect()
}
