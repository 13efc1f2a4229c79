//! Processes that are killed and started again.
//!
//! Each process has a keeper: a thread that starts it, waits for its end, and starts it again, with the next thing that it
//! is to die of ([`crate::plan`]). Whoever waits for something waits on one condition, which every start, readiness and end signals.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::fates::Choice;
use crate::plan::Plan;

/// How long a process may take from its start to its line `ready`.
const READY: Duration = Duration::from_secs(60);

/// A process to keep.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name among its siblings.
    pub name: String,
    /// Its binary.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables of its environment, in every life.
    pub variables: Vec<(String, String)>,
    /// Where its log goes.
    pub log: PathBuf,
}

#[derive(Debug, Default)]
struct Life {
    pid: Option<u32>,
    ready: bool,
    number: u64,
    /// Deaths that are still to come.
    allowance: u32,
    /// Where it finds what it is to die of.
    plan: Option<Plan>,
    /// What it is to die of.
    due: Option<String>,
    /// What it was to die of when it was told to live on: it may have been dying already.
    late: Option<String>,
    /// Whether the present life is ended by a signal from here.
    shot: bool,
    /// The exit code with which the present life is to end, once it was told to stop.
    told: Option<i32>,
    /// Whether the next life is to wait.
    held: bool,
}

impl Life {
    /// Tells the process what it is to die of.
    fn tell(&mut self, words: Option<String>) {
        if let Some(plan) = &mut self.plan {
            plan.set(words.as_deref()).expect("the plan's file takes it");
            self.due = words;
        }
    }

    /// The next thing that it is to die of, where there is to be one.
    fn arm(&mut self, name: &str, choice: &Choice) {
        if self.allowance > 0 && self.due.is_none() {
            self.tell(choice.next(name));
        }
    }
}

#[derive(Debug, Default)]
struct State {
    lives: BTreeMap<String, Life>,
    /// Who died, and of what: those alone that met what was planned.
    deaths: Vec<(String, String)>,
    /// Ends that nobody planned.
    accidents: Vec<String>,
    stopping: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.news.notify_all();
    }
}

/// The processes of a fleet.
pub struct Supervisor {
    shared: Arc<Shared>,
    choice: Choice,
    keepers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that has just ended needs no signal.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

impl Supervisor {
    /// No process yet.
    pub fn new(choice: Choice) -> Self {
        Self {
            shared: Arc::default(),
            choice,
            keepers: Vec::new(),
        }
    }

    /// Keeps a process from now on, and waits until it is ready for the first time.
    ///
    /// # Panics
    /// When it is not ready in time.
    pub fn keep(&mut self, program: Program) {
        let name = program.name.clone();
        let life = Life {
            plan: self
                .choice
                .shim()
                .map(|_| Plan::beside(&program.log).expect("the folder of the log takes a file")),
            ..Life::default()
        };
        self.shared.change(|state| drop(state.lives.insert(name.clone(), life)));
        let (shared, choice) = (Arc::clone(&self.shared), Arc::clone(&self.choice));
        self.keepers
            .push(std::thread::spawn(move || live(&shared, &choice, &program)));
        self.until_ready(&name);
    }

