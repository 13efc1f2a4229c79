//! Power loss: a process dies, and of what it had not synced any part is gone when it starts again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fieldfare_tests::fates::{Choice, Fates};
use fieldfare_tests::miniature::DEVICES;
use fieldfare_tests::power::{Chance, Disk, lay, look};

use crate::contributions;

/// The machines of a fleet, each with a disk of its own.
pub(crate) struct Machines {
    /// Where the folders of all processes lie.
    root: PathBuf,
    seed: u64,
    choice: Choice,
    disks: Mutex<BTreeMap<String, Disk>>,
    /// Acknowledged contributions that a trainer had to keep.
    compared: AtomicU64,
}

impl Machines {
    pub(crate) fn new(root: PathBuf, seed: u64, choice: Choice) -> Arc<Self> {
        Arc::new(Self {
            root,
            seed,
            choice,
            disks: Mutex::default(),
            compared: AtomicU64::new(0),
        })
    }

    pub(crate) fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// Promise 4: what a device holds an acknowledgement of, and the trainer had at its end, no power loss takes.
    fn owed(&self, disk: &Disk) -> Result<(), String> {
        let (seen, synced) = (disk.as_seen(), disk.synced());
        for device in DEVICES {
            let kept = contributions::kept(&self.root.join(device)).unwrap_or_default();
            for contribution in kept.into_iter().filter(|contribution| contribution.acknowledged) {
                let content = Some(contribution.bytes);
                let is_whole = |path: &&PathBuf| path.extension().is_none();
                let file = seen.iter().find(|(path, there)| **there == content && is_whole(path));
                let Some((path, _)) = file else { continue };
                self.compared.fetch_add(1, Ordering::Relaxed);
                if synced.get(path) != Some(&content) {
                    return Err(format!(
                        "{} unsynced, which {device} has the acknowledgement of",
                        path.display()
                    ));
                }
            }
        }
        Ok(())
    }

    fn record(&self, process: &str) -> PathBuf {
        self.root.join("logs").join(format!("{process}.record"))
    }
}

impl Fates for Machines {
    fn shim(&self) -> Option<PathBuf> {
        self.choice.shim()
    }

    fn next(&self, process: &str) -> Option<String> {
        self.choice.next(process)
    }

    fn died(&self, process: &str, of: &str) {
        self.choice.died(process, of);
    }

    fn begins(&self, process: &str, _life: u64) -> Vec<(String, String)> {
        let folder = self.root.join(process);
        let disk = Disk::read(&folder).unwrap();
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.insert(process.to_owned(), disk);
        let record = self.record(process);
        // The first life has none.
        let _ = std::fs::remove_file(&record);
        [("FIELDFARE_FAULT_RECORD", &record), ("FIELDFARE_FAULT_FOLDER", &folder)]
            .map(|(name, path)| (name.to_owned(), path.display().to_string()))
            .into()
    }

    fn ended(&self, process: &str, life: u64, killed: bool) -> Result<(), String> {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut disk = disks.remove(process).unwrap();
        disk.replay(&std::fs::read(self.record(process)).unwrap());
        let folder = self.root.join(process);
        if !killed {
            // Nobody was interrupted between a call and its entry: the record must say what is there.
            let (seen, found) = (disk.as_seen(), look(&folder).unwrap());
            let other = |path: &&PathBuf| seen.get(*path) != found.get(*path);
            let others: Vec<_> = seen.keys().chain(found.keys()).filter(other).collect();
            return match others.is_empty() {
                true => Ok(()),
                false => Err(format!("{others:?} otherwise than the record says")),
            };
        }
        if process == "trainer" {
            self.owed(&disk)?;
        }
        let mut chance = Chance(self.seed ^ life.rotate_left(32) ^ process.len() as u64);
        lay(&folder, &disk.after_power_loss(&mut chance)).map_err(|error| error.to_string())
    }
}

