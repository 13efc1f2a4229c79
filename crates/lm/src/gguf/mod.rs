//! GGUF, versions 2 and 3: our own bounded reader, and a writer.
//!
//! The reader works on a byte slice, a whole file or only its beginning, and treats it as hostile: every count, length,
//! offset and product is checked before it is used, memory grows only with bytes that are really there, and an error names the field.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod metadata;
mod read;
mod tensor;
mod write;

#[cfg(test)]
mod tests;

pub use metadata::{Array, Metadata, MetadataError, Value, ValueKind};
pub use read::{Gguf, GgufError, HeaderError};
pub use tensor::{TensorInfo, TensorType};
pub use write::{GgufWriter, TensorSpec, WriteError};

/// The four bytes that a GGUF file begins with.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The tensor alignment of a file that does not say one, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;
