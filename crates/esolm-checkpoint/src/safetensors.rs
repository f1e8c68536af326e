//! The safetensors format: the length of the header, the header as a JSON object, then the tensors without gaps.
//!
//! Implemented here rather than with the `safetensors` crate because every message must name the offending tensor, and
//! so that no sum of sizes from an untrusted header can overflow.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::error::{Error, check_name};
use crate::message::json_error;
use crate::tensor::{Dtype, MAX_RANK, TensorInfo};

/// Bytes of the length field.
const PREFIX: usize = 8;

/// Contents of a header.
pub(crate) struct Contents {
    pub tensors: Vec<TensorInfo>,
    pub metadata: BTreeMap<String, String>,
}

/// Whether the first bytes may be those of a safetensors file: a length, then an opening brace.
pub(crate) fn looks_like(bytes: &[u8]) -> bool {
    bytes.len() > PREFIX && bytes[PREFIX] == b'{'
}

/// Range of the header in a file of `size` bytes, given the file's first bytes (at least eight, or all of them).
///
/// # Errors
/// [`Error::Safetensors`] if the file is too short for the header.
pub(crate) fn header(first: &[u8], size: usize) -> Result<Range<usize>, Error> {
    let fail = |message: String| Err(Error::Safetensors(message));
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
        _ if first.get(PREFIX).is_some_and(|&byte| byte != b'{') => {
            fail("it does not begin with a header".into())
        }
        _ => fail(format!(
            "its header should be {header_len} bytes long but only {rest} follow, it is truncated"
        )),
    }
}

/// Reads the header of a complete file.
///
/// # Errors
/// [`Error::Safetensors`] if header and file are inconsistent.
pub(crate) fn read(bytes: &[u8]) -> Result<Contents, Error> {
    let header = header(bytes, bytes.len())?;
    contents(&bytes[header], bytes.len())
}

/// Reads the header of a file of `size` bytes.
///
/// # Errors
/// See [`read`].
pub(crate) fn contents(header: &[u8], size: usize) -> Result<Contents, Error> {
    let fail = |message: String| Err(Error::Safetensors(message));
    let data_start = PREFIX + header.len();
    let data_len = (size - data_start) as u64;
    let Header { entries, metadata } = match serde_json::from_slice(header) {
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
        let dtype = Dtype::from_safetensors(&dtype);
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
        // Both ends have been checked against the length of the slice, so they fit a usize.
        let range = data_start + start as usize..data_start + end as usize;
        tensors.push(TensorInfo {
            name,
            dtype,
            shape,
            bytes: end - start,
            range,
            guard: None,
        });
    }
    check_layout(&tensors, data_start..size)?;
    Ok(Contents { tensors, metadata })
}

/// The format allows neither overlaps nor gaps, both of which can hide data from a check.
fn check_layout(tensors: &[TensorInfo], data: Range<usize>) -> Result<(), Error> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut end = data.start;
    let mut last = "the header";
    for tensor in order {
        if tensor.range.start < end {
            return Err(Error::Safetensors(format!(
                "tensors {last} and {} overlap",
                tensor.name
            )));
        }
        if tensor.range.start > end {
            let gap = tensor.range.start - end;
            return Err(Error::Safetensors(format!(
                "{gap} bytes between {last} and tensor {} belong to nothing",
                tensor.name
            )));
        }
        end = tensor.range.end;
        last = &tensor.name;
    }
    if end != data.end {
        return Err(Error::Safetensors(format!(
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

/// The header's entries in file order; a map would hide duplicate names.
struct Header {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header {
                    entries: Vec::new(),
                    metadata: BTreeMap::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.entries.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
