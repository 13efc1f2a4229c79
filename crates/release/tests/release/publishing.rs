//! What the controller takes from operators and trainers, and what it serves.

use fieldfare_release::tuf::{PublishError, Repository, RoleHolders, RoleType, Targets};
use ring::rand::SystemRandom;

use crate::fixture::{ADAPTER, DAY, NOW, World, key, look_up, model, name, sign, target, update, version};

#[test]
fn a_repository_loads_from_the_files_that_it_gave() {
    let mut world = World::new();
    world.release("farm.r2.release.json", NOW);
    let loaded = Repository::load(version(1), |file| world.mirror.get(file).cloned()).unwrap();
    assert_eq!(loaded.files(), world.repository.files());
    let names: Vec<_> = loaded.files().into_iter().map(|file| file.name).collect();
    assert_eq!(
        names,
        [
            "1.root.json",
            "1.adapter-farm.json",
            "2.targets.json",
            "2.snapshot.json",
            "timestamp.json"
        ]
    );
    for (file, expected) in [("1.root.json", "1.root.json"), ("2.targets.json", "2.targets.json")] {
        let read = |name: &str| world.mirror.get(name).filter(|_| name != file).cloned();
        let error = Repository::load(version(1), read).unwrap_err();
        assert!(
            matches!(&error, PublishError::Missing { file } if file == expected),
            "{error}"
        );
    }
}

#[test]
fn a_new_repository_has_nothing_to_publish() {
    let world = World::new();
    let root = world.mirror["1.root.json"].clone();
    let mut repository = Repository::load(version(1), |name| (name == "1.root.json").then(|| root.clone())).unwrap();
    let error = repository
        .publish(NOW, world.keys.online(DAY), &SystemRandom::new())
        .unwrap_err();
    assert!(
        matches!(&error, PublishError::Missing { file } if file == "targets.json"),
        "{error}"
    );
}

#[test]
fn only_the_next_version_signed_by_its_holder_is_taken() {
    let mut world = World::new();
    let top = world.repository.targets().unwrap().payload().clone();
    let adapters = world.repository.delegated("adapter-farm").unwrap().payload().clone();
    let mut skipping = top.next(NOW.plus(DAY));
    skipping.header.version = version(3);
    let taken = [
        world
            .repository
            .accept_targets(sign(top.clone(), &[&world.keys.targets]).bytes()),
        world
            .repository
            .accept_targets(sign(skipping, &[&world.keys.targets]).bytes()),
        world
            .repository
            .accept_delegated("adapter-farm", sign(adapters.clone(), &[&world.keys.trainer]).bytes()),
    ];
    assert!(
        taken
            .iter()
            .all(|taken| matches!(taken, Err(PublishError::WrongVersion { .. }))),
        "{taken:?}"
    );
    let next = adapters.next(NOW.plus(DAY));
    let taken = [
        world
            .repository
            .accept_targets(sign(top.next(NOW.plus(DAY)), &[&world.keys.trainer]).bytes()),
        world
            .repository
            .accept_delegated("adapter-farm", sign(next.clone(), &[&world.keys.targets]).bytes()),
    ];
    assert!(
        taken
            .iter()
            .all(|taken| matches!(taken, Err(PublishError::Signature(_)))),
        "{taken:?}"
    );
    let taken = world
        .repository
        .accept_delegated("adapter-orchard", sign(next, &[&world.keys.trainer]).bytes());
    assert!(matches!(taken, Err(PublishError::NoDelegation { .. })), "{taken:?}");
    assert!(matches!(
        world.repository.accept_targets(b"{"),
        Err(PublishError::Metadata { .. })
    ));
}

#[test]
fn a_trainers_release_reaches_a_device() {
    let mut world = World::new();
    let state = world.current();
    let mut next = world
        .repository
        .delegated("adapter-farm")
        .unwrap()
        .payload()
        .next(NOW.plus(DAY));
    next.list(&name("adapter.farm.r3.release.json"), target(b"better"));
    world
        .repository
        .accept_delegated("adapter-farm", sign(next, &[&world.keys.trainer]).bytes())
        .unwrap();
    world.publish(NOW.plus(60));
    let mut verified = update(state, &world.mirror, NOW.plus(60)).unwrap();
    let listed = look_up(&mut verified, &world.mirror, "adapter.farm.r3.release.json")
        .unwrap()
        .0
        .unwrap();
    assert_eq!(listed.length, 6);
}

