//! The tree and its proofs against the reference vectors of Certificate Transparency, and against the definitions.

use fieldfare_audit::proof::{consistency, inclusion, is_consistent, is_included};
use fieldfare_audit::tree::{Tree, leaf_hash};
use fieldfare_release::Sha256Digest;
use proptest::prelude::*;

/// The leaves of certificate-transparency's `merkletree/merkle_tree_test.cc`, in hexadecimal. The roots and proofs below are
/// from there, too; a second program (Python's hashlib, by the definitions of RFC 6962, 2.1) gave the same.
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

/// The roots of the first 0 to 8 leaves.
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// Leaf (from 0), tree size, path.
const PATHS: [(usize, usize, &[&str]); 5] = [
    (0, 1, &[]),
    (
        0,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        3,
        &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    ),
    (
        1,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

/// First size, second size, proof.
const PROOFS: [(usize, usize, &[&str]); 4] = [
    (1, 1, &[]),
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        &[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

fn leaves(count: usize) -> Vec<Sha256Digest> {
    let bytes = LEAVES[..count].iter().map(|leaf| hex::decode(leaf).unwrap());
    bytes.map(|leaf| leaf_hash(&leaf)).collect()
}

fn digests(texts: &[&str]) -> Vec<Sha256Digest> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn roots_are_those_of_the_reference() {
    for (size, root) in ROOTS.iter().enumerate() {
        let tree: Tree = leaves(size).into_iter().collect();
        assert_eq!(tree.root().to_string(), *root, "{size} leaves");
        assert_eq!(Tree::from_peaks(tree.size(), tree.peaks().to_vec()), Some(tree));
    }
}

#[test]
fn paths_are_those_of_the_reference() {
    for (index, size, path) in PATHS {
        let leaves = leaves(size);
        assert_eq!(inclusion(&leaves, index), Some(digests(path)), "leaf {index} of {size}");
        let root = ROOTS[size].parse().unwrap();
        assert!(is_included(
            &leaves[index],
            index as u64,
            size as u64,
            &digests(path),
            &root
        ));
    }
}

#[test]
fn consistency_proofs_are_those_of_the_reference() {
    for (first, second, proof) in PROOFS {
        let leaves = leaves(second);
        assert_eq!(consistency(&leaves, first), Some(digests(proof)), "{first} to {second}");
        let head = |size: usize| (size as u64, ROOTS[size].parse().unwrap());
        assert!(is_consistent(head(first), head(second), &digests(proof)));
    }
}

#[test]
fn there_is_no_proof_of_what_is_not_there() {
    assert_eq!(inclusion(&leaves(3), 3), None);
    assert_eq!(inclusion(&[], 0), None);
    assert_eq!(consistency(&leaves(3), 4), None);
    let empty = Tree::new().root();
    assert!(!is_included(&empty, 0, 0, &[], &empty));
    assert!(is_consistent((0, empty), (3, ROOTS[3].parse().unwrap()), &[]));
    assert!(!is_consistent((0, leaf_hash(b"")), (3, ROOTS[3].parse().unwrap()), &[]));
    assert!(!is_consistent(
        (4, ROOTS[4].parse().unwrap()),
        (3, ROOTS[3].parse().unwrap()),
        &[]
    ));
}

fn distinct(count: usize) -> Vec<Sha256Digest> {
    (0..count).map(|index| leaf_hash(&index.to_le_bytes())).collect()
}

/// The root by its definition, level by level: an odd node at the end of a level goes up as it is.
fn root_by_levels(leaves: &[Sha256Digest]) -> Sha256Digest {
    let mut level = leaves.to_vec();
    if level.is_empty() {
        return Sha256Digest::of(&[]);
    }
    while level.len() > 1 {
        let pair = |pair: &[Sha256Digest]| match pair {
            [left, right] => fieldfare_audit::tree::node_hash(left, right),
            other => other[0],
        };
        level = level.chunks(2).map(pair).collect();
    }
    level[0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Each proof shows what it is of, and nothing else: not another leaf, place, size or root, nor with a node changed, added
    /// or left out.
    #[test]
    fn a_proof_shows_one_thing(size in 1_usize..200, index in any::<prop::sample::Index>(), other in any::<prop::sample::Index>()) {
        let leaves = distinct(size);
        let (index, other) = (index.index(size), other.index(size));
        let root = leaves.iter().copied().collect::<Tree>().root();
        prop_assert_eq!(root, root_by_levels(&leaves));
        let path = inclusion(&leaves, index).unwrap();
        let holds = |leaf: usize, at: usize, of: usize, path: &[Sha256Digest]| {
            is_included(&leaves[leaf], at as u64, of as u64, path, &root)
        };
        prop_assert!(holds(index, index, size, &path));
        prop_assert_eq!(holds(other, index, size, &path), other == index);
        prop_assert_eq!(holds(index, other, size, &path), other == index);
        prop_assert!(!is_included(&leaves[index], index as u64, size as u64, &path, &leaf_hash(b"another")));
        for at in 0..path.len() {
            let mut changed = path.clone();
            changed[at] = leaf_hash(b"another");
            prop_assert!(!holds(index, index, size, &changed));
            let mut shorter = path.clone();
            shorter.remove(at);
            prop_assert!(!holds(index, index, size, &shorter));
        }
        let longer = [&path[..], &[root]].concat();
        prop_assert!(!holds(index, index, size, &longer));
    }

    /// A tree is consistent with each of its beginnings, and with no other tree of that size.
    #[test]
    fn a_tree_goes_on_from_its_beginnings_only(size in 1_usize..200, first in any::<prop::sample::Index>()) {
        let leaves = distinct(size);
        let first = 1 + first.index(size);
        let root = |leaves: &[Sha256Digest]| leaves.iter().copied().collect::<Tree>().root();
        let proof = consistency(&leaves, first).unwrap();
        let (old, new) = ((first as u64, root(&leaves[..first])), (size as u64, root(&leaves)));
        prop_assert!(is_consistent(old, new, &proof));
        let mut rewritten = leaves[..first].to_vec();
        rewritten[first / 2] = leaf_hash(b"another");
        prop_assert!(!is_consistent((first as u64, root(&rewritten)), new, &proof));
        prop_assert!(!is_consistent(old, (size as u64, leaf_hash(b"another")), &proof));
        for at in 0..proof.len() {
            let mut changed = proof.clone();
            changed[at] = leaf_hash(b"another");
            prop_assert!(!is_consistent(old, new, &changed));
        }
    }
}
