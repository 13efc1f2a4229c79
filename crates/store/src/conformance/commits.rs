//! Compare-and-swap, its limits, and its durability.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{key, prefix, put, value};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_CONDITIONS_MAX, COMMIT_OPERATIONS_MAX, KEY_BYTES_MAX};
use crate::{Change, Commit, CommitError, Condition, LeaseId, Outcome, Revision, Store};

/// A commit of as many keys as allowed; one failed condition among its many keeps all of them out.
pub async fn a_commit_happens_as_a_whole_or_not_at_all(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let name = |i: usize| key(format!("/many/{i:03}"));
    let all_absent = (0..COMMIT_OPERATIONS_MAX).fold(Commit::new(), |commit, i| {
        commit.expect(Condition::Absent(name(i))).put(name(i), "1")
    });
    let first = store.commit(all_absent.clone()).await.unwrap().committed().unwrap();
    let listing = store.list_all(&prefix("/many/")).await.unwrap();
    assert_eq!(listing.entries.len(), COMMIT_OPERATIONS_MAX);
    assert!(listing.entries.iter().all(|entry| entry.modified == first));

    put(&store, "/many/050", "2").await;
    let before = store.list_all(&prefix("/")).await.unwrap();
    let swap = (0..COMMIT_OPERATIONS_MAX).fold(Commit::new(), |commit, i| {
        let commit = commit.expect(Condition::ModRevision(name(i), first));
        if i % 2 == 0 {
            commit.delete(name(i))
        } else {
            commit.put(name(i), "3")
        }
    });
    assert_eq!(
        store.commit(swap).await.unwrap(),
        Outcome::Refused(Condition::ModRevision(name(50), first))
    );
    assert_eq!(
        store.commit(all_absent).await.unwrap(),
        Outcome::Refused(Condition::Absent(name(0)))
    );
    assert_eq!(store.list_all(&prefix("/")).await.unwrap(), before);
}

/// Every condition, on a present and on an absent key.
pub async fn each_condition_holds_when_it_says(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let old = put(&store, "/here", "1").await;
    let new = put(&store, "/here", "2").await;
    let lease = store.grant_lease(std::time::Duration::from_secs(60)).await.unwrap().id;
    let ahead = Revision::new(new.number() + 1);
    for (condition, holds) in [
        (Condition::Absent(key("/here")), false),
        (Condition::Absent(key("/gone")), true),
        (Condition::Present(key("/here")), true),
        (Condition::Present(key("/gone")), false),
        (Condition::ModRevision(key("/here"), new), true),
        (Condition::ModRevision(key("/here"), old), false),
        (Condition::ModRevision(key("/here"), ahead), false),
        (Condition::ModRevision(key("/here"), Revision::ZERO), false),
        (Condition::ModRevision(key("/gone"), Revision::ZERO), true),
        (Condition::ModRevision(key("/gone"), new), false),
        (Condition::LeaseLive(lease), true),
    ] {
        let outcome = store
            .commit(Commit::new().expect(condition.clone()).delete(key("/none")))
            .await
            .unwrap();
        let expected = if holds {
            Outcome::Committed(store.revision().await.unwrap())
        } else {
            Outcome::Refused(condition)
        };
        assert_eq!(outcome, expected);
    }
}

/// Created, modified and version of a key through its life; what changes nothing makes no revision.
pub async fn entries_tell_their_history(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let name = key("/life");
    let history = async || {
        let entry = store.get(&name).await.unwrap().unwrap();
        (entry.created, entry.modified, entry.version)
    };
    assert_eq!(store.get(&name).await.unwrap(), None);
    let born = put(&store, "/life", "1").await;
    assert_eq!(history().await, (born, born, 1));
    let changed = put(&store, "/life", "1").await;
    assert_eq!(history().await, (born, changed, 2));
    assert!(changed > born);
    let gone = store
        .commit(Commit::new().delete(name.clone()))
        .await
        .unwrap()
        .committed()
        .unwrap();
    assert!(gone > changed);
    assert_eq!(store.get(&name).await.unwrap(), None);
    let mut watch = store.watch(&prefix("/"), gone).await.unwrap();
    for nothing in [Commit::new(), Commit::new().delete(name.clone())] {
        let told = store.commit(nothing).await.unwrap().committed().unwrap();
        assert!(told >= gone);
        assert_eq!(told, store.revision().await.unwrap());
    }
    let again = put(&store, "/life", "").await;
    assert_eq!(history().await, (again, again, 1));
    assert_eq!(value(&store, "/life").await, Some(Bytes::new()));
    assert_eq!(
        watch.next().await.unwrap().revision,
        again,
        "there was something to see in nothing"
    );
}

