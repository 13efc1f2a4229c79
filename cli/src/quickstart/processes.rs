//! The processes of a run: started beside one another, watched, and stopped together.
//!
//! Each one belongs to a task of its own, which waits for it. A process that ends without being told to is a [`Death`]. However
//! this command itself ends, its processes end too: a process starts as this program, which asks the kernel to be
//! terminated with its parent, and then becomes what it was started for ([`become_child`]).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::report::StartedProcess;
use crate::exit::Advice;
use crate::limits::{
    KILL_TIMEOUT, LOG_TAIL_BYTES, LOG_TAIL_LINES, MAX_DEVICES, READY_CHECK, READY_TIMEOUT, STOP_TIMEOUT,
};

/// A part of Fieldfare that a run starts. The order is that of stopping: whoever needs another is stopped before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// `fieldfare-agent`.
    Agent,
    /// `fieldfare-trainer`.
    Trainer,
    /// `fieldfare-controller`.
    Controller,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Trainer, Self::Controller];

    /// Name of its binary.
    pub const fn binary(self) -> &'static str {
        match self {
            Self::Agent => "fieldfare-agent",
            Self::Trainer => "fieldfare-trainer",
            Self::Controller => "fieldfare-controller",
        }
    }
}

/// A process that ended without being told to.
#[derive(Debug)]
pub struct Death {
    /// Which one.
    pub name: String,
    /// How.
    pub status: ExitStatus,
    /// Its log.
    pub log: PathBuf,
}

/// The end of what a process wrote, indented; nothing where it wrote nothing.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = console::strip_ansi_codes(&String::from_utf8_lossy(&bytes)).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..]
        .iter()
        .map(|line| format!("\n    {line}"))
        .collect()
}

impl Death {
    /// The error that it is, with the end of the log.
    pub fn error(&self) -> anyhow::Error {
        let what = format!(
            "{} ended early ({}); the end of its log:{}",
            self.name,
            self.status,
            tail(&self.log)
        );
        Advice::new(what, format!("the whole log is {}", self.log.display())).into()
    }
}

/// What happens to a process at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It is told to stop, and killed when it does not.
    Stop,
    /// It goes on without us.
    Leave,
}

#[derive(Debug)]
struct Watched {
    program: Program,
    ending: oneshot::Sender<Ending>,
    task: JoinHandle<()>,
}

/// Every process of a run.
#[derive(Debug)]
pub struct Processes {
    own: PathBuf,
    logs: PathBuf,
    keep: bool,
    started: Vec<StartedProcess>,
    watched: Vec<Watched>,
    deaths: mpsc::Sender<Death>,
}

impl Processes {
    /// No process yet. `own` is this program's path, beside which the others lie; with `keep` they outlive this command.
    ///
    /// # Errors
    /// One of the programs is not there.
    pub fn new(own: PathBuf, logs: PathBuf, keep: bool) -> Result<(Self, mpsc::Receiver<Death>)> {
        for program in Program::ALL {
            let path = own.with_file_name(program.binary());
            if !path.is_file() {
                let what = format!(
                    "{} is not there; quickstart runs the programs beside {}",
                    path.display(),
                    own.display()
                );
                return Err(Advice::new(what, "`cargo build --release --bins` builds all of them").into());
            }
        }
        let (deaths, receiver) = mpsc::channel(MAX_DEVICES + 3);
        Ok((
            Self {
                own,
                logs,
                keep,
                started: Vec::new(),
                watched: Vec::new(),
                deaths,
            },
            receiver,
        ))
    }

