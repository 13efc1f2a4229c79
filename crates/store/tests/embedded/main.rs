//! The embedded store: the contract, its file, and its process dying.
#![allow(
    clippy::unwrap_used,
    reason = "a file of tests: clippy sees only functions with the attribute as such"
)]

mod file;
mod kill;

use std::path::Path;

use fieldfare_store::{Commit, Key, Store};

mod conformance {
    use fieldfare_store::Store;

    fieldfare_store::conformance_tests! {
        [#[tokio::test(start_paused = true)]]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.redb");
            (async move || Store::open_file(&path).await.unwrap(), folder)
        }
    }
}

fn key(text: impl AsRef<str>) -> Key {
    Key::new(text).unwrap()
}

async fn put(store: &Store, name: &str, value: &str) {
    assert!(
        store
            .commit(Commit::new().put(key(name), value.to_owned()))
            .await
            .unwrap()
            .is_committed()
    );
}

async fn filled(path: &Path, keys: usize) {
    let store = Store::open_file(path).await.unwrap();
    for i in 0..keys {
        put(&store, &format!("/k/{i:04}"), &format!("value {i}")).await;
    }
    store.close().await.unwrap();
}