/// Tasks that increment one counter, and move it to a twin in the same commit, lose races and no increments.
pub async fn a_racing_writer_never_overwrites_what_it_has_not_read(open: impl AsyncFn() -> Store) {
    const WRITERS: u64 = 8;
    const INCREMENTS: u64 = 25;
    let store = open().await;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut lost = 0;
            for _ in 0..INCREMENTS {
                while !increment(&store).await {
                    lost += 1;
                }
            }
            lost
        });
    }
    let lost: u64 = writers.join_all().await.into_iter().sum();
    assert!(lost > 0, "eight writers never met: this shows nothing");
    for name in ["/counter", "/twin"] {
        let entry = store.get(&key(name)).await.unwrap().unwrap();
        assert_eq!(entry.value, (WRITERS * INCREMENTS).to_string());
        assert_eq!(entry.version, WRITERS * INCREMENTS);
    }
}

/// Whether this attempt won.
async fn increment(store: &Store) -> bool {
    let before = store.get(&key("/counter")).await.unwrap();
    let (count, revision) = match &before {
        Some(entry) => (
            str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap(),
            entry.modified,
        ),
        None => (0, Revision::ZERO),
    };
    let next = (count + 1).to_string();
    let commit = Commit::new()
        .expect(Condition::ModRevision(key("/counter"), revision))
        .expect(Condition::ModRevision(key("/twin"), revision))
        .put(key("/counter"), next.clone())
        .put(key("/twin"), next);
    store.commit(commit).await.unwrap().is_committed()
}

/// The largest commit and value, and everything one step larger.
pub async fn commits_at_the_limits_succeed_and_past_them_are_refused(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let name = key("/large");
    let largest: Bytes = (0..COMMIT_BYTES_MAX - name.as_str().len()).map(|i| i as u8).collect();
    put(&store, "/large", largest.clone()).await;
    assert_eq!(store.get(&name).await.unwrap().unwrap().value, largest);

    let before = store.revision().await.unwrap();
    let mut too_large = largest.to_vec();
    too_large.push(0);
    let refused = store.commit(Commit::new().put(name.clone(), too_large)).await;
    assert!(
        matches!(refused, Err(CommitError::TooLarge { bytes }) if bytes == COMMIT_BYTES_MAX + 1),
        "{refused:?}"
    );

    let many = |count: usize| (0..count).fold(Commit::new(), |commit, i| commit.put(key(format!("/n/{i}")), "x"));
    let refused = store.commit(many(COMMIT_OPERATIONS_MAX + 1)).await;
    assert!(
        matches!(refused, Err(CommitError::TooManyOperations { .. })),
        "{refused:?}"
    );
    let wary = (0..=COMMIT_CONDITIONS_MAX).fold(Commit::new(), |c, _| c.expect(Condition::Present(name.clone())));
    let refused = store.commit(wary).await;
    assert!(
        matches!(refused, Err(CommitError::TooManyConditions { .. })),
        "{refused:?}"
    );
    let leased = Commit::new().put_leased(name.clone(), "x", LeaseId::new(1));
    let leased = (0..COMMIT_CONDITIONS_MAX).fold(leased, |c, _| c.expect(Condition::Present(name.clone())));
    let refused = store.commit(leased).await;
    assert!(
        matches!(refused, Err(CommitError::TooManyConditions { count }) if count == COMMIT_CONDITIONS_MAX + 1),
        "the lease of a put is a condition as well: {refused:?}"
    );
    let refused = store.commit(many(1).delete(key("/n/0"))).await;
    assert!(
        matches!(&refused, Err(CommitError::KeyTwice { key: twice }) if *twice == key("/n/0")),
        "{refused:?}"
    );
    assert_eq!(store.revision().await.unwrap(), before);
    assert!(store.commit(many(COMMIT_OPERATIONS_MAX)).await.unwrap().is_committed());
}