    /// Everything that was started so far.
    pub fn started(&self) -> &[StartedProcess] {
        &self.started
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It does not start, or fails: with the end of its log.
    pub async fn finish(&mut self, name: &str, program: Program, arguments: &[&OsStr]) -> Result<()> {
        let log = self.log(name);
        let mut child = self.spawn(name, program, arguments, &log)?;
        let status = child.wait().await.with_context(|| format!("waiting for {name}"))?;
        if status.success() {
            return Ok(());
        }
        let what = format!("{name} failed ({status}):{}", tail(&log));
        Err(Advice::new(what, format!("the whole log is {}", log.display())).into())
    }

    /// Starts a program that goes on, and waits for the file that it writes when it is ready.
    ///
    /// # Errors
    /// It does not start, or is not ready in time. One that dies is a [`Death`].
    pub async fn start(&mut self, name: &str, program: Program, arguments: &[&OsStr], ready: &Path) -> Result<()> {
        let log = self.log(name);
        let child = self.spawn(name, program, arguments, &log)?;
        let (ending, end) = oneshot::channel();
        let death = (name.to_owned(), log.clone(), self.deaths.clone());
        let task = tokio::spawn(watch(child, end, death));
        self.watched.push(Watched { program, ending, task });
        let appears = async {
            while !ready.exists() {
                tokio::time::sleep(READY_CHECK).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, appears).await.map_err(|_| {
            let what = format!(
                "{name} was not ready within {} s; its log ends:{}",
                READY_TIMEOUT.as_secs(),
                tail(&log)
            );
            anyhow!(Advice::new(what, format!("the whole log is {}", log.display())))
        })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn spawn(&mut self, name: &str, program: Program, arguments: &[&OsStr], log: &Path) -> Result<Child> {
        let file = fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        let errors = file.try_clone().with_context(|| format!("opening {}", log.display()))?;
        let binary = self.own.with_file_name(program.binary());
        let mut command = match self.keep {
            true => Command::new(&binary),
            false => {
                let mut command = Command::new(&self.own);
                command
                    .args(["quickstart", "--child-of", &std::process::id().to_string(), "--"])
                    .arg(&binary);
                command
            }
        };
        let child = command
            .args(arguments)
            // One compute thread for each process: eight of them share this machine.
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            // A terminal's Ctrl-C reaches this command alone, which stops the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let pid = child.id().unwrap_or_default();
        self.started.push(StartedProcess {
            name: name.to_owned(),
            pid,
        });
        Ok(child)
    }

    /// Stops every process: devices first, the controller last. `impatient` ends the waiting; what lives then is killed.
    pub async fn stop(&mut self, mut impatient: impl Future<Output = ()> + Unpin) {
        let mut groups: Vec<Watched> = self.watched.drain(..).collect();
        groups.sort_by_key(|watched| watched.program);
        let patient = async {
            for program in Program::ALL {
                let (group, rest) = groups.drain(..).partition(|watched| watched.program == program);
                groups = rest;
                end(group, Ending::Stop).await;
            }
        };
        tokio::select! {
            () = patient => {}
            () = &mut impatient => {}
        }
        self.kill().await;
    }

    /// Lets every process go on without this command.
    pub async fn leave(&mut self) {
        end(self.watched.drain(..).collect(), Ending::Leave).await;
    }

    /// Kills whatever still lives, each with its own children, and collects it.
    async fn kill(&self) {
        let is_left = |process: &&StartedProcess| !is_collected(process.pid);
        for process in self.started.iter().filter(is_left) {
            signal_group(process.pid, Signal::KILL);
        }
        let collected = async {
            while self.started.iter().any(|process| is_left(&process)) {
                tokio::time::sleep(READY_CHECK).await;
            }
        };
        // Nothing survives this signal; one that the kernel holds up is not worth waiting for.
        let _ = tokio::time::timeout(KILL_TIMEOUT, collected).await;
    }
}

/// Whether a process has ended and nobody needs to ask how any more.
fn is_collected(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return true;
    };
    // An error says that it is no child of ours: it was collected before.
    !matches!(rustix::process::waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
}

async fn end(group: Vec<Watched>, ending: Ending) {
    let tasks: Vec<_> = group
        .into_iter()
        .map(|watched| {
            // Nobody listens where the process is dead already.
            let _ = watched.ending.send(ending);
            watched.task
        })
        .collect();
    futures_util::future::join_all(tasks).await;
}

/// Waits for a process and tells of its death, until it is told how to end it.
async fn watch(mut child: Child, end: oneshot::Receiver<Ending>, death: (String, PathBuf, mpsc::Sender<Death>)) {
    tokio::select! {
        // A run that was given up stops its processes, by dropping them.
        ending = end => match ending.unwrap_or(Ending::Stop) {
            Ending::Stop => terminate(&mut child).await,
            Ending::Leave => std::mem::forget(child),
        },
        status = child.wait() => {
            let (name, log, deaths) = death;
            if let Ok(status) = status {
                let _ = deaths.send(Death { name, status, log }).await;
            }
        }
    }
}

async fn terminate(child: &mut Child) {
    let Some(pid) = child.id() else { return };
    signal(pid, Signal::TERM);
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        signal_group(pid, Signal::KILL);
        let _ = child.wait().await;
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Asks the kernel to terminate this process with its parent, and becomes `command`. Only ever returns an error.
///
/// The request outlives `exec`. It is made here because between `fork` and `exec` no safe Rust runs.
pub fn become_child(parent: u32, command: &[OsString]) -> anyhow::Error {
    let Some((program, arguments)) = command.split_first() else {
        return anyhow!("no program to become");
    };
    let orphaned = || std::os::unix::process::parent_id() != parent;
    if orphaned() {
        return anyhow!("the parent process is gone");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return anyhow::Error::from(error).context("tying this process to its parent");
    }
    // The parent may have died just before the request.
    if orphaned() {
        return anyhow!("the parent process is gone");
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    anyhow::Error::from(error).context(format!("starting {}", program.to_string_lossy()))
}

#[cfg(test)]
mod tests;
