//! One test for each attack that The Update Framework names.

use fieldfare_release::UnixSeconds;
use fieldfare_release::tuf::{
    FileMeta, MetadataError, Purpose, Refusal, RoleHolders, RoleType, RollbackError, Signed, Targets, Timestamp, Update,
};
use ring::rand::SystemRandom;

use crate::fixture::{
    ADAPTER, ADAPTER_BYTES, DAY, Mirror, NOW, RELEASE, RELEASE_BYTES, World, key, look_up, name, refused, sign, target,
    threshold, update, update_for, version,
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

fn key_again(key: &fieldfare_release::tuf::SigningKey) -> fieldfare_release::tuf::SigningKey {
    fieldfare_release::tuf::SigningKey::from_pem(&key.to_pem(), &SystemRandom::new()).unwrap()
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

/// A world in which two of three keys must sign targets.
fn two_of_three() -> (World, [fieldfare_release::tuf::SigningKey; 3]) {
    let mut world = World::new();
    let keys = [key(), key(), key()];
    let holders = RoleHolders {
        keys: keys.iter().map(|key| key.public().clone()).collect(),
        threshold: threshold(2),
    };
    let root = key_again(&world.keys.root);
    world.rotate(NOW, |next| next.assign(RoleType::Targets, holders), &[&root]);
    world
        .mirror
        .insert("2.root.json".to_owned(), world.repository.root().bytes().to_vec());
    (world, keys)
}

fn second_targets(world: &World) -> Targets {
    world.repository.targets().unwrap().payload().next(NOW.plus(DAY))
}

#[test]
fn sub_threshold_signatures() {
    let (mut world, keys) = two_of_three();
    let stranger = key();
    for (signers, valid) in [
        (vec![&keys[0]], 1),
        (vec![&keys[2], &stranger], 1),
        (vec![&stranger], 0),
    ] {
        let mirror = world.mirror.clone();
        let forged = sign(second_targets(&world), &signers);
        world.forge_targets("targets.json", &forged);
        let error = refused(world.enrolled(), &world.mirror, NOW);
        assert!(
            matches!(&error.reason, Refusal::Signature(found) if found.valid == valid && found.threshold.get() == 2),
            "{error}"
        );
        world.mirror = mirror;
    }
    let signed = sign(second_targets(&world), &[&keys[0], &keys[2]]);
    world.forge_targets("targets.json", &signed);
    assert!(update(world.enrolled(), &world.mirror, NOW).is_ok());
}

#[test]
fn each_holder_signs_alone() {
    let (mut world, keys) = two_of_three();
    let first = sign(second_targets(&world), &[&keys[1]]);
    let mut second = Signed::<Targets>::read(first.bytes()).unwrap();
    second.add_signature(&keys[2], &SystemRandom::new()).unwrap();
    assert_eq!(second.signatures().len(), 2);
    world.forge_targets("targets.json", &second);
    assert!(update(world.enrolled(), &world.mirror, NOW).is_ok());
}

#[test]
fn duplicate_signatures_by_one_key() {
    let (mut world, keys) = two_of_three();
    let signed = sign(second_targets(&world), &[&keys[0]]);
    let again = sign(second_targets(&world), &[&keys[0]]);
    assert_ne!(signed.bytes(), again.bytes(), "ECDSA signatures of one message differ");
    let mut document: serde_json::Value = serde_json::from_slice(signed.bytes()).unwrap();
    let other: serde_json::Value = serde_json::from_slice(again.bytes()).unwrap();
    document["signatures"]
        .as_array_mut()
        .unwrap()
        .push(other["signatures"][0].clone());
    let bytes = serde_json::to_vec(&document).unwrap();
    assert!(matches!(
        Signed::<Targets>::read(&bytes),
        Err(MetadataError::RepeatedSignature(_))
    ));
    world.mirror.insert("2.targets.json".to_owned(), bytes.clone());
    let meta = FileMeta::of(version(2), &bytes);
    world.forge_snapshot(2, |snapshot| {
        snapshot.meta.insert("targets.json".to_owned(), meta);
    });
    assert!(matches!(
        refused(world.enrolled(), &world.mirror, NOW).reason,
        Refusal::Metadata(_)
    ));
}

#[test]
fn one_key_under_two_ids_counts_once() {
    let (world, keys) = two_of_three();
    // The same point, with its PEM broken into other lines and so under another id.
    let mut twin = keys[0].public().clone();
    twin.keyval.public = twin.keyval.public.replacen('\n', "\r\n", 1);
    assert_ne!(twin.id(), *keys[0].id());
    let mut root = world.repository.root().payload().next(NOW, NOW.plus(DAY));
    let holders = RoleHolders {
        keys: vec![keys[0].public().clone(), twin.clone()],
        threshold: threshold(2),
    };
    root.assign(RoleType::Targets, holders);
    let signed = sign(second_targets(&world), &[&keys[0]]);
    let mut document: serde_json::Value = serde_json::from_slice(signed.bytes()).unwrap();
    let mut other = document["signatures"][0].clone();
    other["keyid"] = serde_json::to_value(twin.id()).unwrap();
    document["signatures"].as_array_mut().unwrap().push(other);
    let file = Signed::<Targets>::read(&serde_json::to_vec(&document).unwrap()).unwrap();
    assert_eq!(root.verify(&file).unwrap_err().valid, 1);
}

#[test]
fn a_role_signs_for_another() {
    let mut world = World::new();
    let forged = sign(
        second_targets(&world),
        &[&world.keys.snapshot, &world.keys.timestamp, &world.keys.trainer],
    );
    world.forge_targets("targets.json", &forged);
    let error = refused(world.enrolled(), &world.mirror, NOW);
    assert!(
        matches!(&error.reason, Refusal::Signature(found) if found.valid == 0),
        "{error}"
    );
}

#[test]
fn metadata_of_one_role_in_place_of_another() {
    let mut world = World::new();
    let snapshot = world.mirror["1.snapshot.json"].clone();
    world.mirror.insert("timestamp.json".to_owned(), snapshot);
    let error = refused(world.enrolled(), &world.mirror, NOW);
    let Refusal::Metadata(MetadataError::WrongRole { expected, found }) = error.reason else {
        panic!("{error}")
    };
    assert_eq!((expected, found), (RoleType::Timestamp, RoleType::Snapshot));
}

#[test]
fn a_root_skips_a_version() {
    let world = World::new();
    for number in [1, 3, u64::MAX] {
        let mut next = world.repository.root().payload().clone();
        next.header.version = version(number);
        let mut mirror = world.mirror.clone();
        mirror.insert(
            "2.root.json".to_owned(),
            sign(next, &[&world.keys.root]).bytes().to_vec(),
        );
        let error = refused(world.enrolled(), &mirror, NOW);
        assert!(
            matches!(error.reason, Refusal::WrongVersion { expected, .. } if expected == version(2)),
            "{error}"
        );
    }
}

#[test]
fn a_root_is_signed_by_one_side_only() {
    let world = World::new();
    let fresh = key();
    let mut next = world.repository.root().payload().next(NOW, NOW.plus(DAY));
    next.assign(RoleType::Root, RoleHolders::one(fresh.public()));
    for (signers, accepted) in [
        (vec![&world.keys.root], false),
        (vec![&fresh], false),
        (vec![&world.keys.root, &fresh], true),
    ] {
        let mut mirror = world.mirror.clone();
        mirror.insert("2.root.json".to_owned(), sign(next.clone(), &signers).bytes().to_vec());
        assert_eq!(update(world.enrolled(), &mirror, NOW).is_ok(), accepted);
    }
}

#[test]
fn a_device_that_slept_through_many_rotations_catches_up() {
    let mut world = World::new();
    for _ in 0..12 {
        let (old, fresh) = (key_again(&world.keys.root), key());
        let holders = RoleHolders::one(fresh.public());
        world.rotate(NOW, |next| next.assign(RoleType::Root, holders), &[&old, &fresh]);
        world.keys.root = fresh;
    }
    world.publish(NOW);
    let verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    assert_eq!(verified.state().root().version(), version(13));
    assert_eq!(verified.state().anchor(), world.enrolled().anchor());
}

#[test]
fn a_clock_that_says_1970_accepts_nothing_that_had_expired() {
    let mut world = World::new();
    let old = world.mirror.clone();
    let later = NOW.plus(30 * DAY);
    let root = key_again(&world.keys.root);
    world.rotate(later, |_| {}, &[&root]);
    world.release("farm.r2.release.json", later);
    let verified = update(world.enrolled(), &world.mirror, UnixSeconds::EPOCH);
    let state = verified.unwrap().state().clone();
    assert_eq!(state.time_floor(), later);
    // The genuine metadata of a month ago, on a device that forgot its versions and kept its floor.
    let mut mirror: Mirror = old;
    mirror.insert("2.root.json".to_owned(), world.repository.root().bytes().to_vec());
    let error = refused(world.enrolled(), &mirror, UnixSeconds::EPOCH);
    assert!(
        matches!(error.reason, Refusal::Expired { now, .. } if now == later),
        "{error}"
    );
}

#[test]
fn a_floor_refuses_what_expired_since_on_a_stopped_clock() {
    let mut world = World::new();
    let state = world.current();
    assert_eq!(state.time_floor(), NOW);
    // The timestamp is renewed a month later; the targets of a week are not.
    let online = world.keys.online(60 * DAY);
    let root = key_again(&world.keys.root);
    let mut next = world.repository.root().payload().next(NOW, NOW.plus(90 * DAY));
    next.extra.insert("x-note".to_owned(), "longer".into());
    world.repository.accept_root(sign(next, &[&root]).bytes()).unwrap();
    let files = world
        .repository
        .publish(NOW.plus(30 * DAY), online, &SystemRandom::new())
        .unwrap();
    world
        .mirror
        .extend(files.into_iter().map(|file| (file.name, file.bytes)));
    let (kept, error) = *update(state, &world.mirror, UnixSeconds::EPOCH).unwrap_err();
    assert_eq!(error.file, "1.targets.json");
    assert!(
        matches!(error.reason, Refusal::Expired { now, .. } if now == NOW.plus(30 * DAY)),
        "{error}"
    );
    assert_eq!(kept.time_floor(), NOW.plus(30 * DAY));
}

#[test]
fn a_timestamp_signed_after_its_own_expiry_moves_no_floor() {
    let mut world = World::new();
    let mut forged = Signed::<Timestamp>::read(&world.mirror["timestamp.json"])
        .unwrap()
        .into_payload();
    forged.issued = Some(forged.header.expires.plus(1));
    world.mirror.insert(
        "timestamp.json".to_owned(),
        sign(forged, &[&world.keys.timestamp]).bytes().to_vec(),
    );
    assert_eq!(world.current().time_floor(), NOW);
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
