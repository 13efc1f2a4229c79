//! TUF metadata, keys and stored trust: as files, and as an update by somebody who has the keys.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use fieldfare_release::tuf::{
    Extra, Lookup, OnlineRoles, Payload, PublicKey, Purpose, Repository, RoleHolders, Roles, Root, Signed, SigningKey,
    Snapshot, Target as ListedTarget, Targets, Timestamp, TrustedState, Update, Version,
};
use fieldfare_release::{Sha256Digest, UnixSeconds};
use ring::rand::SystemRandom;

use super::failed;
use crate::{Bound, Target, keys};

const WORDS: &[&[u8]] = &[
    b"\"_type\": \"root\"",
    b"\"_type\": \"targets\"",
    b"\"version\": 9223372036854775807",
    b"\"version\":1,\"version\":2",
    b"\"threshold\": 0",
    b"\"threshold\": 2",
    b"\"expires\": \"9999-12-31T23:59:59Z\"",
    b"\"expires\": \"0000-00-00T00:00:00Z\"",
    b"\"delegations\": {\"keys\": {}, \"roles\": []}",
    b"\"paths\": [\"*\"]",
    b"\"consistent_snapshot\": false",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\\ud800",
    b"1.0",
    b"-----BEGIN PUBLIC KEY-----",
];

/// Every file as it lies there, unsigned for whoever changes it.
pub(super) const TARGET: Target = Target {
    name: "metadata",
    seeds: || {
        let mut files: Vec<Vec<u8>> = world().mirror.values().cloned().collect();
        files.push(world().state.to_bytes());
        files.push(world().root_key.public().to_pem().as_bytes().to_vec());
        files
    },
    invent: None,
    take,
    // A document is there as bytes, as a value and as the type; a value of one byte takes some hundred.
    bound: Bound {
        base: 128 << 10,
        per_byte: 256,
    },
    words: WORDS,
    inputs: 15_000,
};

/// Every file signed by its role's own key after it was changed: what a thief of all keys can do.
pub(super) const SIGNED: Target = Target {
    name: "metadata-signed",
    seeds: || world().mirror.values().cloned().collect(),
    invent: None,
    take: take_signed,
    bound: Bound {
        base: 512 << 10,
        per_byte: 512,
    },
    words: WORDS,
    inputs: 4_000,
};

pub(crate) struct World {
    root_key: SigningKey,
    role_key: SigningKey,
    pub(crate) mirror: BTreeMap<String, Vec<u8>>,
    state: TrustedState,
}

/// When everything was signed.
pub const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);
const RELEASE: &str = "farm.r1.release.json";
const ADAPTER: &str = "adapter.farm.r2.release.json";

fn sign<P: Payload>(payload: P, key: &SigningKey) -> Vec<u8> {
    Signed::sign(payload, &[key], &SystemRandom::new())
        .unwrap()
        .bytes()
        .to_vec()
}

pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let rng = SystemRandom::new();
        let (root_key, role_key) = (keys::first(), keys::second());
        let role = || RoleHolders::one(role_key.public());
        let holders = Roles {
            root: RoleHolders::one(root_key.public()),
            targets: role(),
            snapshot: role(),
            timestamp: role(),
            extra: Extra::new(),
        };
        let expires = NOW.plus(1 << 20);
        let first = Root::first(holders, NOW, expires);
        let second = sign(first.next(NOW, expires), &root_key);
        let first = sign(first, &root_key);
        let mut repository = Repository::new(&first).unwrap();
        repository.accept_root(&second).unwrap();
        let listed = |name: &str| ListedTarget::new(name.len() as u64, Sha256Digest::of(name.as_bytes()));
        let mut targets = Targets::first(expires);
        targets.list(&RELEASE.parse().unwrap(), listed(RELEASE));
        targets.delegate_adapters(&"farm".parse().unwrap(), role());
        let mut delegated = Targets::first(expires);
        delegated.list(&ADAPTER.parse().unwrap(), listed(ADAPTER));
        repository.accept_targets(&sign(targets, &role_key)).unwrap();
        repository
            .accept_delegated("adapter-farm", &sign(delegated, &role_key))
            .unwrap();
        let online = OnlineRoles {
            snapshot_key: &role_key,
            snapshot_seconds: 1 << 20,
            timestamp_key: &role_key,
            timestamp_seconds: 1 << 20,
            least_version: Version::FIRST,
        };
        let files = repository.publish(NOW, online, &rng).unwrap();
        let mut mirror: BTreeMap<_, _> = files.into_iter().map(|file| (file.name, file.bytes)).collect();
        mirror.insert("1.root.json".to_owned(), first.clone());
        mirror.insert("2.root.json".to_owned(), second);
        World {
            root_key,
            role_key,
            mirror,
            state: TrustedState::from_root(&first).unwrap(),
        }
    })
}

