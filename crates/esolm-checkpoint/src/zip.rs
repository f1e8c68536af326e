//! The container of a `.ckpt`: a zip with uncompressed entries, read in place.
//!
//! Only what `torch.save` writes is accepted; everything else is rejected with a specific message. A general zip reader
//! would decompress and copy; here an entry is a range of the file. The central directory is trusted only as far as it
//! agrees with the local headers and the length of the file: entries must not overlap, repeat a name, or reach into the
//! directory. Format: APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3 (zip64).

use std::collections::HashMap;
use std::ops::Range;

use thiserror::Error;

use crate::message::shorten;

const END: &[u8; 4] = b"PK\x05\x06";
const END64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR64: &[u8; 4] = b"PK\x06\x07";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const LOCAL: &[u8; 4] = b"PK\x03\x04";

const END_LEN: usize = 22;
const LOCATOR64_LEN: usize = 20;
const END64_LEN: usize = 56;
const CENTRAL_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// Flag bits that change how the data is read: encryption, patch data, strong encryption, masked headers.
const UNREADABLE_FLAGS: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;

/// Why a zip container was rejected.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ZipError {
    /// The end of the central directory is missing or inconsistent with the file.
    #[error("{0}; the file is truncated or damaged, copy it again")]
    Damaged(String),
    /// An entry is compressed.
    #[error(
        "entry {entry} is compressed (method {method}), torch.save stores entries uncompressed; unpack and store it with zip -0"
    )]
    Compressed {
        /// Name of the entry.
        entry: String,
        /// Compression method of the zip format.
        method: u16,
    },
    /// An entry is encrypted or otherwise not plain.
    #[error("entry {0} is encrypted or masked; write the checkpoint again without that")]
    Encrypted(String),
    /// Two entries share bytes.
    #[error(
        "entries {first} and {second} overlap; the file is damaged or was made to mislead, copy it again from its source"
    )]
    Overlap {
        /// The entry that starts first.
        first: String,
        /// The entry that starts inside it.
        second: String,
    },
    /// Two entries have the same name.
    #[error(
        "entry {0} stands in the directory twice; the file is damaged or was made to mislead, copy it again from its source"
    )]
    Duplicate(String),
    /// A required entry is missing.
    #[error("entry {0} is missing; the file is not a whole checkpoint of torch.save")]
    MissingEntry(String),
    /// An entry's bytes do not match its checksum.
    #[error(
        "entry {entry} has CRC-32 {found:08x}, its directory says {expected:08x}; the file is damaged, copy it again"
    )]
    Crc {
        /// Name of the entry.
        entry: String,
        /// Checksum of the bytes.
        found: u32,
        /// Checksum in the directory.
        expected: u32,
    },
}

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Range of its bytes in the file.
    pub data: Range<usize>,
    pub crc: u32,
}

/// The checked directory of a zip.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: HashMap<String, Entry>,
}

pub(crate) fn looks_like(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL) || bytes.starts_with(END)
}

/// Compares the bytes of an entry with its checksum.
pub(crate) fn check_crc(entry: &str, data: &[u8], expected: u32) -> Result<(), ZipError> {
    let found = crc32fast::hash(data);
    if found == expected {
        Ok(())
    } else {
        Err(ZipError::Crc {
            entry: entry.into(),
            found,
            expected,
        })
    }
}

