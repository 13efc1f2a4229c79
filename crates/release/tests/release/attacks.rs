//! One test for each attack that The Update Framework names.

use fieldfare_release::tuf::{
    FileMeta, MetadataError, Purpose, Refusal, RoleHolders, RoleType, RollbackError, Signed, Targets, Update,
};
use ring::rand::SystemRandom;

use crate::fixture::{
    ADAPTER, ADAPTER_BYTES, DAY, NOW, RELEASE, RELEASE_BYTES, World, key, key_again, look_up, name, refused,
    second_targets, sign, target, threshold, update, update_for, version,
};

#[test]
fn an_honest_repository_is_accepted() {
    let world = World::new();
    let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    let (listed, asked) = look_up(&mut verified, &world.mirror, RELEASE).unwrap();
    let listed = listed.unwrap();
    assert_eq!(
        (listed.length, listed.role.as_str()),
        (RELEASE_BYTES.len() as u64, "targets")
    );
    assert!(asked.is_empty(), "no delegation was needed for {RELEASE}");
    let (listed, asked) = look_up(&mut verified, &world.mirror, ADAPTER).unwrap();
    let listed = listed.unwrap();
    assert_eq!(
        (listed.length, listed.role.as_str()),
        (ADAPTER_BYTES.len() as u64, "adapter-farm")
    );
    assert_eq!(asked, ["1.adapter-farm.json"]);
    assert!(
        look_up(&mut verified, &world.mirror, "farm.r9.release.json")
            .unwrap()
            .0
            .is_none()
    );
}

#[test]
fn tampered_bytes() {
    let world = World::new();
    for file in ["timestamp.json", "1.snapshot.json", "1.targets.json"] {
        let mut mirror = world.mirror.clone();
        let bytes = mirror.get_mut(file).unwrap();
        let at = bytes.windows(9).position(|window| window == b"\"version\"").unwrap() + 10;
        bytes[at] = b'9';
        let error = refused(world.enrolled(), &mirror, NOW);
        assert_eq!(error.file, file);
        assert!(
            matches!(error.reason, Refusal::Listed(_) | Refusal::Signature(_)),
            "{error}"
        );
    }
}

#[test]
fn arbitrary_installation_with_keys_of_somebody_else() {
    let (world, attacker) = (World::new(), World::new());
    let mut mirror = attacker.mirror.clone();
    mirror.insert("1.root.json".to_owned(), world.mirror["1.root.json"].clone());
    let error = refused(world.enrolled(), &mirror, NOW);
    assert!(
        matches!(&error.reason, Refusal::Signature(signature) if signature.valid == 0),
        "{error}"
    );
}

#[test]
fn arbitrary_installation_with_a_root_of_somebody_else() {
    let world = World::new();
    let attacker = key();
    let mut next = world.repository.root().payload().next(NOW, NOW.plus(DAY));
    for role in [
        RoleType::Root,
        RoleType::Targets,
        RoleType::Snapshot,
        RoleType::Timestamp,
    ] {
        next.assign(role, RoleHolders::one(attacker.public()));
    }
    let mut mirror = world.mirror.clone();
    mirror.insert("2.root.json".to_owned(), sign(next, &[&attacker]).bytes().to_vec());
    let (state, error) = *update(world.enrolled(), &mirror, NOW).unwrap_err();
    assert_eq!(error.file, "2.root.json");
    assert!(matches!(error.reason, Refusal::Signature(_)), "{error}");
    assert_eq!(state, world.enrolled(), "a refused root changes nothing");
}

#[test]
fn rollback_of_the_timestamp() {
    let mut world = World::new();
    let old = world.mirror.clone();
    world.publish(NOW);
    let error = refused(world.current(), &old, NOW);
    let expected = RollbackError::Version {
        file: "timestamp.json".to_owned(),
        found: version(1),
        seen: version(2),
    };
    assert!(
        matches!(&error.reason, Refusal::Rollback(found) if *found == expected),
        "{error}"
    );
}

