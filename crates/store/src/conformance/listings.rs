//! Listings: pages of one revision.

use std::collections::BTreeMap;

use super::{key, prefix, put};
use crate::limits::COMMIT_OPERATIONS_MAX;
use crate::{Commit, Continuation, List, ListError, Prefix, Revision, Store};

const KEYS: usize = 20_000;

/// Twenty thousand keys, listed while writers change, delete and add some between any two pages.
pub async fn all_pages_of_a_listing_show_one_revision_while_writers_go_on(open: impl AsyncFn() -> Store) {
    let store = open().await;
    let devices = prefix("/v1/acme/devices/");
    let name = |i: usize| key(format!("/v1/acme/devices/{i:05}"));
    for start in (0..KEYS).step_by(COMMIT_OPERATIONS_MAX) {
        let puts = (start..start + COMMIT_OPERATIONS_MAX).fold(Commit::new(), |c, i| c.put(name(i), i.to_string()));
        assert!(store.commit(puts).await.unwrap().is_committed());
    }
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

/// Changes a key before, one after and one at the place where the listing is, deletes one and adds one.
async fn disturb(store: &Store, page: usize) {
    let name = |i: usize| key(format!("/v1/acme/devices/{:05}", i % KEYS));
    let commit = Commit::new()
        .put(name(page), "changed")
        .put(name(page * 999), "changed")
        .put(name(KEYS - 1 - page), "changed")
        .delete(name(page * 999 + 500))
        .put(key(format!("/v1/acme/devices/{:05}-new", page * 999 + 700)), "new");
    assert!(store.commit(commit).await.unwrap().is_committed());
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
