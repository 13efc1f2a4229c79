//! A miniature fleet of the real processes: a controller, a trainer, three devices.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on says where"
)]

pub mod model;
pub mod path;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binaries::fieldfare;
use crate::fates::{Calm, Choice};
use crate::supervised::{Program, Supervisor, tail};

/// Names of the devices.
pub const DEVICES: [&str; 3] = ["north", "south", "west"];

/// How long one step of the path may take, however often somebody is killed on the way.
const PATIENCE: Duration = Duration::from_secs(150);

/// Examples of each device.
pub const EXAMPLES: usize = 40;

/// Lifetime budget of each device's data, epsilon at delta 1e-5.
pub const BUDGET: f64 = 30.0;

/// Ports of the processes, the same over all lives.
#[derive(Clone, Debug)]
pub struct Ports {
    /// gRPC services of the controller.
    pub grpc: u16,
    /// Its artifacts.
    pub artifacts: u16,
    /// Its metrics.
    pub metrics: u16,
    /// Rounds of the trainer.
    pub rounds: u16,
}

impl Ports {
    /// Ports that are free on every loopback address.
    pub fn free() -> Self {
        let held: Vec<_> = (0..4).map(|_| TcpListener::bind("0.0.0.0:0").unwrap()).collect();
        let port = |n: usize| held[n].local_addr().unwrap().port();
        Self {
            grpc: port(0),
            artifacts: port(1),
            metrics: port(2),
            rounds: port(3),
        }
    }
}

/// Stands for the name of a process in a variable of its environment.
pub const PROCESS: &str = "{process}";

/// How a fleet is set up.
#[derive(Clone)]
pub struct Setting {
    /// What processes die of.
    pub choice: Choice,
    /// Where they listen, on 127.0.0.1.
    pub ports: Ports,
    /// The address under which others reach the controller and the trainer.
    pub host: &'static str,
    /// Variables of the environment of every process.
    pub variables: Vec<(String, String)>,
}

/// What is special about a device.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Variables of its environment.
    pub variables: Vec<(String, String)>,
}

impl Setting {
    /// Nobody dies, and nothing is between the processes.
    pub fn calm() -> Self {
        Self::mortal(std::sync::Arc::new(Calm))
    }

