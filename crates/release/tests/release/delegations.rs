//! Delegated roles list what their paths allow, in the order of the specification, and nothing else.

use fieldfare_release::limits::MAX_DELEGATED_ROLES;
use fieldfare_release::tuf::{DelegatedRole, Delegations, Extra, FileMeta, Refusal, SigningKey, Targets};

use crate::fixture::{ADAPTER, DAY, Mirror, NOW, World, key, look_up, name, sign, target, threshold, update, version};

const WANTED: &str = "adapter.farm.r7.release.json";

#[test]
fn a_delegation_that_oversteps_is_not_consulted() {
    let mut world = World::new();
    let mut forged = world
        .repository
        .delegated("adapter-farm")
        .unwrap()
        .payload()
        .next(NOW.plus(DAY));
    for stolen in [
        "farm.r9.release.json",
        "farm.r9.q8-0.gguf",
        "adapter.orchard.r9.release.json",
    ] {
        forged.list(&name(stolen), target(b"malware"));
    }
    world.forge_targets("adapter-farm.json", &sign(forged, &[&world.keys.trainer]));
    let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    assert!(
        look_up(&mut verified, &world.mirror, ADAPTER).unwrap().0.is_some(),
        "its own targets are listed"
    );
    for stolen in [
        "farm.r9.release.json",
        "farm.r9.q8-0.gguf",
        "adapter.orchard.r9.release.json",
    ] {
        let (listed, asked) = look_up(&mut verified, &world.mirror, stolen).unwrap();
        assert_eq!((listed, asked), (None, vec![]), "{stolen}");
    }
}

#[test]
fn delegated_metadata_is_checked_like_any_other() {
    let mut world = World::new();
    let honest = world.mirror.clone();
    let payload = world.repository.delegated("adapter-farm").unwrap().payload().clone();
    let check = |mirror: &Mirror, world: &World| {
        let mut verified = update(world.enrolled(), mirror, NOW).unwrap();
        look_up(&mut verified, mirror, ADAPTER).unwrap_err().reason
    };
    // Other bytes under the listed name.
    let mut mirror = honest.clone();
    mirror.insert(
        "1.adapter-farm.json".to_owned(),
        sign(payload.clone(), &[&world.keys.trainer]).bytes().to_vec(),
    );
    assert!(matches!(
        check(&mirror, &world),
        Refusal::Listed(_) | Refusal::TooLong { .. }
    ));
    // Signed by somebody else, the operator included, whom the delegation does not name.
    for signer in [
        key(),
        SigningKey::from_pem(&world.keys.targets.to_pem(), &ring::rand::SystemRandom::new()).unwrap(),
    ] {
        world.forge_targets("adapter-farm.json", &sign(payload.next(NOW.plus(DAY)), &[&signer]));
        let reason = check(&world.mirror, &world);
        assert!(
            matches!(&reason, Refusal::Signature(found) if found.role == "adapter-farm"),
            "{reason}"
        );
        world.mirror = honest.clone();
    }
    // Expired.
    let expired = sign(payload.next(NOW), &[&world.keys.trainer]);
    world.forge_targets("adapter-farm.json", &expired);
    assert!(matches!(check(&world.mirror, &world), Refusal::Expired { .. }));
    // Listed as another version than it has.
    world.mirror = honest.clone();
    let bytes = honest["1.adapter-farm.json"].clone();
    let meta = FileMeta::of(version(2), &bytes);
    world.mirror.insert("2.adapter-farm.json".to_owned(), bytes);
    world.forge_snapshot(2, |snapshot| {
        snapshot.meta.insert("adapter-farm.json".to_owned(), meta);
    });
    assert!(matches!(check(&world.mirror, &world), Refusal::WrongVersion { .. }));
    // Not listed in the snapshot, on a device that never saw it.
    world.mirror = honest;
    world.forge_snapshot(2, |snapshot| {
        snapshot.meta.remove("adapter-farm.json");
    });
    assert!(matches!(check(&world.mirror, &world), Refusal::NotListed { .. }));
}

