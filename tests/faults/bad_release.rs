//! A bad release, from its signature to its end: it reverts on the device, trips a gate, and the fleet rolls back by itself.
//!
//! What is too slow or says nothing is so by its bytes. What crashes is killed by `tests/shim` when, or a while after, the serving
//! process has opened the weights of just that release.

use fieldfare_tests::binaries::fieldfare;
use fieldfare_tests::miniature::{DEVICES, Device, Fleet, Setting, model};
use model::Kind;
use serde_json::Value;

/// How long a release that crashes later serves, in milliseconds: its device has long found it good by then.
const SERVES_MS: u32 = 60_000;

/// What a bad release is rolled out with, the gates beside.
const POLICY: &str = "--waves 1,100% --observe 3 --offline-after 20";

/// The same for one that is bad only after a minute.
const PATIENT: &str = "--waves 1,100% --observe 70 --offline-after 20";

/// The devices that meet bad releases; the third one sleeps.
const AWAKE: [&str; 2] = ["north", "south"];

/// A release and what is to be seen of it.
struct Bad {
    what: &'static str,
    release: String,
    policy: String,
    /// The gate that fails.
    gate: &'static str,
    /// What its detail says.
    detail: &'static str,
    /// What the device says of it; nothing where the device finds it good.
    says: Option<&'static str>,
    /// Most devices on which it ever serves.
    serves: usize,
}

fn import(fleet: &Fleet, number: u64, kind: Kind) -> String {
    let file = fleet.root.join(format!("{number}.gguf"));
    model::write_kind(&file, number, kind);
    // Without probes of its own a release is asked what it answered when it was imported; one that says nothing has none then.
    let probes = fleet.root.join("probes.jsonl");
    std::fs::write(&probes, "{\"prompt\": \"soil\", \"completion\": \"dry\"}\n".repeat(2)).unwrap();
    fleet.import_with(
        &format!("import-{number}"),
        &file,
        &format!("--probes {}", probes.display()),
    )
}

