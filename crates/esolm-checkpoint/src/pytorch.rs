//! Files written by `torch.save`: a zip with a pickle that describes the tensors, and one entry per storage for the
//! values.

use std::collections::HashSet;

use crate::error::{Error, check_name};
use crate::pickle::{MAX_BYTES, Pickle, PickleError, Value};
use crate::tensor::{Dtype, Guard, MAX_RANK, TensorInfo};
use crate::zip::{self, Directory};

/// Storages are numbered; longer keys are not written by `torch.save`.
const MAX_KEY: usize = 20;

/// The directory of a `torch.save` file.
pub(crate) struct PyTorch {
    directory: Directory,
    /// Folder of all entries, named by `torch.save` after the file.
    folder: String,
    pickle: Pickle,
}

impl PyTorch {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let directory = Directory::read(bytes)?;
        let (folder, entry) = directory.find("data.pkl")?;
        if let Ok(order) = directory.get(&format!("{folder}/byteorder"))
            && bytes[order.data.clone()].trim_ascii() != b"little"
        {
            return Err(unusable(
                "its byteorder is not \"little\"; save it again on a little-endian machine",
            ));
        }
        let data = &bytes[entry.data.clone()];
        // Checked before computing the checksum, which reads all of it.
        if data.len() > MAX_BYTES {
            return Err(PickleError::TooLarge {
                what: format!("{} bytes, at most {MAX_BYTES} are read", data.len()),
            }
            .into());
        }
        zip::check_crc("data.pkl", data, entry.crc)?;
        Ok(Self {
            pickle: Pickle::parse(data)?,
            folder: folder.into(),
            directory,
        })
    }

    pub(crate) fn root(&self) -> Value<'_> {
        self.pickle.root()
    }

    /// The tensors of `state_dict`, which must not contain anything else, or otherwise those of the root.
    pub(crate) fn tensors(&self) -> Result<Vec<TensorInfo>, Error> {
        let root = self.root();
        let state = root.get("state_dict");
        let dict = state.unwrap_or(root);
        let pairs = match (dict.dict(), state) {
            (Some(pairs), _) => pairs,
            (None, None) => return Ok(Vec::new()),
            (None, Some(other)) => {
                return Err(unusable(format!(
                    "its state_dict is {other}, a dictionary is expected"
                )));
            }
        };
        let mut seen = HashSet::new();
        let mut tensors = Vec::new();
        for (key, value) in pairs {
            if state.is_none() && rebuilt(value).is_none() {
                continue;
            }
            let name = key.text().ok_or_else(|| {
                unusable(format!("the name of a tensor is {key}, a text is expected"))
            })?;
            check_name(name)?;
            // Checked before anything is copied: a hostile file could repeat a name endlessly.
            if !seen.insert(name) {
                return Err(Error::DuplicateTensor { name: name.into() });
            }
            tensors.push(self.tensor(name, value)?);
        }
        Ok(tensors)
    }

    /// Locates the values of a tensor in the file.
    pub(crate) fn tensor(&self, name: &str, value: Value<'_>) -> Result<TensorInfo, Error> {
        let fail = |what: String| unusable(format!("tensor {name} {what}"));
        let described = describe(value).map_err(fail)?;
        let (key, dtype, shape) = (described.key, described.dtype, described.shape);
        let entry = self.directory.get(&format!("{}/data/{key}", self.folder))?;
        let range = dtype.size().and_then(|size| {
            let start = described.offset?.checked_mul(size)?;
            let end = start.checked_add(described.elements.checked_mul(size)?)?;
            (end <= entry.data.len()).then(|| entry.data.start + start..entry.data.start + end)
        });
        let range = range.ok_or_else(|| {
            fail(format!("of shape {shape:?} reaches beyond its storage data/{key} of {} bytes; the file is damaged, copy it again", entry.data.len()))
        })?;
        Ok(TensorInfo {
            name: name.into(),
            dtype,
            shape,
            bytes: range.len() as u64,
            range,
            guard: Some(Guard {
                entry: format!("data/{key}"),
                range: entry.data.clone(),
                crc: entry.crc,
            }),
        })
    }
}