    fn wait(&self, patience: Duration, what: &str, mut holds: impl FnMut(&mut State) -> bool) {
        let until = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            assert!(state.accidents.is_empty(), "{}", state.accidents.join("\n"));
            if holds(&mut state) {
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not happen within {patience:?}: {state:?}");
            state = self
                .shared
                .news
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until a process says that it is ready, in whichever life.
    ///
    /// # Panics
    /// When it does not, or when something ended that should not have.
    pub fn until_ready(&self, name: &str) {
        self.wait(READY, name, |state| {
            state.lives.get(name).is_some_and(|life| life.ready)
        });
    }

    /// Waits for anything to happen to any process, but not for long.
    pub fn pause(&self) {
        let state = self.shared.lock();
        drop(self.shared.news.wait_timeout(state, Duration::from_millis(200)));
    }

    /// Lets every process die this often at most from now on, of what is chosen, each time that it meets that. Nobody is started anew
    /// for it.
    pub fn arm(&self, deaths: u32) {
        self.shared.change(|state| {
            for (name, life) in &mut state.lives {
                (life.allowance, life.late) = (deaths, None);
                life.arm(name, &self.choice);
            }
        });
    }

    /// Nobody is to die any more, and every process is ready again.
    ///
    /// # Panics
    /// When one of them is not.
    pub fn disarm(&self) {
        self.shared.change(|state| {
            for life in state.lives.values_mut() {
                life.allowance = 0;
                life.late = life.due.clone();
                life.tell(None);
            }
        });
        self.wait(READY, "a fleet without faults", |state| {
            state.lives.values().all(|life| life.ready)
        });
    }

    /// What a process passed since this was asked last, and how often.
    ///
    /// # Panics
    /// When it is told of nothing that it could meet.
    pub fn passed(&self, name: &str) -> BTreeMap<String, u64> {
        let state = self.shared.lock();
        let plan = state.lives.get(name).and_then(|life| life.plan.as_ref());
        plan.and_then(|plan| plan.passed().ok())
            .unwrap_or_else(|| panic!("nobody looks at what {name} passes"))
    }

    /// Kills a process now; it is started again.
    pub fn kill(&self, name: &str) {
        self.shared.change(|state| {
            if let Some((life, pid)) = state
                .lives
                .get_mut(name)
                .and_then(|life| life.pid.map(|pid| (life, pid)))
            {
                (life.shot, life.ready) = (true, false);
                signal(pid, Signal::KILL);
            }
        });
    }

    /// Kills a process now, and does not start it again before [`Self::let_go`].
    pub fn hold(&self, name: &str) {
        self.shared.change(|state| {
            if let Some(life) = state.lives.get_mut(name) {
                life.held = true;
            }
        });
        self.kill(name);
    }

    /// Starts a process again that was held.
    pub fn let_go(&self, name: &str) {
        self.shared.change(|state| {
            if let Some(life) = state.lives.get_mut(name) {
                life.held = false;
            }
        });
        self.until_ready(name);
    }

    /// The process that lives under this name now.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.shared.lock().lives.get(name)?.pid
    }

    /// Tells a process to stop, as an operator would, does something meanwhile, waits until the process has ended with this exit
    /// code, and until it is ready again. Says how long it took to end.
    ///
    /// # Panics
    /// When it ends otherwise, or takes a minute.
    pub fn restart(&self, name: &str, code: i32, meanwhile: impl FnOnce()) -> Duration {
        let mut number = 0;
        let begun = Instant::now();
        self.shared.change(|state| {
            let life = state.lives.get_mut(name).expect("a process of this name");
            number = life.number;
            life.told = Some(code);
            signal(life.pid.expect("it lives"), Signal::TERM);
        });
        meanwhile();
        self.wait(READY, name, |state| state.lives[name].number > number);
        let took = begun.elapsed();
        self.until_ready(name);
        took
    }

    /// Every planned death so far: whose, and of what.
    pub fn deaths(&self) -> Vec<(String, String)> {
        self.shared.lock().deaths.clone()
    }

    /// Stops every process as an operator would.
    ///
    /// # Panics
    /// When one of them ends otherwise than it should.
    pub fn stop(mut self) {
        self.end();
        let state = self.shared.lock();
        assert!(state.accidents.is_empty(), "{}", state.accidents.join("\n"));
    }

    fn end(&mut self) {
        self.shared.change(|state| {
            state.stopping = true;
            for life in state.lives.values() {
                if let Some(pid) = life.pid {
                    signal(pid, Signal::TERM);
                }
            }
        });
        for keeper in self.keepers.drain(..) {
            // A keeper that panicked has said why.
            let _ = keeper.join();
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a process again and again.
fn live(shared: &Arc<Shared>, choice: &Choice, program: &Program) {
    loop {
        let (number, mut variables) = {
            let is_held =
                |state: &mut State| !state.stopping && state.lives.get(&program.name).is_some_and(|life| life.held);
            let waited = shared.news.wait_while(shared.lock(), is_held);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.stopping {
                return;
            }
            let Some(life) = state.lives.get_mut(&program.name) else {
                return;
            };
            life.number += 1;
            life.arm(&program.name, choice);
            let told = life.plan.as_ref().zip(choice.shim());
            (
                life.number,
                told.map(|(plan, shim)| plan.variables(&shim)).unwrap_or_default(),
            )
        };
        variables.extend(choice.begins(&program.name, number));
        let status = one_life(shared, program, variables);
        let was_killed = status.as_ref().is_ok_and(|status| status.signal().is_some());
        let left = choice.ended(&program.name, number, was_killed);
        shared.change(|state| {
            let stopping = state.stopping;
            let Some(life) = state.lives.get_mut(&program.name) else {
                return;
            };
            let (shot, told) = (std::mem::take(&mut life.shot), life.told.take());
            (life.pid, life.ready) = (None, false);
            let killed = status.as_ref().is_ok_and(|status| status.signal() == Some(9));
            let met = match killed && !shot {
                true => life.due.take().or_else(|| life.late.take()),
                false => None,
            };
            if let Some(met) = &met {
                life.allowance = life.allowance.saturating_sub(1);
                life.tell(None);
                choice.died(&program.name, met);
            }
            if let Err(left) = &left {
                state.accidents.push(format!("{} left {left}", program.name));
            }
            let expected = told.or(stopping.then_some(0));
            let ended = expected.is_some() && status.as_ref().is_ok_and(|status| status.code() == expected);
            match &status {
                _ if killed && shot => {}
                _ if met.is_some() => state.deaths.extend(met.map(|met| (program.name.clone(), met))),
                // A process that is stopped while it starts may not listen to signals yet.
                Ok(status) if ended || (stopping && status.signal() == Some(15)) => {}
                status => state
                    .accidents
                    .push(format!("{} ended: {status:?}\n{}", program.name, tail(&program.log))),
            }
        });
        let mut state = shared.lock();
        if !state.accidents.is_empty() {
            // Whoever waits for an answer that will not come any more learns of it.
            state.stopping = true;
            for pid in state.lives.values().filter_map(|life| life.pid) {
                signal(pid, Signal::TERM);
            }
            shared.news.notify_all();
        }
        if state.stopping {
            return;
        }
    }
}

fn one_life(shared: &Arc<Shared>, program: &Program, variables: Vec<(String, String)>) -> std::io::Result<ExitStatus> {
    let log = File::options().create(true).append(true).open(&program.log)?;
    let mut child = Command::new(&program.binary)
        .args(&program.arguments)
        .envs(program.variables.iter().cloned())
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let pid = child.id();
    shared.change(|state| {
        let stopping = state.stopping;
        if let Some(life) = state.lives.get_mut(&program.name) {
            life.pid = Some(pid);
            if stopping {
                signal(pid, Signal::TERM);
            }
        }
    });
    let mut lines = BufReader::new(child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?);
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap_or_default() > 0 {
        if line.starts_with("ready") {
            shared.change(|state| {
                if let Some(life) = state.lives.get_mut(&program.name) {
                    life.ready = true;
                }
            });
        }
        line.clear();
    }
    child.wait()
}

/// The end of a log, for a failure's message.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