#[test]
fn rollback_of_the_snapshot_with_a_stolen_timestamp_key() {
    let mut world = World::new();
    world.publish(NOW);
    let state = world.current();
    world.forge_timestamp(3, 1);
    let error = refused(state, &world.mirror, NOW);
    let expected = RollbackError::Version {
        file: "snapshot.json".to_owned(),
        found: version(1),
        seen: version(2),
    };
    assert!(
        matches!(&error.reason, Refusal::Rollback(found) if *found == expected),
        "{error}"
    );
}

#[test]
fn rollback_of_targets_with_stolen_online_keys() {
    let mut world = World::new();
    world.release("farm.r2.release.json", NOW);
    let state = world.current();
    let old = FileMeta::of(version(1), &world.mirror["1.targets.json"]);
    world.forge_snapshot(3, |snapshot| {
        snapshot.meta.insert("targets.json".to_owned(), old);
    });
    let error = refused(state, &world.mirror, NOW);
    let expected = RollbackError::Version {
        file: "targets.json".to_owned(),
        found: version(1),
        seen: version(2),
    };
    assert!(
        matches!(&error.reason, Refusal::Rollback(found) if *found == expected),
        "{error}"
    );
}

#[test]
fn rollback_is_also_refused_after_the_state_was_stored() {
    let mut world = World::new();
    let old = world.mirror.clone();
    world.publish(NOW);
    let bytes = world.current().to_bytes();
    let state = fieldfare_release::tuf::TrustedState::from_bytes(&bytes).unwrap();
    assert_eq!(state, world.current());
    assert!(matches!(refused(state, &old, NOW).reason, Refusal::Rollback(_)));
}

#[test]
fn a_refused_snapshot_does_not_stop_the_next_update() {
    // CVE-2025-2888 of tough: the timestamp that listed the refused snapshot was remembered.
    let mut world = World::new();
    world.publish(NOW);
    let state = world.current();
    let honest = world.mirror.clone();
    world.forge_timestamp(3, 1);
    let (kept, _) = *update(state.clone(), &world.mirror, NOW).unwrap_err();
    assert_eq!(kept, state);
    assert!(update(kept, &honest, NOW).is_ok());
}

#[test]
fn fast_forward_is_recovered_from_by_rotating_the_stolen_keys() {
    for role in [RoleType::Timestamp, RoleType::Snapshot] {
        let mut world = World::new();
        let honest = world.mirror.clone();
        world.forge_snapshot(u64::MAX, |_| {});
        let stuck = world.current();
        assert!(matches!(
            refused(stuck.clone(), &honest, NOW).reason,
            Refusal::Rollback(_)
        ));

        world.mirror = honest;
        let fresh = key();
        let holders = RoleHolders::one(fresh.public());
        let root = key_again(&world.keys.root);
        world.rotate(NOW, |root| root.assign(role, holders), &[&root]);
        match role {
            RoleType::Timestamp => world.keys.timestamp = fresh,
            _ => world.keys.snapshot = fresh,
        }
        world.publish(NOW);
        let recovered = update(stuck, &world.mirror, NOW).unwrap();
        let stored = recovered.state().clone();
        assert!(update(stored, &world.mirror, NOW).is_ok());
    }
}

#[test]
fn a_root_that_only_adds_keys_forgets_no_versions() {
    let mut world = World::new();
    let old = world.mirror.clone();
    world.publish(NOW);
    let state = world.current();
    let both = RoleHolders {
        keys: vec![world.keys.timestamp.public().clone(), key().public().clone()],
        threshold: threshold(1),
    };
    let root = key_again(&world.keys.root);
    world.rotate(NOW, |next| next.assign(RoleType::Timestamp, both), &[&root]);
    let mut mirror = old;
    mirror.insert("2.root.json".to_owned(), world.repository.root().bytes().to_vec());
    assert!(matches!(refused(state, &mirror, NOW).reason, Refusal::Rollback(_)));
}

