//! How a parameter is stored: as floats, or as integers in groups that share a scale and an offset, in MLX's convention.
//!
//! A quantised matrix `[out, in]` is three tensors: `MODULE.weight`, u32 `[out, in * bits / 32]` with the first code in the lowest bits of
//! a word; `MODULE.scales` and `MODULE.biases`, floats `[out, in / group]`. A weight is scale x code + bias. The configuration says how many
//! bits a code has and how many codes a group, since the shapes leave that open. The embedding's tensor has two names, as the published
//! networks call it `embedding` where it is floats.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use esolm_checkpoint::{Dtype, TensorFile, TensorInfo};

use super::reading::{Reading, Rows};
use super::{CheckpointError, FileError, QuantisedError, plain_name};
use crate::config::{Grid, ModelConfig, ParamSpec, Quantization};

/// The module of the embedding, and its tensor.
const EMBEDDING: (&str, &str) = ("vocab_embed", "vocab_embed.embedding");
/// Names of the tensors of a quantised module.
const WEIGHT: &str = "weight";
const SCALES: &str = "scales";
const BIASES: &str = "biases";

/// A parameter of a checkpoint.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name without `backbone.`.
    pub name: String,
    /// Its shape, whatever the form, outermost dimension first.
    pub shape: Vec<usize>,
    stored: Stored,
}

/// How the values of a parameter are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// As floats.
    Float(Dtype),
    /// As integers in groups.
    Codes(Grid),
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(dtype) => dtype.fmt(f),
            Self::Codes(Grid { bits, group }) => f.pad(&format!("u{bits}/{group}")),
        }
    }
}

#[derive(Debug, Clone)]
enum Stored {
    Values(Place),
    Codes(Box<Codes>),
}

/// The tensors of a quantised matrix.
#[derive(Debug, Clone)]
struct Codes {
    grid: Grid,
    codes: Place,
    scales: Place,
    biases: Place,
}

/// A tensor and the number of its file.
pub(super) type Place = (usize, TensorInfo);

impl Parameter {
    /// How it is stored.
    pub fn form(&self) -> Form {
        match &self.stored {
            Stored::Values((_, tensor)) => Form::Float(tensor.dtype.clone()),
            Stored::Codes(stored) => Form::Codes(stored.grid),
        }
    }

    /// Its length in the file, or the files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.places().map(|(_, tensor)| tensor.bytes).sum()
    }

    /// The tensors that hold it.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let places = match &self.stored {
            Stored::Values(values) => [Some(values), None, None],
            Stored::Codes(stored) => {
                let Codes {
                    codes,
                    scales,
                    biases,
                    ..
                } = &**stored;
                [Some(codes), Some(scales), Some(biases)]
            }
        };
        places.into_iter().flatten()
    }

    /// Begins to read it.
    pub(super) fn rows<'a>(&'a self, files: &'a [TensorFile]) -> Result<Rows<'a>, CheckpointError> {
        let reader = |(file, tensor): &'a Place| files[*file].reader(tensor);
        let stored = match &self.stored {
            Stored::Values(place) => Reading::Floats(reader(place)?),
            Stored::Codes(stored) => Reading::Codes {
                grid: stored.grid,
                codes: reader(&stored.codes)?,
                scales: (&stored.scales.1, reader(&stored.scales)?),
                biases: (&stored.biases.1, reader(&stored.biases)?),
            },
        };
        Ok(Rows::new(self, stored))
    }
}

/// Makes parameters of tensors by their plain names: those that belong to a quantised matrix become one.
pub(super) fn gather(
    mut found: HashMap<String, Place>,
    quantization: Option<&Quantization>,
) -> Result<HashMap<String, Parameter>, CheckpointError> {
    let modules: Option<BTreeMap<String, Option<Grid>>> = quantization.map(|quantization| {
        let entries = quantization.modules.iter();
        entries
            .map(|(name, grid)| (plain_name(name), *grid))
            .collect()
    });
    let mut quantised: Vec<String> = found
        .keys()
        .filter_map(|name| Some(name.strip_suffix(SCALES)?.strip_suffix('.')?.to_string()))
        .collect();
    quantised.sort(); // so that of several faults the same is told each time
    let mut parameters = HashMap::with_capacity(found.len());
    for module in quantised {
        let refuse = |fault| CheckpointError::Quantised {
            module: module.clone(),
            fault,
        };
        let settings = quantization.zip(modules.as_ref());
        let (quantization, modules) = settings.ok_or_else(|| refuse(QuantisedError::NoSettings))?;
        let grid = match modules.get(&module) {
            Some(entry) => entry.ok_or_else(|| refuse(QuantisedError::NotToBe))?,
            None => quantization.rest,
        };
        let mut part = |name: &str| found.remove(&format!("{module}.{name}"));
        let (codes, scales, biases) = (part(WEIGHT), part(SCALES), part(BIASES));
        let codes = match codes {
            None if module == EMBEDDING.0 => found.remove(EMBEDDING.1),
            codes => codes,
        };
        let there = |place: Option<Place>, part| {
            place.ok_or_else(|| refuse(QuantisedError::Missing { part }))
        };
        let codes = there(codes, WEIGHT)?;
        let (scales, biases) = (there(scales, SCALES)?, there(biases, BIASES)?);
        let shape = logical_shape(grid, &codes.1, [&scales.1, &biases.1]).map_err(refuse)?;
        let name = match &module {
            module if module == EMBEDDING.0 => EMBEDDING.1.into(),
            module => format!("{module}.{WEIGHT}"),
        };
        let parameter = Parameter {
            name: name.clone(),
            shape,
            stored: Stored::Codes(Box::new(Codes {
                grid,
                codes,
                scales,
                biases,
            })),
        };
        parameters.insert(name, parameter);
    }
    // A module of MLX calls its floats so too.
    let other_name = format!("{}.{WEIGHT}", EMBEDDING.0);
    if !found.contains_key(EMBEDDING.1)
        && let Some(floats) = found.remove(&other_name)
    {
        found.insert(EMBEDDING.1.into(), floats);
    }
    for (name, place) in BTreeMap::from_iter(found) {
        let offsets = name
            .strip_suffix(BIASES)
            .and_then(|rest| rest.strip_suffix('.'));
        if let Some(module) = offsets.or(module_of(&name)) {
            let is_told = modules.as_ref().and_then(|modules| *modules.get(module)?);
            let fault = match place.1.dtype {
                _ if offsets.is_some() => Some(QuantisedError::Missing { part: SCALES }),
                Dtype::U32 => Some(QuantisedError::Missing { part: SCALES }),
                _ => is_told.map(|_| QuantisedError::Floats),
            };
            if let Some(fault) = fault {
                let module = module.into();
                return Err(CheckpointError::Quantised { module, fault });
            }
        }
        if parameters.contains_key(&name) {
            return Err(FileError::DuplicateTensor { name }.into());
        }
        let parameter = Parameter {
            name: name.clone(),
            shape: place.1.shape.clone(),
            stored: Stored::Values(place),
        };
        parameters.insert(name, parameter);
    }
    Ok(parameters)
}

