//! Watches: nothing missing, nothing twice, and Compacted where that cannot be kept.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::{deleted, key, prefix, put};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_OPERATIONS_MAX};
use crate::{
    Change, Changes, Commit, Entry, Key, List, ListError, Prefix, Revision, Store, StoreError, Watch, WatchError,
};

const WRITERS: usize = 4;
const COMMITS: usize = 60;

/// Four writers put and delete a few keys of their own and one shared key. The revisions that they made, in order: each changed
/// something below `/busy/`.
async fn write_much(store: &Store) -> Vec<Revision> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut made = Vec::new();
            for i in 0..COMMITS {
                let own = key(format!("/busy/{writer}/{}", i % 5));
                let commit = Commit::new().put(key("/busy/shared"), format!("{writer}.{i}"));
                let commit = if i % 7 == 6 {
                    commit.delete(own)
                } else {
                    commit.put(own, i.to_string())
                };
                let commit = commit.put(key(format!("/quiet/{writer}")), i.to_string());
                made.push(store.commit(commit).await.unwrap().committed().unwrap());
            }
            made
        });
    }
    let mut made = writers.join_all().await.concat();
    made.sort();
    assert_eq!(store.revision().await.unwrap(), made[made.len() - 1]);
    made
}

/// The key whose put tells followers to stop.
const STOP: &str = "/busy/stop";

/// What a watcher knows: the entries that its changes leave, checked step by step.
#[derive(Default)]
struct Replica {
    entries: BTreeMap<Key, Entry>,
    revisions: Vec<Revision>,
}

impl Replica {
    fn of(entries: Vec<Entry>) -> Replica {
        let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        Replica {
            entries,
            revisions: Vec::new(),
        }
    }

    /// A missing change shows as a version that jumps, a repeated one as a revision that does not grow.
    fn apply(&mut self, changes: Changes) {
        assert!(
            self.revisions.last().is_none_or(|last| *last < changes.revision),
            "{} again",
            changes.revision
        );
        assert!(!changes.changes.is_empty());
        self.revisions.push(changes.revision);
        for change in changes.changes {
            match change {
                Change::Put(entry) => {
                    assert_eq!(entry.modified, changes.revision);
                    let before = self.entries.get(&entry.key).map_or(0, |before| before.version);
                    assert_eq!(entry.version, before + 1, "{} at {}", entry.key, changes.revision);
                    self.entries.insert(entry.key.clone(), entry);
                }
                Change::Deleted(key) => assert!(self.entries.remove(&key).is_some(), "{key} was not there"),
            }
        }
    }

    /// Until so many revisions were told.
    async fn follow_some(mut self, watch: &mut Watch, revisions: usize) -> Replica {
        while self.revisions.len() < revisions {
            let changes = watch.next().await.unwrap();
            assert_eq!(watch.seen(), changes.revision);
            self.apply(changes);
        }
        self
    }

    async fn follow(mut self, watch: &mut Watch) -> Replica {
        while !self.entries.contains_key(&key(STOP)) {
            let revisions = self.revisions.len() + 1;
            self = self.follow_some(watch, revisions).await;
        }
        self
    }
}

/// Watchers from the beginning, from listings in the midst, one quick and one that starts reading at the end.
pub async fn a_watch_from_an_old_revision_misses_nothing_and_repeats_nothing(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let busy = prefix("/busy/");
    let mut slow = store.watch(&busy, Revision::ZERO).await.unwrap();
    let mut quick = store.watch(&busy, Revision::ZERO).await.unwrap();
    let quick = tokio::spawn(async move { Replica::default().follow(&mut quick).await });
    let middle = {
        let store = store.clone();
        let busy = busy.clone();
        tokio::spawn(async move {
            let mut first = store.watch(&busy, Revision::ZERO).await.unwrap();
            Replica::default().follow_some(&mut first, WRITERS * COMMITS / 3).await;
            let listing = store.list_all(&busy).await.unwrap();
            let mut watch = store.watch(&busy, listing.revision).await.unwrap();
            Replica::of(listing.entries).follow(&mut watch).await
        })
    };
    let mut made = write_much(&store).await;
    made.push(put(&store, STOP, "1").await);

    let slow = Replica::default().follow(&mut slow).await;
    let (quick, middle) = (quick.await.unwrap(), middle.await.unwrap());
    let mut late = store.watch(&busy, made[made.len() / 2]).await.unwrap();
    for expected in &made[made.len() / 2 + 1..] {
        assert_eq!(late.next().await.unwrap().revision, *expected);
    }
    let now = Replica::of(store.list_all(&busy).await.unwrap().entries).entries;
    assert_eq!(slow.revisions, made);
    assert_eq!(quick.revisions, made);
    assert!(made.ends_with(&middle.revisions));
    for replica in [slow, quick, middle] {
        assert_eq!(replica.entries, now);
    }
}

