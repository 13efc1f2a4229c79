//! Whatever one byte of whatever file is changed to, the file is refused.

use std::sync::LazyLock;

use fieldfare_release::tuf::{Purpose, Root, Signed, Timestamp, TrustedState, Update};
use fieldfare_release::{ReleaseManifest, TargetName};
use proptest::prelude::*;

use crate::fixture::{ADAPTER, Mirror, NOW, RELEASE, World, look_up, update};

static WORLD: LazyLock<(TrustedState, Mirror)> = LazyLock::new(|| {
    let mut world = World::new();
    let state = world.enrolled();
    let mut next = world.repository.root().payload().next(NOW, NOW.plus(9));
    next.extra.insert("x-note".to_owned(), "second root".into());
    let file = crate::fixture::sign(next, &[&world.keys.root]);
    world.repository.accept_root(file.bytes()).unwrap();
    world.publish(NOW);
    world.mirror.remove("1.snapshot.json");
    (state, world.mirror)
});

/// Whether a device accepts everything and finds both targets.
fn accepts(mirror: &Mirror) -> bool {
    let Ok(state) = TrustedState::from_root(&mirror["1.root.json"]) else {
        return false;
    };
    let Ok(mut verified) = update(state, mirror, NOW) else {
        return false;
    };
    [RELEASE, ADAPTER]
        .iter()
        .all(|target| matches!(look_up(&mut verified, mirror, target), Ok((Some(_), _))))
}

#[test]
fn the_files_are_accepted_as_they_are() {
    assert!(accepts(&WORLD.1));
    let names: Vec<_> = WORLD.1.keys().map(String::as_str).collect();
    let all = [
        "1.adapter-farm.json",
        "1.root.json",
        "1.targets.json",
        "2.root.json",
        "2.snapshot.json",
        "timestamp.json",
    ];
    assert_eq!(names, all);
}

#[test]
fn every_flip_of_a_letters_case_is_refused_by_the_signature_alone() {
    let (state, mirror) = &*WORLD;
    let root = state.root().payload();
    for at in 0..mirror["2.root.json"].len() {
        let mut bytes = mirror["2.root.json"].clone();
        bytes[at] ^= 0x20;
        let refused = Signed::<Root>::read(&bytes).map_or(true, |file| root.verify(&file).is_err());
        assert!(refused, "byte {at} of 2.root.json");
    }
    for at in 0..mirror["timestamp.json"].len() {
        let mut bytes = mirror["timestamp.json"].clone();
        bytes[at] ^= 0x20;
        let refused = Signed::<Timestamp>::read(&bytes).map_or(true, |file| root.verify(&file).is_err());
        assert!(refused, "byte {at} of timestamp.json");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_single_changed_byte_in_any_metadata_is_refused(
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let mut mirror = WORLD.1.clone();
        let name = file.get(&mirror.keys().cloned().collect::<Vec<_>>()).clone();
        let bytes = mirror.get_mut(&name).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(!accepts(&mirror), "byte {} of {} changed by {:#x}", at, name, change);
    }

    #[test]
    fn any_truncated_or_extended_metadata_is_refused(
        file in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        tail in "[ \\]}x]{1,4}",
    ) {
        let names: Vec<_> = WORLD.1.keys().cloned().collect();
        let name = file.get(&names).clone();
        let mut mirror = WORLD.1.clone();
        let bytes = mirror.get_mut(&name).unwrap();
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(!accepts(&mirror), "{} cut", name);
        if tail.trim() != "" {
            let mut mirror = WORLD.1.clone();
            mirror.get_mut(&name).unwrap().extend_from_slice(tail.as_bytes());
            prop_assert!(!accepts(&mirror), "{} extended by {:?}", name, tail);
        }
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..256), text in "[{}\\[\\]\":,a-z0-9]{0,128}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            let _ = TrustedState::from_root(bytes);
            let _ = TrustedState::from_bytes(bytes);
            let _ = ReleaseManifest::decode(&RELEASE.parse::<TargetName>().unwrap(), bytes);
            let mut update = Update::begin(WORLD.0.clone(), NOW, Purpose::Install);
            prop_assert!(update.supply(bytes).is_err());
        }
    }
}
