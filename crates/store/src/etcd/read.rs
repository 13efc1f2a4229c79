//! Reading: always what the whole cluster has agreed on, never one server's own view.

use etcd_client::{GetOptions, GetResponse};

use super::Etcd;
use super::call::{AHEAD, COMPACTED, Fault};
use super::layout::{number, revision};
use crate::limits::ETCD_PAGE_SHRINK;
use crate::{CompactError, Continuation, Entry, Key, List, ListError, Page, Revision, StoreError};

impl Etcd {
    pub(super) async fn range(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Fault> {
        let answer = self.0.calls.answer(|| {
            let (mut kv, key, options) = (self.0.kv.clone(), key.clone(), options.clone());
            async move { kv.get(key, Some(options)).await }
        });
        answer.await
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let mut answer = self.range(self.0.layout.of(key), GetOptions::new()).await?;
        Ok(answer.take_kvs().pop().and_then(|pair| self.0.layout.entry(pair)))
    }

    pub(crate) async fn revision(&self) -> Result<Revision, StoreError> {
        let head = self.0.layout.head().into_bytes();
        let answer = self.range(head, GetOptions::new().with_keys_only()).await?;
        match answer.kvs() {
            [head] => Ok(revision(head.mod_revision())),
            _ => Err(Fault::Nonsense("the store's newest revision is missing from etcd").into()),
        }
    }

    /// The revision that etcd is at, which others may have moved on.
    pub(super) async fn current(&self) -> Result<Revision, Fault> {
        let head = self.0.layout.head().into_bytes();
        let answer = self.range(head, GetOptions::new().with_count_only()).await?;
        Ok(shown(&answer))
    }

    pub(crate) async fn list(&self, request: &List) -> Result<Page, ListError> {
        let layout = &self.0.layout;
        let mut at = Revision::ZERO;
        if let Some(after) = &request.after {
            if !after.last.is_under(&request.prefix) {
                return Err(ListError::ForeignContinuation {
                    prefix: request.prefix.clone(),
                });
            }
            if after.revision == Revision::ZERO {
                return Err(ListError::BadContinuation);
            }
            at = after.revision;
        }
        let mut range = layout.below(&request.prefix, request.after.as_ref().map(|after| &after.last));
        let mut limit = request.limit;
        loop {
            let options = GetOptions::new()
                .with_range(range.end.clone())
                .with_revision(number(at))
                .with_limit(limit as i64);
            let mut answer = match self.range(range.start.clone(), options).await {
                Ok(answer) => answer,
                Err(fault) if fault.is_too_large() && limit > 1 => {
                    limit = (limit / ETCD_PAGE_SHRINK).max(1);
                    continue;
                }
                Err(fault) if fault.says(AHEAD) => return Err(ListError::BadContinuation),
                Err(fault) if fault.says(COMPACTED) => {
                    let oldest = self.0.compacted(at).await.map_err(StoreError::from)?;
                    return Err(ListError::Compacted { asked: at, oldest });
                }
                Err(fault) => return Err(StoreError::from(fault).into()),
            };
            if at == Revision::ZERO {
                at = shown(&answer);
            }
            let (more, pairs) = (answer.more(), answer.take_kvs());
            if let Some(last) = pairs.last() {
                range.start = super::layout::after_key(last.key().to_owned());
            }
            let entries: Vec<Entry> = pairs.into_iter().filter_map(|pair| layout.entry(pair)).collect();
            if more && entries.is_empty() {
                // A page full of what others put there.
                continue;
            }
            let next = entries.last().filter(|_| more).map(|last| Continuation {
                revision: at,
                last: last.key.clone(),
            });
            return Ok(Page {
                entries,
                revision: at,
                next,
            });
        }
    }

    pub(crate) async fn compact(&self, upto: Revision) -> Result<(), CompactError> {
        if upto == Revision::ZERO {
            return Ok(());
        }
        let compacted = self.0.calls.answer(|| {
            let mut kv = self.0.kv.clone();
            async move { kv.compact(number(upto), None).await }
        });
        match compacted.await {
            Ok(_) => Ok(()),
            Err(fault) if fault.says(COMPACTED) => Ok(()),
            Err(fault) if fault.says(AHEAD) => Err(CompactError::Ahead {
                asked: upto,
                current: self.current().await.map_err(StoreError::from)?,
            }),
            Err(fault) => Err(StoreError::from(fault).into()),
        }
    }
}

/// The revision that an answer shows.
pub(super) fn shown(answer: &GetResponse) -> Revision {
    revision(answer.header().map_or(0, |header| header.revision()))
}