/// The shape of the matrix that the tensors of a module stand for.
fn logical_shape(
    grid: Grid,
    codes: &TensorInfo,
    beside: [&TensorInfo; 2],
) -> Result<Vec<usize>, QuantisedError> {
    if codes.dtype != Dtype::U32 {
        return Err(QuantisedError::Dtype {
            part: WEIGHT,
            found: codes.dtype.clone(),
            expected: "u32",
        });
    }
    let shape = match codes.shape[..] {
        [rows, words] => (words.checked_mul(32 / grid.bits)).map(|columns| [rows, columns]),
        _ => None,
    };
    let shape = shape.filter(|[_, columns]| *columns > 0 && columns.is_multiple_of(grid.group));
    let [rows, columns] = shape.ok_or_else(|| QuantisedError::Codes {
        found: codes.shape.clone(),
        grid,
    })?;
    for (part, tensor) in [SCALES, BIASES].into_iter().zip(beside) {
        if !tensor.dtype.fits_f32() {
            return Err(QuantisedError::Dtype {
                part,
                found: tensor.dtype.clone(),
                expected: "f16, bf16 or f32",
            });
        }
        let expected = vec![rows, columns / grid.group];
        if tensor.shape != expected {
            return Err(QuantisedError::Shape {
                part,
                found: tensor.shape.clone(),
                expected,
                grid,
            });
        }
    }
    Ok(vec![rows, columns])
}

/// The parameters of a network: those of the published one in its order, then biases that only this one has. Of each kind of bias there
/// are all or none.
pub(super) fn choose(
    found: &mut HashMap<String, Parameter>,
    config: &ModelConfig,
    quantization: Option<&Quantization>,
) -> Result<Vec<Parameter>, CheckpointError> {
    let is_there = |kind: &Vec<ParamSpec>| kind.iter().any(|bias| found.contains_key(&bias.name));
    let (there, absent): (Vec<_>, Vec<_>) = config.biases().into_iter().partition(is_there);
    let names = |kinds: Vec<Vec<ParamSpec>>| -> BTreeSet<String> {
        kinds.into_iter().flatten().map(|bias| bias.name).collect()
    };
    let (absent, mut specs) = (names(absent), config.parameters());
    let published = names(vec![specs.clone()]);
    specs.retain(|spec| !absent.contains(&spec.name));
    specs.extend((there.into_iter().flatten()).filter(|bias| !published.contains(&bias.name)));
    let mut parameters = Vec::with_capacity(specs.len());
    for ParamSpec { name, shape } in specs {
        let Some(parameter) = found.remove(&name) else {
            return Err(CheckpointError::MissingTensor {
                name,
                family: config.family,
                expected: shape,
            });
        };
        if parameter.shape != shape {
            return Err(CheckpointError::Shape {
                name,
                found: parameter.shape,
                expected: shape,
            });
        }
        match parameter.form() {
            Form::Float(found) if !found.fits_f32() => {
                return Err(FileError::Dtype { name, found }.into());
            }
            _ => parameters.push(parameter),
        }
    }
    if let Some(quantization) = quantization {
        check_used(quantization, &parameters)?;
    }
    Ok(parameters)
}

/// Checks that a configuration that says how weights are quantised stands beside such: a matrix may stay floats, but not every one that has
/// whole groups along the inputs.
fn check_used(
    quantization: &Quantization,
    parameters: &[Parameter],
) -> Result<(), CheckpointError> {
    let is_quantised = |parameter: &Parameter| matches!(parameter.form(), Form::Codes(_));
    let group = quantization.rest.group;
    let could_be = |parameter: &&Parameter| matches!(parameter.shape[..], [_, columns] if columns.is_multiple_of(group));
    match parameters.iter().find(could_be) {
        Some(parameter) if !parameters.iter().any(is_quantised) => {
            let name = parameter.name.as_str();
            Err(CheckpointError::Quantised {
                module: module_of(name).unwrap_or(name).into(),
                fault: QuantisedError::Floats,
            })
        }
        _ => Ok(()),
    }
}

/// The module of a matrix.
fn module_of(name: &str) -> Option<&str> {
    match name == EMBEDDING.1 {
        true => Some(EMBEDDING.0),
        false => name.strip_suffix(WEIGHT)?.strip_suffix('.'),
    }
}