#[test]
fn indefinite_freeze() {
    let world = World::new();
    let state = world.current();
    let last = NOW.plus(7 * DAY - 1);
    assert!(update(state.clone(), &world.mirror, last).is_ok());
    let late = NOW.plus(7 * DAY);
    let (kept, error) = *update(state.clone(), &world.mirror, late).unwrap_err();
    assert!(
        matches!(error.reason, Refusal::Expired { expires, now } if expires == late && now == late),
        "{error}"
    );
    assert_eq!(kept, state, "expiry invalidates nothing that is trusted");
    assert!(update_for(Purpose::Inspect, state, &world.mirror, late).is_ok());
}

#[test]
fn each_role_expires_by_itself() {
    let world = World::lasting(2 * DAY);
    let late = NOW.plus(3 * DAY);
    let mut fresh = World {
        seconds: 30 * DAY,
        ..world
    };
    let root = key_again(&fresh.keys.root);
    assert_eq!(refused(fresh.enrolled(), &fresh.mirror, late).file, "1.root.json");
    fresh.rotate(NOW, |_| {}, &[&root]);
    fresh
        .mirror
        .insert("2.root.json".to_owned(), fresh.repository.root().bytes().to_vec());
    assert_eq!(refused(fresh.enrolled(), &fresh.mirror, late).file, "timestamp.json");
    fresh.publish(NOW);
    assert_eq!(refused(fresh.enrolled(), &fresh.mirror, late).file, "1.targets.json");
    fresh.release("farm.r2.release.json", NOW);
    let mut verified = update(fresh.enrolled(), &fresh.mirror, late).unwrap();
    let error = look_up(&mut verified, &fresh.mirror, ADAPTER).unwrap_err();
    assert_eq!(error.file, "1.adapter-farm.json");
    assert!(matches!(error.reason, Refusal::Expired { .. }), "{error}");
}

#[test]
fn mix_and_match_of_files_from_different_times() {
    let mut world = World::new();
    let old = world.mirror.clone();
    world.release("farm.r2.release.json", NOW);
    for (new, former) in [
        ("2.snapshot.json", "1.snapshot.json"),
        ("2.targets.json", "1.targets.json"),
    ] {
        let mut mirror = world.mirror.clone();
        mirror.insert(new.to_owned(), old[former].clone());
        let error = refused(world.enrolled(), &mirror, NOW);
        assert_eq!(error.file, new);
        // Signatures vary in length, so the former file may be the longer one.
        assert!(
            matches!(error.reason, Refusal::Listed(_) | Refusal::TooLong { .. }),
            "{error}"
        );
    }
}

#[test]
fn mix_and_match_is_refused_by_version_where_no_digest_is_listed() {
    let mut world = World::new();
    world.release("farm.r2.release.json", NOW);
    let mut bare = FileMeta::of(version(2), b"");
    (bare.length, bare.hashes) = (None, None);
    world.forge_snapshot(3, |snapshot| {
        snapshot.meta.insert("targets.json".to_owned(), bare);
    });
    assert!(update(world.enrolled(), &world.mirror, NOW).is_ok());
    world
        .mirror
        .insert("2.targets.json".to_owned(), world.mirror["1.targets.json"].clone());
    let error = refused(world.enrolled(), &world.mirror, NOW);
    assert!(matches!(error.reason, Refusal::WrongVersion { .. }), "{error}");
}

#[test]
fn endless_data() {
    let world = World::new();
    let mut update = Update::begin(world.enrolled(), NOW, Purpose::Install);
    while let Some(request) = update.next_file() {
        let endless = vec![b' '; usize::try_from(request.max_bytes).unwrap() + 1];
        let error = update.supply(&endless).unwrap_err();
        assert!(
            matches!(error.reason, Refusal::TooLong { limit } if limit == request.max_bytes),
            "{error}"
        );
        if let Some(length) = request.length {
            assert_eq!(request.max_bytes, length, "a listed length is the limit");
        }
        match world.mirror.get(&request.name) {
            Some(bytes) => update.supply(bytes).unwrap(),
            None => update.missing().unwrap(),
        }
    }
    assert!(matches!(
        update.supply(b"more").unwrap_err().reason,
        Refusal::NotAskedFor
    ));
}

