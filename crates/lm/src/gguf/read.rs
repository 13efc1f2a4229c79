//! The bounded reader.

use std::collections::BTreeSet;
use std::io::{self, Read as _};

use super::cursor::Cursor;
use super::{Array, DEFAULT_ALIGNMENT, MAGIC, Metadata, TensorInfo, TensorType, Value, ValueKind};
use crate::limits;

/// How much of a file is read before it is known how long its header is: enough for a model with 32,000 tokens.
const FIRST_READ_BYTES: u64 = 1 << 20;

/// Why bytes are not a GGUF file that can be used. `field` names the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The bytes end within a field. Reading a header from a prefix of a file: more bytes are needed.
    #[error("GGUF: {field} is cut off at byte {at}")]
    Truncated {
        /// What was being read.
        field: String,
        /// The offset at which bytes ran out.
        at: u64,
    },
    /// The file does not begin with `GGUF`.
    #[error("GGUF: the file begins with {found:02x?}, expected \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A version that this reader does not know.
    #[error("GGUF: version {found}, expected 2 or 3")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// A number is larger than anything that makes sense.
    #[error("GGUF: {field} is {found}, and the limit is {limit}")]
    TooLarge {
        /// What was being read.
        field: String,
        /// The number in the file.
        found: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// A value makes no sense.
    #[error("GGUF: {field}: {problem}")]
    Invalid {
        /// What was being read.
        field: String,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
    /// A tensor lies outside the file.
    #[error("GGUF: tensor {name} ends at byte {end}, and the file has {length}")]
    TensorOutside {
        /// The tensor.
        name: String,
        /// The first offset after it.
        end: u64,
        /// The length of the file.
        length: u64,
    },
}

impl GgufError {
    /// Whether more bytes of the same file could make it readable.
    pub fn needs_more_bytes(&self) -> bool {
        matches!(self, GgufError::Truncated { .. })
    }
}

/// Why a header could not be read from a stream.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The stream failed.
    #[error("GGUF: reading failed")]
    Io(#[from] io::Error),
    /// The bytes are no GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// The header of a GGUF file: everything but the tensors' bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// The format's version: 2 or 3.
    pub version: u32,
    /// Multiple of which every tensor's offset is, in bytes: a power of two, at least 8.
    pub alignment: u64,
    /// The metadata.
    pub metadata: Metadata,
    /// The tensors in the file's order. Names are unique.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensor data begin, in bytes from the beginning of the file.
    pub data_offset: u64,
}

impl Gguf {
    /// Reads a whole file: its header, and checks that every tensor lies within `file`.
    pub fn parse(file: &[u8]) -> Result<Self, GgufError> {
        Self::parse_header(file, file.len() as u64)
    }

    /// Reads the header from a prefix of a file of `file_bytes` bytes, and checks that every tensor lies within that length.
    ///
    /// [`GgufError::Truncated`] says that a longer prefix is needed. [`limits::MAX_GGUF_HEADER_BYTES`] always suffices.
    pub fn parse_header(prefix: &[u8], file_bytes: u64) -> Result<Self, GgufError> {
        if file_bytes > limits::MAX_FILE_BYTES {
            return Err(GgufError::TooLarge {
                field: "the length of the file".to_owned(),
                found: file_bytes,
                limit: limits::MAX_FILE_BYTES,
            });
        }
        let mut cursor = Cursor::new(prefix);
        let (version, tensor_count, metadata_count) = read_counts(&mut cursor)?;
        let metadata = read_metadata(&mut cursor, metadata_count)?;
        let alignment = read_alignment(&metadata)?;
        let tensors = read_tensor_infos(&mut cursor, tensor_count, alignment)?;
        let data_offset = cursor.at().next_multiple_of(alignment);
        check_places(&tensors, data_offset, file_bytes)?;
        Ok(Self {
            version,
            alignment,
            metadata,
            tensors,
            data_offset,
        })
    }

    /// Reads the header from the beginning of a file of `file_bytes` bytes, and no more of the file than it takes, but at most
    /// [`limits::MAX_GGUF_HEADER_BYTES`].
    pub fn read_header(file: &mut impl io::Read, file_bytes: u64) -> Result<Self, HeaderError> {
        let mut prefix = Vec::new();
        let mut wanted = FIRST_READ_BYTES;
        loop {
            let missing = wanted - prefix.len() as u64;
            let read = io::Read::take(&mut *file, missing).read_to_end(&mut prefix)? as u64;
            match Self::parse_header(&prefix, file_bytes) {
                Err(error) if error.needs_more_bytes() && read == missing && wanted < limits::MAX_GGUF_HEADER_BYTES => {
                    wanted = (wanted * 4).min(limits::MAX_GGUF_HEADER_BYTES);
                }
                parsed => return Ok(parsed?),
            }
        }
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The bytes of one of this file's tensors within `file`, or `None` where `file` is shorter than the header was checked against.
    pub fn tensor_bytes<'a>(&self, file: &'a [u8], tensor: &TensorInfo) -> Option<&'a [u8]> {
        let start = usize::try_from(self.data_offset.checked_add(tensor.offset)?).ok()?;
        let end = start.checked_add(usize::try_from(tensor.bytes).ok()?)?;
        file.get(start..end)
    }
}