    /// Processes die of this.
    pub fn mortal(choice: Choice) -> Self {
        Self {
            choice,
            ports: Ports::free(),
            host: "127.0.0.1",
            variables: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The fleet.
#[derive(Debug)]
pub struct Fleet {
    /// Its processes.
    pub supervisor: Supervisor,
    /// The folder of everything.
    pub root: PathBuf,
    variables: Vec<(String, String)>,
    /// Commands that succeeded, by their first two words.
    answered: Mutex<BTreeMap<String, u64>>,
}

fn sibling(name: &str) -> PathBuf {
    fieldfare().with_file_name(name)
}

fn arguments(words: &[&str], dir: &Path, more: &[(&str, &str)]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = words.iter().map(Into::into).collect();
    arguments.extend(["--dir".into(), dir.into()]);
    arguments.extend(more.iter().flat_map(|(name, value)| [name.into(), value.into()]));
    arguments
}

fn once(binary: &str, arguments: &[OsString]) {
    let output = Command::new(sibling(binary)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{binary} {arguments:?}: {output:?}");
}

/// The address in a file of endpoints, such as `127.0.0.1:7443`.
fn address(file: &Path, name: &str) -> String {
    let endpoints: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let url = endpoints[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} in {endpoints}"));
    url.split_once("://").map_or(url, |(_, address)| address).to_owned()
}

impl Fleet {
    /// Starts it, without any release. Nobody is killed yet.
    pub fn start(root: &Path, setting: Setting) -> Self {
        let mut fleet = Self::without_devices(root, setting);
        for name in DEVICES {
            fleet.add_device(name, &Device::default());
        }
        fleet
    }

    /// Starts a controller and a trainer.
    pub fn without_devices(root: &Path, setting: Setting) -> Self {
        std::fs::create_dir_all(root.join("logs")).unwrap();
        let mut fleet = Self {
            supervisor: Supervisor::new(setting.choice),
            root: root.to_path_buf(),
            variables: setting.variables,
            answered: Mutex::default(),
        };
        let dir = root.join("controller");
        let (host, ports) = (setting.host, setting.ports);
        once(
            "fieldfare-controller",
            &arguments(&["init"], &dir, &[("--advertise", host)]),
        );
        let at = |port: u16| format!("127.0.0.1:{port}");
        let listen = [
            ("--grpc-listen", &*at(ports.grpc)),
            ("--artifact-listen", &*at(ports.artifacts)),
            ("--metrics-listen", &*at(ports.metrics)),
        ];
        fleet.keep(
            "controller",
            "fieldfare-controller",
            arguments(&["run"], &dir, &listen),
            &[],
        );
        let from = dir.join("operator");
        fleet.ok(&["context", "add", "miniature", "--from", from.to_str().unwrap()]);
        fleet.ok(&["release", "init"]);
        let trainer = root.join("trainer");
        let token = fleet.token("trainer");
        once(
            "fieldfare-trainer",
            &arguments(&["enrol"], &trainer, &[("--token", &token), ("--name", "kiln")]),
        );
        let listen = [("--rounds-listen", &*at(ports.rounds)), ("--advertise", host)];
        fleet.keep(
            "trainer",
            "fieldfare-trainer",
            arguments(&["run"], &trainer, &listen),
            &[],
        );
        fleet
    }

    /// Enrols a device and starts its agent.
    pub fn add_device(&mut self, name: &str, device: &Device) {
        let dir = self.root.join(name);
        let token = self.token("device");
        let options = [
            ("--token", &*token),
            ("--name", name),
            ("--consent", "yes"),
            ("--profile", "raspberry-pi-5"),
        ];
        once("fieldfare-agent", &arguments(&["enrol"], &dir, &options));
        // Known to the test even where the device cannot write it down.
        let api = {
            let held = TcpListener::bind("127.0.0.1:0").unwrap();
            held.local_addr().unwrap().to_string()
        };
        let run = arguments(&["run"], &dir, &[("--api-listen", &api)]);
        self.keep(name, "fieldfare-agent", run, &device.variables);
        let budget = format!("{{\"budget\": {{\"epsilon\": {BUDGET}, \"delta\": 1e-5}}}}");
        self.api(name, "PATCH", "/fieldfare/v1/settings", "application/json", &budget);
        let examples = model::examples(EXAMPLES);
        self.api(name, "POST", "/fieldfare/v1/examples", "application/jsonl", &examples);
    }

    fn keep(&mut self, name: &str, binary: &str, arguments: Vec<OsString>, variables: &[(String, String)]) {
        self.supervisor.keep(Program {
            name: name.to_owned(),
            binary: sibling(binary),
            arguments,
            variables: self
                .variables
                .iter()
                .chain(variables)
                .map(|(variable, value)| (variable.clone(), value.replace(PROCESS, name)))
                .collect(),
            log: self.log(name),
        });
    }

    /// The log of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    fn token(&self, role: &str) -> String {
        let made = self.json(&["token", "create", "--role", role]);
        made["token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token in {made}"))
            .to_owned()
    }

    /// Runs a command once, however it ends.
    pub fn attempt(&self, arguments: &[&str]) -> Output {
        let output = Command::new(fieldfare())
            .args(arguments)
            .env("FIELDFARE_CONFIG", self.root.join("config"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            let command = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
            *self.answered.lock().unwrap().entry(command).or_default() += 1;
        }
        output
    }

    /// Commands that succeeded, by their first two words, and how often.
    pub fn answered(&self) -> BTreeMap<String, u64> {
        self.answered.lock().unwrap().clone()
    }

    /// Runs a command until it ends in success, or in what `also` takes for one; somebody may be dead at any moment.
    fn eventually(&self, arguments: &[&str], also: impl Fn(&Output) -> bool) -> Output {
        let until = Instant::now() + PATIENCE;
        loop {
            self.supervisor.until_ready("controller");
            let output = self.attempt(arguments);
            if output.status.success() || also(&output) {
                return output;
            }
            assert!(
                Instant::now() < until,
                "fieldfare {arguments:?} does not succeed: {output:?}\n{}",
                self.logs()
            );
            self.supervisor.pause();
        }
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let names = ["controller", "trainer"].into_iter().chain(DEVICES);
        names
            .map(|name| format!("--- {name}\n{}\n", tail(&self.log(name))))
            .collect()
    }

    /// As [`Self::eventually`], for a command whose words do not matter.
    pub fn ok(&self, arguments: &[&str]) {
        self.eventually(arguments, |_| false);
    }

    /// As [`Self::ok`], where one of these texts in an error means that it was done before.
    pub fn ok_or(&self, arguments: &[&str], done: &[&str]) {
        self.eventually(arguments, |output| {
            let said = String::from_utf8_lossy(&output.stderr);
            done.iter().any(|done| said.contains(done))
        });
    }

    /// The answer of a command as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.concluded(arguments, 0)
    }

    /// The answer of a command that may end with this exit code instead of 0.
    pub fn concluded(&self, arguments: &[&str], code: i32) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        let output = self.eventually(&all, |output| output.status.code() == Some(code));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Asks a device's local API; nothing where it does not answer.
    pub fn ask(&self, device: &str, method: &str, path: &str, kind: &str, body: &str) -> Option<Value> {
        let dir = self.root.join(device);
        let api = address(&dir.join("endpoints.json"), "api");
        let token = std::fs::read_to_string(dir.join("api-token")).unwrap();
        let mut stream = TcpStream::connect(&api).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {api}\r\nauthorization: Bearer {}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            token.trim(),
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 2")
            .then(|| serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Asks a device's local API until it answers.
    pub fn api(&self, device: &str, method: &str, path: &str, kind: &str, body: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            self.supervisor.until_ready(device);
            if let Some(answer) = self.ask(device, method, path, kind, body) {
                return answer;
            }
            assert!(
                Instant::now() < until,
                "{device} does not answer {method} {path}\n{}",
                self.logs()
            );
            self.supervisor.pause();
        }
    }
}
