//! The publishing side: what the controller holds, and which files it serves after each change.

use std::collections::BTreeMap;

use ring::rand::SecureRandom;

use super::key::SigningKey;
use super::metadata::{FileMeta, Payload, Root, SNAPSHOT_FILE, Snapshot, TARGETS_FILE, Timestamp, Version};
use super::paths;
use super::signed::{MetadataError, SignError, SignatureError, Signed};
use super::targets::Targets;
use crate::limits::{MAX_ROOT_BYTES, MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES, MAX_TIMESTAMP_BYTES};
use crate::time::UnixSeconds;

/// A file to serve. Files are written in the order in which they are given, so that no client ever finds a file that
/// lists one that is not there yet. All but `timestamp.json` never change once written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublishedFile {
    /// Its name in the folder of the metadata.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why the repository does not take or make a file.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The file is too long.
    #[error("{file} has {found} bytes, more than the limit of {limit}")]
    TooLong {
        /// The file without version.
        file: String,
        /// Its length, in bytes.
        found: usize,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file cannot be read.
    #[error("{file} is malformed")]
    Metadata {
        /// The file without version.
        file: String,
        /// What is wrong.
        #[source]
        source: MetadataError,
    },
    /// Too few of the role's keys signed the file.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The version does not follow the one before.
    #[error("{file} has version {found}, expected {expected}")]
    WrongVersion {
        /// The file without version.
        file: String,
        /// What it has.
        found: Version,
        /// What it should have.
        expected: Version,
    },
    /// The top-level targets delegate to no such role.
    #[error("the targets delegate to no role {role:?}")]
    NoDelegation {
        /// The role.
        role: String,
    },
    /// A file that is needed was never given.
    #[error("{file} is missing")]
    Missing {
        /// The file.
        file: String,
    },
    /// Snapshot or timestamp cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// The keys and life spans of the roles that the controller signs.
#[derive(Clone, Copy, Debug)]
pub struct OnlineRoles<'a> {
    /// Signs the snapshot.
    pub snapshot_key: &'a SigningKey,
    /// How long a snapshot is good for, in seconds.
    pub snapshot_seconds: u64,
    /// Signs the timestamp.
    pub timestamp_key: &'a SigningKey,
    /// How long a timestamp is good for, in seconds: how long a device may stay cut off and still install.
    pub timestamp_seconds: u64,
    /// Snapshot and timestamp get no lower version; [`Version::FIRST`] for a repository that knows all that it signed. One that was put
    /// back to an earlier state must go beyond whatever it may have signed since: clients refuse a lower version than they have seen
    /// (specification, sections 5.4.3 and 5.5.5), and gaps are allowed.
    pub least_version: Version,
}

/// The current metadata of one repository. It takes only files that clients will accept.
#[derive(Clone, Debug)]
pub struct Repository {
    root: Signed<Root>,
    earlier_roots: Vec<Signed<Root>>,
    targets: Option<Signed<Targets>>,
    delegated: BTreeMap<String, Signed<Targets>>,
    snapshot: Option<Signed<Snapshot>>,
    timestamp: Option<Signed<Timestamp>>,
}

impl Repository {
    /// A repository with its first root and nothing else.
    ///
    /// # Errors
    /// The root is malformed or not signed by its own holders.
    pub fn new(root: &[u8]) -> Result<Self, PublishError> {
        let file = read::<Root>("root.json", root, MAX_ROOT_BYTES)?;
        file.payload().verify(&file)?;
        Ok(Self {
            root: file,
            earlier_roots: Vec::new(),
            targets: None,
            delegated: BTreeMap::new(),
            snapshot: None,
            timestamp: None,
        })
    }

    /// The repository whose files were written before. `read` gives the bytes of a file by name; `first_root` is the
    /// version of the oldest root that it has. A repository whose timestamp is missing has published nothing yet.
    ///
    /// # Errors
    /// A file is malformed, missing, not signed, or not the one that is listed.
    pub fn load(first_root: Version, mut read_file: impl FnMut(&str) -> Option<Vec<u8>>) -> Result<Self, PublishError> {
        let mut need = |name: String| read_file(&name).ok_or(PublishError::Missing { file: name });
        let mut repository = Self::new(&need(format!("{first_root}.root.json"))?)?;
        while let Ok(next) = need(format!("{}.root.json", repository.root().version().next())) {
            repository.accept_root(&next)?;
        }
        let Ok(timestamp) = need("timestamp.json".to_owned()) else {
            return Ok(repository);
        };
        let timestamp = read::<Timestamp>("timestamp.json", &timestamp, MAX_TIMESTAMP_BYTES)?;
        let Some(listed) = timestamp.payload().snapshot() else {
            return Err(PublishError::Missing {
                file: SNAPSHOT_FILE.to_owned(),
            });
        };
        let snapshot = need(format!("{}.{SNAPSHOT_FILE}", listed.version))?;
        let snapshot = read::<Snapshot>(SNAPSHOT_FILE, &snapshot, MAX_SNAPSHOT_BYTES)?;
        for (file, meta) in &snapshot.payload().meta {
            let signed = read::<Targets>(file, &need(format!("{}.{file}", meta.version))?, MAX_TARGETS_BYTES)?;
            if file == TARGETS_FILE {
                repository.targets = Some(signed);
            } else {
                repository.delegated.insert(file.clone(), signed);
            }
        }
        (repository.snapshot, repository.timestamp) = (Some(snapshot), Some(timestamp));
        Ok(repository)
    }