#[test]
fn a_file_that_must_exist_is_missing() {
    let world = World::new();
    for file in ["timestamp.json", "1.snapshot.json", "1.targets.json"] {
        let mut mirror = world.mirror.clone();
        mirror.remove(file);
        let error = refused(world.enrolled(), &mirror, NOW);
        assert!(
            error.file == file && matches!(error.reason, Refusal::Missing),
            "{error}"
        );
    }
}

#[test]
fn a_snapshot_drops_a_targets_file_that_was_listed_before() {
    let mut world = World::new();
    let state = world.current();
    world.forge_snapshot(2, |snapshot| {
        snapshot.meta.remove("adapter-farm.json");
    });
    let error = refused(state, &world.mirror, NOW);
    let expected = RollbackError::Removed {
        file: "adapter-farm.json".to_owned(),
    };
    assert!(
        matches!(&error.reason, Refusal::Rollback(found) if *found == expected),
        "{error}"
    );
}

#[test]
fn a_refused_file_may_come_from_elsewhere() {
    let world = World::new();
    let mut update = Update::begin(world.enrolled(), NOW, Purpose::Install);
    while let Some(request) = update.next_file() {
        let before = update.state().clone();
        assert!(update.supply(b"{}").is_err());
        assert_eq!((update.next_file(), update.state()), (Some(request.clone()), &before));
        match world.mirror.get(&request.name) {
            Some(bytes) => update.supply(bytes).unwrap(),
            None => update.missing().unwrap(),
        }
    }
    assert!(update.finish().is_ok());
}

#[test]
fn unknown_fields_are_kept_and_signed() {
    let mut world = World::new();
    let mut next = second_targets(&world);
    let mut entry = target(b"x");
    entry
        .extra
        .insert("x-entry".to_owned(), serde_json::json!({"deep": [1, "two"]}));
    entry.custom.insert("x-custom".to_owned(), "kept".into());
    next.list(&name("farm.r3.release.json"), entry);
    next.extra.insert("x-top".to_owned(), true.into());
    let delegations = next.delegations.as_mut().unwrap();
    delegations
        .extra
        .insert("succinct_roles".to_owned(), serde_json::json!({"bit_length": 4}));
    delegations.roles[0].extra.insert("x-role".to_owned(), 1.into());
    let signed = sign(next.clone(), &[&world.keys.targets]);
    let mut read = Signed::<Targets>::read(signed.bytes()).unwrap();
    assert_eq!(*read.payload(), next);
    read.add_signature(&world.keys.targets, &SystemRandom::new()).unwrap();
    assert_eq!(*Signed::<Targets>::read(read.bytes()).unwrap().payload(), next);
    world.forge_targets("targets.json", &signed);
    let verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    assert_eq!(*verified.targets(), next);

    let text = String::from_utf8(signed.bytes().to_vec()).unwrap();
    for (from, to) in [
        ("x-top", "x-tip"),
        ("\"two\"", "\"2\""),
        ("x-role", "x-rule"),
        ("bit_length", "bit_lenght"),
    ] {
        let altered = Signed::<Targets>::read(text.replace(from, to).as_bytes()).unwrap();
        assert!(world.repository.root().payload().verify(&altered).is_err(), "{from}");
    }
}

#[test]
fn another_major_version_of_the_specification() {
    let mut world = World::new();
    let mut next = second_targets(&world);
    next.header.spec_version = "2.0.0".to_owned();
    world.forge_targets("targets.json", &sign(next, &[&world.keys.targets]));
    let error = refused(world.enrolled(), &world.mirror, NOW);
    assert!(
        matches!(error.reason, Refusal::Metadata(MetadataError::SpecVersion { .. })),
        "{error}"
    );
}
