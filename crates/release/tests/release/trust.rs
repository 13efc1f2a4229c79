//! How trust starts, and how it is kept.

use fieldfare_release::Sha256Digest;
use fieldfare_release::tuf::{Root, TrustError, TrustedState};

use crate::fixture::{DAY, NOW, World, key, sign, update};

#[test]
fn a_root_that_was_not_promised() {
    let (world, other) = (World::new(), World::new());
    let (root, foreign) = (&world.mirror["1.root.json"], &other.mirror["1.root.json"]);
    let promised = Sha256Digest::of(root);
    assert_eq!(*TrustedState::pinned(root, &promised).unwrap().anchor(), promised);
    let error = TrustedState::pinned(foreign, &promised).unwrap_err();
    assert!(matches!(error, TrustError::WrongAnchor { .. }), "{error}");
}

#[test]
fn a_root_that_its_own_holders_did_not_sign() {
    let world = World::new();
    let root = Root::first(world.keys.holders(), NOW, NOW.plus(DAY));
    let error = TrustedState::from_root(sign(root, &[&key()]).bytes()).unwrap_err();
    assert!(matches!(error, TrustError::Signature(_)), "{error}");
}

#[test]
fn an_expired_anchor_leads_to_a_fresh_root() {
    let mut world = World::lasting(DAY);
    let late = NOW.plus(400 * DAY);
    assert!(update(world.enrolled(), &world.mirror, late).is_err());
    let mut next = world.repository.root().payload().next(late, late.plus(DAY));
    next.extra.clear();
    world
        .repository
        .accept_root(sign(next, &[&world.keys.root]).bytes())
        .unwrap();
    world.seconds = 2 * DAY;
    world.release("farm.r2.release.json", late);
    assert!(update(world.enrolled(), &world.mirror, late).is_ok());
}

#[test]
fn a_damaged_state_is_refused() {
    let world = World::new();
    let bytes = world.current().to_bytes();
    assert_eq!(TrustedState::from_bytes(&bytes).unwrap(), world.current());
    let text = String::from_utf8(bytes).unwrap();
    let next = text.replacen("\"schema\":1", "\"schema\":2", 1);
    let error = TrustedState::from_bytes(next.as_bytes()).unwrap_err();
    assert!(matches!(error, TrustError::UnknownSchema { found: 2 }), "{error}");
    for damaged in [
        &text[..text.len() - 1],
        "",
        "{}",
        &text.replacen("consistent", "inconsistent", 1),
    ] {
        assert!(TrustedState::from_bytes(damaged.as_bytes()).is_err());
    }
}
