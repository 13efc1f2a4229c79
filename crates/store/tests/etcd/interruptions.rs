//! Servers that die, freeze, or whose answers get lost in the middle of commits: every outcome is learnt.

use fieldfare_etcd_process::{EtcdProcess, Settings, own_address};
use fieldfare_store::{Commit, CommitError, Condition, Outcome, Store};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::counting::{Counting, follow, watch_log};
use super::proxy::{Proxy, Way};
use super::{key, open, server};

const KILLS: u64 = 5;
const FREEZES: u64 = 3;
const LOSSES: u64 = 150;
const LATE: u64 = 3;

/// Handles of one store, each with connections of its own.
async fn handles(url: &str, count: usize) -> Vec<Store> {
    let mut handles = Vec::new();
    for _ in 0..count {
        handles.push(open(url).await);
    }
    handles
}

/// `kill -9` of etcd while commits are under way: each commit's answer says what is there after the restart, and watchers
/// miss and repeat nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_no_commit_unknown_and_no_watcher_behind() {
    let Some(mut server) = server() else { return };
    let url = server.url();
    let store = open(&url).await;
    let mut watch = watch_log(&store).await;
    let counting = Counting::start(handles(&url, 4).await);
    for kill in 1..=KILLS {
        counting.more(7 * kill).await;
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server.start_again();
            server
        })
        .await
        .unwrap();
    }
    counting.more(20).await;
    let acknowledged = counting.count();
    let lost = counting.finish(&store).await;
    println!("{acknowledged} increments, {lost} lost races, {KILLS} kills");
    assert!(lost > 0, "no race was lost: this shows less than it says");
    follow(&mut watch, acknowledged).await;
}

/// A server that hangs for longer than a call may take, with all its requests in its hands: when it goes on, it does
/// everything that it was asked, repetitions among it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_does_no_commit_twice() {
    let Some(server) = server() else { return };
    let url = server.url();
    let store = open(&url).await;
    let mut watch = watch_log(&store).await;
    let counting = Counting::start(handles(&url, 4).await);
    for freeze in 1..=FREEZES {
        counting.more(10 * freeze).await;
        server.freeze();
        // Each writer's first attempt has been given up when this read has been given up twice.
        let asked = std::time::Instant::now();
        while asked.elapsed() < 2 * fieldfare_store::limits::ETCD_CALL_TIMEOUT + std::time::Duration::from_millis(300) {
            let _ = tokio::time::timeout(fieldfare_store::limits::ETCD_CALL_TIMEOUT, store.revision()).await;
        }
        server.thaw();
    }
    counting.more(20).await;
    let acknowledged = counting.count();
    counting.finish(&store).await;
    follow(&mut watch, acknowledged).await;
}

/// Connections that break while a request or its answer is on the way, one for each commit and more.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_learnt_and_a_lost_request_is_made_again() {
    let Some(server) = server() else { return };
    let seed = 4;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let store = open(&server.url()).await;
    let (proxy, other) = (Proxy::start(&server.url()).await, Proxy::start(&server.url()).await);
    let watching = open(&proxy.url()).await;
    let mut watch = watch_log(&watching).await;
    let counting = Counting::start(vec![open(&proxy.url()).await, open(&other.url()).await]);
    let mut cut = 0;
    for _ in 0..LOSSES {
        for proxy in [&proxy, &other] {
            if proxy.has_lost() {
                let way = if random.next_u32().is_multiple_of(2) {
                    Way::ToServer
                } else {
                    Way::ToClient
                };
                proxy.lose(way, random.next_u32() % 12);
                cut += 1;
            }
        }
        counting.more(1).await;
    }
    let acknowledged = counting.count();
    let lost = counting.finish(&store).await;
    println!("{acknowledged} increments, {lost} lost races, {cut} cut connections");
    assert!(cut > LOSSES / 3, "{cut} cuts are too few to show anything");
    follow(&mut watch, acknowledged).await;
}