fn read_counts(cursor: &mut Cursor<'_>) -> Result<(u32, u64, u64), GgufError> {
    let found = cursor.array(&|| "the magic number".to_owned())?;
    if found != MAGIC {
        return Err(GgufError::Magic { found });
    }
    let version = cursor.u32(&|| "the version".to_owned())?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { found: version });
    }
    let tensors = cursor.count(&|| "the number of tensors".to_owned(), limits::MAX_TENSORS)?;
    let metadata = cursor.count(
        &|| "the number of metadata entries".to_owned(),
        limits::MAX_METADATA_ENTRIES,
    )?;
    Ok((version, tensors, metadata))
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
    let mut entries = Vec::with_capacity(cursor.plausible(count, 13));
    let mut seen = BTreeSet::new();
    for index in 0..count {
        let key = cursor.string(&|| format!("the key of metadata entry {index}"), limits::MAX_KEY_BYTES)?;
        if !seen.insert(key.clone()) {
            return Err(GgufError::Invalid {
                field: format!("metadata {key}"),
                problem: "the key appears twice".to_owned(),
            });
        }
        let field = || format!("metadata {key}");
        let kind = read_kind(cursor, &field)?;
        let value = read_value(cursor, kind, &field)?;
        entries.push((key, value));
    }
    Ok(Metadata::from_unique(entries))
}

fn read_kind(cursor: &mut Cursor<'_>, field: &dyn Fn() -> String) -> Result<ValueKind, GgufError> {
    let id = cursor.u32(field)?;
    ValueKind::from_id(id).ok_or_else(|| GgufError::Invalid {
        field: field(),
        problem: format!("the value type is {id}, expected 0 to 12"),
    })
}

fn read_value(cursor: &mut Cursor<'_>, kind: ValueKind, field: &dyn Fn() -> String) -> Result<Value, GgufError> {
    Ok(match kind {
        ValueKind::U8 => Value::U8(u8::from_le_bytes(cursor.array(field)?)),
        ValueKind::I8 => Value::I8(i8::from_le_bytes(cursor.array(field)?)),
        ValueKind::U16 => Value::U16(u16::from_le_bytes(cursor.array(field)?)),
        ValueKind::I16 => Value::I16(i16::from_le_bytes(cursor.array(field)?)),
        ValueKind::U32 => Value::U32(u32::from_le_bytes(cursor.array(field)?)),
        ValueKind::I32 => Value::I32(i32::from_le_bytes(cursor.array(field)?)),
        ValueKind::F32 => Value::F32(f32::from_le_bytes(cursor.array(field)?)),
        ValueKind::Bool => Value::Bool(read_bool(cursor, field)?),
        ValueKind::String => Value::String(cursor.string(field, limits::MAX_STRING_BYTES)?),
        ValueKind::Array => Value::Array(read_array(cursor, field, 1)?),
        ValueKind::U64 => Value::U64(u64::from_le_bytes(cursor.array(field)?)),
        ValueKind::I64 => Value::I64(i64::from_le_bytes(cursor.array(field)?)),
        ValueKind::F64 => Value::F64(f64::from_le_bytes(cursor.array(field)?)),
    })
}

