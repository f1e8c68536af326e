//! The safetensors header: a length, a JSON object, then the tensors without gaps.
//!
//! Written here rather than taken from the `safetensors` crate because every message must name the tensor at fault, and so that
//! no sum of sizes from an untrusted header can overflow.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::message::json_error;

use super::{CheckpointError, Dtype, MAX_RANK, RawTensor, check_name};

const PREFIX: usize = 8;

/// True when the first bytes can be those of a safetensors file: a plausible length, then an opening brace.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.len() > PREFIX && bytes[PREFIX] == b'{'
}

/// Where the header of a file of `size` bytes lies, from the file's first bytes (all of them, or eight at least).
///
/// # Errors
/// [`CheckpointError::Safetensors`] when the file is too short for it.
pub(super) fn header(first: &[u8], size: usize) -> Result<Range<usize>, CheckpointError> {
    let fail = |message: String| Err(CheckpointError::Safetensors(message));
    let Some((prefix, _)) = first.split_at_checked(PREFIX) else {
        return fail(format!(
            "it has {} bytes, fewer than the 8 of a header length",
            first.len()
        ));
    };
    let header_len = u64::from_le_bytes(prefix.try_into().expect("split at 8 bytes"));
    let rest = size.saturating_sub(PREFIX);
    match usize::try_from(header_len) {
        Ok(length) if length <= rest => Ok(PREFIX..PREFIX + length),
        _ => fail(format!(
            "its header should be {header_len} bytes long but only {rest} follow, it is truncated"
        )),
    }
}

/// Lists the tensors of a safetensors file.
///
/// # Errors
/// [`CheckpointError::Safetensors`] when header and file contradict each other.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<RawTensor>, CheckpointError> {
    let header = header(bytes, bytes.len())?;
    tensors(&bytes[header], bytes.len())
}

/// Lists the tensors of a file of `size` bytes from its header alone.
///
/// # Errors
/// As [`read`].
pub(super) fn tensors(header: &[u8], size: usize) -> Result<Vec<RawTensor>, CheckpointError> {
    let fail = |message: String| Err(CheckpointError::Safetensors(message));
    let data_start = PREFIX + header.len();
    let data_len = (size - data_start) as u64;
    let Header(entries) = match serde_json::from_slice(header) {
        Ok(header) => header,
        Err(error) => {
            return fail(format!(
                "its header is not the JSON of a safetensors file ({})",
                json_error(&error)
            ));
        }
    };

    let mut tensors = Vec::with_capacity(entries.len());
    for (
        name,
        Entry {
            dtype,
            shape,
            data_offsets: (start, end),
        },
    ) in entries
    {
        check_name(&name)?;
        if shape.len() > MAX_RANK {
            return fail(format!("tensor {name} has {} dimensions", shape.len()));
        }
        let dtype = Dtype::from_safetensors(dtype);
        if start > end || end > data_len {
            return fail(format!(
                "tensor {name} lies at bytes {start} to {end} of {data_len}, so its header is damaged or the file is truncated"
            ));
        }
        let elements = shape
            .iter()
            .try_fold(1u64, |product, &n| product.checked_mul(n));
        if let Some(size) = dtype.size()
            && elements.and_then(|n| n.checked_mul(size as u64)) != Some(end - start)
        {
            return fail(format!(
                "tensor {name} has shape {shape:?} of {dtype} but {} bytes",
                end - start
            ));
        }
        let Ok(shape) = shape
            .iter()
            .map(|&n| usize::try_from(n))
            .collect::<Result<Vec<_>, _>>()
        else {
            return fail(format!("tensor {name} has the absurd shape {shape:?}"));
        };
        // Both ends were checked against the length of the slice, so they fit a usize.
        let range = data_start + start as usize..data_start + end as usize;
        tensors.push(RawTensor {
            name,
            dtype,
            shape,
            range,
            guard: None,
        });
    }
    check_layout(&tensors, data_start..size)?;
    Ok(tensors)
}

/// The format allows neither overlaps nor gaps: both hide data from whoever checks a file.
fn check_layout(tensors: &[RawTensor], data: Range<usize>) -> Result<(), CheckpointError> {
    let mut order: Vec<&RawTensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut end = data.start;
    let mut last = "the header";
    for tensor in order {
        if tensor.range.start < end {
            return Err(CheckpointError::Safetensors(format!(
                "tensors {last} and {} overlap",
                tensor.name
            )));
        }
        if tensor.range.start > end {
            let gap = tensor.range.start - end;
            return Err(CheckpointError::Safetensors(format!(
                "{gap} bytes between {last} and tensor {} belong to nothing",
                tensor.name
            )));
        }
        end = tensor.range.end;
        last = &tensor.name;
    }
    if end != data.end {
        return Err(CheckpointError::Safetensors(format!(
            "{} bytes after {last} belong to nothing",
            data.end - end
        )));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in file order, repeated names kept apart (a plain map would hide them).
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
