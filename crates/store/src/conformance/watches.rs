//! Watches: nothing missing, nothing twice, and Compacted where that cannot be kept.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::{deleted, key, prefix, put};
use crate::{
    Change, Changes, Commit, Entry, Key, List, ListError, Prefix, Revision, Store, StoreError, Watch, WatchError,
};

const WRITERS: usize = 4;
const COMMITS: usize = 60;

/// Four writers put and delete a few keys of their own and one shared key; the last revision is returned.
async fn write_much(store: &Store) -> Revision {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for i in 0..COMMITS {
                let own = key(format!("/busy/{writer}/{}", i % 5));
                let commit = Commit::new().put(key("/busy/shared"), format!("{writer}.{i}"));
                let commit = if i % 7 == 6 {
                    commit.delete(own)
                } else {
                    commit.put(own, i.to_string())
                };
                let commit = commit.put(key(format!("/quiet/{writer}")), i.to_string());
                assert!(store.commit(commit).await.unwrap().is_committed());
            }
        });
    }
    writers.join_all().await;
    store.revision().await.unwrap()
}

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

    async fn follow(mut self, watch: &mut Watch, until: Revision) -> Replica {
        while self.revisions.last().is_none_or(|last| *last < until) {
            let changes = watch.next().await.unwrap();
            assert_eq!(watch.seen(), changes.revision);
            self.apply(changes);
        }
        self
    }
}

/// Watchers from the beginning, from listings in the midst, one quick and one that starts reading at the end.
pub async fn a_watch_from_an_old_revision_misses_nothing_and_repeats_nothing(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let busy = prefix("/busy/");
    let start = store.revision().await.unwrap().number();
    // Each of these commits changes something below the prefix, so each is one revision.
    let total = Revision::new(start + (WRITERS * COMMITS) as u64);
    let mut slow = store.watch(&busy, Revision::ZERO).await.unwrap();
    let mut quick = store.watch(&busy, Revision::ZERO).await.unwrap();
    let quick = tokio::spawn(async move { Replica::default().follow(&mut quick, total).await });
    let middle = {
        let store = store.clone();
        let busy = busy.clone();
        tokio::spawn(async move {
            let mut first = store.watch(&busy, Revision::ZERO).await.unwrap();
            Replica::default()
                .follow(&mut first, Revision::new(start + (WRITERS * COMMITS) as u64 / 3))
                .await;
            let listing = store.list_all(&busy).await.unwrap();
            let mut watch = store.watch(&busy, listing.revision).await.unwrap();
            Replica::of(listing.entries).follow(&mut watch, total).await
        })
    };
    let end = write_much(&store).await;
    assert_eq!(end, total);

    let slow = Replica::default().follow(&mut slow, end).await;
    let (quick, middle) = (quick.await.unwrap(), middle.await.unwrap());
    let now = Replica::of(store.list_all(&busy).await.unwrap().entries).entries;
    assert_eq!(
        slow.revisions,
        (start + 1..=end.number()).map(Revision::new).collect::<Vec<_>>()
    );
    assert_eq!(quick.revisions, slow.revisions);
    assert!(slow.revisions.ends_with(&middle.revisions));
    for replica in [slow, quick, middle] {
        assert_eq!(replica.entries, now);
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
    put(&store, "/busy/early", "2").await;
    let page = store.list(List::under(&busy).limit(1)).await.unwrap();
    assert_eq!(page.next, None);
    put(&store, "/busy/later", "1").await;
    let page = store.list(List::under(&busy).limit(1)).await.unwrap();
    let end = write_much(&store).await;
    let before = store.list_all(&Prefix::root()).await.unwrap();
    let cut = Revision::new(end.number() - 50);
    store.compact(cut).await.unwrap();

    assert_eq!(
        store.list_all(&Prefix::root()).await.unwrap(),
        before,
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
    for revision in cut.number() + 1..=end.number() {
        assert_eq!(kept.next().await.unwrap().revision, Revision::new(revision));
    }
    let mut told = Vec::new();
    let answer = loop {
        match sleeper.next().await {
            Ok(changes) => told.push(changes.revision.number()),
            Err(answer) => break Some(answer),
        }
        if sleeper.seen() == end {
            break None;
        }
    };
    assert!(
        (start.number() + 1..)
            .zip(&told)
            .all(|(expected, told)| expected == *told),
        "{told:?}"
    );
    assert!(
        answer.is_none() || matches!(answer, Some(WatchError::Compacted { .. })),
        "{answer:?}"
    );
    store.compact(early).await.unwrap();
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
