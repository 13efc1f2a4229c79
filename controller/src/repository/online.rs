//! The keys with which the controller itself signs: snapshot and timestamp.
//!
//! They lie in the fleet's folder, and beside them, for a while, the next ones. Which of them signs is the root's word: a key that the
//! root does not name signs nothing, and a key that it names is used at once.

use std::path::{Path, PathBuf};

use fieldfare_files::rename;
use fieldfare_release::tuf::{OnlineRoles, RoleType, Root, SigningKey, Version};
use ring::rand::SystemRandom;

use crate::folder::{Folder, read};
use crate::limits::{SNAPSHOT_LIFETIME, TIMESTAMP_LIFETIME};
use crate::refusal::Refusal;

/// The online keys of a fleet's folder.
#[derive(Debug)]
pub struct OnlineKeys {
    folder: Folder,
}

/// A key for each of the two roles.
#[derive(Debug)]
pub struct KeyPair {
    /// Signs the snapshot.
    pub snapshot: SigningKey,
    /// Signs the timestamp.
    pub timestamp: SigningKey,
}

impl KeyPair {
    pub(super) fn roles(&self, least_version: Version) -> OnlineRoles<'_> {
        OnlineRoles {
            snapshot_key: &self.snapshot,
            snapshot_seconds: SNAPSHOT_LIFETIME.as_secs(),
            timestamp_key: &self.timestamp,
            timestamp_seconds: TIMESTAMP_LIFETIME.as_secs(),
            least_version,
        }
    }
}

fn load(path: &Path) -> Result<SigningKey, Refusal> {
    let text = read(path).map_err(|error| Refusal::broken("reading an online key", error))?;
    SigningKey::from_pem(&text, &SystemRandom::new()).map_err(|error| Refusal::broken("reading an online key", error))
}

fn load_if_there(path: &Path) -> Result<Option<SigningKey>, Refusal> {
    path.exists().then(|| load(path)).transpose()
}

impl OnlineKeys {
    /// The keys of this folder, which must be there.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn of(folder: &Folder) -> Result<Self, Refusal> {
        let keys = Self { folder: folder.clone() };
        keys.present()?;
        keys.next()?;
        Ok(keys)
    }

    fn places(&self) -> [(RoleType, PathBuf, PathBuf); 2] {
        let folder = &self.folder;
        [
            (RoleType::Snapshot, folder.snapshot_key(), folder.next_snapshot_key()),
            (RoleType::Timestamp, folder.timestamp_key(), folder.next_timestamp_key()),
        ]
    }

    /// The present keys.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn present(&self) -> Result<KeyPair, Refusal> {
        Ok(KeyPair {
            snapshot: load(&self.folder.snapshot_key())?,
            timestamp: load(&self.folder.timestamp_key())?,
        })
    }

    /// The keys that a root may name next; nothing while there are none.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn next(&self) -> Result<Option<KeyPair>, Refusal> {
        let snapshot = load_if_there(&self.folder.next_snapshot_key())?;
        let timestamp = load_if_there(&self.folder.next_timestamp_key())?;
        Ok(snapshot
            .zip(timestamp)
            .map(|(snapshot, timestamp)| KeyPair { snapshot, timestamp }))
    }

    /// The keys that a root names.
    ///
    /// # Errors
    /// It names neither the present nor the next key of a role alone sufficient, or a key cannot be read.
    pub(crate) fn named_by(&self, root: &Root) -> Result<KeyPair, Refusal> {
        let [snapshot, timestamp] = self.places().map(|(role, present, next)| {
            let holders = root.roles.get(role);
            let keys = [Some(load(&present)?), load_if_there(&next)?];
            let mut known = Vec::new();
            for key in keys.into_iter().flatten() {
                if holders.threshold.get() == 1 && holders.keyids.contains(key.id()) {
                    return Ok(key);
                }
                known.push(key.id().to_string());
            }
            let known = known.join(" or ");
            let expected = format!("the role {role} needs threshold 1 and the controller's key {known} among its keys");
            Err(Refusal::invalid("root", expected))
        });
        Ok(KeyPair {
            snapshot: snapshot?,
            timestamp: timestamp?,
        })
    }

    /// Lets the next keys take the place of the present ones where the root names them instead.
    ///
    /// # Errors
    /// A file cannot be read or renamed; the keys work nevertheless.
    pub(super) fn settle(&self, root: &Root) -> Result<(), Refusal> {
        for (role, present, next) in self.places() {
            let Some(key) = load_if_there(&next)? else { continue };
            let named = &root.roles.get(role).keyids;
            if named.contains(key.id()) && !named.contains(load(&present)?.id()) {
                rename(&next, &present).map_err(|error| Refusal::broken("changing an online key", error))?;
                tracing::info!(%role, key = %key.id(), "the root names another online key");
            }
        }
        Ok(())
    }
}
