//! `kill -9` in the midst of commits: what was acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use fieldfare_store::{Commit, Condition, Prefix, Revision, Store};

use super::key;

/// Says on standard output that a commit was acknowledged.
const ACKNOWLEDGED: &str = "acknowledged ";

/// The victim, run by the test below with the file's path as its standard input; alone it does nothing.
#[tokio::test]
#[ignore = "the child process of kill_minus_nine_loses_no_acknowledged_commit"]
async fn victim() {
    let mut path = String::new();
    std::io::stdin().lock().read_line(&mut path).unwrap();
    if path.trim().is_empty() {
        return;
    }
    let store = Store::open_file(path.trim()).await.unwrap();
    let counter = store.get(&key("/counter")).await.unwrap();
    let mut at = counter.as_ref().map_or(Revision::ZERO, |entry| entry.modified);
    let start: u64 = counter.map_or(0, |entry| str::from_utf8(&entry.value).unwrap().parse().unwrap());
    for i in start + 1.. {
        let commit = Commit::new()
            .expect(Condition::ModRevision(key("/counter"), at))
            .put(key("/counter"), i.to_string())
            .put(key(format!("/k/{i:06}")), format!("{i}").repeat(100));
        at = store.commit(commit).await.unwrap().committed().unwrap();
        println!("{ACKNOWLEDGED}{i}");
        std::io::stdout().flush().unwrap();
    }
}

/// Lets a child write to the file until it has acknowledged `count` commits, kills it, and tells the last one that it
/// acknowledged before it died.
fn kill_after(path: &str, count: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::victim", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{path}").unwrap();
    let mut last = None;
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The first line starts with the test harness's own words.
        if let Some((_, number)) = line.unwrap().split_once(ACKNOWLEDGED) {
            last = Some(number.parse().unwrap());
            seen += 1;
            if seen == count {
                child.kill().unwrap();
            }
        }
    }
    assert!(!child.wait().unwrap().success(), "the child ended by itself");
    last.unwrap()
}

#[tokio::test]
async fn kill_minus_nine_loses_no_acknowledged_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut known = 0;
    for count in [1, 7, 40, 23] {
        let child_path = path.to_str().unwrap().to_owned();
        let last = tokio::task::spawn_blocking(move || kill_after(&child_path, count))
            .await
            .unwrap();
        assert!(last >= known + count as u64);
        let store = Store::open_file(&path).await.unwrap();
        let listing = store.list_all(&Prefix::new("/k/").unwrap()).await.unwrap();
        let there = listing.entries.len() as u64;
        assert!(there >= last, "{last} acknowledged, {there} there");
        for (i, entry) in (1..).zip(&listing.entries) {
            assert_eq!(
                (entry.key.clone(), entry.value.clone()),
                (key(format!("/k/{i:06}")), format!("{i}").repeat(100).into())
            );
        }
        let counter = store.get(&key("/counter")).await.unwrap().unwrap();
        assert_eq!(counter.value, there.to_string(), "a commit was torn apart");
        assert_eq!(listing.revision.number(), there, "an aborted revision was counted");
        known = there;
        store.close().await.unwrap();
    }
}
