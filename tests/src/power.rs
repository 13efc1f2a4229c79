//! What a power loss may leave of a folder, from the record of what a process did to it (`tests/shim/src/record.rs`).
//!
//! What was synced is there: the content of a file after its `fsync`, names after the `fsync` of their folder. Of everything else
//! any part may be there: each block of each write, each change of a length, each creation, renaming and removal, and the last write
//! only up to some byte. A renaming is there whole or not at all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes that a disk writes at once or not at all.
const BLOCK: usize = 4096;

/// A SplitMix64 generator (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound as u64).max(1)) as usize
    }
}

/// Files and folders by their paths: a file has content, a folder none.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Edit {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Debug)]
enum Node {
    File {
        /// What is synced.
        content: Vec<u8>,
        /// What was done since.
        edits: Vec<Edit>,
    },
    Folder {
        /// Names that are synced.
        kept: BTreeMap<OsString, usize>,
        /// Names as the process sees them.
        seen: BTreeMap<OsString, usize>,
    },
}

/// A change of names that is not synced yet.
#[derive(Clone, Debug)]
struct Renaming {
    from: Option<(usize, OsString)>,
    to: Option<(usize, OsString)>,
    node: usize,
}

/// How much of what is not synced survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mercy {
    Nothing,
    /// Each part as chance has it.
    Some,
    /// All up to a point, and a part of what comes there.
    Until,
}

/// A disk with a folder, and what is not synced on it.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: Vec<Node>,
    changes: Vec<Renaming>,
}

const ROOT: usize = 0;

fn names_of(node: &Node) -> Option<&BTreeMap<OsString, usize>> {
    match node {
        Node::Folder { seen, .. } => Some(seen),
        Node::File { .. } => None,
    }
}

impl Disk {
    /// A disk on which everything in a folder is synced.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut disk = Self {
            nodes: Vec::new(),
            changes: Vec::new(),
        };
        disk.take_in(folder)?;
        Ok(disk)
    }

    fn take_in(&mut self, path: &Path) -> io::Result<usize> {
        let id = self.nodes.len();
        if !path.is_dir() {
            let content = fs::read(path)?;
            self.nodes.push(Node::File {
                content,
                edits: Vec::new(),
            });
            return Ok(id);
        }
        self.nodes.push(Node::Folder {
            kept: BTreeMap::new(),
            seen: BTreeMap::new(),
        });
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() || kind.is_file() {
                names.insert(entry.file_name(), self.take_in(&entry.path())?);
            }
        }
        self.nodes[id] = Node::Folder {
            kept: names.clone(),
            seen: names,
        };
        Ok(id)
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter()
            .try_fold(ROOT, |folder, name| names_of(&self.nodes[folder])?.get(name).copied())
    }

    /// The folder and the name of a path.
    fn place(&self, path: &Path) -> Option<(usize, OsString)> {
        Some((self.find(path.parent()?)?, path.file_name()?.to_owned()))
    }

    fn change(&mut self, from: Option<(usize, OsString)>, to: Option<(usize, OsString)>, node: usize) {
        for (place, entry) in [(&from, None), (&to, Some(node))] {
            if let Some((folder, name)) = place
                && let Node::Folder { seen, .. } = &mut self.nodes[*folder]
            {
                match entry {
                    Some(node) => seen.insert(name.clone(), node),
                    None => seen.remove(name),
                };
            }
        }
        self.changes.push(Renaming { from, to, node });
    }

    /// Does what a record says, up to its end or to an entry that is cut off.
    pub fn replay(&mut self, record: &[u8]) {
        let mut rest = record;
        while let Some(((kind, offset, path, data), after)) = entry(rest) {
            rest = after;
            self.step(kind, offset, &path, data);
        }
    }

    fn step(&mut self, kind: u8, offset: u64, path: &Path, data: &[u8]) {
        let found = self.find(path);
        match (kind, found) {
            (1 | 9, None) => {
                let node = self.nodes.len();
                self.nodes.push(match kind {
                    1 => Node::File {
                        content: Vec::new(),
                        edits: Vec::new(),
                    },
                    _ => Node::Folder {
                        kept: BTreeMap::new(),
                        seen: BTreeMap::new(),
                    },
                });
                if let Some(place) = self.place(path) {
                    self.change(None, Some(place), node);
                }
            }
            (1, Some(node)) if offset == 1 => self.edit(node, Edit::Resize(0)),
            (2, Some(node)) => self.edit(
                node,
                Edit::Write {
                    offset: offset as usize,
                    bytes: data.to_vec(),
                },
            ),
            (3, Some(node)) => self.edit(node, Edit::Resize(offset as usize)),
            (4, Some(node)) => self.sync(node),
            (5 | 8, Some(node)) => {
                let from = self.place(path).filter(|_| kind == 5);
                let to = self.place(Path::new(&OsString::from_vec(data.to_vec())));
                self.change(from, to, node);
            }
            (6, Some(node)) => {
                let from = self.place(path);
                self.change(from, None, node);
            }
            _ => {}
        }
    }

    fn edit(&mut self, node: usize, edit: Edit) {
        if let Node::File { edits, .. } = &mut self.nodes[node] {
            edits.push(edit);
        }
    }

    fn sync(&mut self, node: usize) {
        if let Node::File { content, edits } = &mut self.nodes[node] {
            for edit in edits.drain(..) {
                apply(content, &edit);
            }
            return;
        }
        let touches = |place: &Option<(usize, OsString)>| place.as_ref().is_some_and(|(folder, _)| *folder == node);
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            // A renaming from one folder to another is complete once the new name is.
            let synced = match &change.to {
                Some(_) => touches(&change.to),
                None => touches(&change.from),
            };
            match synced {
                true => keep(&mut self.nodes, &change),
                false => self.changes.push(change),
            }
        }
    }

    /// The folder as the process sees it.
    pub fn as_seen(&self) -> Tree {
        let mut disk = self.clone();
        for node in 0..disk.nodes.len() {
            if matches!(disk.nodes[node], Node::File { .. }) {
                disk.sync(node);
            }
        }
        disk.tree(|node| names_of(node))
    }

    /// The folder with what is synced, and nothing else.
    pub fn synced(&self) -> Tree {
        self.tree(|node| match node {
            Node::Folder { kept, .. } => Some(kept),
            Node::File { .. } => None,
        })
    }

    /// The folder as it may be after a power loss now.
    pub fn after_power_loss(&self, chance: &mut Chance) -> Tree {
        let mut disk = self.clone();
        let mercies = [Mercy::Nothing, Mercy::Some, Mercy::Until];
        let mercy = mercies[chance.below(mercies.len())];
        let last = chance.below(disk.changes.len() + 1);
        for (index, change) in std::mem::take(&mut disk.changes).iter().enumerate() {
            let kept = match mercy {
                Mercy::Nothing => false,
                Mercy::Some => chance.below(2) == 0,
                Mercy::Until => index < last,
            };
            if kept {
                keep(&mut disk.nodes, change);
            }
        }
        for node in &mut disk.nodes {
            if let Node::File { content, edits } = node {
                let edits = std::mem::take(edits);
                let last = chance.below(edits.len() + 1);
                for (index, edit) in edits.iter().enumerate() {
                    match mercy {
                        Mercy::Nothing => {}
                        Mercy::Until if index < last => apply(content, edit),
                        Mercy::Until if index == last => tear(content, edit, chance),
                        Mercy::Until => {}
                        Mercy::Some => scatter(content, edit, chance),
                    }
                }
            }
        }
        disk.synced()
    }

    fn tree<'a>(&'a self, names: impl Fn(&'a Node) -> Option<&'a BTreeMap<OsString, usize>>) -> Tree {
        let mut tree = Tree::new();
        let mut open = vec![(PathBuf::new(), ROOT)];
        while let Some((path, node)) = open.pop() {
            for (name, node) in names(&self.nodes[node]).into_iter().flatten() {
                let path = path.join(name);
                match &self.nodes[*node] {
                    Node::File { content, .. } => drop(tree.insert(path, Some(content.clone()))),
                    Node::Folder { .. } => {
                        tree.insert(path.clone(), None);
                        open.push((path, *node));
                    }
                }
            }
        }
        tree
    }
}

