//! A real etcd as a child process, for tests: an address of its own, data in a temporary folder, killed at the end.
//!
//! Each server listens on a loopback address that is made of this process's id and a counter (all of 127.0.0.0/8 is the machine
//! itself), on etcd's usual ports. So it is found again where it was after a kill, and nobody takes its place meanwhile; where an address
//! is in use all the same, the next one is tried. A server counts as started when it says so itself, never because something answers.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Debian's package `etcd-server` has it.
const BINARY: &str = "etcd";

/// etcd starts within two seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Addresses that are tried before a start fails.
const ADDRESSES_TRIED: usize = 20;

/// Lines of its log that a failed start shows.
const LINES_SHOWN: usize = 30;

/// Says whether etcd is installed. Where it is not, prints that `test` is skipped; with `CI=true` that is a failure.
///
/// # Panics
/// In CI, when it is missing.
#[allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests read their configuration, and say what they skip, here only"
)]
pub fn is_installed(test: &str) -> bool {
    let found = Command::new(BINARY)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    let missing = "etcd is missing; ./test installs it (Debian's package etcd-server)";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: {missing}");
    println!("skipped: {test}: {missing}");
    false
}

/// PEM files with which a server proves itself, and by which it admits clients.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The authority of clients: whoever has no certificate of it is turned away.
    pub clients: PathBuf,
}

/// How a server is started.
#[derive(Debug, Default)]
pub struct Settings {
    /// Command line options besides those of names, places and log.
    pub arguments: Vec<String>,
    /// None for plain HTTP.
    pub tls: Option<ServerTls>,
}

/// A server. It is killed when this is dropped.
#[derive(Debug)]
pub struct EtcdProcess {
    settings: Settings,
    address: Ipv4Addr,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

/// What a server's log has told so far.
enum Word {
    /// It serves clients.
    Ready,
    /// It ended, with these last lines.
    Ended(String),
}

/// An address of this process's own: as good as never that of another one's server.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let pid = std::process::id();
    // 1 to 254, for a counter that begins anew after that.
    let host = NEXT.fetch_add(1, Ordering::Relaxed) % 254 + 1;
    Ipv4Addr::new(127, (pid >> 8) as u8, pid as u8, host)
}

impl EtcdProcess {
    /// A new, empty server.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> EtcdProcess {
        EtcdProcess::with(own_address(), Settings::default())
    }

    /// A new, empty server at this address, or, where that is in use, at another of [`own_address`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn with(mut address: Ipv4Addr, settings: Settings) -> EtcdProcess {
        for _ in 0..ADDRESSES_TRIED {
            let mut server = EtcdProcess {
                address,
                settings: Settings {
                    arguments: settings.arguments.clone(),
                    tls: settings.tls.clone(),
                },
                folder: tempfile::tempdir().unwrap(),
                child: None,
            };
            match server.spawn() {
                Ok(()) => return server,
                Err(log) if log.contains("address already in use") => address = own_address(),
                Err(log) => panic!("etcd does not start:\n{log}"),
            }
        }
        panic!("no address is free for etcd after {ADDRESSES_TRIED}");
    }

    /// Where clients reach it: `http://127.x.y.z:2379`, or https.
    pub fn url(&self) -> String {
        let scheme = if self.settings.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:2379", self.address)
    }

    /// The folder of its data.
    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it with SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it again, at the same place with the same data.
    ///
    /// # Panics
    /// When it runs, or does not start.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        // What else is at this address is a client of the killed server, whose connection is still being torn down.
        for _ in 0..ADDRESSES_TRIED {
            match self.spawn() {
                Ok(()) => return,
                Err(log) if log.contains("address already in use") => {}
                Err(log) => panic!("etcd does not start again:\n{log}"),
            }
        }
        panic!("the address {} is taken", self.address);
    }

    /// Stops its process in its tracks, as a machine does that is out of memory: it holds its connections and says nothing.
    ///
    /// # Panics
    /// When it is not running.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Starts the process and waits until it serves, or gives back the end of its log.
    fn spawn(&mut self) -> Result<(), String> {
        let (clients, peers) = (self.url(), format!("http://{}:2380", self.address));
        let mut command = Command::new(BINARY);
        command
            .args(["--name", "test", "--logger", "zap", "--log-outputs", "stderr"])
            .arg("--data-dir")
            .arg(self.folder.path().join("etcd"))
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("test={peers}")])
            .args(&self.settings.arguments);
        if let Some(tls) = &self.settings.tls {
            command.arg("--cert-file").arg(&tls.certificate);
            command.arg("--key-file").arg(&tls.key);
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(&tls.clients);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let (tell, told) = sync_channel(2);
        let log = child.stderr.take().unwrap();
        // Reads to the end of the process, so that its log never fills the pipe.
        std::thread::spawn(move || read(log, &tell));
        let started = started(&told);
        if started.is_err() {
            let _ = child.kill();
            child.wait().unwrap();
        } else {
            self.child = Some(child);
        }
        started
    }
}

fn started(told: &Receiver<Word>) -> Result<(), String> {
    match told.recv_timeout(START_TIMEOUT) {
        Ok(Word::Ready) => Ok(()),
        Ok(Word::Ended(lines)) => Err(lines),
        Err(RecvTimeoutError::Timeout) => Err(format!("no word within {START_TIMEOUT:?}")),
        Err(RecvTimeoutError::Disconnected) => Err("its log ended".to_owned()),
    }
}

fn read(log: ChildStderr, tell: &SyncSender<Word>) {
    let mut last = VecDeque::new();
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if line.contains("serving client traffic") {
            // Nobody listens after a restart's first word.
            let _ = tell.send(Word::Ready);
        }
        last.push_back(line);
        if last.len() > LINES_SHOWN {
            last.pop_front();
        }
    }
    let lines = last.into_iter().collect::<Vec<_>>().join("\n");
    let _ = tell.send(Word::Ended(lines));
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
