//! Streams of etcd's events: where they may begin, and whole revisions out of them.

use etcd_client::proto::PbEvent;
use etcd_client::{Client, GetOptions, KeyValue, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::watch;
use tonic::Status;

use super::Shared;
use super::call::{AHEAD, COMPACTED, Calls, Fault, once};
use super::connect::Connector;
use super::layout::{Layout, number, revision};
use super::read::shown;
use crate::limits::ETCD_ANSWER_BYTES_MAX;
use crate::{Change, Changes, Key, Prefix, Revision, StoreError, WatchError};

/// Where streams come from. It does not keep the store open.
#[derive(Debug, Clone)]
pub(super) struct Source {
    connector: Connector,
    pub(super) layout: Layout,
    pub(super) closed: watch::Receiver<bool>,
}

/// Why a watch is over. It says so for good.
#[derive(Debug, Clone)]
pub(super) enum End {
    Compacted { compacted: Revision },
    Ahead { current: Revision },
    Failed(StoreError),
}

/// Why a stream does not begin or go on.
#[derive(Debug)]
pub(super) enum Broken {
    /// Another one may.
    Passing(Fault),
    /// No other one would do better.
    For(End),
}

impl End {
    /// As the error of a watch that has seen this much.
    pub(super) fn error(&self, after: Revision) -> WatchError {
        match self.clone() {
            End::Compacted { compacted } => WatchError::Compacted { after, compacted },
            End::Ahead { current } => WatchError::Ahead { after, current },
            End::Failed(error) => WatchError::Store(error),
        }
    }
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Broken {
        if fault.is_passing() {
            Broken::Passing(fault)
        } else {
            Broken::For(End::Failed(fault.while_doing("watch etcd")))
        }
    }
}

impl Source {
    pub(super) fn new(connector: Connector, layout: Layout, closed: watch::Receiver<bool>) -> Source {
        Source {
            connector,
            layout,
            closed,
        }
    }

    /// A stream on a connection of its own, since one that is not read holds up all others of its connection. It tells
    /// everything after the revision `after`, and that revision again: etcd refuses a stream that begins at a compacted revision, but not
    /// one that begins after it, from which the deletions of that revision are missing.
    pub(super) async fn open(&self, after: Revision) -> Result<WatchStream, Broken> {
        let client = self.connector.client().await.map_err(Fault::from)?;
        let first = number(after).max(1);
        let mut kv = client.kv_client();
        let look = GetOptions::new().with_count_only();
        match once(kv.get(self.layout.head(), Some(look.clone().with_revision(first)))).await {
            Ok(_) => {}
            Err(fault) if fault.says(COMPACTED) => {
                let compacted = once(compacted_upto(&client, &self.layout, first)).await?;
                return Err(Broken::For(End::Compacted { compacted }));
            }
            Err(fault) if fault.says(AHEAD) => {
                let current = shown(&once(kv.get(self.layout.head(), Some(look))).await?);
                return Err(Broken::For(End::Ahead { current }));
            }
            Err(fault) => return Err(fault.into()),
        }
        // The whole store, so that the head tells how far the stream has come where nothing changes below the watched prefix.
        let range = self.layout.everything();
        let options = WatchOptions::new()
            .with_range(range.end)
            .with_start_revision(first)
            .with_progress_notify()
            .with_fragment();
        Ok(once(begin(&client, range.start, options)).await?)
    }
}

/// A stream whose beginning etcd has confirmed.
async fn begin(client: &Client, start: Vec<u8>, options: WatchOptions) -> Result<WatchStream, etcd_client::Error> {
    let mut watches = client.watch_client().max_decoding_message_size(ETCD_ANSWER_BYTES_MAX);
    let mut stream = watches.watch(start, Some(options)).await?;
    let Some(answer) = stream.message().await? else {
        return Err(Status::unavailable("etcd ended the watch").into());
    };
    match answer.cancel_reason() {
        _ if answer.created() && !answer.canceled() => Ok(stream),
        reason if reason.contains("permission denied") => Err(Status::permission_denied(reason).into()),
        reason => Err(Status::unavailable(reason).into()),
    }
}

/// Up to where etcd's history is compacted, given a revision before that. Only a stream that begins there is told.
async fn compacted_upto(client: &Client, layout: &Layout, asked: i64) -> Result<Revision, etcd_client::Error> {
    let options = WatchOptions::new().with_start_revision(asked);
    let mut stream = client.watch_client().watch(layout.head(), Some(options)).await?;
    while let Some(answer) = stream.message().await? {
        if answer.canceled() && answer.compact_revision() > 0 {
            return Ok(revision(answer.compact_revision()));
        }
    }
    Err(Status::unavailable("etcd ended the watch").into())
}

impl Shared {
    /// The oldest revision that can still be listed, given one that cannot.
    pub(super) async fn compacted(&self, asked: Revision) -> Result<Revision, Fault> {
        let client = self.source.connector.client().await?;
        let asked = number(asked).max(1);
        self.calls.answer(|| compacted_upto(&client, &self.layout, asked)).await
    }
}

/// Makes whole revisions of etcd's answers, which may be cut anywhere, begin too early, and know nothing of [`Prefix`].
#[derive(Debug)]
pub(super) struct Gatherer {
    layout: Layout,
    prefix: Prefix,
    /// Every change up to here was told.
    pub(super) seen: Revision,
    /// The beginning of the next revision.
    partial: Option<Changes>,
}

impl Gatherer {
    pub(super) fn new(layout: Layout, prefix: Prefix, seen: Revision) -> Gatherer {
        Gatherer {
            layout,
            prefix,
            seen,
            partial: None,
        }
    }

    /// A new stream begins with the revision that was seen last: what was begun comes again.
    pub(super) fn begin_again(&mut self) {
        self.partial = None;
    }

    /// The revisions that this answer completes; those without a change below the prefix only move `seen`.
    pub(super) fn take(&mut self, answer: WatchResponse) -> Vec<Changes> {
        let (fragment, created) = (answer.0.fragment, answer.created());
        let told = revision(answer.header().map_or(0, |header| header.revision()));
        let quiet = answer.events().is_empty();
        let mut whole = Vec::new();
        for event in answer.0.events {
            let Some((at, change)) = self.read(event) else { continue };
            if at <= self.seen {
                continue;
            }
            if self.partial.as_ref().is_some_and(|partial| partial.revision < at) {
                whole.extend(self.complete());
            }
            let partial = self.partial.get_or_insert(Changes {
                revision: at,
                changes: Vec::new(),
            });
            partial.changes.extend(change);
        }
        if !fragment {
            whole.extend(self.complete());
        }
        // An answer without events says that there are none up to its revision.
        if quiet && !created && !fragment {
            self.seen = self.seen.max(told);
        }
        whole
    }

    fn complete(&mut self) -> Option<Changes> {
        let complete = self.partial.take()?;
        self.seen = complete.revision;
        (!complete.changes.is_empty()).then_some(complete)
    }

    /// The revision of an event, and what it changes below the prefix.
    fn read(&self, event: PbEvent) -> Option<(Revision, Option<Change>)> {
        /// etcd's number of the event that is no put.
        const DELETE: i32 = 1;
        let pair = KeyValue(event.kv?);
        let at = revision(pair.mod_revision());
        let is_ours = |key: &Key| key.is_under(&self.prefix);
        let change = if event.r#type == DELETE {
            self.layout.key(pair.key()).filter(is_ours).map(Change::Deleted)
        } else {
            self.layout
                .key(pair.key())
                .filter(is_ours)
                .and_then(|_| self.layout.entry(pair))
                .map(Change::Put)
        };
        Some((at, change))
    }
}