/// Reads a file as one role. What is read is read again from its own bytes.
fn read<P: Payload + std::fmt::Debug>(bytes: &[u8]) -> Result<Signed<P>, String> {
    let file = Signed::<P>::read(bytes).map_err(|error| failed(&error))?;
    assert_eq!(file.bytes(), bytes);
    // The type is written in the same document: nothing is lost between the two.
    let written = serde_json::to_value(file.payload()).unwrap();
    assert_eq!(
        serde_json::from_value::<P>(written.clone())
            .map(|read| serde_json::to_value(&read).unwrap())
            .unwrap(),
        written
    );
    Ok(file)
}

fn take(bytes: &[u8]) -> String {
    let outcomes = [
        read::<Root>(bytes).map(drop),
        read::<Targets>(bytes).map(drop),
        read::<Snapshot>(bytes).map(drop),
        read::<Timestamp>(bytes).map(drop),
    ];
    let mut words: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    words.dedup();
    let trusted = TrustedState::from_root(bytes).map_err(|error| failed(&error));
    let stored = TrustedState::from_bytes(bytes).map_err(|error| failed(&error));
    for state in [trusted, stored] {
        match state {
            Ok(state) => {
                let written = state.to_bytes();
                assert_eq!(TrustedState::from_bytes(&written).unwrap(), state);
                words.push("trusted".to_owned());
            }
            Err(error) => words.push(error),
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = PublicKey::from_pem(text)
    {
        assert_eq!(PublicKey::from_pem(key.to_pem()).unwrap().id(), key.id());
        words.push("a key".to_owned());
    }
    words.join(" / ")
}

/// The same file with its role's signature, where it is one of any role.
fn signed_again(bytes: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    fn with<P: Payload + std::fmt::Debug>(bytes: &[u8], key: &SigningKey) -> Option<Vec<u8>> {
        let mut file = Signed::<P>::read(bytes).ok()?;
        file.add_signature(key, &SystemRandom::new()).ok()?;
        Some(file.bytes().to_vec())
    }
    let world = world();
    with::<Root>(bytes, &world.root_key)
        .map(|bytes| ("root", bytes))
        .or_else(|| with::<Timestamp>(bytes, &world.role_key).map(|bytes| ("timestamp", bytes)))
        .or_else(|| with::<Snapshot>(bytes, &world.role_key).map(|bytes| ("snapshot", bytes)))
        .or_else(|| with::<Targets>(bytes, &world.role_key).map(|bytes| ("targets", bytes)))
}

fn take_signed(bytes: &[u8]) -> String {
    let world = world();
    let Some((role, forged)) = signed_again(bytes) else {
        return "no metadata".to_owned();
    };
    let mut update = Update::begin(world.state.clone(), NOW, Purpose::Install);
    let mut outcome = role.to_owned();
    let mut steps = 0;
    while let Some(request) = update.next_file() {
        steps += 1;
        assert!(steps < 20, "the update does not end");
        let is_role = request.name.contains(role);
        let answer = match world.mirror.get(&request.name) {
            _ if is_role && (role != "root" || request.name == "2.root.json") => update.supply(&forged),
            Some(bytes) => update.supply(bytes),
            None => update.missing(),
        };
        if let Err(error) = answer {
            outcome.push_str(&failed(&error));
            break;
        }
    }
    // Whatever was believed is kept and read again.
    let state = update.state().clone();
    assert_eq!(TrustedState::from_bytes(&state.to_bytes()).unwrap(), state);
    let Ok(mut repository) = update.finish() else {
        return outcome;
    };
    for name in [RELEASE, ADAPTER] {
        for _ in 0..40 {
            match repository.look_up(&name.parse().unwrap()) {
                Ok(Lookup::Needs(request)) => {
                    let is_role = role == "targets";
                    let bytes = world
                        .mirror
                        .get(&request.file.name)
                        .filter(|_| !is_role)
                        .unwrap_or(&forged);
                    if let Err(error) = repository.supply(&request, bytes) {
                        outcome.push_str(&failed(&error));
                        break;
                    }
                }
                Ok(Lookup::Listed(_)) => {
                    outcome.push_str(" listed");
                    break;
                }
                Ok(Lookup::NotListed) => {
                    outcome.push_str(" not listed");
                    break;
                }
                Err(error) => {
                    outcome.push_str(&failed(&error));
                    break;
                }
            }
        }
    }
    outcome
}
