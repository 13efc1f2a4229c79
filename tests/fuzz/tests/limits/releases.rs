//! Manifests, names and metadata of the release repository.

use std::collections::BTreeSet;

use fieldfare_fuzz::sample::{NOW, federated, imported, key, mirror, role_key};
use fieldfare_release::limits::*;
use fieldfare_release::manifest::Provenance;
use fieldfare_release::tuf::{
    FileMeta, Purpose, Root, Signed, SigningKey, Snapshot, Timestamp, TrustError, TrustedState, Update,
};
use fieldfare_release::{ManifestError, ModelName, ReleaseManifest, TargetName, VariantName};
use ring::rand::SystemRandom;

type Change = Box<dyn Fn(&mut ReleaseManifest, usize)>;

#[test]
fn manifests() {
    let cases: Vec<(usize, bool, Change)> = vec![
        (
            MAX_VARIANTS,
            false,
            Box::new(|manifest, count| {
                let variant = manifest.variants[0].clone();
                manifest.variants = (0..count)
                    .map(|index| {
                        let mut variant = variant.clone();
                        variant.name = format!("v{index}").parse().unwrap();
                        for artifact in variant.artifacts.values_mut() {
                            artifact.target = format!("farm.r1.v{index}.gguf").parse().unwrap();
                        }
                        variant
                    })
                    .collect();
            }),
        ),
        (
            MAX_PROBES,
            false,
            Box::new(|manifest, count| manifest.probes = vec![manifest.probes[0].clone(); count]),
        ),
        (
            MAX_PROBE_TEXT_BYTES,
            false,
            Box::new(|manifest, length| manifest.probes[0].prompt = "x".repeat(length)),
        ),
        (
            MAX_PROBE_TEXT_BYTES,
            false,
            Box::new(|manifest, length| manifest.probes[0].expected = "x".repeat(length)),
        ),
        (
            MAX_PROBE_TOKENS as usize,
            false,
            Box::new(|manifest, tokens| manifest.probes[0].max_tokens = tokens as u32),
        ),
        (
            MAX_CHAT_TEMPLATE_BYTES,
            false,
            Box::new(|manifest, length| manifest.chat_template = Some("x".repeat(length))),
        ),
        (
            MAX_LINE_BYTES,
            false,
            Box::new(|manifest, length| manifest.title = "x".repeat(length)),
        ),
        (
            MAX_ROUNDS,
            true,
            Box::new(|manifest, count| {
                if let Provenance::Federated { cohorts, .. } = &mut manifest.provenance {
                    *cohorts = vec![1; count];
                }
            }),
        ),
    ];
    for (index, (limit, of_a_job, change)) in cases.iter().enumerate() {
        let written = |extra: usize| {
            let mut manifest = if *of_a_job { federated() } else { imported() };
            change(&mut manifest, limit + extra);
            manifest.encode()
        };
        assert!(written(0).is_ok(), "{index}: {:?}", written(0).err());
        assert!(matches!(written(1), Err(ManifestError::Field { .. })), "{index}");
    }
    let name: TargetName = "farm.r1.release.json".parse().unwrap();
    let mut bytes = imported().encode().unwrap();
    bytes.resize(MAX_MANIFEST_BYTES, b' ');
    assert!(ReleaseManifest::decode(&name, &bytes).is_ok());
    bytes.push(b' ');
    assert!(matches!(
        ReleaseManifest::decode(&name, &bytes),
        Err(ManifestError::TooLong { .. })
    ));
}

#[test]
fn names() {
    let text = |length: usize| "x".repeat(length);
    assert!(text(MAX_MODEL_NAME_BYTES).parse::<ModelName>().is_ok());
    assert!(text(MAX_MODEL_NAME_BYTES + 1).parse::<ModelName>().is_err());
    assert!(text(MAX_VARIANT_NAME_BYTES).parse::<VariantName>().is_ok());
    assert!(text(MAX_VARIANT_NAME_BYTES + 1).parse::<VariantName>().is_err());
    // The longest name that is one stays below the limit, and so do all others.
    let longest = format!("adapter.{}.r{}.safetensors", text(MAX_MODEL_NAME_BYTES), u32::MAX);
    assert!(longest.parse::<TargetName>().is_ok() && longest.len() <= MAX_TARGET_NAME_BYTES);
    let beyond = format!("{}.r1.release.json", text(MAX_TARGET_NAME_BYTES));
    assert!(beyond.parse::<TargetName>().is_err());
}

fn padded(bytes: &[u8], length: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(length as usize, b' ');
    bytes
}

