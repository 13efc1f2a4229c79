//! A model's bytes, mapped from a file or held in memory, and typed views of them.
//!
//! The one module of this crate with `unsafe` in it: mapping a file, and reading bytes as arrays of blocks.
#![allow(
    unsafe_code,
    reason = "mapping files and viewing bytes as blocks; each use carries its proof"
)]

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use half::{bf16, f16};
use memmap2::Mmap;

#[cfg(target_endian = "big")]
compile_error!("GGUF blocks are little-endian and are computed with in place");

/// The bytes of a model file.
#[derive(Debug)]
pub struct Mapping {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    /// Held as words, so that the beginning is aligned for every kind of block.
    Owned {
        words: Vec<u64>,
        length: usize,
    },
}

impl Mapping {
    /// Maps a file into memory, read-only.
    ///
    /// The file must not be changed while it is mapped: the agent maps only files of its content-addressed store, which are written
    /// once and never modified. A file that is truncated nevertheless ends the process with SIGBUS, which is why serving is a child process.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only, and is read as plain integers of which every bit pattern is valid. That nobody
        // writes to the file meanwhile is the caller's duty, stated above; memory safety beyond that is the kernel's.
        let mapped = unsafe { Mmap::map(&file)? };
        Ok(Self {
            bytes: Bytes::Mapped(mapped),
        })
    }

    /// Holds a copy of `bytes` in memory.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Self {
            bytes: Bytes::Owned {
                words: words.collect(),
                length: bytes.len(),
            },
        }
    }

    /// All bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped,
            // SAFETY: `words` holds at least `length` bytes (`from_bytes` rounds up), all initialised; u8 has no alignment, and the
            // borrow of `self` keeps them alive and unchanged.
            Bytes::Owned { words, length } => unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), *length) },
        }
    }
}

/// Types that may be read from any bytes.
///
/// # Safety
///
/// Every bit pattern is a valid value, there is no padding, and the layout is that of GGUF.
pub(crate) unsafe trait Plain: Sized + 'static {}

macro_rules! plain {
    ($($block:ty),*) => {
        // SAFETY: `repr(C)` structures of f16, u8, i8 and i16 without padding (candle asserts their sizes), and numbers:
        // every bit pattern of these is valid, and candle takes them from GGUF files in the same layout.
        $(unsafe impl Plain for $block {})*
    };
}

plain!(
    f32, f16, bf16, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K,
    BlockQ6K
);

/// Blocks as the bytes that a GGUF file holds.
pub(crate) fn blocks_as_bytes<T: Plain>(blocks: &[T]) -> Vec<u8> {
    // SAFETY: `Plain` types have no padding, so that all `size_of_val` bytes are initialised; u8 has no alignment, and the view
    // ends before this function does.
    unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(blocks)) }.to_vec()
}

/// An array of blocks within a mapping, which it keeps alive.
#[derive(Debug, Clone)]
pub(super) struct Blocks<T> {
    mapping: Arc<Mapping>,
    range: Range<usize>,
    blocks: PhantomData<T>,
}

impl<T: Plain> Blocks<T> {
    /// The blocks at `range`, or `None` where it lies outside, is misaligned or is no whole number of blocks.
    pub(super) fn new(mapping: &Arc<Mapping>, range: Range<usize>) -> Option<Self> {
        let bytes = mapping.as_bytes().get(range.clone())?;
        let is_whole = bytes.len().is_multiple_of(size_of::<T>());
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(align_of::<T>());
        (is_whole && is_aligned).then(|| Self {
            mapping: Arc::clone(mapping),
            range,
            blocks: PhantomData,
        })
    }

    /// The blocks.
    pub(super) fn as_slice(&self) -> &[T] {
        let bytes = &self.mapping.as_bytes()[self.range.clone()];
        // SAFETY: `new` checked that the range is aligned and whole for T, and a mapping's bytes neither move nor change while it
        // lives; `Plain` promises that any bytes are valid values; the lifetime is bound to `self`, which holds the mapping.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_outside_misaligned_or_cut_off_are_refused() {
        let mapping = Arc::new(Mapping::from_bytes(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0]));
        assert_eq!(mapping.as_bytes().len(), 10);
        assert!(Blocks::<f32>::new(&mapping, 0..8).is_some());
        assert!(Blocks::<f32>::new(&mapping, 2..6).is_none(), "misaligned");
        assert!(Blocks::<f32>::new(&mapping, 0..6).is_none(), "no whole number");
        assert!(Blocks::<f32>::new(&mapping, 8..12).is_none(), "outside");
        assert_eq!(
            Blocks::<f16>::new(&mapping, 8..10).unwrap().as_slice(),
            [f16::from_bits(3)]
        );
    }
}
