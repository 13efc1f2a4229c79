//! The search for one target through the delegations (section 5.6.7).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::metadata::Snapshot;
use super::paths;
use super::targets::{DelegatedRole, Delegations, Target, Targets};
use super::trust::TrustedState;
use super::update::{FileRequest, Purpose, Refusal, UpdateError, expect_version, fresh, listed_file, read};
use crate::digest::Sha256Digest;
use crate::limits::{MAX_DELEGATED_ROLES, MAX_TARGETS_BYTES};
use crate::names::TargetName;
use crate::time::UnixSeconds;

/// The name of the top-level role in the search.
const TOP: &str = "targets";

/// Verified metadata, to be asked for targets. Delegated metadata is fetched when a target needs it.
#[derive(Clone, Debug)]
pub struct VerifiedRepository {
    state: TrustedState,
    snapshot: Snapshot,
    targets: Targets,
    /// By delegating and delegated role: what one role was given the other was not.
    delegated: BTreeMap<(String, String), Targets>,
    now: UnixSeconds,
    purpose: Purpose,
}

/// A target that trusted metadata lists.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedTarget {
    /// Number of its bytes.
    pub length: u64,
    /// Their digest.
    pub sha256: Sha256Digest,
    /// What the signer added.
    pub custom: Map<String, Value>,
    /// The role that lists it: `targets`, or the name of a delegated role.
    pub role: String,
}

/// The answer to a question for a target.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// The target may be installed.
    Listed(ListedTarget),
    /// No role that may list the target does.
    NotListed,
    /// This file must be supplied before the question can be answered.
    Needs(DelegationRequest),
}

/// A delegated role's metadata file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DelegationRequest {
    /// The file.
    pub file: FileRequest,
    delegator: String,
    role: DelegatedRole,
}

impl DelegationRequest {
    /// The name of the delegated role.
    pub fn role(&self) -> &str {
        &self.role.name
    }
}

impl VerifiedRepository {
    pub(super) fn new(
        state: TrustedState,
        snapshot: Snapshot,
        targets: Targets,
        now: UnixSeconds,
        purpose: Purpose,
    ) -> Self {
        Self {
            state,
            snapshot,
            targets,
            delegated: BTreeMap::new(),
            now,
            purpose,
        }
    }

    /// What is trusted now. To be stored.
    pub fn state(&self) -> &TrustedState {
        &self.state
    }

    /// The top-level targets.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Delegated targets that were supplied so far, by role.
    pub fn delegated(&self) -> impl Iterator<Item = (&str, &Targets)> {
        self.delegated
            .iter()
            .map(|((_, role), targets)| (role.as_str(), targets))
    }

    /// The later of the clock and the newest signed time, when the update began.
    pub fn now(&self) -> UnixSeconds {
        self.now
    }

    /// Looks for a target in the order of the specification: a role's own list, then its delegations in order, each
    /// with its whole subtree, until one lists the target or a terminating one does not. A role is consulted only for
    /// names that its delegation's paths match.
    ///
    /// # Errors
    /// A delegation names a role that the snapshot does not list, or the search takes too many roles.
    pub fn look_up(&self, target: &TargetName) -> Result<Lookup, UpdateError> {
        let mut visited = BTreeSet::from([TOP.to_owned()]);
        let answer = self.search(TOP, &self.targets, target.as_str(), &mut visited)?;
        Ok(answer.unwrap_or(Lookup::NotListed))
    }

    /// Brings the bytes of a file that [`VerifiedRepository::look_up`] needs.
    ///
    /// # Errors
    /// The file is refused, and still needed.
    pub fn supply(&mut self, request: &DelegationRequest, bytes: &[u8]) -> Result<(), UpdateError> {
        self.accept(request, bytes).map_err(|refusal| refusal.of(&request.file))
    }

    fn accept(&mut self, request: &DelegationRequest, bytes: &[u8]) -> Result<(), Refusal> {
        let not_listed = || Refusal::NotListed {
            file: request.role.name.clone(),
        };
        let delegations = self.delegations_of(&request.delegator).ok_or_else(not_listed)?;
        if !delegations.roles.contains(&request.role) {
            return Err(not_listed());
        }
        let file = read::<Targets>(&request.file, bytes)?;
        delegations.verify(&request.role, &file)?;
        let listed = self
            .snapshot
            .meta
            .get(&paths::role_file(&request.role.name))
            .ok_or_else(not_listed)?;
        expect_version(&file, listed.version)?;
        fresh(file.payload(), self.now, self.purpose)?;
        let key = (request.delegator.clone(), request.role.name.clone());
        self.delegated.insert(key, file.into_payload());
        Ok(())
    }

    /// The delegations of a role that was supplied, through whichever delegation it was.
    fn delegations_of(&self, role: &str) -> Option<&Delegations> {
        if role == TOP {
            return self.targets.delegations.as_ref();
        }
        self.delegated
            .iter()
            .find(|((_, name), _)| name == role)?
            .1
            .delegations
            .as_ref()
    }

    /// The answer of one role's subtree; none if the search goes on after it.
    fn search(
        &self,
        name: &str,
        role: &Targets,
        target: &str,
        visited: &mut BTreeSet<String>,
    ) -> Result<Option<Lookup>, UpdateError> {
        if let Some(listed) = role.targets.get(target) {
            return Ok(Some(listed_target(listed, name)));
        }
        let Some(delegations) = &role.delegations else {
            return Ok(None);
        };
        for delegation in delegations
            .roles
            .iter()
            .filter(|delegation| delegation.may_list(target))
        {
            if visited.insert(delegation.name.clone()) {
                let file = paths::role_file(&delegation.name);
                if visited.len() > MAX_DELEGATED_ROLES {
                    return Err(UpdateError {
                        file,
                        reason: Refusal::TooManyRoles,
                    });
                }
                let key = (name.to_owned(), delegation.name.clone());
                let Some(targets) = self.delegated.get(&key) else {
                    return Ok(Some(Lookup::Needs(self.request(name, delegation, file)?)));
                };
                if let Some(answer) = self.search(&delegation.name, targets, target, visited)? {
                    return Ok(Some(answer));
                }
            }
            if delegation.terminating {
                return Ok(Some(Lookup::NotListed));
            }
        }
        Ok(None)
    }

    fn request(&self, delegator: &str, role: &DelegatedRole, file: String) -> Result<DelegationRequest, UpdateError> {
        let Some(listed) = self.snapshot.meta.get(&file) else {
            let reason = Refusal::NotListed { file: file.clone() };
            return Err(UpdateError {
                file: "snapshot.json".to_owned(),
                reason,
            });
        };
        let consistent = self.state.root().payload().consistent_snapshot;
        let file = listed_file(&file, listed, consistent, MAX_TARGETS_BYTES);
        Ok(DelegationRequest {
            file,
            delegator: delegator.to_owned(),
            role: role.clone(),
        })
    }
}

/// A target without a SHA-256 digest cannot be checked, so it is as good as not listed; one that was taken back is not, either.
fn listed_target(target: &Target, role: &str) -> Lookup {
    match target.hashes.sha256.filter(|_| !target.is_withdrawn()) {
        Some(sha256) => Lookup::Listed(ListedTarget {
            length: target.length,
            sha256,
            custom: target.custom.clone(),
            role: role.to_owned(),
        }),
        None => Lookup::NotListed,
    }
}
