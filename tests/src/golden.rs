//! Files in `tests/fixtures/golden` (their README describes each tensor), and the model that ships.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use esolm::checkpoint::Dtype::F32;
use esolm::checkpoint::{Checkpoint, OpenOptions, Parameter, SafetensorsWriter, TensorSpec};
use esolm::config::ParamSpec;
use esolm::rng::gumbel_from_uniform;
use safetensors::{Dtype, SafeTensors};

pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The path of the file with this name.
pub(crate) fn path(name: &str) -> PathBuf {
    repository("tests/fixtures/golden").join(name)
}

/// The golden model `name`: model_a, mdlm or ar.
pub fn checkpoint(name: &str) -> Checkpoint {
    let options = OpenOptions {
        config: Some(path(&format!("{name}.config.json"))),
        ..OpenOptions::default()
    };
    let weights = path(&format!("{name}.ema.safetensors"));
    Checkpoint::open(&weights.to_string_lossy(), &options).unwrap_or_else(|error| panic!("{error}"))
}

/// The golden model `name` with a bias in every norm and every linear layer.
pub fn with_biases(name: &str) -> Checkpoint {
    changed(name, |biases, tensors| {
        for (seed, bias) in biases.into_iter().enumerate() {
            let value = |i: usize| 0.3 * ((7 * seed + i) as f32).sin();
            let values = (0..bias.elements() as usize).map(value).collect();
            tensors.insert(bias.name, (bias.shape, values));
        }
    })
}

/// The golden model `name` without a bias anywhere but in its conditioning.
pub fn without_biases(name: &str) -> Checkpoint {
    changed(name, |biases, tensors| {
        for bias in biases {
            tensors.remove(&bias.name);
        }
    })
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A golden model whose tensors were changed by `change`, which is passed the biases that a network may have.
fn changed(name: &str, change: impl FnOnce(Vec<ParamSpec>, &mut Tensors)) -> Checkpoint {
    let ckpt = checkpoint(name);
    let tensor = |parameter: &Parameter| {
        let values = ckpt.f32(&parameter.name).unwrap();
        (parameter.name.clone(), (parameter.shape.clone(), values))
    };
    let mut tensors: Tensors = ckpt.parameters().map(tensor).collect();
    change(ckpt.config().biases().concat(), &mut tensors);
    let specs: Vec<_> = (tensors.iter())
        .map(|(name, (shape, _))| TensorSpec::new(name.as_str(), F32, shape.as_slice()))
        .collect();
    let mut writer = SafetensorsWriter::new(Vec::new(), &[], &specs).unwrap();
    for (_, values) in tensors.values() {
        writer.f32(values).unwrap();
    }
    let bytes = writer.finish().unwrap();
    Checkpoint::from_safetensors_bytes(&ckpt.config().to_json(), bytes).unwrap()
}

/// The small trained model that ships.
pub fn stories() -> Checkpoint {
    let path = repository("models/stories");
    Checkpoint::open(&path.to_string_lossy(), &OpenOptions::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The tensors of one golden file, and its metadata.
pub struct Golden {
    metadata: HashMap<String, String>,
    tensors: HashMap<String, Entry>,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Golden {
    /// Reads `name`.safetensors.
    pub fn open(name: &str) -> Self {
        Self::read(&path(&format!("{name}.safetensors")))
    }

    /// Reads a file from elsewhere.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let entry = Entry {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            };
            (name, entry)
        });
        Self {
            tensors: tensors.collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
        }
    }

    /// The metadata.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Whether there is a tensor with this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn entry(&self, name: &str, dtype: Dtype) -> &Entry {
        let entry = self
            .tensors
            .get(name)
            .unwrap_or_else(|| panic!("no golden tensor {name}"));
        assert_eq!(entry.dtype, dtype, "{name}");
        entry
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name].shape
    }

    /// Values of an f32 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let data = self.entry(name, Dtype::F32).data.chunks_exact(4);
        data.map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// Values of an f64 tensor.
    pub fn f64(&self, name: &str) -> Vec<f64> {
        let data = self.entry(name, Dtype::F64).data.chunks_exact(8);
        data.map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// Values of a u8 tensor.
    pub fn u8(&self, name: &str) -> &[u8] {
        &self.entry(name, Dtype::U8).data
    }

    /// Values of an int32 tensor without negative values.
    pub fn u32(&self, name: &str) -> Vec<u32> {
        let data = self.entry(name, Dtype::I32).data.chunks_exact(4);
        data.map(|b| {
            i32::from_le_bytes(b.try_into().unwrap())
                .try_into()
                .unwrap()
        })
        .collect()
    }

    /// Rows of an int32 tensor with two dimensions.
    pub fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let width = *self.shape(name).last().unwrap();
        self.u32(name).chunks(width).map(<[u32]>::to_vec).collect()
    }

    /// The Gumbel noise from recorded uniforms.
    pub fn gumbel(&self, name: &str) -> Vec<f32> {
        let uniforms = self.f64(name);
        uniforms.into_iter().map(gumbel_from_uniform).collect()
    }
}
