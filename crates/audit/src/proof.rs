//! Proofs for those who have only a head: that a record is in the log, and that one head continues another.

use fieldfare_release::Sha256Digest;

use crate::tree::{Tree, node_hash};

/// The size of the left subtree of a tree of `size` leaves: the largest power of two below it (RFC 9162, 2.1.1).
const fn left_of(size: usize) -> usize {
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}

fn root(leaves: &[Sha256Digest]) -> Sha256Digest {
    leaves.iter().copied().collect::<Tree>().root()
}

/// The proof that the leaf at `index` is in the tree of these leaf hashes, from the leaf upwards (RFC 9162, 2.1.3.1).
/// Nothing where there is no such leaf.
pub fn inclusion(leaves: &[Sha256Digest], index: usize) -> Option<Vec<Sha256Digest>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = leaves.split_at(left_of(leaves.len()));
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (inclusion(left, index)?, right),
        Some(index) => (inclusion(right, index)?, left),
    };
    path.push(root(sibling));
    Some(path)
}

/// Whether a proof shows that the leaf at `index` has this hash in the tree with this size and root (RFC 9162, 2.1.3.2).
pub fn is_included(
    leaf: &Sha256Digest,
    index: u64,
    size: u64,
    path: &[Sha256Digest],
    tree_root: &Sha256Digest,
) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut node) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            node = node_hash(sibling, &node);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            node = node_hash(&node, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && node == *tree_root
}

/// The proof that the tree of these leaf hashes begins with the tree of its first `size` (RFC 9162, 2.1.4.1). Nothing where
/// there are not that many; empty for none and for all.
pub fn consistency(leaves: &[Sha256Digest], size: usize) -> Option<Vec<Sha256Digest>> {
    match size {
        _ if size > leaves.len() => None,
        0 => Some(Vec::new()),
        _ => Some(subproof(leaves, size, true)),
    }
}

fn subproof(leaves: &[Sha256Digest], size: usize, whole: bool) -> Vec<Sha256Digest> {
    if size == leaves.len() {
        // The root that the verifier has already.
        return if whole { Vec::new() } else { vec![root(leaves)] };
    }
    let (left, right) = leaves.split_at(left_of(leaves.len()));
    let (mut path, sibling) = match size.checked_sub(left.len()) {
        None | Some(0) => (subproof(left, size, whole), right),
        Some(size) => (subproof(right, size, false), left),
    };
    path.push(root(sibling));
    path
}

/// Whether a proof shows that the second tree begins with the first (RFC 9162, 2.1.4.2). Every tree begins with the empty
/// one.
pub fn is_consistent(first: (u64, Sha256Digest), second: (u64, Sha256Digest), path: &[Sha256Digest]) -> bool {
    let ((first_size, first_root), (second_size, second_root)) = (first, second);
    if first_size == second_size {
        return path.is_empty() && first_root == second_root;
    }
    if first_size == 0 {
        return path.is_empty() && first_root == Tree::new().root();
    }
    if first_size > second_size {
        return false;
    }
    let known = first_size.is_power_of_two().then_some(first_root);
    let mut path = known.iter().chain(path);
    let Some(seed) = path.next() else { return false };
    let (mut old, mut new) = (*seed, *seed);
    let (mut at, mut last) = (first_size - 1, second_size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    for node in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            (old, new) = (node_hash(node, &old), node_hash(node, &new));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, node);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old == first_root && new == second_root
}
