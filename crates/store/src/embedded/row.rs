//! One row of the log: what one revision did to one key.

use bytes::Bytes;
use redb::ReadableTable;

use super::fault::Fault;
use crate::{Change, Entry, Key, LeaseId, Revision};

/// Where a row is: its revision, and its place among that revision's changes.
pub(super) type At = (u64, u32);

/// A row, borrowed from the page it is read from or the operation that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// The row that this one replaces, for compaction to remove; none for the first put of a key.
    pub(super) previous: Option<At>,
    pub(super) key: &'a str,
    /// None for a deletion.
    pub(super) put: Option<Put<'a>>,
}

/// What a put left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Put<'a> {
    pub(super) created: u64,
    pub(super) version: u64,
    /// 0 for none.
    pub(super) lease: u64,
    pub(super) value: &'a [u8],
}

// Layout, little-endian: kind u8 (0 delete, 1 put), previous revision u64 and change u32 (revision 0 for none),
// key length u16, key; for a put then created u64, version u64, lease u64, value to the end.
const DELETE: u8 = 0;
const PUT: u8 = 1;

impl<'a> Row<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (revision, change) = self.previous.unwrap_or((0, 0));
        let mut bytes = Vec::with_capacity(39 + self.key.len() + self.put.map_or(0, |put| put.value.len()));
        bytes.push(if self.put.is_some() { PUT } else { DELETE });
        bytes.extend(revision.to_le_bytes());
        bytes.extend(change.to_le_bytes());
        bytes.extend((self.key.len() as u16).to_le_bytes());
        bytes.extend(self.key.as_bytes());
        if let Some(put) = self.put {
            bytes.extend(put.created.to_le_bytes());
            bytes.extend(put.version.to_le_bytes());
            bytes.extend(put.lease.to_le_bytes());
            bytes.extend(put.value);
        }
        bytes
    }

    pub(super) fn decode(at: At, bytes: &'a [u8]) -> Result<Row<'a>, Fault> {
        Row::parse(bytes).ok_or(Fault::Row {
            revision: at.0,
            change: at.1,
        })
    }

    fn parse(mut rest: &'a [u8]) -> Option<Row<'a>> {
        let [kind] = take(&mut rest)?;
        let previous = (
            u64::from_le_bytes(take(&mut rest)?),
            u32::from_le_bytes(take(&mut rest)?),
        );
        let key_length = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let (key, mut rest) = rest.split_at_checked(key_length)?;
        let put = match kind {
            DELETE if rest.is_empty() => None,
            PUT => Some(Put {
                created: u64::from_le_bytes(take(&mut rest)?),
                version: u64::from_le_bytes(take(&mut rest)?),
                lease: u64::from_le_bytes(take(&mut rest)?),
                value: rest,
            }),
            _ => return None,
        };
        let previous = (previous.0 > 0).then_some(previous);
        Some(Row {
            previous,
            key: str::from_utf8(key).ok()?,
            put,
        })
    }

    /// The change that this row tells a watcher.
    pub(super) fn change(&self, at: At) -> Result<Change, Fault> {
        let key = Key::new(self.key).map_err(|_| Fault::Row {
            revision: at.0,
            change: at.1,
        })?;
        Ok(match self.put {
            None => Change::Deleted(key),
            Some(put) => Change::Put(Entry {
                key,
                value: Bytes::copy_from_slice(put.value),
                created: Revision::new(put.created),
                modified: Revision::new(at.0),
                version: put.version,
                lease: (put.lease > 0).then_some(LeaseId::new(put.lease)),
            }),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

/// The newest row of a key, and where it is, in a reader's snapshot or in the midst of a write.
pub(super) fn newest(
    index: &impl ReadableTable<(&'static str, u64), u32>,
    key: &str,
) -> Result<Option<At>, redb::StorageError> {
    let Some(row) = index.range((key, 0)..=(key, u64::MAX))?.next_back() else {
        return Ok(None);
    };
    let (name, change) = row?;
    Ok(Some((name.value().1, change.value())))
}

/// Reads the row that the index named, and gives it to `look`.
pub(super) fn with_row<T>(
    log: &impl ReadableTable<At, &'static [u8]>,
    at: At,
    look: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let bytes = log.get(at)?.ok_or(Fault::RowMissing {
        revision: at.0,
        change: at.1,
    })?;
    look(&Row::decode(at, bytes.value())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_survives_its_bytes(
            previous in proptest::option::of((1u64.., any::<u32>())),
            key in "/[a-zé]{1,40}",
            put in proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>(), any::<Vec<u8>>())),
        ) {
            let put = put.as_ref().map(|(created, version, lease, value)| Put {
                created: *created, version: *version, lease: *lease, value,
            });
            let row = Row { previous, key: &key, put };
            let bytes = row.encode();
            prop_assert_eq!(Row::decode((1, 0), &bytes).unwrap(), row);
        }

        #[test]
        fn a_damaged_row_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Row::decode((1, 0), &bytes);
        }

        #[test]
        fn a_row_cut_short_before_its_value_is_an_error(cut in 0usize..41) {
            let put = Put { created: 1, version: 1, lease: 0, value: b"" };
            let bytes = Row { previous: None, key: "/a", put: Some(put) }.encode();
            prop_assert_eq!(bytes.len(), 41);
            prop_assert!(Row::decode((1, 0), &bytes[..cut]).is_err());
        }
    }
}
