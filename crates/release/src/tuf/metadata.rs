//! The metadata of the top-level roles. Fields that this build does not know are kept and written back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::{KeyId, PublicKey};
use super::targets::Hashes;
use crate::time::{UnixSeconds, rfc3339};

/// The version of the specification that we write. Readers compare the first number.
pub(super) const SPEC_VERSION: &str = "1.0.34";

/// The file name of the snapshot in a timestamp.
pub(super) const SNAPSHOT_FILE: &str = "snapshot.json";

/// The file name of the top-level targets in a snapshot.
pub(super) const TARGETS_FILE: &str = "targets.json";

/// Fields that this build does not know.
pub type Extra = BTreeMap<String, Value>;

/// The four top-level roles. Delegated roles are of type [`RoleType::Targets`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleType {
    /// Says who the other roles are.
    Root,
    /// Says which bytes may be installed.
    Targets,
    /// Says which versions of all targets metadata belong together.
    Snapshot,
    /// Says which snapshot is current.
    Timestamp,
}

impl fmt::Display for RoleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        })
    }
}

/// The version of a metadata file, from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(NonZeroU64);

impl Version {
    /// The first version.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The version with this number; none for 0.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The version after this one. The last of all versions is followed by itself, which every verifier refuses.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What all metadata starts with.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The type of the role that the metadata is for.
    #[serde(rename = "_type")]
    pub role: RoleType,
    /// The version of the specification, such as `1.0.34`.
    pub spec_version: String,
    /// The version of this metadata.
    pub version: Version,
    /// The moment from which the metadata is not to be used for installing.
    #[serde(with = "rfc3339")]
    pub expires: UnixSeconds,
}

impl Header {
    /// The header of a first version.
    pub fn first(role: RoleType, expires: UnixSeconds) -> Self {
        Self {
            role,
            spec_version: SPEC_VERSION.to_owned(),
            version: Version::FIRST,
            expires,
        }
    }

    /// The header of the version after this one.
    #[must_use]
    pub fn next(&self, expires: UnixSeconds) -> Self {
        Self {
            version: self.version.next(),
            expires,
            ..Self::first(self.role, expires)
        }
    }
}

/// The signed part of a metadata file.
pub trait Payload: Serialize + DeserializeOwned {
    /// What [`Header::role`] must be.
    const ROLE: RoleType;

    /// What the metadata starts with.
    fn header(&self) -> &Header;
}

macro_rules! payload {
    ($name:ident, $role:ident) => {
        impl $crate::tuf::metadata::Payload for $name {
            const ROLE: $crate::tuf::metadata::RoleType = $crate::tuf::metadata::RoleType::$role;

            fn header(&self) -> &$crate::tuf::metadata::Header {
                &self.header
            }
        }
    };
}
pub(super) use payload;

/// Who may sign for a role.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// The keys, each listed once.
    pub keyids: BTreeSet<KeyId>,
    /// How many different keys must sign.
    pub threshold: NonZeroU32,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The holders of a role, as the writer is told them.
#[derive(Clone, Debug)]
pub struct RoleHolders {
    /// Their public keys.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: NonZeroU32,
}

impl RoleHolders {
    /// One key, which signs alone.
    pub fn one(key: &PublicKey) -> Self {
        Self {
            keys: vec![key.clone()],
            threshold: NonZeroU32::MIN,
        }
    }

    pub(super) fn into_role_keys(self, keys: &mut BTreeMap<KeyId, PublicKey>) -> RoleKeys {
        let listed: BTreeMap<_, _> = self.keys.into_iter().map(|key| (key.id(), key)).collect();
        let keyids = listed.keys().cloned().collect();
        keys.extend(listed);
        RoleKeys {
            keyids,
            threshold: self.threshold,
            extra: Extra::new(),
        }
    }
}

/// Says who the other roles are.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// Whether file names start with a version or a digest. Ours do.
    pub consistent_snapshot: bool,
    /// All keys by id.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// The keys of each role.
    pub roles: Roles,
    /// When the root was signed, where its writer says so.
    #[serde(rename = "x-fieldfare-issued", default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<UnixSeconds>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

payload!(Root, Root);

/// The keys of each top-level role.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Roles<K = RoleKeys> {
    /// Signs the root itself.
    pub root: K,
    /// Signs the top-level targets.
    pub targets: K,
    /// Signs the snapshot.
    pub snapshot: K,
    /// Signs the timestamp.
    pub timestamp: K,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl<K> Roles<K> {
    /// Who may sign for this role.
    pub fn get(&self, role: RoleType) -> &K {
        match role {
            RoleType::Root => &self.root,
            RoleType::Targets => &self.targets,
            RoleType::Snapshot => &self.snapshot,
            RoleType::Timestamp => &self.timestamp,
        }
    }

    fn get_mut(&mut self, role: RoleType) -> &mut K {
        match role {
            RoleType::Root => &mut self.root,
            RoleType::Targets => &mut self.targets,
            RoleType::Snapshot => &mut self.snapshot,
            RoleType::Timestamp => &mut self.timestamp,
        }
    }
}

