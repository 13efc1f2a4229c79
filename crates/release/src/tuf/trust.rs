//! What a verifier remembers between updates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metadata::{RoleType, Root, Snapshot, Timestamp, Version};
use super::signed::{MetadataError, SignatureError, Signed};
use crate::digest::Sha256Digest;
use crate::limits::{MAX_ROOT_BYTES, MAX_STATE_BYTES};
use crate::time::UnixSeconds;

/// The version of the stored form.
const STATE_SCHEMA: u32 = 1;

/// What a verifier remembers: the current root as received, the highest versions seen, and the newest signed time.
/// It only moves forward, except that taking the timestamp's or snapshot's key from somebody forgets what that key
/// signed: otherwise a thief who signed version 2^63 would have stopped all updates for good.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustedState {
    anchor: Sha256Digest,
    pub(super) root: Signed<Root>,
    pub(super) seen: Seen,
}

/// Highest versions and newest times, from verified metadata only.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    root_issued: UnixSeconds,
    timestamp: Option<SeenTimestamp>,
    snapshot: Option<SeenSnapshot>,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenTimestamp {
    version: Version,
    snapshot: Version,
    issued: UnixSeconds,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenSnapshot {
    version: Version,
    files: BTreeMap<String, Version>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    schema: u32,
    anchor: Sha256Digest,
    root: String,
    seen: Seen,
}

/// Why trust cannot start or go on from some bytes.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The root is not the one that was promised.
    #[error("the root has digest {found}, {promised} was promised")]
    WrongAnchor {
        /// What the join token says.
        promised: Sha256Digest,
        /// What was given.
        found: Sha256Digest,
    },
    /// The root or the stored state is too long to look at.
    #[error("{found} bytes, more than the limit of {limit}")]
    TooLong {
        /// The length, in bytes.
        found: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The root cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The root is not signed by the holders that it names.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The stored state cannot be read.
    #[error("the stored state cannot be read")]
    Stored(#[source] serde_json::Error),
    /// The stored state is of a version that this build does not know.
    #[error("the stored state has schema version {found}, this build reads {STATE_SCHEMA}")]
    UnknownSchema {
        /// Its version.
        found: u32,
    },
}

/// Metadata older than what was seen before.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum RollbackError {
    /// A file of a lower version than was seen.
    #[error("{file} has version {found}, version {seen} was seen before")]
    Version {
        /// The file without version.
        file: String,
        /// What was given.
        found: Version,
        /// The highest seen.
        seen: Version,
    },
    /// A snapshot without a file that an earlier one had.
    #[error("{file} is missing from the snapshot, and was listed before")]
    Removed {
        /// The file without version.
        file: String,
    },
}

impl TrustedState {
    /// Starts trust from a root whose digest came through another channel, as a join token carries it.
    ///
    /// # Errors
    /// Another digest, too long, no root, or not signed by its own holders.
    pub fn pinned(root: &[u8], promised: &Sha256Digest) -> Result<Self, TrustError> {
        let found = Sha256Digest::of(root);
        if found != *promised {
            return Err(TrustError::WrongAnchor {
                promised: *promised,
                found,
            });
        }
        Self::from_root(root)
    }

    /// Starts trust from a root that the caller trusts already. It may be old, and expired.
    ///
    /// # Errors
    /// Too long, no root, or not signed by its own holders.
    pub fn from_root(root: &[u8]) -> Result<Self, TrustError> {
        let limit = usize::try_from(MAX_ROOT_BYTES).unwrap_or(usize::MAX);
        if root.len() > limit {
            return Err(TrustError::TooLong {
                found: root.len(),
                limit,
            });
        }
        let file = Signed::<Root>::read(root)?;
        file.payload().verify(&file)?;
        let root_issued = file.payload().issued.unwrap_or_default();
        Ok(Self {
            anchor: file.sha256(),
            root: file,
            seen: Seen {
                root_issued,
                ..Seen::default()
            },
        })
    }

    /// The form to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let root = String::from_utf8_lossy(self.root.bytes()).into_owned();
        let stored = Stored {
            schema: STATE_SCHEMA,
            anchor: self.anchor,
            root,
            seen: self.seen.clone(),
        };
        // Texts and numbers under text keys: there is nothing that JSON could not hold.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`TrustedState::to_bytes`] wrote.
    ///
    /// # Errors
    /// Damaged, of another version, or with a root that its own holders did not sign.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        if bytes.len() > MAX_STATE_BYTES {
            return Err(TrustError::TooLong {
                found: bytes.len(),
                limit: MAX_STATE_BYTES,
            });
        }
        let stored: Stored = serde_json::from_slice(bytes).map_err(TrustError::Stored)?;
        if stored.schema != STATE_SCHEMA {
            return Err(TrustError::UnknownSchema { found: stored.schema });
        }
        let state = Self::from_root(stored.root.as_bytes())?;
        Ok(Self {
            anchor: stored.anchor,
            seen: stored.seen,
            ..state
        })
    }

    /// The digest of the root that trust started from.
    pub fn anchor(&self) -> &Sha256Digest {
        &self.anchor
    }

    /// The current root.
    pub fn root(&self) -> &Signed<Root> {
        &self.root
    }

    /// The newest time that trusted metadata was signed at. It is later than this now, whatever the clock says.
    pub fn time_floor(&self) -> UnixSeconds {
        let timestamp = self.seen.timestamp.as_ref().map(|seen| seen.issued).unwrap_or_default();
        timestamp.max(self.seen.root_issued)
    }

    /// Accepts a verified successor of the root.
    pub(super) fn accept_root(&mut self, next: Signed<Root>) {
        let (old, new) = (self.root.payload(), next.payload());
        if old.revokes(new, RoleType::Timestamp) || old.revokes(new, RoleType::Snapshot) {
            self.seen.timestamp = None;
            self.seen.snapshot = None;
        }
        self.seen.root_issued = self.seen.root_issued.max(new.issued.unwrap_or_default());
        self.root = next;
    }
}

