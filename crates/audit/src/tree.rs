//! The Merkle tree of RFC 6962, as far as its right edge: enough to append to it, and to tell its root.

use fieldfare_release::Sha256Digest;
use ring::digest::{Context, SHA256};

/// What precedes the bytes of a leaf in its hash (RFC 6962, 2.1).
pub(crate) const LEAF_PREFIX: u8 = 0;
/// What precedes the two children of a node in its hash (RFC 6962, 2.1).
const NODE_PREFIX: u8 = 1;

/// SHA-256 over a prefix byte and some parts.
pub(crate) fn prefixed(prefix: u8, parts: [&[u8]; 2]) -> Sha256Digest {
    let mut context = Context::new(&SHA256);
    context.update(&[prefix]);
    for part in parts {
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Sha256Digest::from_bytes(bytes)
}

/// The hash of a leaf: SHA-256(0x00 || data).
pub fn leaf_hash(data: &[u8]) -> Sha256Digest {
    prefixed(LEAF_PREFIX, [data, &[]])
}

/// The hash of a node: SHA-256(0x01 || left || right).
pub fn node_hash(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    prefixed(NODE_PREFIX, [left.as_bytes(), right.as_bytes()])
}

/// A tree of which only the roots of its largest complete subtrees are known, from left to right: one for each bit that is
/// set in its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    peaks: Vec<Sha256Digest>,
}

impl Tree {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree by its size and its peaks; nothing where their number is not that of a tree of this size.
    pub fn from_peaks(size: u64, peaks: Vec<Sha256Digest>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// How many leaves it has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the largest complete subtrees, from left to right.
    pub fn peaks(&self) -> &[Sha256Digest] {
        &self.peaks
    }

    /// Adds a leaf by its hash.
    pub fn append(&mut self, leaf: Sha256Digest) {
        let mut node = leaf;
        // Each trailing one bit of the size is a complete subtree that is as large as the node so far.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root: the hash of nothing for the tree without leaves.
    pub fn root(&self) -> Sha256Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Sha256Digest::of(&[]);
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

impl FromIterator<Sha256Digest> for Tree {
    fn from_iter<I: IntoIterator<Item = Sha256Digest>>(leaves: I) -> Self {
        let mut tree = Self::new();
        leaves.into_iter().for_each(|leaf| tree.append(leaf));
        tree
    }
}