#[test]
fn a_withdrawn_release_is_listed_no_more() {
    let mut world = World::new();
    let mut next = world.repository.targets().unwrap().payload().next(NOW.plus(DAY));
    assert!(next.withdraw(&name("farm.r1.release.json")));
    assert!(!next.withdraw(&name("farm.r1.release.json")));
    world
        .repository
        .accept_targets(sign(next, &[&world.keys.targets]).bytes())
        .unwrap();
    world.publish(NOW);
    let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    assert!(
        look_up(&mut verified, &world.mirror, "farm.r1.release.json")
            .unwrap()
            .0
            .is_none()
    );
}

#[test]
fn a_release_of_a_delegated_role_is_taken_back_by_its_delegator() {
    let mut world = World::new();
    let mut next = world.repository.targets().unwrap().payload().next(NOW.plus(DAY));
    assert!(next.withdraw(&name(ADAPTER)));
    assert!(!next.withdraw(&name(ADAPTER)), "once is enough");
    assert!(!next.withdraw(&name("orchard.r7.release.json")), "nobody lists that");
    world
        .repository
        .accept_targets(sign(next, &[&world.keys.targets]).bytes())
        .unwrap();
    world.publish(NOW);
    let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    let (listed, asked) = look_up(&mut verified, &world.mirror, ADAPTER).unwrap();
    assert_eq!((listed, asked), (None, vec![]), "the delegated role is not even asked");
}

#[test]
fn a_trainers_stolen_key_is_replaced() {
    let mut world = World::new();
    let (state, fresh) = (world.current(), key());
    let mut next = world.repository.targets().unwrap().payload().next(NOW.plus(DAY));
    next.delegate_adapters(&model(), RoleHolders::one(fresh.public()));
    assert_eq!(
        next.delegations.as_ref().unwrap().keys.len(),
        1,
        "the stolen key is forgotten"
    );
    world
        .repository
        .accept_targets(sign(next, &[&world.keys.targets]).bytes())
        .unwrap();
    world.publish(NOW);
    let mut verified = update(state.clone(), &world.mirror, NOW).unwrap();
    assert!(
        look_up(&mut verified, &world.mirror, ADAPTER).is_err(),
        "what the stolen key signed is refused"
    );
    let again = world
        .repository
        .delegated("adapter-farm")
        .unwrap()
        .payload()
        .next(NOW.plus(DAY));
    world
        .repository
        .accept_delegated("adapter-farm", sign(again, &[&fresh]).bytes())
        .unwrap();
    world.publish(NOW);
    let mut verified = update(state, &world.mirror, NOW).unwrap();
    assert!(look_up(&mut verified, &world.mirror, ADAPTER).unwrap().0.is_some());
}

#[test]
fn nothing_is_published_that_the_current_root_refuses() {
    let mut world = World::new();
    let (root, fresh) = (&world.keys.root, key());
    let mut next = world.repository.root().payload().next(NOW, NOW.plus(DAY));
    next.assign(RoleType::Targets, RoleHolders::one(fresh.public()));
    world.repository.accept_root(sign(next, &[root]).bytes()).unwrap();
    let error = world
        .repository
        .publish(NOW, world.keys.online(DAY), &SystemRandom::new())
        .unwrap_err();
    assert!(
        matches!(&error, PublishError::Signature(found) if found.role == "targets"),
        "{error}"
    );
    let again: Targets = world.repository.targets().unwrap().payload().next(NOW.plus(DAY));
    world.repository.accept_targets(sign(again, &[&fresh]).bytes()).unwrap();
    world.publish(NOW);
    assert!(update(world.enrolled(), &world.mirror, NOW).is_ok());
}

#[test]
fn a_refresh_renews_the_timestamp_and_only_an_old_snapshot() {
    let mut world = World::new();
    let rng = SystemRandom::new();
    let online = fieldfare_release::tuf::OnlineRoles {
        timestamp_seconds: DAY,
        ..world.keys.online(7 * DAY)
    };
    for (now, snapshot, timestamp) in [
        (NOW.plus(DAY), 1, 2),
        (NOW.plus(6 * DAY), 1, 3),
        (NOW.plus(6 * DAY + 1), 2, 4),
    ] {
        world.repository.refresh(now, online, &rng).unwrap();
        let current = world.repository.timestamp().unwrap();
        assert_eq!(current.version(), version(timestamp));
        assert_eq!(current.payload().snapshot().unwrap().version, version(snapshot));
        assert_eq!(current.payload().issued, Some(now));
    }
}
