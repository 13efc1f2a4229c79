//! Watches of etcd: outages, others' changes, and histories that are gone or were never there.

use etcd_client::CompactionOptions;
use fieldfare_etcd_process::{EtcdProcess, Settings, own_address};
use fieldfare_store::{Prefix, Store, StoreError, WatchError};

use super::counting::PATIENCE;
use super::{etcd, open, prefix, put, server};

/// The server says every tenth of a second how far an idle watcher has come; in production it does every ten minutes.
fn talkative() -> Option<EtcdProcess> {
    fieldfare_etcd_process::is_installed("progress of watches").then(|| {
        let arguments = vec!["--experimental-watch-progress-notify-interval=100ms".to_owned()];
        EtcdProcess::with(own_address(), Settings { arguments, tls: None })
    })
}

/// Others write and compact while nothing happens here, and then the server is killed: the watch has kept up.
#[tokio::test]
async fn an_idle_watch_keeps_up_with_a_shared_etcd() {
    let Some(mut server) = talkative() else { return };
    let store = open(&server.url()).await;
    let mut watch = store
        .watch(&prefix("/a/"), store.revision().await.unwrap())
        .await
        .unwrap();
    let mut etcd = etcd(&server.url()).await;
    let mut last = 0;
    for i in 0..100 {
        last = etcd
            .put("/elsewhere", i.to_string(), None)
            .await
            .unwrap()
            .header()
            .unwrap()
            .revision();
    }
    while watch.seen().number() < last as u64 {
        let advanced = tokio::time::timeout(PATIENCE, watch.advance()).await.unwrap().unwrap();
        assert_eq!(advanced, None);
    }
    let physical = CompactionOptions::new().with_physical();
    etcd.compact(last, Some(physical)).await.unwrap();
    server.kill();
    server.start_again();
    let at = put(&store, "/a/1", "1").await;
    let changes = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!(changes.revision, at);
}

/// A watcher that slept, unconnected, through a compaction gets the answer when it is back, and again whenever it asks.
#[tokio::test]
async fn a_watch_that_compaction_overtook_in_an_outage_is_answered() {
    let Some(server) = server() else { return };
    let through = super::proxy::Proxy::start(&server.url()).await;
    let (store, cut_off) = (open(&server.url()).await, open(&through.url()).await);
    let start = put(&store, "/a/1", "1").await;
    let mut watch = cut_off.watch(&prefix("/a/"), start).await.unwrap();
    through.sever();
    put(&store, "/a/1", "2").await;
    let last = put(&store, "/a/1", "3").await;
    store.compact(last).await.unwrap();
    through.mend();
    for _ in 0..2 {
        let answer = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        assert!(
            matches!(answer, Err(WatchError::Compacted { after, compacted }) if (after, compacted) == (start, last)),
            "{answer:?}"
        );
    }
}

/// etcd comes back with less than the watch has seen, as from an old backup: that is said, and not waited out.
#[tokio::test]
async fn a_watch_of_a_store_that_lost_its_history_is_answered() {
    let Some(mut server) = server() else { return };
    let store = open(&server.url()).await;
    for i in 0..50 {
        put(&store, "/a/1", &i.to_string()).await;
    }
    let mut watch = store
        .watch(&prefix("/a/"), store.revision().await.unwrap())
        .await
        .unwrap();
    server.kill();
    std::fs::remove_dir_all(server.data().join("etcd")).unwrap();
    server.start_again();
    for _ in 0..2 {
        let answer = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        assert!(matches!(answer, Err(WatchError::Ahead { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn a_dropped_store_ends_its_watches() {
    let Some(server) = server() else { return };
    let store = open(&server.url()).await;
    let mut watch = store
        .watch(&Prefix::root(), store.revision().await.unwrap())
        .await
        .unwrap();
    let clone: Store = store.clone();
    drop(store);
    let at = put(&clone, "/a", "1").await;
    assert_eq!(watch.next().await.unwrap().revision, at, "a clone keeps the store");
    drop(clone);
    for _ in 0..2 {
        let ended = watch.next().await;
        assert!(matches!(ended, Err(WatchError::Store(StoreError::Closed))), "{ended:?}");
    }
}

/// A reader that does not read holds up nobody, and finds everything when it does.
#[tokio::test]
async fn a_watch_that_nobody_reads_holds_up_nothing() {
    const COMMITS: usize = 40;
    let Some(server) = server() else { return };
    let store = open(&server.url()).await;
    let start = store.revision().await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(store.watch(&prefix("/a/"), start).await.unwrap());
    }
    let large = "x".repeat(1_000_000);
    let mut made = Vec::new();
    for _ in 0..COMMITS {
        made.push(put(&store, "/a/1", &large).await);
    }
    for mut watch in idle {
        for expected in &made {
            assert_eq!(watch.next().await.unwrap().revision, *expected);
        }
    }
}
