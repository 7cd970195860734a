//! The header of a safetensors file.
//!
//! ```text
//! u64 little endian: bytes of the header | JSON header | data
//! header: { "name": { "dtype": "BF16", "shape": [n, k], "data_offsets": [begin, end] }, "__metadata__": {..} }
//! ```
//!
//! Nothing in a file is trusted: sizes are bounded and checked without overflow before anything is read.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A larger header is refused unread; DeepSeek-V3.2's largest shard has one of about 1 MB.
pub(crate) const HEADER_BYTES_MAX: u64 = 100 << 20;

/// Element types of tensors that Hadal reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "String")]
pub enum TensorType {
    /// binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// binary16.
    F16,
    /// e4m3fn.
    E4m3,
    /// Powers of two, as scales.
    E8m0,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// Any other, which can be listed but not read.
    Other,
}

impl TensorType {
    const ALL: [TensorType; 7] = [
        TensorType::F32,
        TensorType::Bf16,
        TensorType::F16,
        TensorType::E4m3,
        TensorType::E8m0,
        TensorType::I32,
        TensorType::I64,
    ];

    /// Bytes of one element; none for types that Hadal does not read.
    pub(crate) fn bytes(self) -> Option<usize> {
        Some(match self {
            TensorType::F32 | TensorType::I32 => 4,
            TensorType::Bf16 | TensorType::F16 => 2,
            TensorType::E4m3 | TensorType::E8m0 => 1,
            TensorType::I64 => 8,
            TensorType::Other => return None,
        })
    }

    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::Bf16 => "BF16",
            TensorType::F16 => "F16",
            TensorType::E4m3 => "F8_E4M3",
            TensorType::E8m0 => "F8_E8M0",
            TensorType::I32 => "I32",
            TensorType::I64 => "I64",
            TensorType::Other => "a type that Hadal does not read",
        }
    }
}

impl From<String> for TensorType {
    fn from(name: String) -> Self {
        TensorType::ALL.into_iter().find(|t| t.name() == name).unwrap_or(TensorType::Other)
    }
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) dtype: TensorType,
    pub(crate) shape: Vec<usize>,
    /// From the start of the file.
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than the header says, or than the eight bytes before it.
    #[error("the file has {found} bytes but its header says {expected}: it is truncated; fetch it again")]
    Truncated {
        /// Bytes that there should be at least.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// A header too large to be one.
    #[error("the header claims {bytes} bytes, more than {HEADER_BYTES_MAX}: this is no safetensors file")]
    Huge {
        /// What it claims.
        bytes: u64,
    },
    /// No JSON, or not of that form.
    #[error("the header is corrupt: {0}")]
    Json(String),
    /// Offsets that do not fit the shape.
    #[error("the header is corrupt: tensor {tensor} of shape {shape:?} ({dtype}) has {found} bytes")]
    Size {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its type's name.
        dtype: &'static str,
        /// Bytes by its offsets.
        found: u64,
    },
    /// Two tensors share bytes. A small file could claim any amount of weights so.
    #[error("the header is corrupt: tensors {tensor} and {other} overlap")]
    Overlap {
        /// A tensor.
        tensor: String,
        /// The one that begins within it.
        other: String,
    },
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: TensorType,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Tensor(RawEntry),
    Metadata(serde::de::IgnoredAny),
}

/// Reads the header of a whole file.
///
/// # Errors
/// When it is truncated, no JSON, or contradicts itself.
pub(crate) fn read_header(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, HeaderError> {
    let found = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(HeaderError::Truncated { expected: 8, found });
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::Huge { bytes: length });
    }
    let Some(header) = rest.get(..length as usize) else {
        return Err(HeaderError::Truncated { expected: 8 + length, found });
    };
    let raw: BTreeMap<String, Raw> = serde_json::from_slice(header).map_err(|e| HeaderError::Json(e.to_string()))?;
    let mut entries = BTreeMap::new();
    for (name, raw) in raw {
        match raw {
            Raw::Tensor(raw) => {
                let entry = entry(&name, raw, 8 + length, found)?;
                entries.insert(name, entry);
            }
            Raw::Metadata(_) if name == "__metadata__" => {}
            Raw::Metadata(_) => return Err(HeaderError::Json(format!("entry {name} is no tensor"))),
        }
    }
    check_apart(&entries)?;
    Ok(entries)
}

/// Checks that no two entries share bytes.
fn check_apart(entries: &BTreeMap<String, Entry>) -> Result<(), HeaderError> {
    let mut order: Vec<(&String, &Entry)> = entries.iter().filter(|(_, e)| e.begin < e.end).collect();
    order.sort_by_key(|(_, entry)| entry.begin);
    match order.windows(2).find(|pair| pair[1].1.begin < pair[0].1.end) {
        Some(pair) => Err(HeaderError::Overlap { tensor: pair[0].0.clone(), other: pair[1].0.clone() }),
        None => Ok(()),
    }
}

/// Checks one entry against its shape and the file; `base` is where the data begin.
fn entry(name: &str, raw: RawEntry, base: u64, file_bytes: u64) -> Result<Entry, HeaderError> {
    let [begin, end] = raw.data_offsets;
    let wrong = |found: u64| HeaderError::Size {
        tensor: name.to_owned(),
        shape: raw.shape.clone(),
        dtype: raw.dtype.name(),
        found,
    };
    let bytes = end.checked_sub(begin).ok_or_else(|| wrong(0))?;
    if let Some(each) = raw.dtype.bytes() {
        let expected = raw.shape.iter().try_fold(each, |a, &n| a.checked_mul(n));
        if expected.map(|n| n as u64) != Some(bytes) {
            return Err(wrong(bytes));
        }
    }
    let last = base.checked_add(end).ok_or_else(|| wrong(bytes))?;
    if last > file_bytes {
        return Err(HeaderError::Truncated { expected: last, found: file_bytes });
    }
    Ok(Entry { dtype: raw.dtype, shape: raw.shape, begin: (base + begin) as usize, end: last as usize })
}
