//! What must hold after any number of deaths.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fieldfare_tests::miniature::path::MODEL;
use fieldfare_tests::miniature::{BUDGET, DEVICES, EXAMPLES, Fleet};
use serde_json::Value;

use crate::contributions;

/// How long the record of an answer may take to be written.
const RECORDED: Duration = Duration::from_secs(10);

/// What the fleet has said so far, and may not take back.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Attempts at rounds, over all jobs: each is one payment of a device at most.
    attempts: u64,
    /// Accepted contributions that each release was made of.
    releases: BTreeMap<String, u64>,
    /// Jobs that succeeded.
    jobs: BTreeSet<String>,
    /// Payments that each device admitted.
    paid: BTreeMap<String, u64>,
    /// The audit log of each process as it was: of this nothing may change or go.
    logs: BTreeMap<String, Vec<Value>>,
    /// Whether a machine may lose what was not synced.
    loses_power: bool,
}

/// The method of a call that answered a command.
fn method(command: &str) -> Option<&'static str> {
    Some(match command {
        "token create" => "CreateToken",
        "release init" => "InstallRoot",
        "release import" => "ImportModel",
        "release publish" | "release delegate" => "PublishTargets",
        "job start" => "StartJob",
        "rollout rollback" => "CommandRollout",
        "deploy fields" => "ApplyDeployment",
        _ => return None,
    })
}

