//! One run of `fieldfare quickstart`, and what it says of itself.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;

use crate::binaries::fieldfare;

/// A run under way.
#[derive(Debug)]
pub struct Quickstart {
    child: Child,
    progress: BufReader<std::process::ChildStderr>,
    summary: JoinHandle<String>,
    seen: Vec<String>,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Finished {
    /// How the process ended.
    pub status: ExitStatus,
    /// The JSON object on standard output; null when there was none.
    pub summary: Value,
    /// The lines on standard error.
    pub progress: Vec<String>,
}

impl Quickstart {
    /// Starts a run in `dir`.
    ///
    /// # Panics
    /// When the process does not start.
    pub fn start(dir: &Path, arguments: &[&str]) -> Quickstart {
        let mut child = Command::new(fieldfare())
            .args(["quickstart", "--output", "json", "--dir"])
            .arg(dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("fieldfare starts");
        let mut stdout = child.stdout.take().expect("a pipe");
        let stderr = child.stderr.take().expect("a pipe");
        let summary = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("UTF-8 on standard output");
            text
        });
        Quickstart {
            child,
            progress: BufReader::new(stderr),
            summary,
            seen: Vec::new(),
        }
    }

    /// Reads progress until a line contains `text`.
    ///
    /// # Panics
    /// When the run ends before, with everything that it said.
    pub fn until(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            let read = self.progress.read_line(&mut line).expect("UTF-8 on standard error");
            assert!(read > 0, "the run ended before {text:?}:\n{}", self.seen.join("\n"));
            self.seen.push(line.trim_end().to_owned());
            if line.contains(text) {
                return;
            }
        }
    }

    /// Interrupts the run, as Ctrl-C does.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn interrupt(&self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::INT).expect("the process lives");
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the output is no JSON.
    pub fn finish(mut self) -> Finished {
        for line in self.progress.lines() {
            self.seen.push(line.expect("UTF-8 on standard error"));
        }
        let status = self.child.wait().expect("the process ends");
        let text = self.summary.join().expect("standard output was read");
        let summary = match text.trim() {
            "" => Value::Null,
            json => serde_json::from_str(json).unwrap_or_else(|error| panic!("no JSON ({error}): {json}")),
        };
        Finished {
            status,
            summary,
            progress: self.seen,
        }
    }
}

/// Processes that outlive their run.
#[derive(Debug)]
pub struct Kept(Vec<OwnedFd>);

impl Kept {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Stops them as an operator would, and waits for their end. True when all of them ended in time.
    fn stop(&mut self) -> bool {
        for process in &self.0 {
            // One that ended already needs no signal.
            let _ = rustix::process::pidfd_send_signal(process, Signal::TERM);
        }
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        self.0.drain(..).all(|process| {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            matches!(rustix::event::poll(&mut ended, Some(&patience)), Ok(1))
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let ended = self.stop();
        assert!(
            ended || std::thread::panicking(),
            "a process did not end within 30 s of SIGTERM"
        );
    }
}

impl Finished {
    /// Exit code of the run.
    ///
    /// # Panics
    /// When a signal ended it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("{}:\n{}", self.status, self.progress.join("\n")))
    }

    /// The summary's array of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn array(&self, name: &str) -> &[Value] {
        let array = self.summary[name].as_array();
        array.unwrap_or_else(|| panic!("no array {name:?} in {}\n{}", self.summary, self.progress.join("\n")))
    }

    /// The processes of a run that was to keep them; they are stopped when this is dropped.
    ///
    /// # Panics
    /// When one of them is gone.
    pub fn kept(&self) -> Kept {
        let open = |process: &Value| {
            let pid = process["pid"]
                .as_i64()
                .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            let pid = pid.unwrap_or_else(|| panic!("no process id in {process}"));
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap_or_else(|error| panic!("{process}: {error}"))
        };
        let short_lived = |process: &&Value| {
            let name = process["name"].as_str().unwrap_or_default();
            ["enrol", "init", "farm"].iter().any(|word| name.contains(word))
        };
        Kept(
            self.array("processes")
                .iter()
                .filter(|process| !short_lived(process))
                .map(open)
                .collect(),
        )
    }

    /// Processes of the run that are still there.
    pub fn survivors(&self) -> Vec<&Value> {
        let processes = self.array("processes").iter();
        processes
            .filter(|process| Path::new(&format!("/proc/{}", process["pid"])).exists())
            .collect()
    }
}
