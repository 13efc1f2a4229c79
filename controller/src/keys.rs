//! Where every record lies: `/v1/<tenant>/...`. No other module spells a key.

use std::fmt;

use fieldfare_fleet::{
    DeploymentName, DeviceId, Digest, JobName, ModelName, ProfileClass, ReleaseId, ReleaseNumber, RoundId, TenantName,
    TrainerName,
};
use fieldfare_proto::v1::Requirements;
use fieldfare_release::Sha256Digest;
use fieldfare_store::{Key, Prefix};
use fieldfare_tls::OperatorName;
use prost::Message;

/// The keys of one tenant.
#[derive(Clone, Debug)]
pub struct Keys {
    root: Prefix,
}

impl Keys {
    /// The keys of this tenant.
    pub fn of(tenant: &TenantName) -> Self {
        Self {
            root: prefix(format!("/v1/{tenant}/")),
        }
    }

    /// Everything of the tenant.
    pub fn root(&self) -> &Prefix {
        &self.root
    }

    fn key(&self, rest: fmt::Arguments<'_>) -> Key {
        self.root.key(rest).expect("a path of checked names is a key")
    }

    fn below(&self, rest: fmt::Arguments<'_>) -> Prefix {
        prefix(format!("{}{rest}", self.root))
    }

    /// `FleetRecord`.
    pub fn fleet(&self) -> Key {
        self.key(format_args!("fleet"))
    }

    /// `ReplicaRecord` of one process.
    pub fn replica(&self, incarnation: &str) -> Key {
        self.key(format_args!("replicas/{incarnation}"))
    }

    /// `TokenRecord` of the token whose id this is.
    pub fn token(&self, id: &TokenId) -> Key {
        self.key(format_args!("tokens/{id}"))
    }

    /// All `TokenRecord`s.
    pub fn tokens(&self) -> Prefix {
        self.below(format_args!("tokens/"))
    }

    /// `KeyRecord` of the holder of a public key.
    pub fn holder(&self, key: &Digest) -> Key {
        self.key(format_args!("keys/{key}"))
    }

    /// `DeviceRecord`.
    pub fn device(&self, id: DeviceId) -> Key {
        self.key(format_args!("devices/spec/{id}"))
    }

    /// `DeviceStatusRecord`.
    pub fn device_status(&self, id: DeviceId) -> Key {
        self.key(format_args!("devices/status/{id}"))
    }

    /// `SessionRecord` of a device.
    pub fn session(&self, id: DeviceId) -> Key {
        self.key(format_args!("sessions/{id}"))
    }

    /// `PrincipalRecord` of a trainer.
    pub fn trainer(&self, name: &TrainerName) -> Key {
        self.key(format_args!("trainers/{name}"))
    }

    /// `PrincipalRecord` of an operator.
    pub fn operator(&self, name: &OperatorName) -> Key {
        self.key(format_args!("operators/{name}"))
    }

    /// `RepositoryRecord`.
    pub fn repository(&self) -> Key {
        self.key(format_args!("repository"))
    }

    /// `ModelRecord`.
    pub fn model(&self, model: &ModelName) -> Key {
        self.key(format_args!("models/{model}"))
    }

    /// `ReleaseRecord`; numbers are padded, so that they list in their order.
    pub fn release(&self, model: &ModelName, number: u64) -> Key {
        self.key(format_args!("releases/{model}/{number:010}"))
    }

    /// `DeploymentRecord`.
    pub fn deployment(&self, name: &DeploymentName) -> Key {
        self.key(format_args!("deployments/spec/{name}"))
    }

    /// `DeploymentStatusRecord`.
    pub fn deployment_status(&self, name: &DeploymentName) -> Key {
        self.key(format_args!("deployments/status/{name}"))
    }

    /// `OwnerRecord` of a deployment.
    pub fn deployment_owner(&self, name: &DeploymentName) -> Key {
        self.key(format_args!("deployments/owner/{name}"))
    }

    /// `RolloutRecord` of a deployment.
    pub fn rollout(&self, deployment: &DeploymentName) -> Key {
        self.key(format_args!("rollouts/{deployment}"))
    }

