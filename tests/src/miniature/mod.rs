//! A miniature fleet of the real processes: a controller, a trainer, three devices.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fieldfare_tests::binaries::fieldfare;
use fieldfare_tests::supervised::{Choice, Program, Supervisor, tail};
use serde_json::Value;

use crate::model;

/// Names of the devices.
pub(crate) const DEVICES: [&str; 3] = ["north", "south", "west"];

/// How long one step of the path may take, however often somebody is killed on the way.
const PATIENCE: Duration = Duration::from_secs(150);

/// Examples of each device.
pub(crate) const EXAMPLES: usize = 40;

/// Lifetime budget of each device's data, epsilon at delta 1e-5.
pub(crate) const BUDGET: f64 = 30.0;

/// The fleet.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) supervisor: Supervisor,
    pub(crate) root: PathBuf,
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
    pub(crate) fn start(root: &Path, choice: Choice) -> Self {
        std::fs::create_dir_all(root.join("logs")).unwrap();
        let mut fleet = Self {
            supervisor: Supervisor::new(choice),
            root: root.to_path_buf(),
        };
        let dir = root.join("controller");
        once("fieldfare-controller", &arguments(&["init"], &dir, &[]));
        // Ports that stay the same over all lives.
        let ports: Vec<String> = {
            let held: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            held.iter().map(|port| port.local_addr().unwrap().to_string()).collect()
        };
        let listen = [
            ("--grpc-listen", &*ports[0]),
            ("--artifact-listen", &*ports[1]),
            ("--metrics-listen", &*ports[2]),
        ];
        fleet.keep("controller", "fieldfare-controller", arguments(&["run"], &dir, &listen));
        let from = dir.join("operator");
        fleet.ok(&["context", "add", "killed", "--from", from.to_str().unwrap()]);
        fleet.ok(&["release", "init"]);
        let trainer = root.join("trainer");
        let token = fleet.token("trainer");
        once(
            "fieldfare-trainer",
            &arguments(&["enrol"], &trainer, &[("--token", &token), ("--name", "kiln")]),
        );
        fleet.keep(
            "trainer",
            "fieldfare-trainer",
            arguments(&["run"], &trainer, &[("--rounds-listen", &ports[3])]),
        );
        for name in DEVICES {
            let dir = root.join(name);
            let token = fleet.token("device");
            let options = [
                ("--token", &*token),
                ("--name", name),
                ("--consent", "yes"),
                ("--profile", "raspberry-pi-5"),
            ];
            once("fieldfare-agent", &arguments(&["enrol"], &dir, &options));
            fleet.keep(name, "fieldfare-agent", arguments(&["run"], &dir, &[]));
            let budget = format!("{{\"budget\": {{\"epsilon\": {BUDGET}, \"delta\": 1e-5}}}}");
            fleet.api(name, "PATCH", "/fieldfare/v1/settings", "application/json", &budget);
            fleet.api(
                name,
                "POST",
                "/fieldfare/v1/examples",
                "application/jsonl",
                &model::examples(EXAMPLES),
            );
        }
        fleet
    }

    fn keep(&mut self, name: &str, binary: &str, arguments: Vec<OsString>) {
        self.supervisor.keep(Program {
            name: name.to_owned(),
            binary: sibling(binary),
            arguments,
            log: self.log(name),
        });
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    fn token(&self, role: &str) -> String {
        let made = self.json(&["token", "create", "--role", role]);
        made["token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token in {made}"))
            .to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(fieldfare())
            .args(arguments)
            .env("FIELDFARE_CONFIG", self.root.join("config"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command until it ends in success, or in what `also` takes for one; somebody may be dead at any moment.
    fn eventually(&self, arguments: &[&str], also: impl Fn(&Output) -> bool) -> Output {
        let until = Instant::now() + PATIENCE;
        loop {
            self.supervisor.until_ready("controller");
            let output = self.run(arguments);
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
    pub(crate) fn logs(&self) -> String {
        let names = ["controller", "trainer"].into_iter().chain(DEVICES);
        names
            .map(|name| format!("--- {name}\n{}\n", tail(&self.log(name))))
            .collect()
    }

    /// As [`Self::eventually`], for a command whose words do not matter.
    pub(crate) fn ok(&self, arguments: &[&str]) {
        self.eventually(arguments, |_| false);
    }

    /// As [`Self::ok`], where one of these texts in an error means that it was done before.
    pub(crate) fn ok_or(&self, arguments: &[&str], done: &[&str]) {
        self.eventually(arguments, |output| {
            let said = String::from_utf8_lossy(&output.stderr);
            done.iter().any(|done| said.contains(done))
        });
    }

    /// The answer of a command as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.concluded(arguments, 0)
    }

    /// The answer of a command that may end with this exit code instead of 0.
    pub(crate) fn concluded(&self, arguments: &[&str], code: i32) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        let output = self.eventually(&all, |output| output.status.code() == Some(code));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Asks a device's local API; nothing where it does not answer.
    pub(crate) fn ask(&self, device: &str, method: &str, path: &str, kind: &str, body: &str) -> Option<Value> {
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
    pub(crate) fn api(&self, device: &str, method: &str, path: &str, kind: &str, body: &str) -> Value {
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
