//! The doctor on real folders: what it finds, what it advises, and that it changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use fieldfare_agent::clock;
use fieldfare_agent::install::Shelf;
use fieldfare_agent::private::{Offered, PrivateStore};
use fieldfare_files::{self as files, Secrecy};
use fieldfare_fleet::Digest;
use fieldfare_lm::quantize::Precision;
use fieldfare_privacy::Budget;
use fieldfare_release::Sha256Digest;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::device::Device;
use crate::fleet::{DAY, Fleet};
use crate::gateway::Gateway;
use crate::install::kill;
use crate::private_store::{budgets, key, mechanism};
use crate::process::{Running, set_clock};
use crate::releases::{MODEL, Release, Releases, release, weights};

/// A device that has run release 1 until its agent was killed, and everybody whom it talks to.
struct Ward {
    fleet: Fleet,
    releases: Releases,
    device: Device,
    first: Release,
}

/// Every file below a folder: its bytes, its mode, and when it was written.
fn files_of(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, i64, i64)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let facts = std::fs::metadata(&path).unwrap();
            let (bytes, below) = match facts.is_dir() {
                true => (Vec::new(), files_of(&path)),
                false => (std::fs::read(&path).unwrap(), BTreeMap::new()),
            };
            let seen = (bytes, facts.mode(), facts.mtime(), facts.mtime_nsec());
            below.into_iter().chain([(path, seen)])
        })
        .collect()
}

/// What the doctor says.
struct Said {
    fails: bool,
    report: Value,
}

impl Said {
    fn of(output: &Output) -> Self {
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        Self {
            fails: !output.status.success(),
            report,
        }
    }

    /// What was found and is advised by the worst check of this name.
    fn of_check(&self, check: &str) -> (&str, &str, &str) {
        let all = self.report["checks"].as_array().unwrap();
        let checks = all.iter().filter(|found| found["check"] == check);
        let order = |level: &Value| ["ok", "warning", "problem"].iter().position(|known| level == known);
        let worst = checks
            .max_by_key(|found| order(&found["level"]))
            .unwrap_or_else(|| panic!("no {check}: {:#}", self.report));
        let text = |field: &str| worst[field].as_str().unwrap_or("");
        (text("level"), text("found"), text("advice"))
    }

    /// There is a problem here, with these words in what was found and in what is advised, and the command fails.
    fn problem(&self, check: &str, found: &str, advice: &str) {
        self.is("problem", check, found, advice);
        assert!(self.fails && self.report["level"] == "problem", "{:#}", self.report);
    }

    fn is(&self, level: &str, check: &str, found: &str, advice: &str) {
        let said = self.of_check(check);
        assert!(
            said.0 == level && said.1.contains(found) && said.2.contains(advice),
            "{said:?} of {:#}",
            self.report
        );
    }

    /// Nothing is wrong anywhere.
    fn well(&self) {
        assert!(!self.fails && self.report["level"] == "ok", "{:#}", self.report);
    }
}