fn read_bool(cursor: &mut Cursor<'_>, field: &dyn Fn() -> String) -> Result<bool, GgufError> {
    match cursor.array::<1>(field)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(GgufError::Invalid {
            field: field(),
            problem: format!("a boolean is {other}, expected 0 or 1"),
        }),
    }
}

fn read_array(cursor: &mut Cursor<'_>, field: &dyn Fn() -> String, nesting: u32) -> Result<Array, GgufError> {
    if nesting > limits::MAX_ARRAY_NESTING {
        return Err(GgufError::TooLarge {
            field: format!("the nesting of {}", field()),
            found: nesting.into(),
            limit: limits::MAX_ARRAY_NESTING.into(),
        });
    }
    let kind = read_kind(cursor, field)?;
    let count = cursor.count(
        &|| format!("the number of elements of {}", field()),
        limits::MAX_ARRAY_ELEMENTS,
    )?;
    Ok(match kind {
        ValueKind::U8 => Array::U8(read_elements(cursor, count, field, u8::from_le_bytes)?),
        ValueKind::I8 => Array::I8(read_elements(cursor, count, field, i8::from_le_bytes)?),
        ValueKind::U16 => Array::U16(read_elements(cursor, count, field, u16::from_le_bytes)?),
        ValueKind::I16 => Array::I16(read_elements(cursor, count, field, i16::from_le_bytes)?),
        ValueKind::U32 => Array::U32(read_elements(cursor, count, field, u32::from_le_bytes)?),
        ValueKind::I32 => Array::I32(read_elements(cursor, count, field, i32::from_le_bytes)?),
        ValueKind::F32 => Array::F32(read_elements(cursor, count, field, f32::from_le_bytes)?),
        ValueKind::U64 => Array::U64(read_elements(cursor, count, field, u64::from_le_bytes)?),
        ValueKind::I64 => Array::I64(read_elements(cursor, count, field, i64::from_le_bytes)?),
        ValueKind::F64 => Array::F64(read_elements(cursor, count, field, f64::from_le_bytes)?),
        ValueKind::Bool => Array::Bool(read_each(cursor, count, kind, |cursor| read_bool(cursor, field))?),
        ValueKind::String => Array::String(read_each(cursor, count, kind, |cursor| {
            cursor.string(field, limits::MAX_STRING_BYTES)
        })?),
        ValueKind::Array => Array::Array(read_each(cursor, count, kind, |cursor| {
            read_array(cursor, field, nesting + 1)
        })?),
    })
}

/// Reads `count` numbers of `N` bytes each.
fn read_elements<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    count: u64,
    field: &dyn Fn() -> String,
    convert: fn([u8; N]) -> T,
) -> Result<Vec<T>, GgufError> {
    let bytes = cursor.take(count * N as u64, field)?;
    let (numbers, _) = bytes.as_chunks::<N>();
    Ok(numbers.iter().map(|number| convert(*number)).collect())
}

/// Reads `count` elements of varying length; memory grows with the bytes that are there, not with `count`.
fn read_each<'a, T>(
    cursor: &mut Cursor<'a>,
    count: u64,
    kind: ValueKind,
    mut read: impl FnMut(&mut Cursor<'a>) -> Result<T, GgufError>,
) -> Result<Vec<T>, GgufError> {
    let mut elements = Vec::with_capacity(cursor.plausible(count, kind.least_bytes()));
    for _ in 0..count {
        elements.push(read(cursor)?);
    }
    Ok(elements)
}

