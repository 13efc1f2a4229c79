//! How a segment lies in its file: the magic, then frames, each with its own checksum.
//!
//! A frame is `kind` (1 byte), length of the payload (4 bytes), `index` (8 bytes), `hash` (32 bytes), payload; numbers are little
//! endian. The hash is SHA-256(kind || payload), which for a record is its leaf hash in the tree.

use std::io::{self, Read};

use fieldfare_release::Sha256Digest;

use crate::limits::{MAX_PAYLOAD_BYTES, MAX_RECORDS};
use crate::tree::{LEAF_PREFIX, Tree, prefixed};

/// The first bytes of a segment: what it is, and version 1 of its form.
pub const MAGIC: [u8; 8] = *b"FFAUDIT1";

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 1 + 4 + 8 + 32;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A record; the index is its own.
    Record,
    /// The first frame of a segment: the peaks of the tree before it, and a signed head of that tree; the index is its size.
    Start,
    /// A signed head of the tree of all records before; the index is its size.
    Head,
}

impl Kind {
    // The byte of a record is the prefix of a leaf; those of the others are no prefix of RFC 6962.
    const fn byte(self) -> u8 {
        match self {
            Self::Record => LEAF_PREFIX,
            Self::Start => 2,
            Self::Head => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Record, Self::Start, Self::Head]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// Which record, or how many records are before it.
    pub index: u64,
    /// The hash that it carries.
    pub hash: Sha256Digest,
    /// Its content.
    pub payload: Vec<u8>,
    /// Whether the hash is that of the content.
    pub intact: bool,
}

/// What comes next in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A frame.
    Frame(Frame),
    /// The segment ends after a whole frame.
    End,
    /// Here are bytes that are no frame, or only the beginning of one. What follows cannot be read.
    Unreadable,
}

/// Writes a frame behind `to`, and gives its hash.
///
/// # Panics
/// Never for a payload within [`MAX_PAYLOAD_BYTES`], which callers check.
pub fn encode(kind: Kind, index: u64, payload: &[u8], to: &mut Vec<u8>) -> Sha256Digest {
    let hash = prefixed(kind.byte(), [payload, &[]]);
    // A payload that is longer is written with a length that no reader accepts.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    to.push(kind.byte());
    to.extend(length.to_le_bytes());
    to.extend(index.to_le_bytes());
    to.extend(hash.as_bytes());
    to.extend(payload);
    hash
}

/// The first bytes of a segment that goes on from a tree: the magic and its first frame.
pub fn encode_start(tree: &Tree, signed_head: &str) -> Vec<u8> {
    let mut payload: Vec<u8> = tree.peaks().iter().flat_map(|peak| *peak.as_bytes()).collect();
    payload.extend(signed_head.as_bytes());
    let mut bytes = MAGIC.to_vec();
    encode(Kind::Start, tree.size(), &payload, &mut bytes);
    bytes
}

/// The tree and the signed head in the payload of a segment's first frame.
pub fn decode_start(index: u64, payload: &[u8]) -> Option<(Tree, &[u8])> {
    let edge = index.count_ones() as usize * 32;
    let (peaks, note) = payload.split_at_checked(edge)?;
    let (peaks, _) = peaks.as_chunks::<32>();
    let peaks = peaks.iter().map(|bytes| Sha256Digest::from_bytes(*bytes)).collect();
    Some((Tree::from_peaks(index, peaks)?, note))
}

/// Reads as much as there is, up to the length of `buffer`.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads the magic. False where other bytes, or too few, are in its place.
///
/// # Errors
/// The reader fails.
pub fn read_magic(from: &mut impl Read) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    Ok(fill(from, &mut magic)? == MAGIC.len() && magic == MAGIC)
}

/// Reads the next frame, of at most [`MAX_PAYLOAD_BYTES`] and with an index of at most [`MAX_RECORDS`].
///
/// # Errors
/// The reader fails.
pub fn read(from: &mut impl Read) -> io::Result<Next> {
    let mut header = [0; HEADER_BYTES];
    match fill(from, &mut header)? {
        0 => return Ok(Next::End),
        HEADER_BYTES => {}
        _ => return Ok(Next::Unreadable),
    }
    let Some((kind, length, index, hash)) = parse(&header) else {
        return Ok(Next::Unreadable);
    };
    let mut payload = vec![0; length];
    if fill(from, &mut payload)? != length {
        return Ok(Next::Unreadable);
    }
    let intact = prefixed(kind.byte(), [&payload, &[]]) == hash;
    Ok(Next::Frame(Frame {
        kind,
        index,
        hash,
        payload,
        intact,
    }))
}

fn parse(header: &[u8; HEADER_BYTES]) -> Option<(Kind, usize, u64, Sha256Digest)> {
    let (kind, rest) = header.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let hash = rest.first_chunk::<32>()?;
    let (length, index) = (u32::from_le_bytes(*length) as usize, u64::from_le_bytes(*index));
    (length <= MAX_PAYLOAD_BYTES && index <= MAX_RECORDS).then_some(())?;
    Some((Kind::of(*kind)?, length, index, Sha256Digest::from_bytes(*hash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Next {
        read(&mut &*bytes).unwrap()
    }

    #[test]
    fn a_frame_at_the_limits_is_read_and_one_beyond_is_none() {
        let payload = vec![7; MAX_PAYLOAD_BYTES + 1];
        for (length, index, is_read) in [
            (MAX_PAYLOAD_BYTES, MAX_RECORDS, true),
            (MAX_PAYLOAD_BYTES + 1, 0, false),
            (0, MAX_RECORDS + 1, false),
            (0, u64::MAX, false),
        ] {
            let mut bytes = Vec::new();
            encode(Kind::Record, index, &payload[..length], &mut bytes);
            let next = first(&bytes);
            assert_eq!(
                matches!(next, Next::Frame(frame) if frame.intact),
                is_read,
                "{length} {index}"
            );
        }
    }
}
