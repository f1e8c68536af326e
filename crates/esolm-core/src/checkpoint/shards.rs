//! Sharded weights: several files listed in an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use esolm_checkpoint::TensorFile;
use serde::Deserialize;

use super::CheckpointError;
use crate::documents::normalize;
use crate::message::{json_error, shorten};

/// Names of the index as written by `save_pretrained`.
pub(super) const INDEX: &str = "model.safetensors.index.json";
#[cfg(not(target_family = "wasm"))]
pub(super) const PYTORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// The contents of an index.
pub(super) struct Index {
    /// Its name in messages.
    path: PathBuf,
    /// The tensors in each file.
    files: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Json {
    /// The file that contains each tensor.
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the text of an index. The files that it lists must be in the same folder.
    pub fn read(path: &Path, text: &str) -> Result<Self, CheckpointError> {
        let mut index = Self {
            path: path.into(),
            files: BTreeMap::new(),
        };
        let json: Json = serde_json::from_str(&normalize(text))
            .map_err(|error| index.fail(json_error(&error)))?;
        let foreign = |name: &&String| {
            name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', '\0'])
        };
        if let Some(name) = json.weight_map.values().find(foreign) {
            let name = shorten(name);
            return Err(index.fail(format!(
                "it names \"{name}\", which is not a file beside it"
            )));
        }
        if json.weight_map.is_empty() {
            return Err(index.fail("it names no file".into()));
        }
        for (tensor, file) in json.weight_map {
            index.files.entry(file).or_default().insert(tensor);
        }
        Ok(index)
    }

    /// Names of the files, ascending.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Checks that a file contains the tensors that the index lists for it.
    pub fn shard(
        &self,
        name: &str,
        opened: Result<TensorFile, esolm_checkpoint::Error>,
    ) -> Result<TensorFile, CheckpointError> {
        let shard = opened.map_err(|source| CheckpointError::Shard {
            file: shorten(name),
            source,
        })?;
        let found: BTreeSet<&str> = (shard.tensors().iter())
            .map(|tensor| tensor.name.as_str())
            .collect();
        let expected: BTreeSet<&str> = (self.files.get(name).into_iter().flatten())
            .map(String::as_str)
            .collect();
        if let Some(tensor) = expected.symmetric_difference(&found).next() {
            let (file, is_found) = (shorten(name), found.contains(tensor));
            let tensor = shorten(tensor);
            return Err(self.fail(match is_found {
                true => format!("{file} holds tensor {tensor}, which it does not list"),
                false => format!("{file} does not hold tensor {tensor}"),
            }));
        }
        Ok(shard)
    }

    /// The index lists a file that does not exist.
    pub fn missing(&self, name: &str) -> CheckpointError {
        self.fail(format!("it names {}, which is not there", shorten(name)))
    }

    fn fail(&self, problem: String) -> CheckpointError {
        CheckpointError::Index {
            path: self.path.clone(),
            problem,
        }
    }
}

/// Opens the files listed in an index, which are in the same folder.
#[cfg(not(target_family = "wasm"))]
pub(super) fn open(path: &Path, text: &str) -> Result<Vec<TensorFile>, CheckpointError> {
    let index = Index::read(path, text)?;
    let open = |name: &str| {
        let file = path.with_file_name(name);
        match file.is_file() {
            true => index.shard(name, TensorFile::open(file)),
            false => Err(index.missing(name)),
        }
    };
    index.files().map(open).collect()
}
