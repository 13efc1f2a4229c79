//! The client workflow of the specification (section 5), without IO: the update says which file it needs, the caller
//! brings it. Sections are named where a rule comes from them.

use super::lookup::VerifiedRepository;
use super::metadata::{FileMeta, Payload, Root, SNAPSHOT_FILE, Snapshot, TARGETS_FILE, Timestamp, Version};
use super::signed::{MetadataError, SignatureError, Signed};
use super::targets::Targets;
use super::trust::{RollbackError, TrustedState};
use crate::digest::{ArtifactError, ArtifactVerifier, Sha256Digest};
use crate::limits::{
    MAX_DELEGATED_ROLES, MAX_ROOT_BYTES, MAX_ROOT_STEPS, MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES, MAX_TIMESTAMP_BYTES,
};
use crate::time::UnixSeconds;

/// What the metadata is wanted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// To install something: expired metadata is refused.
    Install,
    /// To look, or to audit: everything but expiry is checked.
    Inspect,
}

/// A metadata file that is needed next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileRequest {
    /// Its name in the folder of the metadata.
    pub name: String,
    /// Reading may stop at the first byte beyond this number.
    pub max_bytes: u64,
    /// Its length, where a signed file lists it.
    pub length: Option<u64>,
    /// Its digest, where a signed file lists it.
    pub sha256: Option<Sha256Digest>,
}

/// Why a metadata file is refused. A refused file changes nothing: the same file may be asked from elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct UpdateError {
    /// The file, as it was asked for.
    pub file: String,
    /// Why it is refused.
    #[source]
    pub reason: Refusal,
}