/// A request is given up by its sender and reaches the server much later, when a repetition has been refused by another way and
/// its condition holds again: refused is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_late_does_not_undo_its_refusal() {
    let Some(server) = server() else { return };
    let other = open(&server.url()).await;
    let name = key("/late");
    let (mut shown, mut round) = (0, 0);
    while shown < LATE {
        round += 1;
        assert!(round < 20 * LATE, "{shown} requests were caught in {round} rounds");
        let (slow, quick) = (Proxy::start(&server.url()).await, Proxy::start(&server.url()).await);
        let store = open(&format!("{},{}", slow.url(), quick.url())).await;
        // Both ways have connections, and there is a mark to use again.
        for i in 0..20 {
            super::put(&store, "/warm", &i.to_string()).await;
        }
        slow.catch();
        let commit = Commit::new()
            .expect(Condition::Absent(name.clone()))
            .put(name.clone(), round.to_string());
        let committing = tokio::spawn(async move { store.commit(commit).await.unwrap() });
        let caught = tokio::time::timeout(std::time::Duration::from_millis(600), slow.caught()).await;
        let others = super::put(&other, "/late", "other").await;
        let refused = match committing.await.unwrap() {
            Outcome::Refused(condition) => condition == Condition::Absent(name.clone()),
            // It went the quick way at once, and at most the connection's own words were caught.
            Outcome::Committed(at) => {
                assert!(at < others);
                false
            }
        };
        let gone = other.commit(Commit::new().delete(name.clone())).await.unwrap();
        assert!(gone.is_committed());
        if refused && caught.is_ok() {
            slow.release().await;
            // Whatever the server did with it was done before this.
            other.revision().await.unwrap();
            assert_eq!(
                other.get(&name).await.unwrap(),
                None,
                "round {round}: what was refused happened"
            );
            shown += 1;
        }
    }
}

/// etcd that is full says so at once, and its reader goes on.
#[tokio::test]
async fn a_full_etcd_refuses_writes_with_the_reason_and_serves_reads() {
    if !fieldfare_etcd_process::is_installed("a full etcd") {
        return;
    }
    let arguments = vec!["--quota-backend-bytes=8000000".to_owned()];
    let server = EtcdProcess::with(own_address(), Settings { arguments, tls: None });
    let store = open(&server.url()).await;
    let large = "x".repeat(1_000_000);
    let mut written = 0;
    let refused = loop {
        let asked = tokio::time::Instant::now();
        match store.commit(Commit::new().put(key("/large"), large.clone())).await {
            Ok(_) => written += 1,
            Err(error) => break (error, asked.elapsed()),
        }
    };
    let (error, after) = refused;
    assert!(
        super::chain(&error).contains("database space exceeded"),
        "{}",
        super::chain(&error)
    );
    assert!(
        after < fieldfare_store::limits::ETCD_ANSWER_BUDGET,
        "it asked again and again: said after {after:?}"
    );
    let entry = store.get(&key("/large")).await.unwrap().unwrap();
    assert_eq!(entry.version, written);
}

/// A cluster of which no server is left: the commit ends in time, and says that it does not know.
#[tokio::test]
async fn a_commit_without_any_answer_says_that_its_outcome_is_unknown() {
    let Some(mut server) = server() else { return };
    let store = open(&server.url()).await;
    super::put(&store, "/a", "1").await;
    server.kill();
    let asked = tokio::time::Instant::now();
    let outcome = store.commit(Commit::new().put(key("/a"), "2")).await;
    assert!(matches!(outcome, Err(CommitError::Store(_))), "{outcome:?}");
    let budget = fieldfare_store::limits::ETCD_ANSWER_BUDGET;
    assert!(asked.elapsed() < budget + fieldfare_store::limits::ETCD_CALL_TIMEOUT);
    assert!(asked.elapsed() > budget / 2, "given up after {:?}", asked.elapsed());
    server.start_again();
    let value = store.get(&key("/a")).await.unwrap().unwrap().value;
    assert!(value == "1" || value == "2");
    super::put(&store, "/a", "3").await;
}

/// Where several servers are named and one is gone, the others serve.
#[tokio::test]
async fn a_dead_server_among_the_named_ones_stops_nothing() {
    let Some(server) = server() else { return };
    let gone = EtcdProcess::start().url();
    let store = open(&format!("{gone},{}", server.url())).await;
    for i in 0..20 {
        super::put(&store, "/a", &i.to_string()).await;
    }
    assert_eq!(store.get(&key("/a")).await.unwrap().unwrap().version, 20);
    let mut watch = store
        .watch(&super::prefix("/"), store.revision().await.unwrap())
        .await
        .unwrap();
    let last = super::put(&store, "/a", "last").await;
    assert_eq!(watch.next().await.unwrap().revision, last);
}