impl Directory {
    /// Reads the central directory and checks every entry.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ZipError> {
        let (count, directory) = locate(bytes)?;
        // Entries must be before the directory, which cannot be longer than the file; both bound what follows.
        let limit = directory.start;
        let mut rest = &bytes[directory.clone()];
        if count > (rest.len() / CENTRAL_LEN) as u64 {
            return Err(damaged(format!(
                "its directory should list {count} entries in {} bytes",
                rest.len()
            )));
        }
        let mut entries = HashMap::with_capacity(count as usize);
        let mut extents = Vec::with_capacity(count as usize);
        for index in 0..count {
            let (name, entry, start) = central(bytes, &mut rest, limit, index)?;
            extents.push((start..entry.data.end, name.clone()));
            if entries.insert(name.clone(), entry).is_some() {
                return Err(ZipError::Duplicate(shorten(&name)));
            }
        }
        if !rest.is_empty() {
            return Err(damaged(format!(
                "{} bytes of its directory belong to no entry",
                rest.len()
            )));
        }
        extents.sort_by_key(|(range, _)| (range.start, range.end));
        for pair in extents.windows(2) {
            if pair[1].0.start < pair[0].0.end {
                return Err(ZipError::Overlap {
                    first: pair[0].1.clone(),
                    second: pair[1].1.clone(),
                });
            }
        }
        Ok(Self { entries })
    }

    /// The entry with this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Entry, ZipError> {
        self.entries
            .get(name)
            .ok_or_else(|| ZipError::MissingEntry(shorten(name)))
    }

    /// The only entry whose path ends in `/suffix`, and the folder before it; `torch.save` names the folder after the
    /// file.
    pub(crate) fn find(&self, suffix: &str) -> Result<(&str, &Entry), ZipError> {
        let mut hits = self.entries.iter().filter_map(|(name, entry)| {
            let folder = name.strip_suffix(suffix)?.strip_suffix('/')?;
            (!folder.contains('/')).then_some((folder, entry))
        });
        match (hits.next(), hits.next()) {
            (Some(hit), None) => Ok(hit),
            (None, _) => Err(ZipError::MissingEntry(suffix.into())),
            (Some(_), Some(_)) => Err(ZipError::Duplicate(suffix.into())),
        }
    }
}

/// Number of entries, and the range of the central directory.
fn locate(bytes: &[u8]) -> Result<(u64, Range<usize>), ZipError> {
    // The record is at the end of the file, followed only by a comment of at most 65535 bytes, whose length it
    // contains.
    let earliest = bytes.len().saturating_sub(END_LEN + usize::from(u16::MAX));
    let end = (earliest..=bytes.len().saturating_sub(END_LEN))
        .rev()
        .find(|&at| {
            bytes[at..].starts_with(END)
                && bytes.len() - at >= END_LEN
                && usize::from(u16_at(bytes, at + 20)) == bytes.len() - at - END_LEN
        })
        .ok_or_else(|| damaged("it has no end-of-directory record".into()))?;
    let mut count = u64::from(u16_at(bytes, end + 10));
    let mut size = u64::from(u32_at(bytes, end + 12));
    let mut offset = u64::from(u32_at(bytes, end + 16));
    let mut disks = [
        u64::from(u16_at(bytes, end + 4)),
        u64::from(u16_at(bytes, end + 6)),
    ];
    let mut here = u64::from(u16_at(bytes, end + 8));
    let mut directory_end = end;
    if let Some(locator) = end
        .checked_sub(LOCATOR64_LEN)
        .filter(|&at| bytes[at..].starts_with(LOCATOR64))
    {
        let at = usize::try_from(u64_at(bytes, locator + 8))
            .ok()
            .filter(|&at| at.checked_add(END64_LEN).is_some_and(|e| e <= locator));
        let at = at
            .filter(|&at| bytes[at..].starts_with(END64))
            .ok_or_else(|| damaged("its zip64 record is not where it should be".into()))?;
        disks = [
            u64::from(u32_at(bytes, at + 16)),
            u64::from(u32_at(bytes, at + 20)),
        ];
        here = u64_at(bytes, at + 24);
        count = u64_at(bytes, at + 32);
        size = u64_at(bytes, at + 40);
        offset = u64_at(bytes, at + 48);
        directory_end = at;
    }
    if disks != [0, 0] || here != count {
        return Err(damaged("it is one part of a split archive".into()));
    }
    match (usize::try_from(offset), usize::try_from(size)) {
        (Ok(start), Ok(size)) if start.checked_add(size) == Some(directory_end) => {
            Ok((count, start..directory_end))
        }
        _ => Err(damaged(format!(
            "its directory should be {size} bytes at {offset}, which is not where it ends ({directory_end})"
        ))),
    }
}

