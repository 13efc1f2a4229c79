//! A repository with all its keys, a mirror of its files that an attacker may alter, and a client.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use fieldfare_release::tuf::{
    DelegationRequest, Extra, FileMeta, ListedTarget, Lookup, OnlineRoles, Payload, Purpose, Repository, RoleHolders,
    Roles, Root, Signed, SigningKey, Snapshot, Target, Targets, Timestamp, TrustedState, Update, UpdateError,
    VerifiedRepository, Version,
};
use fieldfare_release::{ModelName, Sha256Digest, TargetName, UnixSeconds};
use ring::rand::SystemRandom;

pub(crate) const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);
pub(crate) const DAY: u64 = 86_400;
pub(crate) const RELEASE: &str = "farm.r1.release.json";
pub(crate) const ADAPTER: &str = "adapter.farm.r2.release.json";
pub(crate) const RELEASE_BYTES: &[u8] = b"the operator's manifest";
pub(crate) const ADAPTER_BYTES: &[u8] = b"the trainer's manifest";

/// File name to bytes, as a server has them.
pub(crate) type Mirror = BTreeMap<String, Vec<u8>>;

pub(crate) struct Keys {
    pub(crate) root: SigningKey,
    pub(crate) targets: SigningKey,
    pub(crate) snapshot: SigningKey,
    pub(crate) timestamp: SigningKey,
    pub(crate) trainer: SigningKey,
}

impl Keys {
    pub(crate) fn generate() -> Self {
        Self {
            root: key(),
            targets: key(),
            snapshot: key(),
            timestamp: key(),
            trainer: key(),
        }
    }

    pub(crate) fn holders(&self) -> Roles<RoleHolders> {
        Roles {
            root: RoleHolders::one(self.root.public()),
            targets: RoleHolders::one(self.targets.public()),
            snapshot: RoleHolders::one(self.snapshot.public()),
            timestamp: RoleHolders::one(self.timestamp.public()),
            extra: Extra::new(),
        }
    }

    pub(crate) fn online(&self, seconds: u64) -> OnlineRoles<'_> {
        OnlineRoles {
            snapshot_key: &self.snapshot,
            snapshot_seconds: seconds,
            timestamp_key: &self.timestamp,
            timestamp_seconds: seconds,
            least_version: Version::FIRST,
        }
    }
}

pub(crate) fn key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).unwrap()
}

pub(crate) fn sign<P: Payload>(payload: P, keys: &[&SigningKey]) -> Signed<P> {
    Signed::sign(payload, keys, &SystemRandom::new()).unwrap()
}

pub(crate) fn name(text: &str) -> TargetName {
    text.parse().unwrap()
}

pub(crate) fn model() -> ModelName {
    "farm".parse().unwrap()
}

pub(crate) fn target(bytes: &[u8]) -> Target {
    Target::new(bytes.len() as u64, Sha256Digest::of(bytes))
}

pub(crate) fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