/// Why a metadata file is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The file must exist, and was not found.
    #[error("not found")]
    Missing,
    /// All files were given already.
    #[error("not asked for")]
    NotAskedFor,
    /// The file is longer than allowed.
    #[error("more than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The bytes are not those that a signed file lists.
    #[error("not the listed bytes")]
    Listed(#[source] ArtifactError),
    /// The file cannot be read.
    #[error("malformed")]
    Metadata(#[source] MetadataError),
    /// Too few of the role's keys signed the file.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The version is not the one that a signed file lists, or not the successor of the current root's.
    #[error("version {found}, expected {expected}")]
    WrongVersion {
        /// What the file says.
        found: Version,
        /// What was expected.
        expected: Version,
    },
    /// The metadata is older than what was seen before.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// The metadata has expired, which stops installing and nothing else.
    #[error("expired at {expires}, and it is {now} or later")]
    Expired {
        /// When it expired.
        expires: UnixSeconds,
        /// The later of the clock and the newest signed time.
        now: UnixSeconds,
    },
    /// The search for one target led through too many roles.
    #[error("more than {MAX_DELEGATED_ROLES} delegated roles for one target")]
    TooManyRoles,
    /// A file that must be listed is not.
    #[error("{file} is not listed")]
    NotListed {
        /// The missing file.
        file: String,
    },
}

impl Refusal {
    pub(super) fn of(self, request: &FileRequest) -> UpdateError {
        UpdateError {
            file: request.name.clone(),
            reason: self,
        }
    }
}

/// One update of the top-level metadata.
#[derive(Clone, Debug)]
pub struct Update {
    state: TrustedState,
    clock: UnixSeconds,
    purpose: Purpose,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Root { steps: u32 },
    Timestamp,
    Snapshot { listed: FileMeta },
    Targets { snapshot: Snapshot, listed: FileMeta },
    Done { snapshot: Snapshot, targets: Targets },
}

impl Update {
    /// Starts an update. `now` is what the clock says; the update believes it unless trusted metadata was signed later.
    pub fn begin(state: TrustedState, now: UnixSeconds, purpose: Purpose) -> Self {
        Self {
            state,
            clock: now,
            purpose,
            stage: Stage::Root { steps: 0 },
        }
    }

    /// The file that is needed next; none when the update is complete.
    pub fn next_file(&self) -> Option<FileRequest> {
        let consistent = self.state.root.payload().consistent_snapshot;
        Some(match &self.stage {
            Stage::Root { .. } => unlisted(
                format!("{}.root.json", self.state.root.version().next()),
                MAX_ROOT_BYTES,
            ),
            Stage::Timestamp => unlisted("timestamp.json".to_owned(), MAX_TIMESTAMP_BYTES),
            Stage::Snapshot { listed } => listed_file(SNAPSHOT_FILE, listed, consistent, MAX_SNAPSHOT_BYTES),
            Stage::Targets { listed, .. } => listed_file(TARGETS_FILE, listed, consistent, MAX_TARGETS_BYTES),
            Stage::Done { .. } => return None,
        })
    }

    /// Brings the bytes of the file that is needed.
    ///
    /// # Errors
    /// The file is refused, and still needed.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), UpdateError> {
        let Some(request) = self.next_file() else {
            return Err(not_asked_for());
        };
        self.accept(&request, bytes).map_err(|refusal| refusal.of(&request))
    }

    /// Says that the file that is needed does not exist. The chain of roots ends so; every other file must exist.
    ///
    /// # Errors
    /// The file must exist, or the last root has expired.
    pub fn missing(&mut self) -> Result<(), UpdateError> {
        let Some(request) = self.next_file() else {
            return Err(not_asked_for());
        };
        match self.stage {
            Stage::Root { .. } => self.end_of_roots(),
            _ => Err(Refusal::Missing.of(&request)),
        }
    }

    /// What is trusted so far. To be stored after each update, whether it succeeded or not.
    pub fn state(&self) -> &TrustedState {
        &self.state
    }

    /// The result of a complete update; of any other, the update itself.
    ///
    /// # Errors
    /// A file is still needed.
    pub fn finish(self) -> Result<VerifiedRepository, Box<Self>> {
        let now = self.now();
        match self.stage {
            Stage::Done { snapshot, targets } => Ok(VerifiedRepository::new(
                self.state,
                snapshot,
                targets,
                now,
                self.purpose,
            )),
            _ => Err(Box::new(self)),
        }
    }

    fn now(&self) -> UnixSeconds {
        self.clock.max(self.state.time_floor())
    }

    fn accept(&mut self, request: &FileRequest, bytes: &[u8]) -> Result<(), Refusal> {
        match self.stage.clone() {
            Stage::Root { steps } => self.accept_root(request, bytes, steps),
            Stage::Timestamp => self.accept_timestamp(request, bytes),
            Stage::Snapshot { listed } => self.accept_snapshot(request, bytes, &listed),
            Stage::Targets { snapshot, listed } => self.accept_targets(request, bytes, snapshot, &listed),
            Stage::Done { .. } => Err(Refusal::NotAskedFor),
        }
    }

    /// Sections 5.3.3 to 5.3.8: signed by the holders of both roots, and the very next version.
    fn accept_root(&mut self, request: &FileRequest, bytes: &[u8], steps: u32) -> Result<(), Refusal> {
        let file = read::<Root>(request, bytes)?;
        self.state.root.payload().verify(&file)?;
        file.payload().verify(&file)?;
        expect_version(&file, self.state.root.version().next())?;
        self.state.accept_root(file);
        self.stage = Stage::Root { steps: steps + 1 };
        if steps + 1 < MAX_ROOT_STEPS {
            Ok(())
        } else {
            self.end_of_roots().map_err(|error| error.reason)
        }
    }

    /// Section 5.3.10: only the last root must not have expired.
    fn end_of_roots(&mut self) -> Result<(), UpdateError> {
        let root = &self.state.root;
        let checked = fresh(root.payload(), self.now(), self.purpose);
        let file = format!("{}.root.json", root.version());
        checked.map_err(|reason| UpdateError { file, reason })?;
        self.stage = Stage::Timestamp;
        Ok(())
    }

    /// Section 5.4. An equal version is no rollback: a client that saw it asks for it again.
    fn accept_timestamp(&mut self, request: &FileRequest, bytes: &[u8]) -> Result<(), Refusal> {
        let file = read::<Timestamp>(request, bytes)?;
        self.state.root.payload().verify(&file)?;
        let timestamp = file.payload();
        let not_listed = || Refusal::NotListed {
            file: SNAPSHOT_FILE.to_owned(),
        };
        let listed = timestamp.snapshot().ok_or_else(not_listed)?.clone();
        self.state.seen.check_timestamp(file.version(), listed.version)?;
        fresh(timestamp, self.now(), self.purpose)?;
        self.state.seen.accept_timestamp(timestamp, listed.version);
        self.stage = Stage::Snapshot { listed };
        Ok(())
    }

    /// Section 5.5.
    fn accept_snapshot(&mut self, request: &FileRequest, bytes: &[u8], listed: &FileMeta) -> Result<(), Refusal> {
        let file = read::<Snapshot>(request, bytes)?;
        self.state.root.payload().verify(&file)?;
        expect_version(&file, listed.version)?;
        let snapshot = file.payload();
        self.state.seen.check_snapshot(snapshot)?;
        fresh(snapshot, self.now(), self.purpose)?;
        let not_listed = || Refusal::NotListed {
            file: TARGETS_FILE.to_owned(),
        };
        let targets = snapshot.meta.get(TARGETS_FILE).ok_or_else(not_listed)?.clone();
        self.state.seen.accept_snapshot(snapshot);
        self.stage = Stage::Targets {
            snapshot: file.into_payload(),
            listed: targets,
        };
        Ok(())
    }

    /// Sections 5.6.1 to 5.6.6.
    fn accept_targets(
        &mut self,
        request: &FileRequest,
        bytes: &[u8],
        snapshot: Snapshot,
        listed: &FileMeta,
    ) -> Result<(), Refusal> {
        let file = read::<Targets>(request, bytes)?;
        self.state.root.payload().verify(&file)?;
        expect_version(&file, listed.version)?;
        fresh(file.payload(), self.now(), self.purpose)?;
        self.stage = Stage::Done {
            snapshot,
            targets: file.into_payload(),
        };
        Ok(())
    }
}