/// A watch of a quiet prefix moves on with the store, so that compaction does not overtake it.
pub async fn a_watch_sees_past_changes_elsewhere(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let start = put(&store, "/quiet/a", "1").await;
    let mut watch = store.watch(&prefix("/quiet/"), start).await.unwrap();
    let made = write_much(&store).await;
    let last = put(&store, "/elsewhere", "1").await;
    assert!(last > made[made.len() - 1]);
    while watch.seen() < last {
        if let Some(changes) = watch.advance().await.unwrap() {
            assert!(
                changes
                    .changes
                    .iter()
                    .all(|change| change.key().is_under(&prefix("/quiet/")))
            );
            assert_eq!(watch.seen(), changes.revision);
        }
    }
    store.compact(last).await.unwrap();
    let mut again = store.watch(&prefix("/quiet/"), watch.seen()).await.unwrap();
    let loud = put(&store, "/quiet/a", "2").await;
    for watch in [&mut watch, &mut again] {
        assert_eq!(watch.next().await.unwrap().revision, loud);
    }
}

/// More than one answer of any server holds: revisions as large as they get, and one of many keys.
pub async fn a_watch_tells_the_largest_revisions_whole(open: impl AsyncFn() -> Store) {
    const LARGE: usize = 8;
    let store = open().await;
    let start = store.revision().await.unwrap();
    let mut live = store.watch(&prefix("/large/"), start).await.unwrap();
    let share = COMMIT_BYTES_MAX / COMMIT_OPERATIONS_MAX - 32;
    let mut made = Vec::new();
    for round in 0..LARGE {
        let commit = (0..COMMIT_OPERATIONS_MAX).fold(Commit::new(), |commit, i| {
            commit.put(key(format!("/large/{i:03}")), vec![round as u8; share])
        });
        made.push(store.commit(commit).await.unwrap().committed().unwrap());
    }
    let mut late = store.watch(&prefix("/large/"), start).await.unwrap();
    for watch in [&mut live, &mut late] {
        for (round, revision) in made.iter().enumerate() {
            let changes = watch.next().await.unwrap();
            assert_eq!(
                (changes.revision, changes.changes.len()),
                (*revision, COMMIT_OPERATIONS_MAX)
            );
            let is_whole =
                |change: &Change| matches!(change, Change::Put(entry) if entry.value == vec![round as u8; share]);
            assert!(changes.changes.iter().all(is_whole));
        }
    }
}

/// The changes of one commit arrive together, without those of other prefixes and without unrelated commits.
pub async fn a_watch_tells_whole_revisions_below_its_prefix_only(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let start = put(&store, "/a/0", "old").await;
    let mut live = store.watch(&prefix("/a/"), start).await.unwrap();
    put(&store, "/b/0", "x").await;
    put(&store, "/a-b/0", "x").await;
    let commit = Commit::new()
        .put(key("/a/1"), "1")
        .put(key("/b/1"), "x")
        .delete(key("/a/0"))
        .put(key("/a/2"), "2");
    let both = store.commit(commit).await.unwrap().committed().unwrap();
    put(&store, "/b/2", "x").await;
    let last = store
        .commit(Commit::new().delete(key("/a/1")).delete(key("/a/9")))
        .await
        .unwrap()
        .committed()
        .unwrap();

    let mut late = store.watch(&prefix("/a/"), start).await.unwrap();
    for watch in [&mut live, &mut late] {
        let mut changes = watch.next().await.unwrap();
        assert_eq!(changes.revision, both);
        changes.changes.sort_by(|a, b| a.key().cmp(b.key()));
        let names: Vec<_> = changes.changes.iter().map(|change| change.key().as_str()).collect();
        assert_eq!(names, ["/a/0", "/a/1", "/a/2"]);
        assert_eq!(deleted(&changes.changes[..1]), ["/a/0"]);
        let changes = watch.next().await.unwrap();
        assert_eq!((changes.revision, deleted(&changes.changes)), (last, vec!["/a/1"]));
        assert_eq!(watch.seen(), last);
    }
}

/// A wait that is dropped half-way, again and again, takes nothing with it.
pub async fn a_cancelled_wait_loses_nothing(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let busy = prefix("/busy/");
    let mut watch = store.watch(&busy, Revision::ZERO).await.unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { write_much(&store).await }
    });
    let (mut replica, mut cancelled) = (Replica::default(), 0_u32);
    while replica.revisions.len() < WRITERS * COMMITS {
        tokio::select! {
            biased;
            changes = watch.next() => replica.apply(changes.unwrap()),
            () = tokio::task::yield_now() => cancelled += 1,
        }
    }
    writing.await.unwrap();
    assert!(cancelled > 0, "no wait was cancelled: this shows nothing");
    assert_eq!(
        replica.entries,
        Replica::of(store.list_all(&busy).await.unwrap().entries).entries
    );
}

