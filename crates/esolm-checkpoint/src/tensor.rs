//! Names, types, shapes and locations of tensors.

use std::fmt;
use std::ops::Range;

use crate::message::shorten;

/// Maximum number of dimensions. No network needs more, and the limit keeps hostile files from flooding messages.
pub(crate) const MAX_RANK: usize = 8;

/// Element types of stored tensors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// A byte that is 0 or 1.
    Bool,
    /// Any other type, by its name in the file.
    Other(String),
}

/// Type, name (upper case in safetensors), and bytes per element.
static DTYPES: [(Dtype, &str, usize); 13] = [
    (Dtype::F64, "f64", 8),
    (Dtype::F32, "f32", 4),
    (Dtype::F16, "f16", 2),
    (Dtype::Bf16, "bf16", 2),
    (Dtype::I64, "i64", 8),
    (Dtype::I32, "i32", 4),
    (Dtype::I16, "i16", 2),
    (Dtype::I8, "i8", 1),
    (Dtype::U64, "u64", 8),
    (Dtype::U32, "u32", 4),
    (Dtype::U16, "u16", 2),
    (Dtype::U8, "u8", 1),
    (Dtype::Bool, "bool", 1),
];

impl Dtype {
    fn row(&self) -> Option<&'static (Self, &'static str, usize)> {
        DTYPES.iter().find(|row| row.0 == *self)
    }

    pub(crate) fn from_safetensors(name: &str) -> Self {
        let row = DTYPES.iter().find(|row| row.1.to_ascii_uppercase() == name);
        row.map_or_else(|| Self::Other(shorten(name)), |row| row.0.clone())
    }

    /// The type stored by one of torch's storage classes.
    pub(crate) fn from_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }

    /// Bytes per element, if known.
    pub fn size(&self) -> Option<usize> {
        self.row().map(|row| row.2)
    }

    /// Whether [`TensorFile::f32`](crate::TensorFile::f32) can return its values, exactly: f32, f16 and bf16.
    pub fn fits_f32(&self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Other(name) => name,
            known => known.row().map_or("", |row| row.1),
        })
    }
}

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Shape, outermost dimension first; the values are stored in that order without gaps.
    pub shape: Vec<usize>,
    /// Element type in the file.
    pub dtype: Dtype,
    /// Size in the file, in bytes.
    pub bytes: u64,
    /// Range of its values in the file; checked to be inside the file and to match shape and type.
    pub(crate) range: Range<usize>,
    /// The zip entry that contains it, whose checksum must be verified before use.
    pub(crate) guard: Option<Guard>,
}

/// A range of the file, with its CRC-32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    pub entry: String,
    pub range: Range<usize>,
    pub crc: u32,
}
