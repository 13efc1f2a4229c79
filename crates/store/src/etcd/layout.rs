//! Which keys of etcd are the store.
//!
//! With the prefix `/fieldfare`, the key `/v1/acme/devices/42` is etcd's `/fieldfare/v1/acme/devices/42`. What the store keeps for
//! itself begins with `/fieldfare.`, which no [`Key`] does, so that a grant of the prefix covers both:
//!
//! - `/fieldfare.schema`: version of this layout, as decimal text;
//! - `/fieldfare.head`: put by every commit and every new lease; its revision is the newest of the store;
//! - `/fieldfare.lease/<id>`: attached to that lease, and so there while it lives;
//! - `/fieldfare.commit/<session>/<slot>`: what the newest commit of that slot was, see [`super::session`].
//!
//! What others put below the prefix under names that are no keys is not there for the store.

use std::ops::Range;

use bytes::Bytes;
use etcd_client::KeyValue;

use crate::{Entry, Key, LeaseId, Prefix, Revision};

/// The version of everything in here.
pub(super) const SCHEMA_VERSION: u64 = 1;

/// Names of the keys of one store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: String,
}

/// A revision as etcd counts it; one that etcd cannot reach stands for all beyond.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.number()).unwrap_or(i64::MAX)
}

/// A revision that etcd told.
pub(super) fn revision(number: i64) -> Revision {
    Revision::new(u64::try_from(number).unwrap_or_default())
}

/// The lease as etcd numbers it, if it can exist there; etcd's 0 is no lease.
pub(super) fn lease_number(lease: LeaseId) -> Option<i64> {
    i64::try_from(lease.number()).ok().filter(|number| *number > 0)
}

/// The end of the range of everything that begins with `prefix`, which is text: its last byte is below 0xFF.
fn after_all(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_owned();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Layout {
        Layout {
            prefix: prefix.to_owned(),
        }
    }

    pub(super) fn of(&self, key: &Key) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    /// Everything below `prefix`, from the place after `after` on.
    pub(super) fn below(&self, prefix: &Prefix, after: Option<&Key>) -> Range<Vec<u8>> {
        let start = format!("{}{prefix}", self.prefix).into_bytes();
        let end = after_all(&start);
        match after {
            Some(key) => after_key(self.of(key))..end,
            None => start..end,
        }
    }

    /// All that the store writes, and perhaps more: the stores whose prefix begins with this one's.
    pub(super) fn everything(&self) -> Range<Vec<u8>> {
        let start = self.prefix.clone().into_bytes();
        let end = after_all(&start);
        start..end
    }

    pub(super) fn schema(&self) -> String {
        format!("{}.schema", self.prefix)
    }

    pub(super) fn head(&self) -> String {
        format!("{}.head", self.prefix)
    }

    pub(super) fn lease(&self, lease: i64) -> String {
        format!("{}.lease/{lease:016x}", self.prefix)
    }

    pub(super) fn commit(&self, session: i64, slot: u64) -> String {
        format!("{}.commit/{session:016x}/{slot}", self.prefix)
    }

    /// The key that these bytes of etcd are, if they are one of the store's.
    pub(super) fn key(&self, bytes: &[u8]) -> Option<Key> {
        let path = bytes.strip_prefix(self.prefix.as_bytes())?;
        Key::new(str::from_utf8(path).ok()?).ok()
    }

    /// The entry that this pair of etcd is, if its key is one of the store's.
    pub(super) fn entry(&self, pair: KeyValue) -> Option<Entry> {
        Some(Entry {
            key: self.key(pair.key())?,
            created: revision(pair.create_revision()),
            modified: revision(pair.mod_revision()),
            version: u64::try_from(pair.version()).unwrap_or_default(),
            lease: u64::try_from(pair.lease()).ok().filter(|id| *id > 0).map(LeaseId::new),
            value: Bytes::from(pair.0.value),
        })
    }
}

/// The first place after a key.
pub(super) fn after_key(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_keeps_for_itself_is_below_no_prefix() {
        let layout = Layout::new("/fleets/one");
        let root = layout.below(&Prefix::root(), None);
        for own in [layout.schema(), layout.head(), layout.lease(1), layout.commit(2, 3)] {
            let own = own.into_bytes();
            assert!(!root.contains(&own));
            assert!(layout.everything().contains(&own));
            assert_eq!(layout.key(&own), None);
        }
        for stranger in ["/fleets/one/", "/fleets/one/a//b", "/fleets/one-2/a", "/fleets/on/a"] {
            assert_eq!(layout.key(stranger.as_bytes()), None, "{stranger}");
        }
        let key = Key::new("/v1/größe").unwrap();
        assert_eq!(layout.key(&layout.of(&key)), Some(key));
    }

    #[test]
    fn a_range_is_what_is_below_its_prefix_and_after_its_key() {
        let layout = Layout::new("/f");
        let devices = Prefix::new("/v1/acme/").unwrap();
        let of = |text: &str| layout.of(&Key::new(text).unwrap());
        let all = layout.below(&devices, None);
        assert!(all.contains(&of("/v1/acme/a")) && all.contains(&of("/v1/acme/\u{10FFFF}")));
        assert!(!all.contains(&of("/v1/acme-2/a")) && !all.contains(&of("/v1/acme0")));
        let rest = layout.below(&devices, Some(&Key::new("/v1/acme/a").unwrap()));
        assert!(!rest.contains(&of("/v1/acme/a")) && rest.contains(&of("/v1/acme/a/b")));
    }

    #[test]
    fn numbers_outside_of_etcds_range_name_nothing_there() {
        assert_eq!(number(Revision::new(u64::MAX)), i64::MAX);
        assert_eq!(revision(-1), Revision::ZERO);
        for (id, expected) in [(0, None), (1, Some(1)), (u64::MAX, None)] {
            assert_eq!(lease_number(LeaseId::new(id)), expected);
        }
    }
}
