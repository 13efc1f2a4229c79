//! Listings: pages of one revision.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::{key, prefix, put};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_OPERATIONS_MAX, PAGE_BYTES_MAX};
use crate::{Commit, Continuation, Key, List, ListError, Prefix, Revision, Store};

const KEYS: usize = 100_000;

/// Commits under way at once while the keys are put.
const FILLERS: usize = 16;

/// A hundred thousand keys, listed while writers change, delete and add some between any two pages.
pub async fn all_pages_of_a_listing_show_one_revision_while_writers_go_on(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let devices = prefix("/v1/acme/devices/");
    fill(&store).await;
    put(&store, "/v1/acme/device", "before").await;
    put(&store, "/v1/acme/devices-2/0", "after").await;
    let shown = store.revision().await.unwrap();

    let mut listed = BTreeMap::new();
    let mut request = List::under(&devices).limit(999);
    let mut pages = 0;
    loop {
        let page = store.list(request).await.unwrap();
        assert_eq!(page.revision, shown);
        assert!(page.entries.len() <= 999);
        for entry in page.entries {
            let last = listed.last_key_value().map(|(last, _)| last);
            assert!(
                last.is_none_or(|last| *last < entry.key),
                "{} is out of order",
                entry.key
            );
            listed.insert(entry.key, entry.value);
        }
        pages += 1;
        let Some(next) = page.next else { break };
        disturb(&store, pages).await;
        // As a client sends it back.
        request = List::under(&devices)
            .limit(999)
            .after(next.to_string().parse::<Continuation>().unwrap());
    }
    assert!(pages >= KEYS.div_ceil(999));
    assert_eq!(listed.len(), KEYS);
    assert!(
        listed
            .into_iter()
            .enumerate()
            .all(|(i, (key, value))| key == name(i) && value == i.to_string())
    );
    let now = store.list_all(&devices).await.unwrap();
    assert!(now.revision > shown);
    assert_eq!(
        now.entries.len(),
        KEYS,
        "one key is deleted and one added for each disturbance"
    );
}

fn name(i: usize) -> Key {
    key(format!("/v1/acme/devices/{i:05}"))
}

async fn fill(store: &Store) {
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let store = store.clone();
        fillers.spawn(async move {
            let starts = (0..KEYS).step_by(COMMIT_OPERATIONS_MAX).skip(filler).step_by(FILLERS);
            for start in starts {
                let keys = start..start + COMMIT_OPERATIONS_MAX;
                let puts = keys.fold(Commit::new(), |commit, i| commit.put(name(i), i.to_string()));
                assert!(store.commit(puts).await.unwrap().is_committed());
            }
        });
    }
    fillers.join_all().await;
}

/// Changes a key before, one after and one at the place where the listing is, deletes one and adds one.
async fn disturb(store: &Store, page: usize) {
    let commit = Commit::new()
        .put(name(page), "changed")
        .put(name(page * 999), "changed")
        .put(name(KEYS - 1 - page), "changed")
        .delete(name((page * 999 + 500) % KEYS))
        .put(key(format!("/v1/acme/devices/{:05}-new", page * 999 + 700)), "new");
    assert!(store.commit(commit).await.unwrap().is_committed());
}

/// More bytes than a page holds, in values as large as they get, among many small ones: pages are short, and nothing is left out.
pub async fn large_values_come_in_short_pages_and_whole(open: impl AsyncFn() -> Store) {
    const LARGE: usize = 12;
    let store = open().await;
    let small = (0..COMMIT_OPERATIONS_MAX).fold(Commit::new(), |c, i| c.put(key(format!("/l/{i:02}-small")), "x"));
    assert!(store.commit(small).await.unwrap().is_committed());
    for i in 0..LARGE {
        let name = format!("/l/{:02}-large", i * 8);
        put(&store, &name, vec![i as u8; COMMIT_BYTES_MAX - name.len()]).await;
    }
    let (mut entries, mut pages) = (Vec::new(), 0);
    let mut next = None;
    loop {
        let request = List::under(&prefix("/l/"));
        let page = store.list(next.into_iter().fold(request, List::after)).await.unwrap();
        let bytes: usize = page.entries.iter().map(|entry| entry.value.len()).sum();
        assert!(bytes < PAGE_BYTES_MAX + COMMIT_BYTES_MAX, "a page of {bytes} bytes");
        assert!(!page.entries.is_empty());
        entries.extend(page.entries);
        pages += 1;
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert!(pages > LARGE * COMMIT_BYTES_MAX / (PAGE_BYTES_MAX + COMMIT_BYTES_MAX));
    assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(entries.len(), COMMIT_OPERATIONS_MAX + LARGE);
    let large = entries.iter().filter(|entry| entry.value.len() > 1);
    assert!(
        large
            .enumerate()
            .all(|(i, entry)| entry.value.iter().all(|byte| usize::from(*byte) == i))
    );
}

/// A page token of one tenant opens nothing of another's, and a forged one nothing at all.
pub async fn a_continuation_is_refused_with_another_prefix(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let (acme, other) = (prefix("/v1/acme/"), prefix("/v1/other/"));
    for i in 0..3 {
        put(&store, &format!("/v1/acme/{i}"), "x").await;
        put(&store, &format!("/v1/other/{i}"), "x").await;
    }
    let token = store.list(List::under(&acme).limit(1)).await.unwrap().next.unwrap();
    let refused = store.list(List::under(&other).after(token.clone())).await;
    assert!(matches!(refused, Err(ListError::ForeignContinuation { prefix }) if prefix == other));
    let wider = store
        .list(List::under(&Prefix::root()).after(token.clone()))
        .await
        .unwrap();
    assert_eq!(wider.entries.len(), 5);
    let revision = store.revision().await.unwrap();
    let ahead = Continuation {
        revision: Revision::new(revision.number() + 1),
        last: token.last,
    };
    assert!(matches!(
        store.list(List::under(&acme).after(ahead)).await,
        Err(ListError::BadContinuation)
    ));
    let page = store.list(List::under(&acme).limit(3)).await.unwrap();
    assert_eq!(
        (page.entries.len(), page.next),
        (3, None),
        "a full last page promises no other"
    );
    let nothing = store.list(List::under(&prefix("/v2/"))).await.unwrap();
    assert_eq!((nothing.entries.len(), nothing.next), (0, None));
}