    /// `AssignmentRecord` of one class of devices for one decision of a deployment.
    pub fn assignment(&self, deployment: &DeploymentName, decision: &Decision, class: &ProfileClass) -> Key {
        let ReleaseId { model, number } = &decision.release;
        self.key(format_args!(
            "assignments/{deployment}/{model}/{:010}/{}/{class}",
            number.0, decision.requirements
        ))
    }

    /// `JobRecord`.
    pub fn job(&self, name: &JobName) -> Key {
        self.key(format_args!("jobs/spec/{name}"))
    }

    /// `JobStatusRecord`.
    pub fn job_status(&self, name: &JobName) -> Key {
        self.key(format_args!("jobs/status/{name}"))
    }

    /// `ClaimRecord` of a job, which vanishes with its lease.
    pub fn claim(&self, name: &JobName) -> Key {
        self.key(format_args!("jobs/claim/{name}"))
    }

    /// `RoundRecord` of one attempt.
    pub fn round(&self, round: &RoundId) -> Key {
        self.key(format_args!(
            "rounds/{}/{:05}/{:02}",
            round.job, round.round.0, round.attempt.0
        ))
    }

    /// `DropRecord` of one device in one attempt.
    pub fn drop(&self, round: &RoundId, device: DeviceId) -> Key {
        self.key(format_args!(
            "drops/{}/{:05}/{:02}/{device}",
            round.job, round.round.0, round.attempt.0
        ))
    }

    /// What kind of record lies at `key`, with its name in it; nothing for a kind that the mirror does not hold.
    pub fn parse<'a>(&self, key: &'a Key) -> Option<Place<'a>> {
        let path = key.below(&self.root)?;
        let (collection, rest) = path.split_once('/')?;
        Some(match collection {
            "replicas" => Place::Replica(rest),
            "sessions" => Place::Session(rest.parse().ok()?),
            "trainers" => Place::Trainer(rest.parse().ok()?),
            "rollouts" => Place::Rollout(rest.parse().ok()?),
            "devices" => match rest.split_once('/')? {
                ("spec", id) => Place::Device(id.parse().ok()?),
                ("status", id) => Place::DeviceStatus(id.parse().ok()?),
                _ => return None,
            },
            "deployments" => match rest.split_once('/')? {
                ("spec", name) => Place::Deployment(name.parse().ok()?),
                ("status", name) => Place::DeploymentStatus(name.parse().ok()?),
                _ => return None,
            },
            "assignments" => {
                let mut parts = rest.splitn(5, '/');
                let deployment = parts.next()?.parse().ok()?;
                let (model, number) = (parts.next()?.parse().ok()?, ReleaseNumber(parts.next()?.parse().ok()?));
                let decision = Decision {
                    release: ReleaseId { model, number },
                    requirements: parts.next()?.to_owned(),
                };
                Place::Assignment(deployment, decision, parts.next()?.parse().ok()?)
            }
            "jobs" => match rest.split_once('/')? {
                ("spec", name) => Place::Job(name.parse().ok()?),
                ("status", name) => Place::JobStatus(name.parse().ok()?),
                ("claim", name) => Place::Claim(name.parse().ok()?),
                _ => return None,
            },
            "rounds" => Place::Round(round_id(rest)?.0),
            "drops" => {
                let (round, device) = round_id(rest)?;
                Place::Drop(round, device?.parse().ok()?)
            }
            "releases" => {
                let (model, number) = rest.split_once('/')?;
                Place::Release(model.parse().ok()?, number.parse().ok()?)
            }
            _ => return None,
        })
    }
}

/// A record that the mirror holds, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the record of the same name in state.proto")]
pub enum Place<'a> {
    Replica(&'a str),
    Session(DeviceId),
    Trainer(TrainerName),
    Device(DeviceId),
    DeviceStatus(DeviceId),
    Deployment(DeploymentName),
    DeploymentStatus(DeploymentName),
    Rollout(DeploymentName),
    Assignment(DeploymentName, Decision, ProfileClass),
    Job(JobName),
    JobStatus(JobName),
    Claim(JobName),
    Round(RoundId),
    Drop(RoundId, DeviceId),
    Release(ModelName, u64),
}

/// What an assignment was decided for: a release, under requirements. Another of either is decided anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    release: ReleaseId,
    /// The first 16 bytes of the requirements' SHA-256, in hexadecimal.
    requirements: String,
}