/// A revision from another store's future must not silently swallow this one's changes.
pub async fn a_watch_ahead_of_the_store_is_refused(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let current = put(&store, "/a", "1").await;
    let ahead = Revision::new(current.number() + 1);
    let refused = store.watch(&Prefix::root(), ahead).await;
    assert!(
        matches!(refused, Err(WatchError::Ahead { after, .. }) if after == ahead),
        "{refused:?}"
    );
    assert!(store.compact(ahead).await.is_err());
    let mut watch = store.watch(&Prefix::root(), current).await.unwrap();
    put(&store, "/b", "1").await;
    assert_eq!(watch.next().await.unwrap().changes[0].key(), &key("/b"));
}

/// Compaction under a running listing and under watchers: they get everything or the answer, never a gap.
pub async fn compaction_answers_compacted_and_never_skips(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let busy = prefix("/busy/");
    let start = store.revision().await.unwrap();
    let mut sleeper = store.watch(&busy, start).await.unwrap();
    let early = put(&store, "/busy/early", "1").await;
    let again = put(&store, "/busy/early", "2").await;
    let page = store.list(List::under(&busy).limit(1)).await.unwrap();
    assert_eq!(page.next, None);
    let later = put(&store, "/busy/later", "1").await;
    let page = store.list(List::under(&busy).limit(1)).await.unwrap();
    let made = write_much(&store).await;
    let before = store.list_all(&Prefix::root()).await.unwrap();
    let cut = made[made.len() - 50];
    store.compact(cut).await.unwrap();

    assert_eq!(
        store.list_all(&Prefix::root()).await.unwrap().entries,
        before.entries,
        "current entries stay"
    );
    for after in [Revision::ZERO, early, Revision::new(cut.number() - 1)] {
        let refused = store.watch(&busy, after).await;
        assert!(
            matches!(refused, Err(WatchError::Compacted { .. })),
            "after {after}: {refused:?}"
        );
    }
    let gone = store.list(List::under(&busy).after(page.next.unwrap())).await;
    assert!(matches!(gone, Err(ListError::Compacted { .. })), "{gone:?}");
    let mut kept = store.watch(&busy, cut).await.unwrap();
    for revision in &made[made.len() - 49..] {
        assert_eq!(kept.next().await.unwrap().revision, *revision);
    }
    let all = [vec![early, again, later], made].concat();
    let mut told = Vec::new();
    let answer = loop {
        match sleeper.next().await {
            Ok(changes) => told.push(changes.revision),
            Err(answer) => break Some(answer),
        }
        if told.len() == all.len() {
            break None;
        }
    };
    assert!(all.starts_with(&told), "{told:?}");
    assert!(
        answer.is_none() || matches!(answer, Some(WatchError::Compacted { .. })),
        "{answer:?}"
    );
    store.compact(early).await.unwrap();
}

/// History that ends in a deletion: a watch that would have to tell it gets the answer, and not silence.
pub async fn a_compacted_deletion_is_answered_and_not_left_out(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let doomed = prefix("/doomed/");
    let born = put(&store, "/doomed/a", "1").await;
    let gone = store
        .commit(Commit::new().delete(key("/doomed/a")))
        .await
        .unwrap()
        .committed()
        .unwrap();
    store.compact(gone).await.unwrap();
    let refused = store.watch(&doomed, born).await;
    assert!(
        matches!(refused, Err(WatchError::Compacted { after, compacted }) if after == born && compacted == gone),
        "{refused:?}"
    );
    let mut watch = store.watch(&doomed, gone).await.unwrap();
    let again = put(&store, "/doomed/a", "2").await;
    assert_eq!(watch.next().await.unwrap().revision, again);
}

/// Closing one clone closes all, and wakes a watch that waits.
pub async fn a_closed_store_ends_its_clones_and_watches(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let after = put(&store, "/a", "1").await;
    let mut watch = store.watch(&Prefix::root(), after).await.unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    let clone = store.clone();
    store.close().await.unwrap();
    assert!(matches!(
        waiting.await.unwrap(),
        Err(WatchError::Store(StoreError::Closed))
    ));
    assert!(matches!(clone.get(&key("/a")).await, Err(StoreError::Closed)));
    assert!(clone.commit(Commit::new().put(key("/a"), "2")).await.is_err());
    assert!(matches!(
        clone.watch(&Prefix::root(), after).await,
        Err(WatchError::Store(StoreError::Closed))
    ));
    assert_eq!(super::value(&open().await, "/a").await.unwrap(), "1");
}