fn keep(nodes: &mut [Node], change: &Renaming) {
    if let Some((folder, name)) = &change.from
        && let Node::Folder { kept, .. } = &mut nodes[*folder]
        && kept.get(name) == Some(&change.node)
    {
        kept.remove(name);
    }
    if let Some((folder, name)) = &change.to
        && let Node::Folder { kept, .. } = &mut nodes[*folder]
    {
        kept.insert(name.clone(), change.node);
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn apply(content: &mut Vec<u8>, edit: &Edit) {
    match edit {
        Edit::Write { offset, bytes } => put(content, *offset, bytes),
        Edit::Resize(length) => content.resize(*length, 0),
    }
}

/// A write up to some byte of it.
fn tear(content: &mut Vec<u8>, edit: &Edit, chance: &mut Chance) {
    if let Edit::Write { offset, bytes } = edit {
        put(content, *offset, &bytes[..chance.below(bytes.len() + 1)]);
    }
}

/// Some blocks of a write.
fn scatter(content: &mut Vec<u8>, edit: &Edit, chance: &mut Chance) {
    match edit {
        Edit::Resize(_) if chance.below(2) == 0 => apply(content, edit),
        Edit::Resize(_) => {}
        Edit::Write { offset, bytes } => {
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + BLOCK - (offset + at) % BLOCK);
                if chance.below(2) == 0 {
                    put(content, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
    }
}

/// Kind, offset, path and data of an entry.
type Entry<'a> = (u8, u64, PathBuf, &'a [u8]);

/// The first entry, and what comes after it.
fn entry(record: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (kind, rest) = record.split_first()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (path_length, rest) = rest.split_first_chunk::<4>()?;
    let (data_length, rest) = rest.split_first_chunk::<4>()?;
    let (path, rest) = rest.split_at_checked(u32::from_le_bytes(*path_length) as usize)?;
    let (data, rest) = rest.split_at_checked(u32::from_le_bytes(*data_length) as usize)?;
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    Some(((*kind, u64::from_le_bytes(*offset), path, data), rest))
}

/// The files and folders of a folder as they are.
///
/// # Errors
/// The folder cannot be read.
pub fn look(folder: &Path) -> io::Result<Tree> {
    Ok(Disk::read(folder)?.as_seen())
}

/// Makes a folder such a tree. Files that are there keep their rights.
///
/// # Errors
/// The folder cannot be written.
pub fn lay(folder: &Path, tree: &Tree) -> io::Result<()> {
    let present = look(folder)?;
    for (path, content) in present.iter().rev() {
        match (content, tree.get(path)) {
            (Some(_), Some(Some(_))) | (None, Some(None)) => {}
            (Some(_), _) => fs::remove_file(folder.join(path))?,
            (None, _) => fs::remove_dir(folder.join(path))?,
        }
    }
    for (path, content) in tree {
        let place = folder.join(path);
        match content {
            None if place.is_dir() => {}
            None => fs::create_dir(place)?,
            Some(_) if present.get(path) == Some(content) => {}
            Some(bytes) => {
                let mut options = fs::OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                io::Write::write_all(&mut options.open(place)?, bytes)?;
            }
        }
    }
    Ok(())
}
