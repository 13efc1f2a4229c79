//! The path of a release through the fleet, step by step. Each step is repeated until it is done: whoever is asked may be dead, or
//! far away.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{EXAMPLES, Fleet, model};

/// The deployment that all devices belong to.
pub const DEPLOYMENT: &str = "fields";

/// The model that it serves.
pub const MODEL: &str = "nonsense";

/// How long devices may take to be where they should be when nothing is in their way.
const SETTLED: Duration = Duration::from_secs(60);

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

impl Fleet {
    /// The file of held-out text.
    ///
    /// # Panics
    /// When the folder refuses.
    fn evaluation(&self) -> String {
        let file = self.root.join("evaluation.jsonl");
        if !file.exists() {
            std::fs::write(&file, model::examples(12)).expect("the folder takes a file");
        }
        file.display().to_string()
    }

    /// Imports a GGUF file as the next release of the model, publishes it, and says what it is called.
    ///
    /// # Panics
    /// When the trainer or the controller refuses.
    pub fn import(&self, job: &str, file: &Path) -> String {
        self.import_with(job, file, "")
    }

    /// As [`Self::import`], with further options.
    ///
    /// # Panics
    /// When the trainer or the controller refuses.
    pub fn import_with(&self, job: &str, file: &Path, options: &str) -> String {
        let evaluation = self.evaluation();
        let import = format!(
            "release import {} --model {MODEL} --evaluation {evaluation} --job {job} --detach {options}",
            file.display()
        );
        // An answer may get lost, and the job be there all the same.
        self.ok_or(&words(&import), &["already exists"]);
        let job = self.concluded(&["job", "watch", job], 3);
        assert_eq!(job["stage"], "succeeded", "{job:#}\n{}", self.logs());
        let release = job["manifest_target"].as_str().expect("a release").to_owned();
        self.ok(&["release", "publish", &release]);
        release
    }

    /// A federated job of one round on what the devices run; as its last word says it.
    pub fn train(&self, name: &str) -> Value {
        self.start_training(name);
        self.concluded(&["job", "watch", name], 3)
    }

    /// Starts a federated job of one round on what the devices run.
    pub fn start_training(&self, name: &str) {
        self.start_long_training(name, 2);
    }

    /// Starts a federated job of one round of this many steps.
    pub fn start_long_training(&self, name: &str, steps: u32) {
        let start = format!(
            "job start --name {name} --deployment {DEPLOYMENT} --evaluation {} --detach --epsilon 8 --rounds 1 --steps {steps} \
             --noise-multiplier 3 --sampling-rate 0.2 --examples-per-device {EXAMPLES} --attempts 10 --quorum 2 --round-deadline 60 \
             --min-loss-gain -100 --min-exact-match-gain -1",
            self.evaluation(),
        );
        self.ok(&words(&start));
    }

    /// Deploys a release on all devices and waits for the end of its rollout, whatever it is.
    pub fn deploy(&self, release: &str, policy: &str) -> Value {
        let deploy = format!("deploy {DEPLOYMENT} --release {release} {policy} --detach");
        self.ok(&words(&deploy));
        self.rollout_ended()
    }

    /// Waits for the end of the rollout that is under way.
    pub fn rollout_ended(&self) -> Value {
        self.concluded(&["rollout", "status", DEPLOYMENT, "--watch"], 3)
    }

    /// Rolls a release out.
    ///
    /// # Panics
    /// When the rollout does not complete.
    pub fn roll_out(&self, release: &str) {
        let ended = self.deploy(release, "--waves 1,100% --observe 0.05 --offline-after 20");
        assert_eq!(ended["phase"], "completed", "{ended:#}\n{}", self.logs());
    }

    /// Rolls the last release back.
    ///
    /// # Panics
    /// When that does not end.
    pub fn roll_back(&self) {
        self.ok_or(&["rollout", "rollback", DEPLOYMENT], &["rolling back", "rolled back"]);
        let ended = self.rollout_ended();
        assert_eq!(ended["phase"], "rolled back", "{ended:#}\n{}", self.logs());
    }

    /// The status of a device.
    pub fn status(&self, device: &str) -> Value {
        self.api(device, "GET", "/fieldfare/v1/status", "application/json", "")
    }

    /// Waits until a device serves a release and has nothing left to do; its status then.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn settled(&self, device: &str, release: &str) -> Value {
        let is_there = |status: &Value| {
            status["installation"][0]["progress"]["state"] == "converged" && status["serving"]["manifest"] == release
        };
        let mut status = Value::Null;
        self.until(&format!("{device} does not run {release}"), SETTLED, || {
            status = self.status(device);
            is_there(&status)
        });
        status
    }

    /// Asks a device a question through its OpenAI-compatible endpoint; nothing where it does not answer.
    pub fn answer(&self, device: &str) -> Option<Value> {
        let question = format!("{{\"model\": \"{MODEL}\", \"prompt\": \"soil\", \"max_tokens\": 2}}");
        self.ask(device, "POST", "/v1/completions", "application/json", &question)
    }

    /// Looks again and again until something holds.
    ///
    /// # Panics
    /// When it does not within `patience`; the ends of all logs are shown.
    pub fn until(&self, what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + patience;
        while !holds() {
            assert!(Instant::now() < until, "{what} within {patience:?}\n{}", self.logs());
            self.supervisor.pause();
        }
    }
}
