//! `kill -9` and a full disk in the midst of commits: what was acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use fieldfare_audit::log::Log;
use fieldfare_audit::read::Trust;
use ring::rand::SystemRandom;

use super::{NOW, record, seen, settings};

/// Says on standard output that a record was committed.
const ACKNOWLEDGED: &str = "acknowledged ";
/// Says that one was refused.
const REFUSED: &str = "refused";

/// The victim, run by the tests below with the folder's path as its standard input; alone it does nothing.
#[test]
#[ignore = "the child process of the tests below"]
fn victim() {
    let mut path = String::new();
    std::io::stdin().lock().read_line(&mut path).unwrap();
    if path.trim().is_empty() {
        return;
    }
    let (mut log, _) = Log::open(settings(Path::new(path.trim()), 2000, 12_000), NOW, SystemRandom::new()).unwrap();
    loop {
        let batch = 1 + log.size() % 3;
        let appended: Result<Vec<u64>, _> = (0..batch).map(|_| log.append(&record(log.size()))).collect();
        let said = match appended.and_then(|indices| log.commit(NOW).map(|()| indices)) {
            Ok(indices) => format!("{ACKNOWLEDGED}{}", indices.last().unwrap()),
            Err(_) => REFUSED.to_owned(),
        };
        println!("{said}");
        std::io::stdout().flush().unwrap();
    }
}

/// Runs the victim in a folder until `is_enough` of what it says, kills it, and returns what it said.
fn run(folder: &Path, program: &mut Command, mut is_enough: impl FnMut(&str) -> bool) -> Vec<String> {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", folder.display()).unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The first line starts with the test harness's own words.
        let word = [ACKNOWLEDGED, REFUSED].into_iter().find_map(|word| line.find(word));
        let Some(at) = word else { continue };
        said.push(line[at..].to_owned());
        if is_enough(said.last().unwrap()) {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child ended by itself");
    said
}

fn last_acknowledged(said: &[String]) -> Option<u64> {
    said.iter()
        .rev()
        .find_map(|word| word.strip_prefix(ACKNOWLEDGED)?.parse().ok())
}

fn victim_program() -> Command {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(VICTIM);
    program
}

const VICTIM: [&str; 4] = ["kill::victim", "--exact", "--ignored", "--nocapture"];

#[test]
fn kill_minus_nine_loses_no_acknowledged_record() {
    let folder = tempfile::tempdir().unwrap();
    for count in [1, 7, 40, 23, 2, 90, 5, 61, 12, 33] {
        let mut left = count;
        let said = run(folder.path(), &mut victim_program(), |_| {
            left -= 1;
            left == 0
        });
        let last = last_acknowledged(&said).unwrap();
        let seen = seen(&folder.path().join("audit"), &Trust::default());
        let report = &seen.examined.report;
        assert!(report.signed > last, "record {last} was acknowledged; {report:?}");
        seen.assert_whole(report.first..report.records);
    }
}

#[test]
fn a_full_disk_refuses_records_and_keeps_the_others() {
    let folder = tempfile::tempdir().unwrap();
    // No file above 1 KiB, which is less than a segment: each write beyond it fails.
    let mut program = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 2; exec \"$@\"";
    program
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(VICTIM);
    let mut refused = 0;
    let said = run(folder.path(), &mut program, |word| {
        refused += usize::from(word == REFUSED);
        refused == 20
    });
    let last = last_acknowledged(&said).unwrap();
    assert!(said.iter().filter(|word| *word == REFUSED).count() >= 20);
    let full = seen(&folder.path().join("audit"), &Trust::default());
    assert!(full.examined.report.signed > last);
    full.assert_whole(0..full.examined.report.records);
    // And goes on when there is room.
    let mut left = 30;
    run(folder.path(), &mut victim_program(), |_| {
        left -= 1;
        left == 0
    });
    let after = seen(&folder.path().join("audit"), &Trust::default());
    let report = &after.examined.report;
    assert!(report.signed > last + 30);
    after.assert_whole(report.first..report.records);
}
