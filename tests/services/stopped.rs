//! SIGTERM: every process ends in time whatever it is doing, and leaves nothing behind that should not be there.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use fieldfare_service::FORCED;
use fieldfare_service::limits::STOP_DEADLINE;
use fieldfare_tests::miniature::path::{DEPLOYMENT, MODEL};
use fieldfare_tests::miniature::{DEVICES, Fleet, Setting, model};
use rustix::process::{Pid, Signal, kill_process};

use crate::notified::Notified;

/// How long what must happen some time may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a busy machine may add to a time.
const SLACK: Duration = Duration::from_secs(2);

fn fleet(root: &Path) -> (Fleet, Notified) {
    let sockets = root.join("s");
    std::fs::create_dir(&sockets).unwrap();
    let notified = Notified::listen(&sockets, ["controller", "trainer"].into_iter().chain(DEVICES));
    let setting = Setting {
        variables: notified.variables(),
        ..Setting::calm()
    };
    let fleet = Fleet::start(root, setting);
    let file = root.join("model.gguf");
    model::write(&file, 1);
    let release = fleet.import("import", &file);
    fleet.roll_out(&release);
    (fleet, notified)
}

/// The children of a process: their ids, and the last word of their command lines.
fn children(pid: u32) -> Vec<(Pid, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name in brackets may hold anything; state and parent follow it.
        let parent: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        let command = std::fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
        let last = command.trim_end_matches('\0').rsplit('\0').next()?.to_owned();
        (parent == pid).then_some((Pid::from_raw(id)?, last))
    });
    processes.collect()
}

fn lives(process: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether all threads of a process are stopped.
fn is_stopped(process: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
    let mut stats = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    stats.all(|stat| stat.contains(") T "))
}

/// Whether a process that was stopped has something to read.
fn is_asked(process: Pid) -> bool {
    let input = File::open(format!("/proc/{}/fd/0", process.as_raw_nonzero()));
    input.is_ok_and(|input| rustix::io::ioctl_fionread(input).unwrap() > 0)
}

/// Files that are there only while something is being written. What came of a download (`.part`) is kept when it is cut off, and gone
/// once the next life has gone on with it; that of a contribution is never kept.
fn unfinished(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().filter_map(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            found.extend(unfinished(&path));
        } else if [".new", ".part"].iter().any(|ending| name.ends_with(ending))
            || name.contains("tmp")
            || name.contains('#')
        {
            found.insert(path.display().to_string());
        }
    }
    found
}

/// Tells a process to stop, sees it end as it should, and waits until its next life is ready.
fn stop(fleet: &Fleet, notified: &Notified, name: &str) {
    let told = notified.count(name, "STOPPING=1");
    let pid = fleet.supervisor.pid(name).unwrap();
    let before = children(pid);
    let took = fleet.supervisor.restart(name, 0, || ());
    assert!(took < STOP_DEADLINE + SLACK, "{name} took {took:?}");
    notified.until(name, "STOPPING=1", told + 1);
    for (child, what) in before {
        fleet.until(&format!("{name}: {what} lives on"), SLACK, || !lives(child));
    }
    // What its next life is writing right now is finished in a moment; what the last one left behind stays.
    let folder = fleet.root.join(name);
    fleet.until(&format!("{name} left unfinished files"), SLACK, || {
        unfinished(&folder).is_empty()
    });
}

#[test]
fn a_process_that_is_told_to_stop_hands_over_what_it_does_and_the_work_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, notified) = fleet(folder.path());
    for name in ["controller", "trainer"].into_iter().chain(DEVICES) {
        notified.until(name, "READY=1", 1);
        notified.until(name, "STATUS=ready", 1);
        notified.until(name, "WATCHDOG=1", 3);
    }
    fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
    // Long enough to be met in the middle.
    fleet.start_long_training("night", 400);
    let mut busy = None;
    fleet.until("no device trains", PATIENCE, || {
        busy = DEVICES.into_iter().find(|name| {
            let pid = fleet.supervisor.pid(name).unwrap();
            children(pid).iter().any(|(_, what)| what == "train")
        });
        busy.is_some()
    });
    stop(&fleet, &notified, busy.unwrap());
    stop(&fleet, &notified, "trainer");
    stop(&fleet, &notified, "controller");
    let job = fleet.concluded(&["job", "watch", "night"], 3);
    assert_eq!(job["stage"], "succeeded", "{job:#}\n{}", fleet.logs());
    fleet.roll_out(job["manifest_target"].as_str().unwrap());
    let again = fleet.json(&["rollout", "status", DEPLOYMENT]);
    assert_eq!(again["phase"], "completed", "{again:#}");
    fleet.supervisor.stop();
}

#[test]
fn an_agent_whose_engine_hangs_ends_in_time_and_at_once_when_told_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, notified) = fleet(folder.path());
    let [north, south, _] = DEVICES;
    for (name, twice) in [(north, false), (south, true)] {
        // The rollout may be complete by evidence before the local API is told of the release.
        fleet.until("no answer", PATIENCE, || fleet.answer(name).is_some());
        let pid = fleet.supervisor.pid(name).unwrap();
        let engine = children(pid).into_iter().find(|(_, what)| what == "serve").unwrap().0;
        kill_process(engine, Signal::STOP).unwrap();
        // A thread that was reading when the signal came may still take what arrives before it stops.
        fleet.until("the engine goes on", PATIENCE, || is_stopped(engine));
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| fleet.answer(name));
            fleet.until("nobody asks the engine", PATIENCE, || is_asked(engine));
            let told = notified.count(name, "STOPPING=1");
            let took = fleet.supervisor.restart(name, if twice { FORCED } else { 0 }, || {
                notified.until(name, "STOPPING=1", told + 1);
                if twice {
                    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
                }
            });
            let limit = if twice { Duration::ZERO } else { STOP_DEADLINE };
            assert!(took < limit + SLACK, "{name} took {took:?}");
            assert!(asked.join().unwrap().is_none(), "a process that hangs gave an answer");
        });
        fleet.until("the engine lives on", SLACK, || !lives(engine));
        fleet.until("no answer", PATIENCE, || fleet.answer(name).is_some());
    }
    fleet.supervisor.stop();
}