fn read_alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let field = || "metadata general.alignment".to_owned();
    let alignment = metadata
        .optional_u64("general.alignment")
        .map_err(|error| GgufError::Invalid {
            field: field(),
            problem: error.to_string(),
        })?
        .unwrap_or(DEFAULT_ALIGNMENT);
    if alignment > limits::MAX_ALIGNMENT {
        return Err(GgufError::TooLarge {
            field: field(),
            found: alignment,
            limit: limits::MAX_ALIGNMENT,
        });
    }
    if alignment < 8 || !alignment.is_power_of_two() {
        let problem = format!("the alignment is {alignment}, expected a power of two of at least 8");
        return Err(GgufError::Invalid {
            field: field(),
            problem,
        });
    }
    Ok(alignment)
}

fn read_tensor_infos(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::with_capacity(cursor.plausible(count, 24));
    let mut seen = BTreeSet::new();
    for index in 0..count {
        let tensor = read_tensor_info(cursor, index, alignment)?;
        if !seen.insert(tensor.name.clone()) {
            let field = format!("tensor {}", tensor.name);
            return Err(GgufError::Invalid {
                field,
                problem: "the name appears twice".to_owned(),
            });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor_info(cursor: &mut Cursor<'_>, index: u64, alignment: u64) -> Result<TensorInfo, GgufError> {
    let name = cursor.string(&|| format!("the name of tensor {index}"), limits::MAX_TENSOR_NAME_BYTES)?;
    let field = || format!("tensor {name}");
    let dimensions = read_dimensions(cursor, &field)?;
    let id = cursor.u32(&field)?;
    let tensor_type = TensorType::from_id(id).ok_or_else(|| GgufError::Invalid {
        field: field(),
        problem: format!("its type {id} is not known"),
    })?;
    let offset = cursor.u64(&field)?;
    if !offset.is_multiple_of(alignment) {
        let problem = format!("its offset {offset} is no multiple of the alignment {alignment}");
        return Err(GgufError::Invalid {
            field: field(),
            problem,
        });
    }
    let bytes = tensor_bytes(&dimensions, tensor_type).ok_or_else(|| GgufError::Invalid {
        field: field(),
        problem: format!("{dimensions:?} is no whole number of {tensor_type} blocks"),
    })?;
    Ok(TensorInfo {
        name,
        dimensions,
        tensor_type,
        offset,
        bytes,
    })
}

fn read_dimensions(cursor: &mut Cursor<'_>, field: &dyn Fn() -> String) -> Result<Vec<u64>, GgufError> {
    let count_field = || format!("the number of dimensions of {}", field());
    let count = cursor.u32(&count_field)?;
    if count > limits::MAX_TENSOR_DIMENSIONS {
        let limit = limits::MAX_TENSOR_DIMENSIONS.into();
        return Err(GgufError::TooLarge {
            field: count_field(),
            found: count.into(),
            limit,
        });
    }
    let mut dimensions = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let dimension = cursor.count(&|| format!("a dimension of {}", field()), limits::MAX_DIMENSION)?;
        if dimension == 0 {
            return Err(GgufError::Invalid {
                field: field(),
                problem: "a dimension is 0".to_owned(),
            });
        }
        dimensions.push(dimension);
    }
    Ok(dimensions)
}

/// Bytes of a tensor: every row is a whole number of blocks, and the product fits a `u64`.
fn tensor_bytes(dimensions: &[u64], tensor_type: TensorType) -> Option<u64> {
    let row = tensor_type.bytes(dimensions.first().copied().unwrap_or(1))?;
    dimensions
        .iter()
        .skip(1)
        .try_fold(row, |bytes, dimension| bytes.checked_mul(*dimension))
}

fn check_places(tensors: &[TensorInfo], data_offset: u64, file_bytes: u64) -> Result<(), GgufError> {
    for tensor in tensors {
        let end = data_offset.saturating_add(tensor.offset).saturating_add(tensor.bytes);
        if end > file_bytes {
            return Err(GgufError::TensorOutside {
                name: tensor.name.clone(),
                end,
                length: file_bytes,
            });
        }
    }
    let mut places: Vec<&TensorInfo> = tensors.iter().collect();
    places.sort_by_key(|tensor| tensor.offset);
    for pair in places.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let problem = format!("it overlaps tensor {}", pair[0].name);
            return Err(GgufError::Invalid {
                field: format!("tensor {}", pair[1].name),
                problem,
            });
        }
    }
    Ok(())
}