    /// Takes the next root, signed by the holders of this one and of its own. Changes of the targets' or a
    /// delegation's keys must be followed by files signed with the new ones before anything can be published.
    ///
    /// # Errors
    /// Malformed, not the next version, or not signed by both.
    pub fn accept_root(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        let file = read::<Root>("root.json", bytes, MAX_ROOT_BYTES)?;
        self.root().payload().verify(&file)?;
        file.payload().verify(&file)?;
        follows("root.json", &file, Some(self.root()))?;
        self.earlier_roots.push(std::mem::replace(&mut self.root, file));
        Ok(())
    }

    /// Takes the next top-level targets.
    ///
    /// # Errors
    /// Malformed, not the next version, or not signed by the holders that the root names.
    pub fn accept_targets(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        let file = read::<Targets>(TARGETS_FILE, bytes, MAX_TARGETS_BYTES)?;
        self.root().payload().verify(&file)?;
        follows(TARGETS_FILE, &file, self.targets.as_ref())?;
        self.targets = Some(file);
        Ok(())
    }

    /// Takes the next targets of a role that the top-level targets delegate to.
    ///
    /// # Errors
    /// Malformed, not the next version, no such role, or not signed by the holders that the delegation names.
    pub fn accept_delegated(&mut self, role: &str, bytes: &[u8]) -> Result<(), PublishError> {
        let name = paths::role_file(role);
        let file = read::<Targets>(&name, bytes, MAX_TARGETS_BYTES)?;
        self.verify_delegated(role, &file)?;
        follows(&name, &file, self.delegated.get(&name))?;
        self.delegated.insert(name, file);
        Ok(())
    }

    /// Signs a new snapshot and timestamp over what was taken, and gives every file that is now current, in the order
    /// in which they must be written.
    ///
    /// # Errors
    /// The targets are missing, the current root no longer accepts a file, or signing failed.
    pub fn publish(
        &mut self,
        now: UnixSeconds,
        online: OnlineRoles<'_>,
        rng: &dyn SecureRandom,
    ) -> Result<Vec<PublishedFile>, PublishError> {
        let missing = || PublishError::Missing {
            file: TARGETS_FILE.to_owned(),
        };
        let targets = self.targets.as_ref().ok_or_else(missing)?;
        self.root().payload().verify(targets)?;
        let expires = now.plus(online.snapshot_seconds);
        let mut snapshot = match &self.snapshot {
            Some(before) => before.payload().next(expires),
            None => Snapshot::first(expires),
        };
        snapshot.header.version = snapshot.header.version.max(online.least_version);
        let all = self.delegated.iter().map(|(name, file)| (name.as_str(), file));
        for (name, file) in all.chain([(TARGETS_FILE, targets)]) {
            snapshot
                .meta
                .insert(name.to_owned(), FileMeta::of(file.version(), file.bytes()));
        }
        let snapshot = Signed::sign(snapshot, &[online.snapshot_key], rng)?;
        self.root().payload().verify(&snapshot)?;
        let timestamp = self.signed_timestamp(&snapshot, now, online, rng)?;
        (self.snapshot, self.timestamp) = (Some(snapshot), Some(timestamp));
        Ok(self.files())
    }

    /// Whether what was signed is of a lower version than it must have now.
    pub fn is_below(&self, least: Version) -> bool {
        let snapshot = self.snapshot.as_ref().map(Signed::version);
        let timestamp = self.timestamp.as_ref().map(Signed::version);
        [snapshot, timestamp]
            .into_iter()
            .flatten()
            .any(|version| version < least)
    }