impl Seen {
    /// Whether a timestamp and the snapshot version it lists are older than what was seen.
    pub(super) fn check_timestamp(&self, version: Version, snapshot: Version) -> Result<(), RollbackError> {
        let Some(seen) = &self.timestamp else { return Ok(()) };
        not_older("timestamp.json", version, seen.version)?;
        not_older("snapshot.json", snapshot, seen.snapshot)
    }

    pub(super) fn accept_timestamp(&mut self, timestamp: &Timestamp, snapshot: Version) {
        let before = self.timestamp.as_ref().map(|seen| seen.issued).unwrap_or_default();
        // A timestamp signed after its own expiry says nothing about the time.
        let issued = timestamp
            .issued
            .filter(|issued| *issued <= timestamp.header.expires)
            .unwrap_or_default();
        let issued = issued.max(before);
        self.timestamp = Some(SeenTimestamp {
            version: timestamp.header.version,
            snapshot,
            issued,
        });
    }

    /// Whether a snapshot lists everything that was seen, in no older version.
    pub(super) fn check_snapshot(&self, snapshot: &Snapshot) -> Result<(), RollbackError> {
        let Some(seen) = &self.snapshot else { return Ok(()) };
        not_older("snapshot.json", snapshot.header.version, seen.version)?;
        for (file, version) in &seen.files {
            let listed = snapshot
                .meta
                .get(file)
                .ok_or_else(|| RollbackError::Removed { file: file.clone() })?;
            not_older(file, listed.version, *version)?;
        }
        Ok(())
    }

    pub(super) fn accept_snapshot(&mut self, snapshot: &Snapshot) {
        let files = snapshot
            .meta
            .iter()
            .map(|(file, meta)| (file.clone(), meta.version))
            .collect();
        self.snapshot = Some(SeenSnapshot {
            version: snapshot.header.version,
            files,
        });
    }
}

fn not_older(file: &str, found: Version, seen: Version) -> Result<(), RollbackError> {
    if found >= seen {
        Ok(())
    } else {
        Err(RollbackError::Version {
            file: file.to_owned(),
            found,
            seen,
        })
    }
}
