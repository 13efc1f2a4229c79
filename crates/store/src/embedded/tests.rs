//! What only small bounds show: compaction by itself, and watchers slower than it.

use super::{Embedded, History};
use crate::limits::{COMPACT_ROWS_PER_STEP, WATCH_BUFFER_REVISIONS};
use crate::{Commit, Key, Prefix, Revision, Store, WatchError};

async fn open(folder: &tempfile::TempDir, revisions: u64, bytes: u64) -> Store {
    let path = folder.path().join("state.redb");
    Store::Embedded(
        Embedded::open_keeping(path, History { revisions, bytes })
            .await
            .unwrap(),
    )
}

fn key(text: impl AsRef<str>) -> Key {
    Key::new(text).unwrap()
}

async fn put(store: &Store, name: &str, value: Vec<u8>) -> Revision {
    store
        .commit(Commit::new().put(key(name), value))
        .await
        .unwrap()
        .committed()
        .unwrap()
}

/// The oldest revision that can still be watched after.
async fn oldest(store: &Store) -> Revision {
    match store.watch(&Prefix::root(), Revision::ZERO).await {
        Err(WatchError::Compacted { compacted, .. }) => compacted,
        other => panic!("nothing is compacted: {other:?}"),
    }
}

#[tokio::test]
async fn history_is_kept_for_so_many_revisions_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 20, u64::MAX).await;
    put(&store, "/old", vec![7]).await;
    for i in 0..50_u8 {
        put(&store, "/new", vec![i]).await;
        let watch = store.watch(&Prefix::root(), Revision::ZERO).await;
        assert_eq!(watch.is_ok(), i < 19, "after {i}: {watch:?}");
    }
    assert_eq!(oldest(&store).await, Revision::new(31));
    assert_eq!(
        store.get(&key("/old")).await.unwrap().unwrap().value,
        vec![7],
        "an old current entry went with history"
    );
}

#[tokio::test]
async fn history_is_kept_for_so_many_bytes_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, u64::MAX, 100_000).await;
    for _ in 0..30 {
        put(&store, "/large", vec![1; 10_000]).await;
    }
    assert_eq!(
        oldest(&store).await,
        Revision::new(21),
        "nine revisions of somewhat more than 10,000 bytes fit"
    );
    let file = std::fs::metadata(folder.path().join("state.redb")).unwrap().len();
    store.close().await.unwrap();
    let store = open(&folder, u64::MAX, 100_000).await;
    for _ in 0..300 {
        put(&store, "/large", vec![2; 10_000]).await;
    }
    let later = std::fs::metadata(folder.path().join("state.redb")).unwrap().len();
    assert!(
        later <= file * 2,
        "{file} bytes grew to {later} though history is bounded"
    );
}

#[tokio::test]
async fn a_watcher_slower_than_compaction_gets_compacted_and_not_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 10, u64::MAX).await;
    let mut watch = store.watch(&Prefix::root(), Revision::ZERO).await.unwrap();
    put(&store, "/a", vec![0]).await;
    assert_eq!(watch.next().await.unwrap().revision, Revision::new(1));
    for _ in 0..WATCH_BUFFER_REVISIONS + 12 {
        put(&store, "/a", vec![0]).await;
    }
    for _ in 0..2 {
        let answer = watch.next().await;
        assert!(
            matches!(answer, Err(WatchError::Compacted { after, .. }) if after == Revision::new(1)),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_watcher_that_lags_behind_the_buffer_reads_the_rest_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, u64::MAX, u64::MAX).await;
    let prefix = Prefix::new("/mine/").unwrap();
    let mut watch = store.watch(&prefix, Revision::ZERO).await.unwrap();
    let mut mine = Vec::new();
    for i in 0..3 * WATCH_BUFFER_REVISIONS {
        let name = if i % 3 == 0 { "/mine/a" } else { "/others/a" };
        let revision = put(&store, name, vec![0]).await;
        mine.extend((i % 3 == 0).then_some(revision));
    }
    for expected in mine {
        assert_eq!(watch.next().await.unwrap().revision, expected);
    }
}

/// More history than one step walks: later commits wait for one step only, and the asker for all of them.
#[tokio::test]
async fn a_long_compaction_goes_on_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, u64::MAX, u64::MAX).await;
    let rows = 100;
    let mut last = Revision::ZERO;
    for round in 0..(2 * COMPACT_ROWS_PER_STEP / rows + 5) {
        let commit = (0..rows).fold(Commit::new(), |commit, i| {
            let key = key(format!("/k/{i}"));
            if round % 5 == 4 {
                commit.delete(key)
            } else {
                commit.put(key, vec![round as u8])
            }
        });
        last = store.commit(commit).await.unwrap().committed().unwrap();
    }
    let before = store.list_all(&Prefix::root()).await.unwrap();
    let (compacted, committed) = tokio::join!(store.compact(last), store.commit(Commit::new().put(key("/other"), "x")));
    compacted.unwrap();
    assert!(committed.unwrap().is_committed());
    assert_eq!(oldest(&store).await, last);
    assert_eq!(
        store.list_all(&Prefix::new("/k/").unwrap()).await.unwrap().entries,
        before.entries
    );
}