/// Digests of the weights of all variants of a release.
fn weights(fleet: &Fleet, release: &str) -> String {
    fn digests(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let (Some(Value::String(digest)), Some(_)) = (fields.get("sha256"), fields.get("target")) {
                    found.push(digest.clone());
                }
                fields.values().for_each(|value| digests(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| digests(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    digests(
        &fleet.json(&["release", "show", release])["manifest"]["variants"],
        &mut found,
    );
    assert!(!found.is_empty(), "no weights in {release}");
    found.join("+")
}

/// Whether a device's audit log says that this release ever served.
fn ever_served(fleet: &Fleet, device: &str, release: &str) -> bool {
    let folder = fleet.root.join(device);
    let records = fleet.json(&["audit", "show", folder.to_str().unwrap()]);
    let name = release.strip_suffix(".release.json").unwrap();
    let mut records = records.as_array().unwrap().iter();
    records.any(|record| {
        let served = record["kind"] == "inference"
            || (record["kind"] == "model" && record["event"]["kind"].to_string().to_lowercase().contains("switched"));
        served && record["event"]["model"]["release"] == name
    })
}

/// Rolls a bad release out and sees it go back.
fn rolls_back(fleet: &Fleet, bad: &Bad, good: &str) {
    let ended = fleet.deploy(&bad.release, &bad.policy);
    let told = |what: &str| format!("{}: {what}: {ended:#}\n{}", bad.what, fleet.logs());
    assert_eq!(ended["phase"], "rolled back", "{}", told("it was not rolled back"));
    let gates = ended["waves"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|wave| wave["gates"].as_array().unwrap());
    let failed: Vec<&Value> = gates.filter(|gate| gate["verdict"] == "failed").collect();
    let is_named = |gate: &&Value| gate["name"].as_str().unwrap().contains(bad.gate);
    let gate = failed
        .iter()
        .copied()
        .find(is_named)
        .unwrap_or_else(|| panic!("{}", told("its gate did not fail")));
    assert!(
        gate["detail"].as_str().unwrap().contains(bad.detail),
        "{}",
        told("the numbers")
    );
    assert!(
        ended["reason"].as_str().unwrap().contains(bad.gate),
        "{}",
        told("the reason")
    );
    println!("{}: {}; {}", bad.what, ended["reason"], gate["detail"]);
    // What shows while a release is tried, or while its first device is watched, is met by no other device.
    let met: Vec<&str> = AWAKE
        .into_iter()
        .filter(|device| ever_served(fleet, device, &bad.release))
        .collect();
    assert!(met.len() <= bad.serves, "{}", told("who ran it"));
    let said = AWAKE.map(|device| std::fs::read_to_string(fleet.log(device)).unwrap());
    let say = said
        .iter()
        .filter(|log| bad.says.is_none_or(|words| log.contains(words)))
        .count();
    assert!(say > 0, "{}", told("the device's own words"));
    for device in AWAKE {
        fleet.settled(device, good);
        assert!(fleet.answer(device).is_some(), "{device} does not answer");
    }
}

/// Releases that are served, and a fleet whose devices die of some of them: of which, and after how many milliseconds.
fn fleet(root: &std::path::Path, kinds: &[Kind], deadly: &[(usize, u32)]) -> (Fleet, Vec<String>, Device) {
    let mut fleet = Fleet::without_devices(root, Setting::calm());
    let releases: Vec<String> = (1..)
        .zip(kinds)
        .map(|(number, kind)| import(&fleet, number, *kind))
        .collect();
    let deaths: Vec<String> = deadly
        .iter()
        .map(|(release, ms)| format!("{}:{ms}", weights(&fleet, &releases[*release])))
        .collect();
    let shim = fieldfare().with_file_name("libfieldfare_fault_shim.so");
    let device = Device {
        variables: vec![
            ("LD_PRELOAD".to_owned(), shim.display().to_string()),
            ("FIELDFARE_FAULT_READER".to_owned(), deaths.join(",")),
        ],
    };
    for name in DEVICES {
        fleet.add_device(name, &device);
    }
    fleet.roll_out(&releases[0]);
    (fleet, releases, device)
}

#[test]
fn a_bad_release_goes_back_by_itself_and_late_arrivals_never_run_it() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [Kind::Nonsense, Kind::Nonsense, Kind::Slow, Kind::Mute];
    let (mut fleet, releases, device) = fleet(folder.path(), &kinds, &[(1, 0)]);
    let [good, at_load, slow, mute]: [String; 4] = releases.try_into().unwrap();
    let bads = [
        Bad {
            what: "crashes at load",
            release: at_load,
            policy: POLICY.to_owned(),
            gate: "cannot converge",
            detail: "1",
            says: Some("ended"),
            serves: 0,
        },
        Bad {
            what: "is too slow",
            release: slow,
            policy: format!("{POLICY} --gate tokens-per-second>=0.5x"),
            gate: "tokens",
            detail: "0.5",
            says: None,
            serves: 1,
        },
        Bad {
            what: "answers empty",
            release: mute,
            policy: POLICY.to_owned(),
            gate: "cannot converge",
            detail: "1",
            says: Some("probes got an empty answer"),
            serves: 0,
        },
    ];
    // One device sleeps through all of it.
    fleet.supervisor.hold(DEVICES[2]);
    for bad in &bads {
        rolls_back(&fleet, bad, &good);
    }
    fleet.supervisor.let_go(DEVICES[2]);
    fleet.add_device("late", &device);
    for name in [DEVICES[2], "late"] {
        fleet.settled(name, &good);
        assert!(fleet.answer(name).is_some(), "{name} does not answer");
        for bad in &bads {
            assert!(!ever_served(&fleet, name, &bad.release), "{name} ran what {}", bad.what);
        }
    }
    fleet.supervisor.stop();
}

#[test]
fn a_release_that_crashes_after_a_minute_goes_back_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [Kind::Nonsense, Kind::Nonsense];
    let (fleet, releases, _) = fleet(folder.path(), &kinds, &[(1, SERVES_MS)]);
    let [good, later]: [String; 2] = releases.try_into().unwrap();
    let bad = Bad {
        what: "crashes after a minute",
        release: later,
        policy: PATIENT.to_owned(),
        gate: "crash",
        detail: "at most 0",
        says: Some("the serving process ended"),
        serves: 1,
    };
    rolls_back(&fleet, &bad, &good);
    fleet.supervisor.stop();
}