    /// Signs a new timestamp over the same snapshot, before the old one expires. A snapshot that has less life left than
    /// the new timestamp, or too low a version, is renewed as well.
    ///
    /// # Errors
    /// Nothing was published yet, or signing failed.
    pub fn refresh(
        &mut self,
        now: UnixSeconds,
        online: OnlineRoles<'_>,
        rng: &dyn SecureRandom,
    ) -> Result<Vec<PublishedFile>, PublishError> {
        let missing = || PublishError::Missing {
            file: SNAPSHOT_FILE.to_owned(),
        };
        let snapshot = self.snapshot.clone().ok_or_else(missing)?;
        let expires_early = snapshot.payload().header.expires < now.plus(online.timestamp_seconds);
        if expires_early || snapshot.version() < online.least_version {
            return self.publish(now, online, rng);
        }
        self.timestamp = Some(self.signed_timestamp(&snapshot, now, online, rng)?);
        Ok(self.files())
    }

    fn signed_timestamp(
        &self,
        snapshot: &Signed<Snapshot>,
        now: UnixSeconds,
        online: OnlineRoles<'_>,
        rng: &dyn SecureRandom,
    ) -> Result<Signed<Timestamp>, PublishError> {
        let listed = FileMeta::of(snapshot.version(), snapshot.bytes());
        let expires = now.plus(online.timestamp_seconds);
        let mut timestamp = match &self.timestamp {
            Some(before) => before.payload().next(listed, now, expires),
            None => Timestamp::first(listed, now, expires),
        };
        timestamp.header.version = timestamp.header.version.max(online.least_version);
        let timestamp = Signed::sign(timestamp, &[online.timestamp_key], rng)?;
        self.root().payload().verify(&timestamp)?;
        Ok(timestamp)
    }

    /// Every current file, in the order in which they must be written.
    pub fn files(&self) -> Vec<PublishedFile> {
        let file = |name: String, bytes: &[u8]| PublishedFile {
            name,
            bytes: bytes.to_vec(),
        };
        let roots = self.earlier_roots.iter().chain([&self.root]);
        let roots = roots.map(|root| file(format!("{}.root.json", root.version()), root.bytes()));
        let delegated = self
            .delegated
            .iter()
            .map(|(name, role)| file(format!("{}.{name}", role.version()), role.bytes()));
        let targets = self
            .targets
            .iter()
            .map(|role| file(format!("{}.{TARGETS_FILE}", role.version()), role.bytes()));
        let snapshot = self
            .snapshot
            .iter()
            .map(|role| file(format!("{}.{SNAPSHOT_FILE}", role.version()), role.bytes()));
        let timestamp = self
            .timestamp
            .iter()
            .map(|role| file("timestamp.json".to_owned(), role.bytes()));
        roots
            .chain(delegated)
            .chain(targets)
            .chain(snapshot)
            .chain(timestamp)
            .collect()
    }

    /// The current root.
    pub fn root(&self) -> &Signed<Root> {
        &self.root
    }

    /// The current top-level targets.
    pub fn targets(&self) -> Option<&Signed<Targets>> {
        self.targets.as_ref()
    }

    /// The current targets of a delegated role.
    pub fn delegated(&self, role: &str) -> Option<&Signed<Targets>> {
        self.delegated.get(&paths::role_file(role))
    }

    /// The current timestamp.
    pub fn timestamp(&self) -> Option<&Signed<Timestamp>> {
        self.timestamp.as_ref()
    }

    fn verify_delegated(&self, role: &str, file: &Signed<Targets>) -> Result<(), PublishError> {
        let none = || PublishError::NoDelegation { role: role.to_owned() };
        let targets = self.targets.as_ref().ok_or_else(none)?.payload();
        let delegations = targets.delegations.as_ref().ok_or_else(none)?;
        Ok(delegations.verify(targets.delegation(role).ok_or_else(none)?, file)?)
    }
}

fn read<P: Payload>(file: &str, bytes: &[u8], limit: u64) -> Result<Signed<P>, PublishError> {
    let file = file.to_owned();
    if bytes.len() as u64 > limit {
        return Err(PublishError::TooLong {
            file,
            found: bytes.len(),
            limit,
        });
    }
    Signed::read(bytes).map_err(|source| PublishError::Metadata { file, source })
}

/// Versions follow each other without gaps, so that nobody can use the numbers up.
fn follows<P: Payload>(file: &str, next: &Signed<P>, before: Option<&Signed<P>>) -> Result<(), PublishError> {
    let expected = before.map_or(Version::FIRST, |before| before.version().next());
    let found = next.version();
    if found == expected {
        Ok(())
    } else {
        Err(PublishError::WrongVersion {
            file: file.to_owned(),
            found,
            expected,
        })
    }
}