impl Ward {
    async fn new() -> Self {
        let fleet = Fleet::new();
        let mut releases = Releases::start(&fleet).await;
        let first = release(1, weights(Precision::F16));
        releases.publish(&first);
        let gateway = Gateway::start(&fleet, &releases).await;
        let device = Device::of(&fleet, &releases, &gateway.endpoint);
        let agent = Running::start(&device.folder).await;
        gateway.assign(&first, 1).await;
        gateway.is_run(&first).await;
        agent.kill().await;
        Self {
            fleet,
            releases,
            device,
            first,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fieldfare-agent"));
        command
            .args(["doctor", "--output", "json", "--dir"])
            .arg(self.device.folder.path());
        command
    }

    /// Asks the doctor while no agent runs: not a byte, mode or time of the folder is another afterwards.
    async fn examine_by(&self, mut command: Command) -> Said {
        let before = files_of(self.device.folder.path());
        let said = Said::of(&command.output().await.unwrap());
        assert_eq!(
            files_of(self.device.folder.path()),
            before,
            "the doctor changed something"
        );
        said
    }

    async fn examine(&self) -> Said {
        self.examine_by(self.command()).await
    }

    /// Under a clock that is wrong by so many milliseconds.
    async fn examine_at(&self, shift_ms: i64) -> Said {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("shift");
        set_clock(&file, shift_ms);
        let mut command = self.command();
        command.env("FIELDFARE_CLOCK_SHIFT_FILE", &file);
        self.examine_by(command).await
    }

    /// Changes a JSON file of the folder.
    fn change(path: &Path, change: impl FnOnce(&mut Value)) {
        let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        change(&mut value);
        files::replace_json(path, &value, Secrecy::Secret).unwrap();
    }

    /// Has another controller.
    fn controlled_by(&self, endpoint: &str) {
        Self::change(&self.device.folder.config(), |config| {
            config["endpoints"] = json!([endpoint])
        });
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_nothing_wrong_with_a_healthy_device_whether_its_agent_runs_or_not() {
    let ward = Ward::new().await;
    // Its agent was killed: what it left behind is whole.
    let said = ward.examine().await;
    said.well();
    said.is("ok", "release", "a serving process loaded it", "");
    said.is("ok", "local API", "the last agent was killed", "");
    said.is("ok", "clock", "of the controller's", "");

    let agent = Running::start(&ward.device.folder).await;
    agent.serves(&ward.first.text()).await;
    agent.says(&["in a session"]).await;
    let said = Said::of(&ward.command().output().await.unwrap());
    said.well();
    said.is("ok", "release", "the agent serves it", "");
    said.is("ok", "ledger", "epsilon 0 of 8 is spent, in 0 rounds", "");
    said.is("ok", "controller", "the agent is connected", "");
    assert_eq!(agent.owner().is_answered().await, ward.first.text());
    assert!(agent.said(&["the serving process ended"]).is_empty());

    // For people: a line for each check.
    let mut command = Command::new(env!("CARGO_BIN_EXE_fieldfare-agent"));
    let output = command
        .args(["doctor", "--dir"])
        .arg(ward.device.folder.path())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let checks = said.report["checks"].as_array().unwrap().len();
    assert!(
        text.lines().count() == checks && text.lines().all(|line| line.starts_with("ok ")),
        "{text}"
    );
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_a_clock_is_wrong_by_the_controllers_or_by_what_is_proven() {
    let mut ward = Ward::new().await;
    let to_1970 = -i64::try_from(clock::now().unix_ms()).unwrap();
    let month = 30 * 24 * 3_600_000;
    ward.examine_at(to_1970)
        .await
        .problem("clock", "behind the controller's", "set the clock");
    ward.examine_at(month)
        .await
        .problem("clock", "ahead of the controller's", "set the clock");
    let elsewhere = Releases::start(&ward.fleet).await;
    std::mem::replace(&mut ward.releases, elsewhere).stop().await;
    let said = ward.examine_at(to_1970).await;
    said.problem("clock", "the clock says 1970-01-01", "set the clock");
    said.problem("clock", "were signed at", "set the clock");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_to_do_about_an_expired_certificate() {
    let ward = Ward::new().await;
    let identity = ward.device.folder.identity();
    ward.fleet.device_until(2 * DAY).save(&identity).unwrap();
    ward.examine().await.problem(
        "certificate",
        "can be renewed until",
        "it renews the certificate by itself",
    );
    ward.fleet.device_until(16 * DAY).save(&identity).unwrap();
    ward.examine()
        .await
        .problem("certificate", "no controller renews it", "enrol this device anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_to_do_about_a_key_that_is_another_certificates_or_that_others_can_read() {
    let ward = Ward::new().await;
    let path = ward.device.folder.identity().join("key.pem");
    let own = std::fs::read(&path).unwrap();
    std::fs::write(&path, ward.fleet.device().key().to_pem()).unwrap();
    ward.examine()
        .await
        .problem("certificate", "is for another key", "bring both back from one backup");
    std::fs::write(&path, own).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    ward.examine()
        .await
        .problem("key", "can be read or written by others", "chmod 600");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_a_disk_takes_no_bytes() {
    let ward = Ward::new().await;
    // A limit of the system in the place of a full disk: no file may get a byte.
    let mut command = Command::new("/bin/sh");
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\" doctor --output json --dir \"$1\"";
    let arguments = [
        OsStr::new("-c"),
        OsStr::new(limited),
        OsStr::new(env!("CARGO_BIN_EXE_fieldfare-agent")),
    ];
    command.args(arguments).arg(ward.device.folder.path());
    ward.examine_by(command)
        .await
        .problem("disk", "takes no bytes", "neither full, read-only nor broken");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_who_has_the_port_of_the_local_api() {
    let ward = Ward::new().await;
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap();
    Ward::change(&ward.device.folder.settings(), |settings| {
        settings["api_listen"] = json!(address)
    });
    let advice = format!("sport = :{}", address.port());
    ward.examine()
        .await
        .problem("local API", "cannot be listened on", &advice);
    drop(stranger);
    ward.examine().await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_to_do_about_metadata_that_expired_or_what_is_trusted_and_damaged() {
    let mut ward = Ward::new().await;
    ward.releases.expire();
    ward.examine()
        .await
        .problem("metadata", "timestamp.json: expired", "see that the controller runs");
    ward.releases.renew();
    let path = ward.device.folder.trusted_state();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    ward.examine().await.problem(
        "trust",
        "cannot be read",
        "trusts the root that its join token promised",
    );
    // As advised.
    std::fs::remove_file(&path).unwrap();
    let agent = Running::start(&ward.device.folder).await;
    agent.serves(&ward.first.text()).await;
    agent.kill().await;
    assert!(!ward.examine().await.fails);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_installed_bytes_have_changed() {
    let ward = Ward::new().await;
    flip(&ward.device.blob(&ward.first), 500_000);
    ward.examine().await.problem(
        "release",
        "is not what the signed release lists",
        "fetches them again by itself",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_a_release_does_not_load() {
    let ward = Ward::new().await;
    // What the folder says is installed is a release whose weights end in their midst, as its manifest says.
    let bad = release(1, weights(Precision::F16)[..100_000].to_vec());
    std::fs::write(ward.device.blob(&bad), &bad.weights).unwrap();
    Shelf::new(ward.device.folder.clone())
        .keep_manifest(&bad.manifest)
        .unwrap();
    let path = ward.device.folder.installation();
    let digest = |release: &Release| Sha256Digest::of(&release.manifest).to_string();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&digest(&ward.first)), "{text}");
    std::fs::write(&path, text.replace(&digest(&ward.first), &digest(&bad))).unwrap();
    ward.examine()
        .await
        .problem("release", "it does not load", "roll back to a release");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_a_release_crashes_and_is_started_again() {
    let ward = Ward::new().await;
    let agent = Running::start(&ward.device.folder).await;
    agent.serves(&ward.first.text()).await;
    let pid = agent.pid();
    let serving = format!("release={}", ward.first.text());
    // Until it is found good, a third crash takes it away: a start by now counts as one.
    let is_converged = async || agent.status().await["installation"][0]["progress"]["state"] == "converged";
    while !is_converged().await {
        agent.says_often(&["serving", &serving], 1).await;
    }
    for times in 2..=3 {
        // Of all threads: the one that started the child is its parent.
        let children = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| {
            let children = std::fs::read_to_string(thread.unwrap().path().join("children"));
            children.unwrap_or_default()
        });
        let children: Vec<u32> = children
            .collect::<String>()
            .split_whitespace()
            .map(|child| child.parse().unwrap())
            .collect();
        assert_eq!(children.len(), 1, "{children:?}");
        kill(Some(children[0]));
        agent.says_often(&["serving", &serving], times).await;
    }
    let said = Said::of(&ward.command().output().await.unwrap());
    said.is(
        "warning",
        "release",
        "crashed in the last 15 minutes",
        "the agent's log",
    );
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_the_ledger_is_damaged_or_nearly_spent() {
    let ward = Ward::new().await;
    let path = ward.device.folder.private_store();
    let store = PrivateStore::open(&path).unwrap();
    let offered = Offered {
        configuration: Digest::from_bytes([1; 32]),
        removals: 0,
        bytes: b"a contribution",
    };
    store
        .pay(&key("gain", 1, 1), mechanism(1.0), budgets(8.0, 8.0), 5, offered)
        .unwrap();
    let spent = store
        .spending(ward.device.settings.budget.delta())
        .unwrap()
        .epsilon
        .get();
    drop(store);
    ward.examine().await.is("ok", "ledger", "in 1 rounds", "");
    let budget = Budget::from_numbers(spent * 1.01, 1e-5).unwrap();
    Ward::change(&ward.device.folder.settings(), |settings| {
        settings["budget"] = json!(budget)
    });
    let said = ward.examine().await;
    said.is("warning", "ledger", "is spent, in 1 rounds", "only the owner may raise");
    assert!(!said.fails, "a warning is no problem");

    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..256].fill(0);
    std::fs::write(&path, bytes).unwrap();
    ward.examine()
        .await
        .problem("ledger", "", "Bring private.redb back from a backup");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_the_audit_log_was_changed() {
    let ward = Ward::new().await;
    let segment = ward.device.folder.audit().join("00000000000000000000.log");
    let bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(MODEL.len()).position(|window| window == MODEL.as_bytes());
    flip(&segment, at.unwrap());
    ward.examine()
        .await
        .problem("audit log", "was changed", "copy the folder `audit` away");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_why_no_controller_can_be_reached() {
    let ward = Ward::new().await;
    ward.controlled_by("https://127.0.0.1:1");
    ward.examine().await.problem(
        "controller",
        "cannot reach https://127.0.0.1:1",
        "nobody listens at 127.0.0.1:1",
    );
    ward.controlled_by("https://no-such-host.invalid:7443");
    ward.examine()
        .await
        .problem("controller", "cannot reach", "that no-such-host.invalid resolves");
    let other = Fleet::new();
    let stranger = Gateway::start(&other, &ward.releases).await;
    ward.controlled_by(&stranger.endpoint.to_string());
    ward.examine()
        .await
        .problem("controller", "is not trusted", "is not a controller of this fleet");
    // One of two is enough.
    let gateway = Gateway::start(&ward.fleet, &ward.releases).await;
    let both = json!(["https://127.0.0.1:1", gateway.endpoint.to_string()]);
    Ward::change(&ward.device.folder.config(), |config| config["endpoints"] = both);
    let said = ward.examine().await;
    said.is("warning", "controller", "cannot reach", "nobody listens");
    assert!(!said.fails);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_a_folder_is_not_enrolled() {
    let ward = Ward::new().await;
    std::fs::remove_file(ward.device.folder.config()).unwrap();
    ward.examine()
        .await
        .problem("enrolment", "does not exist", "enrol this device");
    let fleet = Fleet::new();
    let device = Device::new(&fleet, &ward.releases);
    std::fs::remove_dir_all(device.folder.identity()).unwrap();
    let ward = Ward { device, ..ward };
    ward.examine()
        .await
        .problem("certificate", "has no key", "enrol this device");
}
