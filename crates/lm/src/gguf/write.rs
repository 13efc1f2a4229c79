//! The writer: a header, then the tensors one by one, so that memory holds one tensor at most.

use std::io::{self, Write};

use super::{Array, DEFAULT_ALIGNMENT, MAGIC, Metadata, TensorType, Value, ValueKind};

/// The version of the format that is written.
const VERSION: u32 = 3;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// GGML's order: the contiguous dimension first.
    pub dimensions: Vec<u64>,
    /// How the elements are stored.
    pub tensor_type: TensorType,
}

impl TensorSpec {
    /// Bytes of the tensor, or `None` where a row is no whole number of blocks.
    pub fn bytes(&self) -> Option<u64> {
        let row = self.tensor_type.bytes(self.dimensions.first().copied().unwrap_or(1))?;
        self.dimensions
            .iter()
            .skip(1)
            .try_fold(row, |bytes, dimension| bytes.checked_mul(*dimension))
    }
}

/// Why a GGUF file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A tensor's shape does not fit its type.
    #[error("GGUF: tensor {name}: {dimensions:?} is no whole number of {tensor_type} blocks")]
    Blocks {
        /// The tensor.
        name: String,
        /// Its shape.
        dimensions: Vec<u64>,
        /// Its type.
        tensor_type: TensorType,
    },
    /// `general.alignment` is not an alignment.
    #[error("GGUF: general.alignment is {found}, expected a power of two of at least 8")]
    Alignment {
        /// The alignment in the metadata.
        found: u64,
    },
    /// The bytes given for a tensor are not as long as the header says.
    #[error("GGUF: tensor {name} has {found} bytes, expected {expected}")]
    TensorLength {
        /// The tensor.
        name: String,
        /// The bytes given.
        found: u64,
        /// The bytes that its shape and type take.
        expected: u64,
    },
    /// More tensors were written than the header lists, or fewer.
    #[error("GGUF: {written} tensors were written, and the header lists {listed}")]
    TensorCount {
        /// Tensors written.
        written: usize,
        /// Tensors in the header.
        listed: usize,
    },
    /// The output could not be written.
    #[error("GGUF: writing failed")]
    Io(#[from] io::Error),
}

/// Writes one GGUF file: the header on creation, then each tensor in the order of the header.
#[derive(Debug)]
pub struct GgufWriter<W: Write> {
    out: W,
    alignment: u64,
    listed: Vec<(String, u64)>,
    written: usize,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header. The alignment is `general.alignment` in the metadata, or 32.
    pub fn new(mut out: W, metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Self, WriteError> {
        let alignment = metadata
            .get("general.alignment")
            .and_then(Value::as_u64)
            .unwrap_or(DEFAULT_ALIGNMENT);
        if alignment < 8 || !alignment.is_power_of_two() {
            return Err(WriteError::Alignment { found: alignment });
        }
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            put_string(&mut header, key);
            header.extend((value.kind() as u32).to_le_bytes());
            put_value(&mut header, value);
        }
        let listed = put_tensor_infos(&mut header, tensors, alignment)?;
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        out.write_all(&header)?;
        Ok(Self {
            out,
            alignment,
            listed,
            written: 0,
        })
    }

    /// Writes the next tensor's bytes.
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let Some((name, expected)) = self.listed.get(self.written) else {
            return Err(WriteError::TensorCount {
                written: self.written + 1,
                listed: self.listed.len(),
            });
        };
        if bytes.len() as u64 != *expected {
            return Err(WriteError::TensorLength {
                name: name.clone(),
                found: bytes.len() as u64,
                expected: *expected,
            });
        }
        self.out.write_all(bytes)?;
        let padding = expected.next_multiple_of(self.alignment) - expected;
        self.out.write_all(&vec![0; padding as usize])?;
        self.written += 1;
        Ok(())
    }

    /// Checks that every tensor was written, flushes, and gives the output back.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if self.written != self.listed.len() {
            return Err(WriteError::TensorCount {
                written: self.written,
                listed: self.listed.len(),
            });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_tensor_infos(
    header: &mut Vec<u8>,
    tensors: &[TensorSpec],
    alignment: u64,
) -> Result<Vec<(String, u64)>, WriteError> {
    let mut listed = Vec::with_capacity(tensors.len());
    let mut offset = 0_u64;
    for tensor in tensors {
        let bytes = tensor.bytes().ok_or_else(|| WriteError::Blocks {
            name: tensor.name.clone(),
            dimensions: tensor.dimensions.clone(),
            tensor_type: tensor.tensor_type,
        })?;
        put_string(header, &tensor.name);
        header.extend((tensor.dimensions.len() as u32).to_le_bytes());
        for dimension in &tensor.dimensions {
            header.extend(dimension.to_le_bytes());
        }
        header.extend(tensor.tensor_type.id().to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += bytes.next_multiple_of(alignment);
        listed.push((tensor.name.clone(), bytes));
    }
    Ok(listed)
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn each<T>(out: &mut Vec<u8>, kind: ValueKind, elements: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
        out.extend((kind as u32).to_le_bytes());
        out.extend((elements.len() as u64).to_le_bytes());
        for element in elements {
            put(out, element);
        }
    }
    match array {
        Array::U8(v) => each(out, ValueKind::U8, v, |out, e| out.push(*e)),
        Array::I8(v) => each(out, ValueKind::I8, v, |out, e| out.extend(e.to_le_bytes())),
        Array::U16(v) => each(out, ValueKind::U16, v, |out, e| out.extend(e.to_le_bytes())),
        Array::I16(v) => each(out, ValueKind::I16, v, |out, e| out.extend(e.to_le_bytes())),
        Array::U32(v) => each(out, ValueKind::U32, v, |out, e| out.extend(e.to_le_bytes())),
        Array::I32(v) => each(out, ValueKind::I32, v, |out, e| out.extend(e.to_le_bytes())),
        Array::F32(v) => each(out, ValueKind::F32, v, |out, e| out.extend(e.to_le_bytes())),
        Array::Bool(v) => each(out, ValueKind::Bool, v, |out, e| out.push(u8::from(*e))),
        Array::String(v) => each(out, ValueKind::String, v, |out, e| put_string(out, e)),
        Array::Array(v) => each(out, ValueKind::Array, v, put_array),
        Array::U64(v) => each(out, ValueKind::U64, v, |out, e| out.extend(e.to_le_bytes())),
        Array::I64(v) => each(out, ValueKind::I64, v, |out, e| out.extend(e.to_le_bytes())),
        Array::F64(v) => each(out, ValueKind::F64, v, |out, e| out.extend(e.to_le_bytes())),
    }
}
