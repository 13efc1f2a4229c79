//! The training process of a device gets no more memory.

use std::path::Path;
use std::time::{Duration, Instant};

use fieldfare_tests::miniature::path::MODEL;
use fieldfare_tests::miniature::{DEVICES, Fleet, Setting, model};
use rustix::process::{Pid, Resource, Rlimit, Signal};

/// How long it may take until a device trains.
const PATIENCE: Duration = Duration::from_secs(60);

/// Address space that the process is left with, in bytes: less than it has when it has just started.
const LEFT: u64 = 1 << 20;

/// The children of a process that do this.
fn children(of: u32, task: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let folder = Path::new("/proc").join(pid.to_string());
        // One that has just ended is none.
        let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        let command = || std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
        parent == Some(of) && command().split('\0').nth(1) == Some(task)
    };
    pids.filter(is_child).collect()
}

/// What happens to a training process that wants more memory than there is.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It gets no more.
    Refused,
    /// The system kills it.
    Killed,
}

impl Fate {
    fn meet(self, pid: i32) {
        let pid = Pid::from_raw(pid).unwrap();
        // One that has just ended meets no fate.
        match self {
            Self::Refused => {
                let limit = Rlimit {
                    current: Some(LEFT),
                    maximum: Some(LEFT),
                };
                let _ = rustix::process::prlimit(Some(pid), Resource::As, limit);
            }
            Self::Killed => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Words of the device's report.
    const fn words(self) -> &'static str {
        match self {
            Self::Refused => "memory",
            Self::Killed => "ended without a contribution (signal: 9",
        }
    }
}

/// Lets the first process that trains for a device meet its fate as soon as it appears, and waits for the report.
fn starve(fleet: &Fleet, device: &str, fate: Fate) {
    let agent = fleet.supervisor.pid(device).unwrap();
    let until = Instant::now() + PATIENCE;
    let mut met = false;
    loop {
        let child = children(agent, "train").first().copied();
        if let (false, Some(child)) = (met, child) {
            fate.meet(child);
            met = true;
        }
        let said = if met {
            fleet.status(device)["training"].to_string()
        } else {
            String::new()
        };
        if said.contains(fate.words()) || said.contains("ended without a contribution") {
            return;
        }
        assert!(
            Instant::now() < until,
            "{device} trains without memory: {said}\n{}",
            fleet.logs()
        );
    }
}

#[test]
fn training_that_runs_out_of_memory_is_reported_and_serving_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(folder.path(), Setting::calm());
    fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
    let file = fleet.root.join("nonsense.gguf");
    model::write(&file, 1);
    let first = fleet.import("import", &file);
    fleet.roll_out(&first);
    let serving = ["north", "south"].map(|device| children(fleet.supervisor.pid(device).unwrap(), "serve"));

    std::thread::scope(|threads| {
        threads.spawn(|| starve(&fleet, "north", Fate::Refused));
        threads.spawn(|| starve(&fleet, "south", Fate::Killed));
        fleet.start_long_training("night", 100);
    });
    for (device, before) in ["north", "south"].into_iter().zip(serving) {
        assert!(
            fleet.answer(device).is_some(),
            "{device} does not answer\n{}",
            fleet.logs()
        );
        let now = children(fleet.supervisor.pid(device).unwrap(), "serve");
        assert_eq!(now, before, "{device}: the serving process is another one");
    }
    // The round is opened again, and this time nobody dies.
    let job = fleet.concluded(&["job", "watch", "night"], 3);
    assert_eq!(job["stage"], "succeeded", "{job:#}\n{}", fleet.logs());
    assert!(
        job["rounds"][0]["attempt"].as_u64() > Some(1),
        "{job:#}\n{}",
        fleet.logs()
    );
    for device in DEVICES {
        fleet.settled(device, &first);
    }
    fleet.supervisor.stop();
}
