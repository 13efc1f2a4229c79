//! What must hold after any number of deaths.

use std::collections::BTreeMap;

use fieldfare_tests::miniature::path::MODEL;
use fieldfare_tests::miniature::{BUDGET, DEVICES, EXAMPLES, Fleet};
use serde_json::Value;

/// What the fleet has said so far, and may not take back.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Attempts at rounds, over all jobs: each is one payment of a device at most.
    attempts: u64,
    /// Accepted contributions that each release was made of.
    releases: BTreeMap<String, u64>,
    /// Payments that each device admitted.
    paid: BTreeMap<String, u64>,
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

impl Told {
    /// Takes note of a job that has ended; the release that it made.
    pub(crate) fn note_job(&mut self, job: &Value) -> String {
        assert_eq!(job["stage"], "succeeded", "{job:#}");
        let rounds = job["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 1, "{job:#}");
        let (accepted, cohort) = (whole(&rounds[0]["accepted"]), whole(&rounds[0]["cohort"]));
        assert!(2 <= accepted && accepted <= cohort && cohort <= 3, "{job:#}");
        self.attempts += whole(&rounds[0]["attempt"]);
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
            check_log(fleet, name, running);
        }
        // Promise 7: so is what was asked for and decided.
        let events = records(fleet, "controller");
        let called = |method: &str| events.iter().any(|record| record["event"]["method"] == method);
        for method in ["Operator/ApplyDeployment", "Operator/PublishTargets"] {
            assert!(
                called(&format!("fieldfare.v1.{method}")),
                "{method} is not in the controller's log"
            );
        }
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

/// The records of a process's audit log, which is whole.
fn records(fleet: &Fleet, name: &str) -> Vec<Value> {
    let folder = fleet.root.join(name);
    let verdict = fleet.json(&["audit", "verify", folder.to_str().unwrap()]);
    assert!(
        verdict[0]["whole"] == true && verdict[0]["signed"] != 0,
        "{name}: {verdict:#}"
    );
    let shown = fleet.json(&["audit", "show", folder.to_str().unwrap()]);
    shown.as_array().unwrap().clone()
}

/// Promise 7: what serves is what the log said last.
fn check_log(fleet: &Fleet, name: &str, running: &str) {
    let records = records(fleet, name);
    let last = records.iter().rfind(|record| record["kind"] == "model").unwrap();
    let release = last["event"]["model"]["release"].as_str().unwrap_or_default();
    let served = running
        .strip_prefix("adapter.")
        .unwrap_or(running)
        .strip_suffix(".release.json");
    assert_eq!(Some(release), served, "{name}: {last:#}");
    assert!(
        records.iter().any(|record| record["kind"] == "inference"),
        "{name} answered, and no record says so"
    );
}
