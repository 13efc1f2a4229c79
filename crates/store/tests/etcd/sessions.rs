//! Marks of commits: they end with their store, and a store goes on without them.

use std::time::Duration;

use etcd_client::GetOptions;
use fieldfare_store::{Commit, Condition, LeaseError, Outcome};

use super::{etcd, key, open, put, server};

/// The store's own keys besides schema and head.
async fn own(etcd: &mut etcd_client::Client, kind: &str) -> usize {
    let options = GetOptions::new().with_prefix().with_count_only();
    etcd.get(format!("/fieldfare.{kind}/"), Some(options))
        .await
        .unwrap()
        .count() as usize
}

#[tokio::test]
async fn a_closed_store_leaves_no_mark_and_no_lease() {
    let Some(server) = server() else { return };
    let mut etcd = etcd(&server.url()).await;
    let store = open(&server.url()).await;
    let kept = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let writing = (0..20).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { put(&store, &format!("/a/{i}"), "1").await })
    });
    for written in writing.collect::<Vec<_>>() {
        written.await.unwrap();
    }
    let marks = own(&mut etcd, "commit").await;
    assert!((1..=20).contains(&marks), "{marks} marks of twenty commits");
    for i in 0..50 {
        put(&store, "/b", &i.to_string()).await;
    }
    assert_eq!(own(&mut etcd, "commit").await, marks, "marks are used again");
    assert_eq!(own(&mut etcd, "lease").await, 1);
    store.close().await.unwrap();
    assert_eq!(own(&mut etcd, "commit").await, 0);
    let leases: Vec<_> = etcd
        .leases()
        .await
        .unwrap()
        .leases()
        .iter()
        .map(|lease| lease.id() as u64)
        .collect();
    assert_eq!(leases, [kept.id.number()], "a lease of the caller is the caller's");
}

/// The lease of the marks ends under a store, as after five minutes without etcd: commits go on with another.
#[tokio::test]
async fn a_store_whose_session_ended_begins_another() {
    let Some(server) = server() else { return };
    let mut etcd = etcd(&server.url()).await;
    let store = open(&server.url()).await;
    for round in 0..3 {
        put(&store, "/a", "1").await;
        let session = etcd.leases().await.unwrap().leases()[0].id();
        etcd.lease_revoke(session).await.unwrap();
        assert_eq!(own(&mut etcd, "commit").await, 0);
        // More at once than there are marks: some find their mark gone, some that there can be no new one.
        let writing = (0..4).map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let name = key(format!("/b/{round}/{i}"));
                let commit = Commit::new().expect(Condition::Absent(name.clone())).put(name, "1");
                store.commit(commit).await.unwrap()
            })
        });
        for written in writing.collect::<Vec<_>>() {
            assert!(written.await.unwrap().is_committed());
        }
        let absent = Commit::new().expect(Condition::Absent(key("/a"))).put(key("/a"), "2");
        assert_eq!(
            store.commit(absent).await.unwrap(),
            Outcome::Refused(Condition::Absent(key("/a")))
        );
    }
}

/// A lease lives in etcd, not in the handle that asked for it.
#[tokio::test]
async fn a_lease_outlives_its_store_and_its_server() {
    let Some(mut server) = server() else { return };
    let store = open(&server.url()).await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let commit = Commit::new().put_leased(key("/held"), "1", lease.id);
    assert!(store.commit(commit).await.unwrap().is_committed());
    store.close().await.unwrap();
    server.kill();
    server.start_again();
    let store = open(&server.url()).await;
    assert_eq!(store.get(&key("/held")).await.unwrap().unwrap().lease, Some(lease.id));
    store.keep_alive(lease.id).await.unwrap();
    let fenced = Commit::new()
        .expect(Condition::LeaseLive(lease.id))
        .put(key("/work"), "1");
    assert!(store.commit(fenced.clone()).await.unwrap().is_committed());
    store.revoke_lease(lease.id).await.unwrap();
    assert_eq!(store.get(&key("/held")).await.unwrap(), None);
    assert_eq!(
        store.commit(fenced).await.unwrap(),
        Outcome::Refused(Condition::LeaseLive(lease.id))
    );
    assert!(matches!(store.keep_alive(lease.id).await, Err(LeaseError::NotLive(_))));
}

/// A lease that another program took out of the same etcd is none of the store's.
#[tokio::test]
async fn a_lease_of_somebody_else_is_not_live_here() {
    let Some(server) = server() else { return };
    let store = open(&server.url()).await;
    let foreign = etcd(&server.url()).await.lease_grant(60, None).await.unwrap().id();
    let foreign = fieldfare_store::LeaseId::new(foreign as u64);
    let commit = Commit::new().put_leased(key("/a"), "1", foreign);
    assert_eq!(
        store.commit(commit).await.unwrap(),
        Outcome::Refused(Condition::LeaseLive(foreign))
    );
    for impossible in [0, u64::MAX].map(fieldfare_store::LeaseId::new) {
        let commit = Commit::new().put_leased(key("/a"), "1", impossible);
        assert_eq!(
            store.commit(commit).await.unwrap(),
            Outcome::Refused(Condition::LeaseLive(impossible))
        );
        assert!(matches!(
            store.revoke_lease(impossible).await,
            Err(LeaseError::NotLive(_))
        ));
    }
}
