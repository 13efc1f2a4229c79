//! Attacks on roots, and on the clock by which everything expires.

use fieldfare_release::UnixSeconds;
use fieldfare_release::tuf::{Refusal, RoleHolders, RoleType, Signed, Timestamp};
use ring::rand::SystemRandom;

use crate::fixture::{DAY, Mirror, NOW, World, key, key_again, refused, sign, update, version};

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
