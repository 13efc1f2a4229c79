//! Metadata of a GGUF file: ordered keys with typed values.

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array: all elements have one type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// The type of a metadata value, with GGUF's number as discriminant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum ValueKind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueKind {
    /// The kind with GGUF's number `id`, if there is one.
    pub fn from_id(id: u32) -> Option<Self> {
        use ValueKind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
            .into_iter()
            .find(|kind| *kind as u32 == id)
    }

    /// The fewest bytes that one element of this kind takes in a file.
    pub(super) fn least_bytes(self) -> u64 {
        use ValueKind::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 | String => 8,
            Array => 12,
        }
    }
}

impl Value {
    /// The type of this value.
    pub fn kind(&self) -> ValueKind {
        match self {
            Value::U8(_) => ValueKind::U8,
            Value::I8(_) => ValueKind::I8,
            Value::U16(_) => ValueKind::U16,
            Value::I16(_) => ValueKind::I16,
            Value::U32(_) => ValueKind::U32,
            Value::I32(_) => ValueKind::I32,
            Value::F32(_) => ValueKind::F32,
            Value::Bool(_) => ValueKind::Bool,
            Value::String(_) => ValueKind::String,
            Value::Array(_) => ValueKind::Array,
            Value::U64(_) => ValueKind::U64,
            Value::I64(_) => ValueKind::I64,
            Value::F64(_) => ValueKind::F64,
        }
    }

    /// The value as an unsigned number, if it is an integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value as `f32`, if it is a floating-point number; an F64 is rounded.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(v) => Some(v),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The array, if it is one.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// Why a metadata entry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The key is not in the file.
    #[error("metadata: {key} is missing")]
    Missing {
        /// The key that was looked for.
        key: String,
    },
    /// The key has a value of another type.
    #[error("metadata: {key} has the type {found:?}, expected {expected}")]
    WrongKind {
        /// The key.
        key: String,
        /// What its value is.
        found: ValueKind,
        /// What it has to be.
        expected: &'static str,
    },
}

/// The metadata of a file, in the file's order. Keys are unique.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries whose keys the reader has found to be unique.
    pub(super) fn from_unique(entries: Vec<(String, Value)>) -> Self {
        Self { entries }
    }

    /// Sets a key: replaces its value where it is, or appends it.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }

    /// The entries in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// A number that is not negative, where the key is present.
    pub fn optional_u64(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        self.optional(key, "an unsigned integer", Value::as_u64)
    }

    /// A number that is not negative.
    pub fn u64(&self, key: &str) -> Result<u64, MetadataError> {
        required(key, self.optional_u64(key)?)
    }

    /// A floating-point number, where the key is present.
    pub fn optional_f32(&self, key: &str) -> Result<Option<f32>, MetadataError> {
        self.optional(key, "a floating-point number", Value::as_f32)
    }

    /// A floating-point number.
    pub fn f32(&self, key: &str) -> Result<f32, MetadataError> {
        required(key, self.optional_f32(key)?)
    }

    /// A string, where the key is present.
    pub fn optional_str(&self, key: &str) -> Result<Option<&str>, MetadataError> {
        self.optional(key, "a string", Value::as_str)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, MetadataError> {
        required(key, self.optional_str(key)?)
    }

    /// A boolean, where the key is present.
    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.optional(key, "a boolean", Value::as_bool)
    }

    /// An array of strings, where the key is present.
    pub fn optional_strings(&self, key: &str) -> Result<Option<&[String]>, MetadataError> {
        self.optional(key, "an array of strings", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String], MetadataError> {
        required(key, self.optional_strings(key)?)
    }

    /// An array of F32, where the key is present.
    pub fn optional_f32s(&self, key: &str) -> Result<Option<&[f32]>, MetadataError> {
        self.optional(key, "an array of F32", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// An array of I32, where the key is present.
    pub fn optional_i32s(&self, key: &str) -> Result<Option<&[i32]>, MetadataError> {
        self.optional(key, "an array of I32", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(MetadataError::WrongKind {
                key: key.to_owned(),
                found: value.kind(),
                expected,
            }),
        }
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, MetadataError> {
    value.ok_or_else(|| MetadataError::Missing { key: key.to_owned() })
}
