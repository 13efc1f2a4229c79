//! Targets metadata: which bytes may be installed, and who else may say so.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::key::{KeyId, PublicKey};
use super::metadata::{Extra, Header, RoleHolders, RoleKeys, RoleType, payload};
use super::paths;
use crate::digest::Sha256Digest;
use crate::names::{ModelName, TargetName};
use crate::time::UnixSeconds;

/// Says which bytes may be installed. The top-level role and delegated roles have the same form.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Type, version, expiry.
    #[serde(flatten)]
    pub header: Header,
    /// The targets by name. Names of a form unknown to this build may be listed; nothing looks them up.
    pub targets: BTreeMap<String, Target>,
    /// Who else may list targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

payload!(Targets, Targets);

/// Custom field of a target that was taken back.
const WITHDRAWN: &str = "withdrawn";

/// The bytes of a target.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Their number.
    pub length: u64,
    /// Their digests.
    pub hashes: Hashes,
    /// Whatever the signer adds.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub custom: Map<String, Value>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Target {
    /// A target of this length and digest.
    pub fn new(length: u64, sha256: Sha256Digest) -> Self {
        let hashes = Hashes {
            sha256: Some(sha256),
            extra: Extra::new(),
        };
        Self {
            length,
            hashes,
            custom: Map::new(),
            extra: Extra::new(),
        }
    }

    /// What stands in place of a target that a delegated role lists and that the delegator has taken back. No bytes of any release
    /// have this length, so that every TUF client refuses them.
    pub fn withdrawn() -> Self {
        let mut target = Self::new(0, Sha256Digest::of(b""));
        target.custom.insert(WITHDRAWN.to_owned(), Value::Bool(true));
        target
    }

    /// Whether this stands in place of a target that was taken back.
    pub fn is_withdrawn(&self) -> bool {
        self.custom.get(WITHDRAWN) == Some(&Value::Bool(true))
    }
}

/// Digests of a file by algorithm.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Hashes {
    /// The one that we write and check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// Other algorithms.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Hashes {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self {
            sha256: Some(Sha256Digest::of(bytes)),
            extra: Extra::new(),
        }
    }
}

/// Who else may list targets.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Delegations {
    /// The keys of all delegated roles by id.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// The roles in order of priority.
    #[serde(default)]
    pub roles: Vec<DelegatedRole>,
    /// Fields that this build does not know, among them the hashed bins of TAP 15.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A role that may list the targets that its paths match, and no others.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// Its name, unique within the delegations.
    pub name: String,
    /// Its keys, each listed once.
    pub keyids: BTreeSet<KeyId>,
    /// How many different keys must sign.
    pub threshold: NonZeroU32,
    /// Patterns with `*` and `?`, of which one must match a target's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Hexadecimal digits with which the SHA-256 of a target's name must start, instead of patterns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
    /// Whether the search ends here for a name that the role may list and does not.
    pub terminating: bool,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl DelegatedRole {
    /// Whether the role may list this target.
    pub fn may_list(&self, target: &str) -> bool {
        match (&self.paths, &self.path_hash_prefixes) {
            (Some(patterns), None) => patterns.iter().any(|pattern| paths::matches(pattern, target)),
            (None, Some(prefixes)) => {
                let digest = Sha256Digest::of(target.as_bytes()).to_string();
                prefixes
                    .iter()
                    .any(|prefix| !prefix.is_empty() && digest.starts_with(prefix.as_str()))
            }
            // The specification demands exactly one of the two.
            _ => false,
        }
    }
}

/// The name of the role that a trainer signs adapter releases of a model with: `adapter-MODEL`.
pub fn adapter_role(model: &ModelName) -> String {
    format!("adapter-{model}")
}

impl Targets {
    /// The first version of a role's targets, listing nothing.
    pub fn first(expires: UnixSeconds) -> Self {
        let header = Header::first(RoleType::Targets, expires);
        Self {
            header,
            targets: BTreeMap::new(),
            delegations: None,
            extra: Extra::new(),
        }
    }

    /// The version after this one, listing and delegating the same.
    #[must_use]
    pub fn next(&self, expires: UnixSeconds) -> Self {
        Self {
            header: self.header.next(expires),
            ..self.clone()
        }
    }

    /// Lists a target, in place of one that was listed under the same name.
    pub fn list(&mut self, name: &TargetName, target: Target) {
        self.targets.insert(name.as_str().to_owned(), target);
    }

    /// Takes a target back: stops listing it or, where only a delegated role may list it, lists in its place what no bytes can be,
    /// since a role's own list comes before its delegations. Says whether that changed anything.
    pub fn withdraw(&mut self, name: &TargetName) -> bool {
        let name = name.as_str();
        if self.targets.get(name).is_some_and(|listed| !listed.is_withdrawn()) {
            return self.targets.remove(name).is_some();
        }
        let mut roles = self.delegations.iter().flat_map(|delegations| &delegations.roles);
        let delegated = roles.any(|role| role.may_list(name));
        delegated && self.targets.insert(name.to_owned(), Target::withdrawn()).is_none()
    }

    /// Lets a trainer list the adapter releases of a model, `adapter.MODEL.*`, and nothing else. An earlier
    /// delegation for the model is replaced, so this is also how the trainer's key is rotated.
    pub fn delegate_adapters(&mut self, model: &ModelName, holders: RoleHolders) {
        let delegations = self.delegations.get_or_insert_with(|| Delegations {
            keys: BTreeMap::new(),
            roles: Vec::new(),
            extra: Extra::new(),
        });
        let RoleKeys {
            keyids,
            threshold,
            extra,
        } = holders.into_role_keys(&mut delegations.keys);
        let role = DelegatedRole {
            name: adapter_role(model),
            keyids,
            threshold,
            paths: Some(vec![format!("adapter.{model}.*")]),
            path_hash_prefixes: None,
            terminating: true,
            extra,
        };
        match delegations.roles.iter_mut().find(|earlier| earlier.name == role.name) {
            Some(earlier) => *earlier = role,
            None => delegations.roles.push(role),
        }
        let roles = &delegations.roles;
        delegations
            .keys
            .retain(|id, _| roles.iter().any(|role| role.keyids.contains(id)));
    }

    /// The delegation to the role with this name.
    pub fn delegation(&self, role: &str) -> Option<&DelegatedRole> {
        self.delegations
            .as_ref()?
            .roles
            .iter()
            .find(|delegated| delegated.name == role)
    }
}
