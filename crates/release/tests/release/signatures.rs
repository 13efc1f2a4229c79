//! Attacks on who signs, and on how many do.

use fieldfare_release::tuf::{FileMeta, MetadataError, Refusal, RoleHolders, RoleType, Signed, Targets};
use ring::rand::SystemRandom;

use crate::fixture::{DAY, NOW, World, key, key_again, refused, second_targets, sign, threshold, update, version};

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