fn inferences(records: &[Value]) -> usize {
    records.iter().filter(|record| record["kind"] == "inference").count()
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

impl Told {
    /// Nothing so far, of a fleet that is killed, or whose machines lose power, too.
    pub(crate) fn new(loses_power: bool) -> Self {
        Self {
            loses_power,
            ..Self::default()
        }
    }

    /// Takes note of a job that has ended; the release that it made.
    pub(crate) fn note_job(&mut self, job: &Value) -> String {
        assert_eq!(job["stage"], "succeeded", "{job:#}");
        let rounds = job["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 1, "{job:#}");
        let (accepted, cohort) = (whole(&rounds[0]["accepted"]), whole(&rounds[0]["cohort"]));
        assert!(2 <= accepted && accepted <= cohort && cohort <= 3, "{job:#}");
        self.attempts += whole(&rounds[0]["attempt"]);
        self.jobs.insert(job["name"].as_str().unwrap().to_owned());
        let release = job["manifest_target"].as_str().unwrap().to_owned();
        let before = self.releases.insert(release.clone(), accepted);
        assert_eq!(before, None, "a release is made once");
        release
    }

    /// Checks everything; the devices run this release, or soon do.
    pub(crate) fn check(&mut self, fleet: &Fleet, running: &str) {
        // Promise 4: what was acknowledged is there.
        let releases = fleet.json(&["release", "list"]);
        for release in self.releases.keys() {
            let found = releases
                .as_array()
                .unwrap()
                .iter()
                .find(|known| known["manifest_target"] == **release);
            assert!(
                found.is_some_and(|known| known["standing"] == "published"),
                "{release} in {releases:#}"
            );
        }
        // Promise 1: what the repository lists is what the signatures say, and what devices run.
        let verified = fleet.json(&["release", "verify", running]);
        assert_eq!(verified["manifest_target"], running, "{verified:#}");
        let shown = fleet.json(&["release", "show", running]);
        for name in DEVICES {
            self.check_device(fleet, name, running, &shown);
            self.check_log(fleet, name, running);
        }
        // Promise 7: so is what was asked for and decided.
        let events = self.records(fleet, "controller", |_| true);
        check_calls(fleet, &events);
        // Promises 3 and 4: a round is the sum over what was acknowledged.
        let summed = contributions::check(fleet, &events);
        assert_eq!(
            summed, self.jobs,
            "the jobs with a round in the controller's log, and those that succeeded"
        );
    }

    /// The records of a process's audit log, which is whole, and goes on with what it was.
    fn records(&mut self, fleet: &Fleet, name: &str, there: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let folder = fleet.root.join(name);
        let folder = folder.to_str().unwrap();
        let verdict = fleet.json(&["audit", "verify", folder]);
        let signed = usize::try_from(whole(&verdict[0]["signed"])).unwrap();
        assert!(verdict[0]["whole"] == true && signed != 0, "{name}: {verdict:#}");
        let mut records = Vec::new();
        fleet.until(&format!("{name} does not record what it answered"), RECORDED, || {
            let shown = fleet.json(&["audit", "show", folder]);
            records.clone_from(shown.as_array().unwrap());
            there(&records)
        });
        let stays = match self.loses_power {
            true => signed,
            false => records.len(),
        };
        let before = self
            .logs
            .insert(name.to_owned(), records[..stays].to_vec())
            .unwrap_or_default();
        assert!(
            records.starts_with(&before),
            "{name}'s log had {before:#?}\nand has {records:#?}"
        );
        records
    }

    /// Promise 7: what serves is what the log said last, and every answer is in it.
    fn check_log(&mut self, fleet: &Fleet, name: &str, running: &str) {
        // One answer was given since.
        let answered = 1 + self.logs.get(name).map_or(0, |before| inferences(before));
        let records = self.records(fleet, name, |records| inferences(records) >= answered);
        let last = records.iter().rfind(|record| record["kind"] == "model").unwrap();
        let release = last["event"]["model"]["release"].as_str().unwrap_or_default();
        let served = running
            .strip_prefix("adapter.")
            .unwrap_or(running)
            .strip_suffix(".release.json");
        assert_eq!(Some(release), served, "{name}: {last:#}");
    }

    fn check_device(&mut self, fleet: &Fleet, name: &str, running: &str, shown: &Value) {
        let status = fleet.settled(name, running);
        assert_eq!(
            status["serving"]["manifest_sha256"], shown["manifest_sha256"],
            "{name}: {status:#}\n{shown:#}"
        );
        // Promise 6: it answers.
        let question = format!("{{\"model\": \"{MODEL}\", \"prompt\": \"soil\", \"max_tokens\": 2}}");
        let answer = fleet.api(name, "POST", "/v1/completions", "application/json", &question);
        assert_eq!(answer["fieldfare"]["manifest"], running, "{answer:#}");
        // Promise 4: the examples are there.
        assert_eq!(
            whole(&status["training"]["examples"]),
            EXAMPLES as u64,
            "{name}: {status:#}"
        );
        // Promise 2: an attempt is paid for once, what was paid stays paid, and the budget holds.
        let spent = &status["training"]["spent"];
        let paid = whole(&spent["contributions"]);
        assert!(
            paid <= self.attempts,
            "{name} paid {paid} times for {} attempts: {status:#}",
            self.attempts
        );
        let before = self.paid.insert(name.to_owned(), paid).unwrap_or_default();
        assert!(before <= paid, "{name} had paid {before} times, and now {paid}");
        assert!(spent["epsilon"].as_f64().unwrap() <= BUDGET, "{name}: {status:#}");
        if name == DEVICES[DEVICES.len() - 1] {
            let (accepted, paid) = (self.releases.values().sum::<u64>(), self.paid.values().sum::<u64>());
            assert!(
                accepted <= paid,
                "{accepted} contributions were accepted, and {paid} paid for"
            );
        }
    }
}

/// Promise 7: every command that was answered is in the controller's log, each as a call of its own with its outcome.
fn check_calls(fleet: &Fleet, events: &[Value]) {
    let done: BTreeSet<u64> = events
        .iter()
        .filter(|record| record["kind"] == "outcome" && record["event"]["code"].is_null())
        .map(|record| whole(&record["event"]["of_record"]))
        .collect();
    let mut answered: BTreeMap<&str, u64> = BTreeMap::new();
    for (command, times) in fleet.answered() {
        if let Some(method) = method(&command) {
            *answered.entry(method).or_default() += times;
        }
    }
    assert!(answered.contains_key("ApplyDeployment"), "{answered:?}");
    for (method, times) in answered {
        let name = format!("fieldfare.v1.Operator/{method}");
        let of_method =
            |record: &&Value| record["event"]["method"] == *name && done.contains(&whole(&record["record"]));
        let recorded = events.iter().filter(of_method).count() as u64;
        assert!(
            times <= recorded,
            "{method} was answered {times} times, and the controller's log has {recorded} of them"
        );
    }
}