/// A pickle's description of a tensor.
struct Description<'a> {
    /// The storage's number.
    key: &'a str,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Product of the shape.
    elements: usize,
    /// Elements of the storage before the first one; `None` if the offset is invalid.
    offset: Option<usize>,
}

/// Reads the call that would have created a tensor. Errors continue a sentence that starts with "tensor NAME".
fn describe(value: Value<'_>) -> Result<Description<'_>, String> {
    let call = match rebuilt(value) {
        Some(("_rebuild_parameter", args)) => {
            match args.first().and_then(|[inner]| rebuilt(inner)) {
                Some(("_rebuild_parameter", _)) => {
                    return Err("is a parameter of a parameter; write the checkpoint again".into());
                }
                inner => inner,
            }
        }
        call => call,
    };
    let not_dense = || format!("is {value}, a dense tensor is expected; save plain tensors");
    let (_, args) = call.ok_or_else(not_dense)?;
    let [storage, offset, size, stride] =
        (args.first()).ok_or("is described by too few values; write the checkpoint again")?;
    let no_shape = || format!("has no shape of up to {MAX_RANK} sizes; write the checkpoint again");
    let shape = sizes(size).ok_or_else(no_shape)?;
    let strides = sizes(stride)
        .filter(|strides| strides.len() == shape.len())
        .ok_or("has no strides that fit its shape; write the checkpoint again")?;
    let mut factors = shape.iter();
    let elements = factors
        .try_fold(1usize, |product, &n| product.checked_mul(n))
        .ok_or_else(|| format!("has the absurd shape {shape:?}; write the checkpoint again"))?;
    if !contiguous(&shape, &strides) {
        return Err(format!(
            "of shape {shape:?} has strides {strides:?}; save it after .contiguous()"
        ));
    }
    let (key, dtype) = describe_storage(storage)?;
    Ok(Description {
        key,
        dtype,
        shape,
        elements,
        offset: offset.int().and_then(|offset| usize::try_from(offset).ok()),
    })
}

fn unusable(what: impl Into<String>) -> Error {
    Error::Contents(what.into())
}

/// The call that would have created a dense tensor: `torch._utils._rebuild_tensor_v2(storage, offset, size, stride,
/// ...)`, possibly inside `_rebuild_parameter(tensor, ...)`. Returns the function's name and its arguments.
fn rebuilt(value: Value<'_>) -> Option<(&str, Value<'_>)> {
    let call = value.object()?;
    let ("torch._utils", name) = call.class.global()? else {
        return None;
    };
    let known = [
        "_rebuild_parameter",
        "_rebuild_tensor_v2",
        "_rebuild_tensor",
    ];
    known.contains(&name).then_some((name, call.args))
}

/// Key and element type of a storage, from its persistent id `('storage', class, key, location, elements)`.
fn describe_storage(value: Value<'_>) -> Result<(&str, Dtype), String> {
    let [tag, class, key] = (value.persistent().and_then(Value::first)).ok_or_else(|| {
        format!("has {value} where its storage is expected; write the checkpoint again")
    })?;
    let numbered =
        |key: &&str| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_digit());
    let key = key.text().filter(numbered);
    let key = key.filter(|_| tag.text() == Some("storage"));
    let key = key.ok_or("does not name a storage of the file; write the checkpoint again")?;
    let dtype = match class.global() {
        Some(("torch", name)) => Dtype::from_storage(name),
        _ => None,
    };
    let dtype = dtype.ok_or_else(|| {
        format!("has a storage of {class}, float, half or bfloat16 is expected; convert it first")
    })?;
    Ok((key, dtype))
}

fn sizes(value: Value<'_>) -> Option<Vec<usize>> {
    let items = value.tuple().filter(|items| items.len() <= MAX_RANK)?;
    items
        .map(|item| usize::try_from(item.int()?).ok())
        .collect()
}

/// Whether a tensor is contiguous, outermost dimension first; strides of dimensions of size one do not matter.
fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    for (&n, &stride) in shape.iter().zip(strides).rev() {
        if n != 1 && stride != expected {
            return shape.contains(&0);
        }
        expected = expected.saturating_mul(n);
    }
    true
}