pub(crate) fn threshold(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// The operator's and the trainer's first release, published at `NOW`. Everything is good for `seconds`.
pub(crate) struct World {
    pub(crate) keys: Keys,
    pub(crate) repository: Repository,
    pub(crate) mirror: Mirror,
    pub(crate) seconds: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::lasting(7 * DAY)
    }

    pub(crate) fn lasting(seconds: u64) -> Self {
        let keys = Keys::generate();
        let expires = NOW.plus(seconds);
        let root = sign(Root::first(keys.holders(), NOW, expires), &[&keys.root]);
        let mut targets = Targets::first(expires);
        targets.list(&name(RELEASE), target(RELEASE_BYTES));
        targets.delegate_adapters(&model(), RoleHolders::one(keys.trainer.public()));
        let mut delegated = Targets::first(expires);
        delegated.list(&name(ADAPTER), target(ADAPTER_BYTES));
        let mut repository = Repository::new(root.bytes()).unwrap();
        repository
            .accept_targets(sign(targets, &[&keys.targets]).bytes())
            .unwrap();
        repository
            .accept_delegated("adapter-farm", sign(delegated, &[&keys.trainer]).bytes())
            .unwrap();
        let mut world = Self {
            keys,
            repository,
            mirror: Mirror::new(),
            seconds,
        };
        world.publish(NOW);
        world
    }

    /// Lists one more target of the operator and publishes.
    pub(crate) fn release(&mut self, text: &str, now: UnixSeconds) {
        let mut next = self
            .repository
            .targets()
            .unwrap()
            .payload()
            .next(now.plus(self.seconds));
        next.list(&name(text), target(text.as_bytes()));
        self.repository
            .accept_targets(sign(next, &[&self.keys.targets]).bytes())
            .unwrap();
        self.publish(now);
    }

    pub(crate) fn publish(&mut self, now: UnixSeconds) {
        let files = self
            .repository
            .publish(now, self.keys.online(self.seconds), &SystemRandom::new())
            .unwrap();
        self.mirror
            .extend(files.into_iter().map(|file| (file.name, file.bytes)));
    }

    /// Puts the next root in place, altered by `change` and signed by `keys`.
    pub(crate) fn rotate(&mut self, now: UnixSeconds, change: impl FnOnce(&mut Root), keys: &[&SigningKey]) {
        let mut next = self.repository.root().payload().next(now, now.plus(self.seconds));
        change(&mut next);
        self.repository.accept_root(sign(next, keys).bytes()).unwrap();
    }

    /// The state of a device that was just enrolled.
    pub(crate) fn enrolled(&self) -> TrustedState {
        TrustedState::from_root(&self.mirror["1.root.json"]).unwrap()
    }

    /// The state of a device that has seen everything published so far.
    pub(crate) fn current(&self) -> TrustedState {
        update(self.enrolled(), &self.mirror, NOW).unwrap().state().clone()
    }

    /// What a thief of the timestamp's key can do: a timestamp of the given version for a snapshot on the mirror.
    pub(crate) fn forge_timestamp(&mut self, timestamp: u64, snapshot: u64) {
        let meta = FileMeta::of(version(snapshot), &self.mirror[&format!("{snapshot}.snapshot.json")]);
        let mut forged = Timestamp::first(meta, NOW, NOW.plus(DAY));
        forged.header.version = version(timestamp);
        self.mirror.insert(
            "timestamp.json".to_owned(),
            sign(forged, &[&self.keys.timestamp]).bytes().to_vec(),
        );
    }

    /// What a thief of the snapshot's and the timestamp's keys can do: the current snapshot, altered.
    pub(crate) fn forge_snapshot(&mut self, number: u64, change: impl FnOnce(&mut Snapshot)) {
        let mut forged = self.snapshot();
        forged.header.version = version(number);
        change(&mut forged);
        let bytes = sign(forged, &[&self.keys.snapshot]).bytes().to_vec();
        self.mirror.insert(format!("{number}.snapshot.json"), bytes);
        self.forge_timestamp(number, number);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let timestamp = Signed::<Timestamp>::read(&self.mirror["timestamp.json"]).unwrap();
        let number = timestamp.payload().snapshot().unwrap().version;
        Signed::read(&self.mirror[&format!("{number}.snapshot.json")])
            .unwrap()
            .into_payload()
    }

    /// Top-level or delegated targets under a file name with version, listed in a new snapshot as they are.
    pub(crate) fn forge_targets(&mut self, file: &str, forged: &Signed<Targets>) {
        let stored = format!("{}.{file}", forged.version());
        self.mirror.insert(stored, forged.bytes().to_vec());
        let number = self.snapshot().header.version.get() + 1;
        let meta = FileMeta::of(forged.version(), forged.bytes());
        self.forge_snapshot(number, |snapshot| {
            snapshot.meta.insert(file.to_owned(), meta);
        });
    }
}

/// Runs an update for installing to its end. On refusal, the state that the device keeps comes with the error.
pub(crate) fn update(
    state: TrustedState,
    mirror: &Mirror,
    now: UnixSeconds,
) -> Result<VerifiedRepository, Box<(TrustedState, UpdateError)>> {
    update_for(Purpose::Install, state, mirror, now)
}

pub(crate) fn update_for(
    purpose: Purpose,
    state: TrustedState,
    mirror: &Mirror,
    now: UnixSeconds,
) -> Result<VerifiedRepository, Box<(TrustedState, UpdateError)>> {
    let mut update = Update::begin(state, now, purpose);
    while let Some(request) = update.next_file() {
        let step = match mirror.get(&request.name) {
            Some(bytes) => update.supply(bytes),
            None => update.missing(),
        };
        if let Err(error) = step {
            return Err(Box::new((update.state().clone(), error)));
        }
    }
    Ok(update.finish().unwrap())
}

/// The error of an update that must fail.
pub(crate) fn refused(state: TrustedState, mirror: &Mirror, now: UnixSeconds) -> UpdateError {
    update(state, mirror, now).expect_err("the update must be refused").1
}

/// Looks a target up, fetching delegated metadata. Also says which files were asked for.
pub(crate) fn look_up(
    repository: &mut VerifiedRepository,
    mirror: &Mirror,
    target: &str,
) -> Result<(Option<ListedTarget>, Vec<String>), UpdateError> {
    let mut asked = Vec::new();
    loop {
        let request: DelegationRequest = match repository.look_up(&name(target))? {
            Lookup::Listed(listed) => return Ok((Some(listed), asked)),
            Lookup::NotListed => return Ok((None, asked)),
            Lookup::Needs(request) => request,
        };
        let bytes = mirror
            .get(&request.file.name)
            .unwrap_or_else(|| panic!("{} is missing", request.file.name));
        repository.supply(&request, bytes)?;
        asked.push(request.file.name);
    }
}

pub(crate) fn key_again(key: &SigningKey) -> SigningKey {
    SigningKey::from_pem(&key.to_pem(), &SystemRandom::new()).unwrap()
}

pub(crate) fn second_targets(world: &World) -> Targets {
    world.repository.targets().unwrap().payload().next(NOW.plus(DAY))
}