/// As many operations, conditions and bytes as allowed, all at once, with the longest keys: it goes through, and is refused whole.
pub async fn a_commit_at_all_limits_at_once_is_one_commit(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let name = |i: usize| {
        let start = format!("/{i:03}/");
        key(format!("{start}{}", "k".repeat(KEY_BYTES_MAX - start.len())))
    };
    let lease = store.grant_lease(std::time::Duration::from_secs(60)).await.unwrap().id;
    let full = |modified: &dyn Fn(usize) -> Revision| {
        let conditions = (0..COMMIT_CONDITIONS_MAX - 1).fold(Commit::new(), |commit, i| {
            commit.expect(Condition::ModRevision(name(i), modified(i)))
        });
        let keys = conditions.bytes() + COMMIT_OPERATIONS_MAX * KEY_BYTES_MAX;
        let each = (COMMIT_BYTES_MAX - keys) / COMMIT_OPERATIONS_MAX;
        (0..COMMIT_OPERATIONS_MAX).fold(conditions, |commit, i| {
            let spare = if i == 0 {
                (COMMIT_BYTES_MAX - keys) % COMMIT_OPERATIONS_MAX
            } else {
                0
            };
            commit.put_leased(name(i), vec![i as u8; each + spare], lease)
        })
    };
    let commit = full(&|_| Revision::ZERO);
    assert_eq!(commit.bytes(), COMMIT_BYTES_MAX);
    let first = store.commit(commit.clone()).await.unwrap().committed().unwrap();
    assert_eq!(
        store.commit(commit).await.unwrap(),
        Outcome::Refused(Condition::ModRevision(name(0), Revision::ZERO))
    );
    let second = store.commit(full(&|_| first)).await.unwrap().committed().unwrap();
    let entries = store.list_all(&prefix("/")).await.unwrap().entries;
    assert_eq!(entries.len(), COMMIT_OPERATIONS_MAX);
    assert!(
        entries
            .iter()
            .all(|entry| (entry.created, entry.modified, entry.version) == (first, second, 2))
    );
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(
        store.commit(full(&|_| Revision::ZERO)).await.unwrap(),
        Outcome::Refused(Condition::LeaseLive(lease))
    );
}

/// Entries, revision and history after closing and opening again.
pub async fn an_acknowledged_commit_is_there_after_reopening(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let mut puts = Vec::new();
    for i in 0..10 {
        puts.push(put(&store, &format!("/kept/{i}"), format!("{i}")).await);
    }
    let gone = store
        .commit(Commit::new().delete(key("/kept/3")))
        .await
        .unwrap()
        .committed()
        .unwrap();
    let before = store.list_all(&prefix("/")).await.unwrap();
    store.close().await.unwrap();

    let store = open().await;
    let after = store.list_all(&prefix("/")).await.unwrap();
    assert_eq!(after.entries, before.entries);
    assert!(after.revision >= before.revision && before.revision >= gone);
    let mut watch = store.watch(&prefix("/kept/"), puts[8]).await.unwrap();
    assert!(matches!(&watch.next().await.unwrap().changes[..], [Change::Put(entry)] if entry.value == "9"));
    assert_eq!(watch.next().await.unwrap().changes, [Change::Deleted(key("/kept/3"))]);
    assert!(put(&store, "/kept/10", "10").await > gone);
    assert_eq!(watch.next().await.unwrap().changes[0].key(), &key("/kept/10"));
}