/// `init` has said that the fleet is there: so it is after a power loss at that moment.
#[test]
fn what_init_has_made_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let (machine, record) = (root.join("machine"), root.join("record"));
    std::fs::create_dir(&machine).unwrap();
    let mut disk = Disk::read(&machine).unwrap();
    let output =
        std::process::Command::new(fieldfare_tests::binaries::fieldfare().with_file_name("fieldfare-controller"))
            .args(["init", "--dir"])
            .arg(machine.join("fleets/farm"))
            .env("LD_PRELOAD", crate::shim())
            .env("FIELDFARE_FAULT_RECORD", &record)
            .env("FIELDFARE_FAULT_FOLDER", &machine)
            .output()
            .unwrap();
    assert!(output.status.success(), "{output:?}");
    disk.replay(&std::fs::read(&record).unwrap());
    let (seen, synced) = (disk.as_seen(), disk.synced());
    assert_eq!(seen, look(&machine).unwrap());
    assert!(seen.len() > 10);
    let lost: Vec<_> = seen
        .iter()
        .filter(|(path, content)| synced.get(*path) != Some(content))
        .map(|(path, _)| path)
        .collect();
    assert!(lost.is_empty(), "a power loss takes {lost:?}");
}

#[cfg(test)]
mod tests {
    use fieldfare_tests::power::Tree;

    use super::*;

    /// An entry of a record.
    fn entry(kind: u8, offset: u64, path: &str, data: &str) -> Vec<u8> {
        let mut entry = vec![kind];
        entry.extend(offset.to_le_bytes());
        for length in [path.len(), data.len()] {
            entry.extend(u32::try_from(length).unwrap().to_le_bytes());
        }
        [entry, path.into(), data.into()].concat()
    }

    /// Every folder that a power loss may leave of `old` (a file with content) after these entries.
    fn may_leave(entries: &[(u8, u64, &str, &str)]) -> Vec<Tree> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old"), "old").unwrap();
        let mut disk = Disk::read(folder.path()).unwrap();
        let record = entries
            .iter()
            .map(|(kind, offset, path, data)| entry(*kind, *offset, path, data));
        disk.replay(&record.collect::<Vec<_>>().concat());
        let mut left: Vec<Tree> = (0..500).map(|seed| disk.after_power_loss(&mut Chance(seed))).collect();
        left.sort();
        left.dedup();
        left
    }

    fn file(tree: &Tree, name: &str) -> Option<String> {
        let content = tree.get(std::path::Path::new(name))?.clone()?;
        Some(String::from_utf8(content).unwrap())
    }

    #[test]
    fn what_is_replaced_as_it_should_be_is_old_or_new() {
        let replaced = [
            (1, 0, "new", ""),
            (2, 0, "new", "content"),
            (4, 0, "new", ""),
            (5, 0, "new", "old"),
        ];
        let left = may_leave(&replaced);
        let contents: std::collections::BTreeSet<_> = left.iter().map(|tree| file(tree, "old").unwrap()).collect();
        assert_eq!(contents.into_iter().collect::<Vec<_>>(), ["content", "old"]);
        let synced = may_leave(&[&replaced[..], &[(4, 0, "", "")]].concat());
        assert_eq!(synced.len(), 1, "{synced:?}");
        assert_eq!(file(&synced[0], "old").as_deref(), Some("content"));
    }

    #[test]
    fn without_a_sync_anything_may_be_left() {
        let left = may_leave(&[
            (1, 0, "new", ""),
            (2, 0, "new", "content"),
            (5, 0, "new", "old"),
            (4, 0, "", ""),
        ]);
        let contents: Vec<String> = left.iter().map(|tree| file(tree, "old").unwrap()).collect();
        for content in ["", "con", "content"] {
            assert!(
                contents.iter().any(|found| found == content),
                "{content:?} is not in {contents:?}"
            );
        }
        let folders = may_leave(&[(9, 0, "folder", ""), (1, 0, "folder/file", ""), (4, 0, "folder", "")]);
        let is_there = |tree: &Tree| tree.contains_key(std::path::Path::new("folder/file"));
        assert!(folders.iter().any(is_there) && !folders.iter().all(is_there));
    }
}