/// Reads one entry of the central directory from the front of `rest`, and its local header. Returns the name, the
/// entry, and the offset of the local header.
fn central(
    bytes: &[u8],
    rest: &mut &[u8],
    limit: usize,
    index: u64,
) -> Result<(String, Entry, usize), ZipError> {
    let cut = || damaged(format!("entry {index} of its directory is cut short"));
    let head = rest.get(..CENTRAL_LEN).ok_or_else(cut)?;
    if !head.starts_with(CENTRAL) {
        return Err(damaged(format!(
            "entry {index} of its directory does not begin as one"
        )));
    }
    let lengths = [28, 30, 32].map(|at| usize::from(u16_at(head, at)));
    let body = rest
        .get(CENTRAL_LEN..CENTRAL_LEN + lengths.iter().sum::<usize>())
        .ok_or_else(cut)?;
    *rest = &rest[CENTRAL_LEN + body.len()..];
    let (raw_name, extra) = (
        &body[..lengths[0]],
        &body[lengths[0]..lengths[0] + lengths[1]],
    );
    let name = std::str::from_utf8(raw_name)
        .map_err(|_| damaged(format!("the name of entry {index} is not UTF-8")))?;

    let (flags, method) = (u16_at(head, 8), u16_at(head, 10));
    if flags & UNREADABLE_FLAGS != 0 {
        return Err(ZipError::Encrypted(shorten(name)));
    }
    if method != 0 {
        return Err(ZipError::Compressed {
            entry: shorten(name),
            method,
        });
    }
    let crc = u32_at(head, 16);
    let mut wide = Zip64::new(extra);
    // The extra field contains, in this order, the values that do not fit into 32 bits.
    let size = wide.value(u32_at(head, 24)).ok_or_else(cut)?;
    let packed = wide.value(u32_at(head, 20)).ok_or_else(cut)?;
    let offset = wide.value(u32_at(head, 42)).ok_or_else(cut)?;
    if size != packed {
        return Err(damaged(format!(
            "entry {} is stored but has two sizes, {packed} and {size}",
            shorten(name)
        )));
    }
    let outside = || {
        damaged(format!(
            "entry {} reaches outside the file ({size} bytes at {offset})",
            shorten(name)
        ))
    };
    let start = usize::try_from(offset).map_err(|_| outside())?;
    let local = bytes[..limit]
        .get(start..)
        .and_then(|b| b.get(..LOCAL_LEN))
        .ok_or_else(outside)?;
    let data = start + LOCAL_LEN + usize::from(u16_at(local, 26)) + usize::from(u16_at(local, 28));
    let end = usize::try_from(size)
        .ok()
        .and_then(|size| data.checked_add(size))
        .filter(|&end| end <= limit)
        .ok_or_else(outside)?;
    let local_name = &bytes[start + LOCAL_LEN..start + LOCAL_LEN + usize::from(u16_at(local, 26))];
    if !local.starts_with(LOCAL) || local_name != raw_name || u16_at(local, 8) != method {
        return Err(damaged(format!(
            "entry {} has a local header that says otherwise",
            shorten(name)
        )));
    }
    Ok((
        name.into(),
        Entry {
            data: data..end,
            crc,
        },
        start,
    ))
}

/// The 64-bit values of an extra field, consumed in order.
struct Zip64<'a> {
    values: &'a [u8],
}

impl<'a> Zip64<'a> {
    fn new(mut extra: &'a [u8]) -> Self {
        while let Some((head, rest)) = extra.split_at_checked(4) {
            let (id, length) = (u16_at(head, 0), usize::from(u16_at(head, 2)));
            let Some((body, after)) = rest.split_at_checked(length) else {
                break;
            };
            if id == 1 {
                return Self { values: body };
            }
            extra = after;
        }
        Self { values: &[] }
    }

    /// The value itself or, if it is the marker for a 64-bit value, the next one; `None` if there is none.
    fn value(&mut self, narrow: u32) -> Option<u64> {
        if narrow != u32::MAX {
            return Some(u64::from(narrow));
        }
        let (value, rest) = self.values.split_at_checked(8)?;
        self.values = rest;
        Some(u64_at(value, 0))
    }
}

fn damaged(what: String) -> ZipError {
    ZipError::Damaged(what)
}

// The callers have checked the bounds.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
