//! Leases: conditions on them, their keys, their end.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{deleted, key, prefix, value};
use crate::limits::{COMMIT_OPERATIONS_MAX, LEASE_TTL_MAX};
use crate::{Commit, Condition, LeaseError, LeaseId, Outcome, Revision, Store};

const LONG: Duration = Duration::from_secs(600);

/// The fencing of work: once the lease has ended, nothing written in its name gets in.
pub async fn a_commit_conditioned_on_a_dead_lease_is_refused(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let lease = store.grant_lease(LONG).await.unwrap();
    let other = store.grant_lease(LONG).await.unwrap();
    assert_ne!(lease.id, other.id);
    assert!(lease.ttl >= LONG);
    let fenced = Commit::new()
        .expect(Condition::LeaseLive(lease.id))
        .put(key("/work"), "mine");
    let leased = Commit::new()
        .put_leased(key("/holder"), "me", lease.id)
        .put(key("/beside"), "me");
    assert!(store.commit(fenced.clone()).await.unwrap().is_committed());
    assert!(store.commit(leased.clone()).await.unwrap().is_committed());

    store.revoke_lease(lease.id).await.unwrap();
    let before = store.list_all(&prefix("/")).await.unwrap();
    let refused = Outcome::Refused(Condition::LeaseLive(lease.id));
    assert_eq!(store.commit(fenced).await.unwrap(), refused);
    assert_eq!(store.commit(leased).await.unwrap(), refused);
    assert_eq!(store.list_all(&prefix("/")).await.unwrap(), before);
    assert_eq!(value(&store, "/holder").await, None);
    assert_eq!(value(&store, "/beside").await.unwrap(), "me");

    for dead in [lease.id, LeaseId::new(i64::MAX as u64)] {
        assert!(matches!(store.keep_alive(dead).await, Err(LeaseError::NotLive(id)) if id == dead));
        assert!(matches!(store.revoke_lease(dead).await, Err(LeaseError::NotLive(id)) if id == dead));
    }
    for bad in [
        Duration::ZERO,
        Duration::from_millis(999),
        LEASE_TTL_MAX + Duration::from_nanos(1),
    ] {
        assert!(matches!(store.grant_lease(bad).await, Err(LeaseError::TtlOutOfRange { asked }) if asked == bad));
    }
    store.keep_alive(other.id).await.unwrap();
}

/// A key belongs to the lease of its newest put only.
pub async fn a_key_leaves_its_lease_when_it_is_put_without(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let (old, new) = (
        store.grant_lease(LONG).await.unwrap().id,
        store.grant_lease(LONG).await.unwrap().id,
    );
    let mut commit = Commit::new();
    for name in ["/stays", "/freed", "/moved", "/deleted", "/reborn"] {
        commit = commit.put_leased(key(name), "1", old);
    }
    let first = store.commit(commit).await.unwrap().committed().unwrap();
    let change = Commit::new()
        .put(key("/freed"), "2")
        .put_leased(key("/moved"), "2", new)
        .delete(key("/deleted"))
        .delete(key("/reborn"));
    assert!(store.commit(change).await.unwrap().is_committed());
    assert!(
        store
            .commit(Commit::new().put(key("/reborn"), "2"))
            .await
            .unwrap()
            .is_committed()
    );
    assert_eq!(store.get(&key("/stays")).await.unwrap().unwrap().lease, Some(old));
    assert_eq!(store.get(&key("/freed")).await.unwrap().unwrap().lease, None);
    assert_eq!(store.get(&key("/moved")).await.unwrap().unwrap().lease, Some(new));

    let before = store.revision().await.unwrap();
    assert!(before > first);
    let mut watch = store.watch(&prefix("/"), before).await.unwrap();
    store.revoke_lease(old).await.unwrap();
    assert_eq!(deleted(&watch.next().await.unwrap().changes), ["/stays"]);
    store.revoke_lease(new).await.unwrap();
    assert_eq!(deleted(&watch.next().await.unwrap().changes), ["/moved"]);
    assert_eq!(value(&store, "/freed").await.unwrap(), "2");
    assert_eq!(value(&store, "/reborn").await.unwrap(), "2");
}

/// Expiry after the time to live, not before; a lease kept alive outlives it; more keys than one commit could delete.
pub async fn an_expired_lease_deletes_its_keys_and_tells_watchers(open: impl AsyncFn() -> Store) {
    const KEYS: usize = 2 * COMMIT_OPERATIONS_MAX + 50;
    let store = open().await;
    let started = Instant::now();
    let short = store.grant_lease(Duration::from_millis(2_500)).await.unwrap();
    let kept = store.grant_lease(Duration::from_secs(3)).await.unwrap();
    assert!(
        short.ttl >= Duration::from_secs(3),
        "a time to live is rounded up to whole seconds"
    );
    let names: Vec<_> = (0..KEYS).map(|i| format!("/short/{i:03}")).collect();
    for names in names.chunks(COMMIT_OPERATIONS_MAX) {
        let puts = names.iter().fold(Commit::new(), |commit, name| {
            commit.put_leased(key(name), "1", short.id)
        });
        assert!(store.commit(puts).await.unwrap().is_committed());
    }
    let commit = Commit::new()
        .put_leased(key("/kept"), "1", kept.id)
        .put(key("/free"), "1");
    let before = store.commit(commit).await.unwrap().committed().unwrap();

    let mut watch = store.watch(&prefix("/"), before).await.unwrap();
    let mut expired = Vec::new();
    while expired.len() < KEYS {
        tokio::select! {
            changes = watch.next() => expired.extend(deleted(&changes.unwrap().changes).into_iter().map(str::to_owned)),
            () = sleep(kept.ttl / 4) => store.keep_alive(kept.id).await.unwrap(),
        }
    }
    assert!(started.elapsed() >= short.ttl, "expired after {:?}", started.elapsed());
    expired.sort();
    assert_eq!(expired, names);
    let fenced = store.commit(
        Commit::new()
            .expect(Condition::LeaseLive(short.id))
            .put(key("/late"), "1"),
    );
    assert_eq!(fenced.await.unwrap(), Outcome::Refused(Condition::LeaseLive(short.id)));
    assert!(matches!(store.keep_alive(short.id).await, Err(LeaseError::NotLive(_))));

    // Taken before the call: the store renews at some moment of it.
    let renewed = Instant::now();
    store.keep_alive(kept.id).await.unwrap();
    assert_eq!(deleted(&watch.next().await.unwrap().changes), ["/kept"]);
    assert!(
        renewed.elapsed() >= kept.ttl - Duration::from_millis(1),
        "expired {:?} after renewal",
        renewed.elapsed()
    );
    assert_eq!(store.list_all(&prefix("/")).await.unwrap().entries.len(), 1);
    assert!(watch.seen() > Revision::ZERO);
}