/// A stream, tried for as long as the store tries anything.
pub(super) async fn open_patiently(calls: &Calls, source: &Source, after: Revision) -> Result<WatchStream, End> {
    let failed = |fault: Fault| End::Failed(fault.while_doing("watch etcd"));
    let mut attempts = calls.attempts().map_err(failed)?;
    loop {
        match source.open(after).await {
            Ok(stream) => return Ok(stream),
            Err(Broken::For(end)) => return Err(end),
            Err(Broken::Passing(fault)) => attempts.after(fault).await.map_err(failed)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbKeyValue, PbResponseHeader, PbWatchResponse};

    use super::*;

    fn put(name: &str, at: i64) -> PbEvent {
        PbEvent {
            r#type: 0,
            kv: Some(PbKeyValue {
                key: format!("/fieldfare{name}").into_bytes(),
                mod_revision: at,
                create_revision: at,
                version: 1,
                ..PbKeyValue::default()
            }),
            prev_kv: None,
        }
    }

    fn answer(at: i64, fragment: bool, events: Vec<PbEvent>) -> WatchResponse {
        WatchResponse(PbWatchResponse {
            header: Some(PbResponseHeader {
                revision: at,
                ..PbResponseHeader::default()
            }),
            fragment,
            events,
            ..PbWatchResponse::default()
        })
    }

    fn gatherer() -> Gatherer {
        let prefix = Prefix::new("/a/").unwrap();
        Gatherer::new(Layout::new("/fieldfare"), prefix, Revision::new(10))
    }

    /// Each revision, with the last segments of its keys.
    fn told(changes: Vec<Changes>) -> Vec<(u64, String)> {
        let names = |changes: &Changes| {
            changes
                .changes
                .iter()
                .map(|change| &change.key().as_str()[3..])
                .collect()
        };
        changes.iter().map(|one| (one.revision.number(), names(one))).collect()
    }

    #[test]
    fn a_revision_that_comes_in_parts_is_told_when_it_is_whole() {
        let mut gatherer = gatherer();
        let first = answer(12, true, vec![put("/a/x", 11), put("/a/y", 12)]);
        assert_eq!(told(gatherer.take(first)), [(11, "x".to_owned())]);
        assert_eq!(gatherer.seen, Revision::new(11));
        let second = answer(12, true, vec![put("/a/z", 12)]);
        assert_eq!(told(gatherer.take(second)), []);
        let last = answer(12, false, vec![put("/b/z", 12), put("/a/w", 12), put("/a/v", 13)]);
        assert_eq!(
            told(gatherer.take(last)),
            [(12, "yzw".to_owned()), (13, "v".to_owned())]
        );
        assert_eq!(gatherer.seen, Revision::new(13));
    }

    #[test]
    fn a_revision_that_was_cut_off_is_taken_from_the_next_stream_alone() {
        let mut gatherer = gatherer();
        assert_eq!(
            told(gatherer.take(answer(12, true, vec![put("/a/x", 11), put("/a/y", 12)]))).len(),
            1
        );
        gatherer.begin_again();
        // The stream begins with what was seen last.
        let again = answer(12, false, vec![put("/a/x", 11), put("/a/y", 12), put("/a/z", 12)]);
        assert_eq!(told(gatherer.take(again)), [(12, "yz".to_owned())]);
    }

    #[test]
    fn what_changes_nothing_below_the_prefix_moves_the_watch_on() {
        let mut gatherer = gatherer();
        let elsewhere = vec![put("/b/x", 11), put(".head", 11), put("//", 12), put(".head", 13)];
        assert_eq!(told(gatherer.take(answer(20, false, elsewhere))), []);
        assert_eq!(
            gatherer.seen,
            Revision::new(13),
            "the head of the answer is not where the stream is"
        );
        assert_eq!(told(gatherer.take(answer(17, false, Vec::new()))), []);
        assert_eq!(
            gatherer.seen,
            Revision::new(17),
            "an answer without events says how far it has come"
        );
        let mut created = answer(30, false, Vec::new());
        created.0.created = true;
        assert_eq!(told(gatherer.take(created)), []);
        assert_eq!(told(gatherer.take(answer(3, false, Vec::new()))), []);
        assert_eq!(gatherer.seen, Revision::new(17));
    }
}
