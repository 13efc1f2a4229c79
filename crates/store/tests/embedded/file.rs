//! The file: what is refused, what survives, who may have it open.

use std::path::Path;
use std::time::Duration;

use fieldfare_store::{Commit, OpenError, Prefix, Revision, Store, StoreError};
use redb::{Database, TableDefinition};

use super::{filled, key, put};

async fn refusal(path: &Path) -> OpenError {
    match Store::open_file(path).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_second_opening_of_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = Store::open_file(&path).await.unwrap();
    let error = refusal(&path).await;
    assert!(matches!(error, OpenError::AlreadyOpen { .. }), "{error:?}");
    assert!(error.to_string().contains("state.redb is in use"), "{error}");
    put(&store, "/still", "works").await;
    store.close().await.unwrap();
    Store::open_file(&path).await.unwrap();
}

#[tokio::test]
async fn a_dropped_store_gives_its_file_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = Store::open_file(&path).await.unwrap();
    put(&store, "/a", "1").await;
    let mut watch = store.watch(&Prefix::root(), Revision::new(1)).await.unwrap();
    drop(store);
    // The watch ends when the owner does; the file follows.
    assert!(watch.next().await.is_err());
    let reopened = loop {
        match Store::open_file(&path).await {
            Ok(store) => break store,
            Err(OpenError::AlreadyOpen { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(reopened.get(&key("/a")).await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    const META: TableDefinition<&str, u64> = TableDefinition::new("fieldfare.store");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    filled(&path, 1).await;
    for (schema, expected) in [
        (2, "schema version 2, newer than 1"),
        (u64::MAX, "newer than 1"),
        (0, "not a Fieldfare"),
    ] {
        let db = Database::open(&path).unwrap();
        let write = db.begin_write().unwrap();
        write.open_table(META).unwrap().insert("schema", schema).unwrap();
        write.commit().unwrap();
        drop(db);
        let error = refusal(&path).await.to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_file_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let db = Database::create(&path).unwrap();
    let write = db.begin_write().unwrap();
    write
        .open_table(TableDefinition::<u64, u64>::new("ledger"))
        .unwrap()
        .insert(1, 2)
        .unwrap();
    write.commit().unwrap();
    drop(db);
    let error = refusal(&path).await;
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
    assert!(error.to_string().contains("\"ledger\""), "{error}");

    for (name, content) in [
        ("text", &b"state: yes\n"[..]),
        ("zeros", &[0; 70_000]),
        ("magic", b"redb\x1A\x0A\xA9\x0D\x0A"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = refusal(&path).await;
        assert!(
            matches!(error, OpenError::NotAStore { .. } | OpenError::Corrupt { .. }),
            "{name}: {error:?}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), content, "{name} was changed");
    }
    assert!(matches!(refusal(folder.path()).await, OpenError::Io { .. }));
    assert!(matches!(
        refusal(&folder.path().join("no/folder")).await,
        OpenError::Io { .. }
    ));
}

/// A flipped bit anywhere is found at opening, or it lies where no record is.
#[tokio::test]
async fn a_damaged_file_is_refused_or_harmless_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    filled(&path, 120).await;
    let good = std::fs::read(&path).unwrap();
    let whole = Store::open_file(&path).await.unwrap();
    let expected = whole.list_all(&Prefix::root()).await.unwrap();
    whole.close().await.unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    for step in 0..60 {
        let mut bad = good.clone();
        bad[step * used / 60] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        match Store::open_file(&path).await {
            Err(error) => {
                assert!(
                    matches!(error, OpenError::Corrupt { .. } | OpenError::NotAStore { .. }),
                    "{error:?}"
                );
                refused += 1;
            }
            Ok(store) => {
                assert_eq!(
                    store.list_all(&Prefix::root()).await.unwrap(),
                    expected,
                    "at {}",
                    step * used / 60
                );
                store.close().await.unwrap();
            }
        }
    }
    assert!(refused > 0, "no flipped bit was found");
    for length in [1, 9, 64, 4_096, good.len() / 2] {
        std::fs::write(&path, &good[..length]).unwrap();
        let error = refusal(&path).await;
        assert!(
            matches!(error, OpenError::Corrupt { .. } | OpenError::NotAStore { .. }),
            "{length}: {error:?}"
        );
    }
}

/// The deadline was a reading of a clock that is gone: the lease starts anew, and still ends.
#[tokio::test(start_paused = true)]
async fn a_lease_starts_anew_when_the_file_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = Store::open_file(&path).await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    let commit = Commit::new().put_leased(key("/held"), "1", lease.id);
    let revision = store.commit(commit).await.unwrap().committed().unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    store.close().await.unwrap();

    let store = Store::open_file(&path).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(store.get(&key("/held")).await.unwrap().is_some());
    let mut watch = store.watch(&Prefix::root(), revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes[0].key(), &key("/held"));
    assert!(store.get(&key("/held")).await.unwrap().is_none());
    let next = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    assert!(next.id > lease.id, "a lease id was given out twice");
    store.close().await.unwrap();
    let store = Store::open_file(&path).await.unwrap();
    assert!(store.keep_alive(lease.id).await.is_err(), "an expired lease came back");
    store.keep_alive(next.id).await.unwrap();
}

#[tokio::test]
async fn requests_after_close_are_answered_and_do_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_file(folder.path().join("state.redb")).await.unwrap();
    let (first, second) = (store.clone(), store.clone());
    let (one, two, late) = tokio::join!(
        first.close(),
        second.close(),
        store.commit(Commit::new().put(key("/a"), "1"))
    );
    assert!(one.is_ok());
    assert!(matches!(two, Err(StoreError::Closed)));
    assert!(late.is_err());
}