impl Root {
    /// The first root of a new repository, signed at `issued`.
    pub fn first(holders: Roles<RoleHolders>, issued: UnixSeconds, expires: UnixSeconds) -> Self {
        let mut keys = BTreeMap::new();
        let roles = Roles {
            root: holders.root.into_role_keys(&mut keys),
            targets: holders.targets.into_role_keys(&mut keys),
            snapshot: holders.snapshot.into_role_keys(&mut keys),
            timestamp: holders.timestamp.into_role_keys(&mut keys),
            extra: holders.extra,
        };
        let header = Header::first(RoleType::Root, expires);
        Self {
            header,
            consistent_snapshot: true,
            keys,
            roles,
            issued: Some(issued),
            extra: Extra::new(),
        }
    }

    /// The version after this one, with the same keys. The holders of both versions must sign it.
    #[must_use]
    pub fn next(&self, issued: UnixSeconds, expires: UnixSeconds) -> Self {
        Self {
            header: self.header.next(expires),
            issued: Some(issued),
            ..self.clone()
        }
    }

    /// Gives a role to other holders, and forgets keys that no role has any more.
    pub fn assign(&mut self, role: RoleType, holders: RoleHolders) {
        *self.roles.get_mut(role) = holders.into_role_keys(&mut self.keys);
        let roles = &self.roles;
        let all = [&roles.root, &roles.targets, &roles.snapshot, &roles.timestamp];
        self.keys
            .retain(|id, _| all.iter().any(|role| role.keyids.contains(id)));
    }

    /// Whether `next` takes the role away from a key that has it here.
    pub(super) fn revokes(&self, next: &Self, role: RoleType) -> bool {
        let points = |root: &Self| -> BTreeSet<_> {
            let ids = &root.roles.get(role).keyids;
            ids.iter()
                .filter_map(|id| root.keys.get(id))
                .filter_map(PublicKey::point)
                .collect()
        };
        !points(self).is_subset(&points(next))
    }
}

/// What is known about a metadata file that another one lists.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Its version.
    pub version: Version,
    /// Its length, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl FileMeta {
    /// What is known about these bytes of this version.
    pub fn of(version: Version, bytes: &[u8]) -> Self {
        Self {
            version,
            length: Some(bytes.len() as u64),
            hashes: Some(Hashes::of(bytes)),
            extra: Extra::new(),
        }
    }
}

/// Says which versions of all targets metadata belong together.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// All targets metadata by file name without version: `targets.json`, `adapter-MODEL.json`.
    pub meta: BTreeMap<String, FileMeta>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

payload!(Snapshot, Snapshot);

impl Snapshot {
    /// The first snapshot of a repository.
    pub fn first(expires: UnixSeconds) -> Self {
        let header = Header::first(RoleType::Snapshot, expires);
        Self {
            header,
            meta: BTreeMap::new(),
            extra: Extra::new(),
        }
    }

    /// The version after this one, listing the same files.
    #[must_use]
    pub fn next(&self, expires: UnixSeconds) -> Self {
        Self {
            header: self.header.next(expires),
            ..self.clone()
        }
    }
}

/// Says which snapshot is current.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// The snapshot, as `snapshot.json`.
    pub meta: BTreeMap<String, FileMeta>,
    /// When the timestamp was signed, where its writer says so. Clients raise their time floor to it.
    #[serde(rename = "x-fieldfare-issued", default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<UnixSeconds>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

payload!(Timestamp, Timestamp);

impl Timestamp {
    /// The first timestamp of a repository, of a snapshot of these bytes.
    pub fn first(snapshot: FileMeta, issued: UnixSeconds, expires: UnixSeconds) -> Self {
        let header = Header::first(RoleType::Timestamp, expires);
        let meta = BTreeMap::from([(SNAPSHOT_FILE.to_owned(), snapshot)]);
        Self {
            header,
            meta,
            issued: Some(issued),
            extra: Extra::new(),
        }
    }

    /// The version after this one, of a snapshot of these bytes.
    #[must_use]
    pub fn next(&self, snapshot: FileMeta, issued: UnixSeconds, expires: UnixSeconds) -> Self {
        Self {
            header: self.header.next(expires),
            ..Self::first(snapshot, issued, expires)
        }
    }

    /// The snapshot that is current; none in metadata that lists something else.
    pub fn snapshot(&self) -> Option<&FileMeta> {
        self.meta.get(SNAPSHOT_FILE)
    }
}