impl Decision {
    /// The decision for a release under these requirements.
    pub fn new(release: ReleaseId, requirements: &Requirements) -> Self {
        let digest = Sha256Digest::of(&requirements.encode_to_vec());
        Self {
            release,
            requirements: hex::encode(&digest.as_bytes()[..16]),
        }
    }
}

fn prefix(text: String) -> Prefix {
    Prefix::new(text).expect("a path of checked names is a prefix")
}

/// `<job>/<round>/<attempt>[/<device>]`.
fn round_id(path: &str) -> Option<(RoundId, Option<&str>)> {
    use fieldfare_fleet::{Attempt, RoundNumber};
    let mut parts = path.splitn(4, '/');
    let id = RoundId {
        job: parts.next()?.parse().ok()?,
        round: RoundNumber(parts.next()?.parse().ok()?),
        attempt: Attempt(parts.next()?.parse().ok()?),
    };
    Some((id, parts.next()))
}

/// Names a join token without telling its secret: the first 16 bytes of the secret's hash, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenId(String);

impl TokenId {
    /// The id of the token with this hash.
    pub fn of(hash: &[u8; 32]) -> Self {
        Self(hex::encode(&hash[..16]))
    }

    /// Reads an id as it is shown.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fieldfare_fleet::{Attempt, RoundNumber};

    #[test]
    fn every_mirrored_key_parses_back_to_its_place() {
        let keys = Keys::of(&TenantName::new("acme").unwrap());
        let id = DeviceId::from_bytes([7; 16]);
        let deployment = DeploymentName::new("soil").unwrap();
        let job = JobName::new("night").unwrap();
        let model = ModelName::new("farm").unwrap();
        let trainer = TrainerName::new("north").unwrap();
        let decision = Decision::new("farm.r4".parse().unwrap(), &Requirements::default());
        let class: ProfileClass = "candle-gguf.unattested.m1000.d1024.b1000.f1000.i1000".parse().unwrap();
        let round = RoundId {
            job: job.clone(),
            round: RoundNumber(3),
            attempt: Attempt(2),
        };
        let cases = [
            (keys.replica("a1"), Place::Replica("a1")),
            (keys.session(id), Place::Session(id)),
            (keys.trainer(&trainer), Place::Trainer(trainer.clone())),
            (keys.device(id), Place::Device(id)),
            (keys.device_status(id), Place::DeviceStatus(id)),
            (keys.deployment(&deployment), Place::Deployment(deployment.clone())),
            (
                keys.deployment_status(&deployment),
                Place::DeploymentStatus(deployment.clone()),
            ),
            (keys.rollout(&deployment), Place::Rollout(deployment.clone())),
            (
                keys.assignment(&deployment, &decision, &class),
                Place::Assignment(deployment.clone(), decision, class.clone()),
            ),
            (keys.job(&job), Place::Job(job.clone())),
            (keys.job_status(&job), Place::JobStatus(job.clone())),
            (keys.claim(&job), Place::Claim(job.clone())),
            (keys.round(&round), Place::Round(round.clone())),
            (keys.drop(&round, id), Place::Drop(round, id)),
            (keys.release(&model, 12), Place::Release(model, 12)),
        ];
        for (key, place) in cases {
            assert_eq!(keys.parse(&key), Some(place), "{key}");
        }
    }

    #[test]
    fn another_model_and_other_requirements_are_other_decisions() {
        let narrow = Requirements {
            context_tokens: 128,
            ..Requirements::default()
        };
        let wide = Requirements::default();
        let of = |release: &str, requirements| Decision::new(release.parse().unwrap(), requirements);
        let first = of("farm.r1", &wide);
        assert_eq!(of("farm.r1", &wide), first);
        for other in [of("leak.r1", &wide), of("farm.r2", &wide), of("farm.r1", &narrow)] {
            assert_ne!(other, first);
        }
    }

    #[test]
    fn a_key_of_another_tenant_is_no_place() {
        let id = DeviceId::from_bytes([7; 16]);
        let ours = Keys::of(&TenantName::new("acme").unwrap());
        let theirs = Keys::of(&TenantName::new("acme-2").unwrap());
        assert_eq!(ours.parse(&theirs.device(id)), None);
    }
}