#[test]
fn a_request_of_another_repository_is_not_answered() {
    let (world, other) = (World::new(), World::new());
    let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    let foreign = update(other.enrolled(), &other.mirror, NOW).unwrap();
    let fieldfare_release::tuf::Lookup::Needs(request) = foreign.look_up(&name(ADAPTER)).unwrap() else {
        panic!("the delegated file was not asked for")
    };
    let error = verified
        .supply(&request, &other.mirror["1.adapter-farm.json"])
        .unwrap_err();
    assert!(matches!(error.reason, Refusal::NotListed { .. }), "{error}");
}

/// A role of a delegation tree: its name, path pattern, whether it is terminating, whether it lists [`WANTED`],
/// and its own delegations.
struct Role(&'static str, &'static str, bool, bool, Vec<Role>);

/// Builds the tree below the top-level targets, all roles with one key.
fn grow(world: &mut World, tree: &[Role], signer: &SigningKey) {
    fn delegations(roles: &[Role], signer: &SigningKey) -> Option<Delegations> {
        let delegated = |Role(name, path, terminating, ..): &Role| DelegatedRole {
            name: (*name).to_owned(),
            keyids: [signer.id().clone()].into(),
            threshold: threshold(1),
            paths: Some(vec![(*path).to_owned()]),
            path_hash_prefixes: None,
            terminating: *terminating,
            extra: Extra::new(),
        };
        let keys = [(signer.id().clone(), signer.public().clone())].into();
        let roles: Vec<_> = roles.iter().map(delegated).collect();
        (!roles.is_empty()).then(|| Delegations {
            keys,
            roles,
            extra: Extra::new(),
        })
    }
    fn publish(world: &mut World, role: &Role, signer: &SigningKey) {
        let Role(role_name, _, _, lists, children) = role;
        let mut targets = Targets::first(NOW.plus(DAY));
        if *lists {
            targets.list(&name(WANTED), target(role_name.as_bytes()));
        }
        targets.delegations = delegations(children, signer);
        world.forge_targets(&format!("{role_name}.json"), &sign(targets, &[signer]));
        children.iter().for_each(|child| publish(world, child, signer));
    }
    let mut top = Targets::first(NOW.plus(DAY));
    top.header.version = version(2);
    top.delegations = delegations(tree, signer);
    world.forge_targets("targets.json", &sign(top, &[&world.keys.targets]));
    tree.iter().for_each(|role| publish(world, role, signer));
}

#[test]
fn the_search_is_in_preorder_and_ends_where_the_specification_says() {
    let leaf = |name, path, terminating, lists| Role(name, path, terminating, lists, vec![]);
    let cases = [
        (
            "the first of two that list it wins",
            vec![leaf("a", "*", false, true), leaf("b", "*", false, true)],
            Some("a"),
            vec!["a"],
        ),
        (
            "the second is asked when the first does not list it",
            vec![leaf("a", "*", false, false), leaf("b", "*", false, true)],
            Some("b"),
            vec!["a", "b"],
        ),
        (
            "a terminating role ends the search",
            vec![leaf("a", "*", true, false), leaf("b", "*", false, true)],
            None,
            vec!["a"],
        ),
        (
            "a terminating role for other paths does not",
            vec![leaf("a", "x*", true, false), leaf("b", "*", false, true)],
            Some("b"),
            vec!["b"],
        ),
        (
            "a child comes before a sibling",
            vec![
                Role("a", "*", false, false, vec![leaf("c", "*", false, true)]),
                leaf("b", "*", false, true),
            ],
            Some("c"),
            vec!["a", "c"],
        ),
        (
            "a terminating child ends the search of all",
            vec![
                Role("a", "*", false, false, vec![leaf("c", "*", true, false)]),
                leaf("b", "*", false, true),
            ],
            None,
            vec!["a", "c"],
        ),
        (
            "a child gets no more than its parent has",
            vec![Role("a", "x*", false, false, vec![leaf("c", "*", false, true)])],
            None,
            vec![],
        ),
        (
            "a child gets no more than its parent gives",
            vec![Role("a", "*", false, false, vec![leaf("c", "x*", false, true)])],
            None,
            vec!["a"],
        ),
        (
            "a role is visited once",
            vec![
                Role("a", "*", false, false, vec![Role("b", "*", false, false, vec![])]),
                leaf("b", "*", false, false),
            ],
            None,
            vec!["a", "b"],
        ),
    ];
    for (what, tree, expected, files) in cases {
        let (mut world, signer) = (World::new(), key());
        grow(&mut world, &tree, &signer);
        let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
        let (listed, asked) = look_up(&mut verified, &world.mirror, WANTED).unwrap();
        assert_eq!(listed.map(|listed| listed.role).as_deref(), expected, "{what}");
        let files: Vec<_> = files.iter().map(|role| format!("1.{role}.json")).collect();
        assert_eq!(asked, files, "{what}");
    }
}