#[test]
fn roots_and_stored_trust() {
    let root = &mirror()["1.root.json"];
    assert!(TrustedState::from_root(&padded(root, MAX_ROOT_BYTES)).is_ok());
    let beyond = TrustedState::from_root(&padded(root, MAX_ROOT_BYTES + 1));
    assert!(matches!(beyond, Err(TrustError::TooLong { .. })));
    let stored = TrustedState::from_root(root).unwrap().to_bytes();
    assert!(TrustedState::from_bytes(&padded(&stored, MAX_STATE_BYTES as u64)).is_ok());
    let beyond = TrustedState::from_bytes(&padded(&stored, MAX_STATE_BYTES as u64 + 1));
    assert!(matches!(beyond, Err(TrustError::TooLong { .. })));
}

#[test]
fn signatures() {
    let rng = SystemRandom::new();
    let mut root = Signed::<Root>::read(&mirror()["1.root.json"]).unwrap();
    while root.signatures().len() < MAX_SIGNATURES {
        root.add_signature(&SigningKey::generate(&rng).unwrap(), &rng).unwrap();
    }
    assert!(Signed::<Root>::read(root.bytes()).is_ok());
    root.add_signature(&SigningKey::generate(&rng).unwrap(), &rng).unwrap();
    assert!(Signed::<Root>::read(root.bytes()).is_err());
}

/// A device that has taken both roots and is asked for the timestamp.
fn after_roots() -> Update {
    let mut update = Update::begin(
        TrustedState::from_root(&mirror()["1.root.json"]).unwrap(),
        NOW,
        Purpose::Install,
    );
    update.supply(&mirror()["2.root.json"]).unwrap();
    update.missing().unwrap();
    update
}

#[test]
fn online_metadata() {
    let timestamp = &mirror()["timestamp.json"];
    assert_eq!(after_roots().next_file().unwrap().max_bytes, MAX_TIMESTAMP_BYTES);
    assert!(after_roots().supply(&padded(timestamp, MAX_TIMESTAMP_BYTES)).is_ok());
    assert!(
        after_roots()
            .supply(&padded(timestamp, MAX_TIMESTAMP_BYTES + 1))
            .is_err()
    );

    // Snapshot and targets as long as may be, and listed so.
    let snapshot = |length: u64| {
        let file = padded(&mirror()["1.snapshot.json"], length);
        (supply_snapshot(&file), file)
    };
    assert!(snapshot(MAX_SNAPSHOT_BYTES).0.is_ok());
    assert!(snapshot(MAX_SNAPSHOT_BYTES + 1).0.is_err());
    let targets = |length: u64| {
        let file = padded(&mirror()["1.targets.json"], length);
        let mut listing = Signed::<Snapshot>::read(&mirror()["1.snapshot.json"])
            .unwrap()
            .into_payload();
        let version = listing.meta["targets.json"].version;
        listing
            .meta
            .insert("targets.json".to_owned(), FileMeta::of(version, &file));
        let listing = Signed::sign(listing, &[&role_key()], &SystemRandom::new()).unwrap();
        supply_snapshot(listing.bytes()).unwrap().supply(&file)
    };
    assert!(targets(MAX_TARGETS_BYTES).is_ok());
    assert!(targets(MAX_TARGETS_BYTES + 1).is_err());
}

/// An update up to a snapshot that a new timestamp lists.
fn supply_snapshot(file: &[u8]) -> Result<Update, fieldfare_release::tuf::UpdateError> {
    let mut stamp = Signed::<Timestamp>::read(&mirror()["timestamp.json"])
        .unwrap()
        .into_payload();
    let version = stamp.snapshot().unwrap().version;
    stamp
        .meta
        .insert("snapshot.json".to_owned(), FileMeta::of(version, file));
    let mut update = after_roots();
    update.supply(
        Signed::sign(stamp, &[&role_key()], &SystemRandom::new())
            .unwrap()
            .bytes(),
    )?;
    update.supply(file)?;
    Ok(update)
}

#[test]
fn steps_of_the_root() {
    let mut update = Update::begin(
        TrustedState::from_root(&mirror()["1.root.json"]).unwrap(),
        NOW,
        Purpose::Install,
    );
    let mut root = Signed::<Root>::read(&mirror()["1.root.json"]).unwrap().into_payload();
    let mut asked = BTreeSet::new();
    for _ in 0..MAX_ROOT_STEPS {
        let request = update.next_file().unwrap();
        assert!(request.name.ends_with(".root.json") && asked.insert(request.name));
        root = root.next(NOW, NOW.plus(1 << 20));
        let next = Signed::sign(root.clone(), &[&key()], &SystemRandom::new()).unwrap();
        update.supply(next.bytes()).unwrap();
    }
    assert_eq!(update.next_file().unwrap().name, "timestamp.json");
}