fn not_asked_for() -> UpdateError {
    UpdateError {
        file: "metadata".to_owned(),
        reason: Refusal::NotAskedFor,
    }
}

fn unlisted(name: String, max_bytes: u64) -> FileRequest {
    FileRequest {
        name,
        max_bytes,
        length: None,
        sha256: None,
    }
}

/// The request for a file that a signed file lists. `base` is its name without version.
pub(super) fn listed_file(base: &str, listed: &FileMeta, consistent: bool, limit: u64) -> FileRequest {
    let name = if consistent {
        format!("{}.{base}", listed.version)
    } else {
        base.to_owned()
    };
    let max_bytes = listed.length.unwrap_or(limit).min(limit);
    FileRequest {
        name,
        max_bytes,
        length: listed.length,
        sha256: listed.hashes.as_ref().and_then(|hashes| hashes.sha256),
    }
}

/// Reads a file after checking its bytes against what is listed, before anything parses them.
pub(super) fn read<P: Payload>(request: &FileRequest, bytes: &[u8]) -> Result<Signed<P>, Refusal> {
    let found = bytes.len() as u64;
    if found > request.max_bytes {
        return Err(Refusal::TooLong {
            limit: request.max_bytes,
        });
    }
    if let Some(listed) = request.length.filter(|listed| *listed != found) {
        return Err(Refusal::Listed(ArtifactError::TooShort {
            listed,
            received: found,
        }));
    }
    if let Some(sha256) = request.sha256 {
        ArtifactVerifier::check(found, sha256, bytes).map_err(Refusal::Listed)?;
    }
    Signed::read(bytes).map_err(Refusal::Metadata)
}

pub(super) fn expect_version<P: Payload>(file: &Signed<P>, expected: Version) -> Result<(), Refusal> {
    let found = file.version();
    if found == expected {
        Ok(())
    } else {
        Err(Refusal::WrongVersion { found, expected })
    }
}

/// Section 5.4.4 and its like: metadata is fresh before the moment of its expiry.
pub(super) fn fresh<P: Payload>(payload: &P, now: UnixSeconds, purpose: Purpose) -> Result<(), Refusal> {
    let expires = payload.header().expires;
    if purpose == Purpose::Install && now >= expires {
        Err(Refusal::Expired { expires, now })
    } else {
        Ok(())
    }
}