#[test]
fn a_search_through_too_many_roles_ends() {
    let (mut world, signer) = (World::new(), key());
    let names: Vec<&'static str> = (0..=MAX_DELEGATED_ROLES)
        .map(|index| &*format!("role{index}").leak())
        .collect();
    let tree: Vec<_> = names.iter().map(|name| Role(name, "*", false, false, vec![])).collect();
    grow(&mut world, &tree, &signer);
    let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    let error = look_up(&mut verified, &world.mirror, WANTED).unwrap_err();
    assert!(matches!(error.reason, Refusal::TooManyRoles), "{error}");
}

#[test]
fn what_one_role_was_given_another_was_not() {
    // Role `c` below `a` is not role `c` below `b`, which names other keys for it.
    let (mut world, honest, thief) = (World::new(), key(), key());
    let tree = [Role(
        "a",
        "adapter.farm.r7*",
        false,
        false,
        vec![Role("c", "*", false, true, vec![])],
    )];
    grow(&mut world, &tree, &honest);
    let mut top = Targets::first(NOW.plus(DAY));
    top.header.version = version(3);
    let mut first = world_delegations(&world, "2.targets.json");
    let mut second = first.roles[0].clone();
    second.name = "b".to_owned();
    second.paths = Some(vec!["adapter.farm.r8*".to_owned()]);
    first.roles.push(second);
    top.delegations = Some(first);
    world.forge_targets("targets.json", &sign(top, &[&world.keys.targets]));
    let mut b = Targets::first(NOW.plus(DAY));
    let mut below = world_delegations(&world, "1.a.json");
    below.keys = [(thief.id().clone(), thief.public().clone())].into();
    below.roles[0].keyids = [thief.id().clone()].into();
    b.delegations = Some(below);
    world.forge_targets("b.json", &sign(b, &[&honest]));
    let mut verified = update(world.enrolled(), &world.mirror, NOW).unwrap();
    assert!(look_up(&mut verified, &world.mirror, WANTED).unwrap().0.is_some());
    let error = look_up(&mut verified, &world.mirror, "adapter.farm.r8.release.json").unwrap_err();
    assert!(matches!(error.reason, Refusal::Signature(_)), "{error}");
}

fn world_delegations(world: &World, file: &str) -> Delegations {
    let file = fieldfare_release::tuf::Signed::<Targets>::read(&world.mirror[file]).unwrap();
    file.into_payload().delegations.unwrap()
}

#[test]
fn a_delegation_by_hash_prefix() {
    let digest = fieldfare_release::Sha256Digest::of(WANTED.as_bytes()).to_string();
    let role = |paths: Option<&str>, prefix: Option<&str>| DelegatedRole {
        name: "bin".to_owned(),
        keyids: [].into(),
        threshold: threshold(1),
        paths: paths.map(|path| vec![path.to_owned()]),
        path_hash_prefixes: prefix.map(|prefix| vec![prefix.to_owned()]),
        terminating: false,
        extra: Extra::new(),
    };
    assert!(role(None, Some(&digest[..2])).may_list(WANTED));
    assert!(!role(None, Some(&digest[1..4])).may_list(WANTED));
    assert!(!role(None, Some("")).may_list(WANTED));
    assert!(!role(None, None).may_list(WANTED));
    assert!(!role(Some("*"), Some(&digest[..2])).may_list(WANTED));
}
