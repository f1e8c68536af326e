//! Golden files and helpers for the tests of tensor files.

#![allow(dead_code)] // every test file uses its own part

pub mod forge;
pub mod recorded;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Shapes and values of tensors by name, without `backbone.`.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/golden")
        .join(name)
}

/// A file in tests/fixtures/cases.
pub fn case_path(name: &str) -> PathBuf {
    golden_path("../cases").join(name)
}

pub fn golden(name: &str) -> Vec<u8> {
    let path = golden_path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The f32 tensors of a golden file, read by the `safetensors` crate.
pub fn golden_tensors(name: &str) -> Tensors {
    let bytes = golden(name);
    let view = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    view.tensors()
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
            let values = tensor
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            (
                name.trim_start_matches("backbone.").into(),
                (tensor.shape().to_vec(), values),
            )
        })
        .collect()
}

/// A safetensors file with these tensors as `F32`, `F16` or `BF16`.
pub fn pack(tensors: &Tensors, dtype: &str) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, (shape, values)) in tensors {
        let start = data.len();
        for &x in values {
            match dtype {
                "F32" => data.extend(x.to_le_bytes()),
                "F16" => data.extend(half::f16::from_f32(x).to_le_bytes()),
                "BF16" => data.extend(half::bf16::from_f32(x).to_le_bytes()),
                other => panic!("{other}"),
            }
        }
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(format!("backbone.{name}"), entry);
    }
    frame(&serde_json::Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header and data.
pub fn frame(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A temporary folder, removed when the test ends.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(label: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("esolm-{label}-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn spec(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Asserts that the error's message is one line and contains all of `words`, which are separated by `|`.
pub fn assert_told<T, E: Display>(result: Result<T, E>, words: &str) {
    let message = match result {
        Ok(_) => panic!("{words}: it must be refused"),
        Err(error) => error.to_string(),
    };
    println!("{message}");
    for word in words.split('|') {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
    assert!(
        message.len() < 700 && !message.contains(char::is_control),
        "{message:?}"
    );
}
