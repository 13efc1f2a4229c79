//! The controller's audit log: every change that somebody asks for and every decision is in it before it counts.
//!
//! What cannot be logged is not done. Each replica has a log of its own beside its keys, with a key of its own; which of them holds
//! a record says which replica took the call or decided.

mod calls;
mod command;

use std::path::Path;

use anyhow::{Context as _, Result};
use fieldfare_audit::log::{Log, OpenError, Opened, Settings};
use fieldfare_audit::writer::{Handle, Host, Writer};
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{AuditGap, AuditOpened, AuditOutcome, AuditRecord};
use fieldfare_tls::{Principal, TimeSource};
use prost::Message;
use ring::rand::SystemRandom;
use tokio::sync::oneshot;

pub(crate) use calls::Audited;
pub(crate) use command::{Given, call};

use crate::clock::unix_ms;
use crate::folder::Folder;
use crate::limits::AUDIT_BYTES_MAX;
use crate::refusal::{Refusal, chain};

/// The way to the log.
#[derive(Clone, Debug)]
pub struct Audit {
    log: Handle,
    clock: TimeSource,
}

fn encoded(at_unix_ms: i64, event: Event) -> Vec<u8> {
    AuditRecord {
        at_unix_ms,
        event: Some(event),
    }
    .encode_to_vec()
}

struct Controller(TimeSource);

impl Host for Controller {
    fn now_unix_ms(&self) -> u64 {
        self.0.now().unix_ms()
    }

    fn gap(&self, records: u64, since_unix_ms: u64) -> Vec<u8> {
        let since_unix_ms = i64::try_from(since_unix_ms).unwrap_or(i64::MAX);
        encoded(unix_ms(self.0.now()), Event::Gap(AuditGap { records, since_unix_ms }))
    }

    fn trouble(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::error!(error = chain(error), "the audit log cannot be written");
    }
}

fn advice(error: OpenError, folder: &Path) -> anyhow::Error {
    let text = match error {
        OpenError::Damaged { .. } | OpenError::KeyLost(_) => {
            format!("move {} away and keep it: a new log is begun then", folder.display())
        }
        _ => "the audit log cannot be opened, and nothing is done without it".to_owned(),
    };
    anyhow::Error::from(error).context(text)
}

fn settings(folder: &Folder, owner: &Principal) -> Settings {
    let name = owner.to_string();
    Settings {
        folder: folder.audit(),
        key: folder.audit_key(),
        owner: name.strip_prefix("spiffe://").unwrap_or(&name).to_owned(),
        segment_bytes: fieldfare_audit::limits::SEGMENT_BYTES,
        keep_bytes: AUDIT_BYTES_MAX,
    }
}

fn opened_by(owner: &Principal, opened: Opened) -> Event {
    Event::Opened(AuditOpened {
        program: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spiffe_id: owner.to_string(),
        began: opened.began,
        cut_bytes: opened.cut_bytes,
        replaces: String::new(),
    })
}

impl Audit {
    /// Opens the log of a fleet's folder, or begins one, and says in it that this process writes now. The writer is closed at the
    /// very end, when nothing more can happen.
    pub async fn start(folder: &Folder, owner: &Principal, clock: &TimeSource) -> Result<(Self, Writer)> {
        let settings = settings(folder, owner);
        let now = clock.now().unix_ms();
        let opening = tokio::task::spawn_blocking(move || Log::open(settings, now, SystemRandom::new()));
        let (log, opened) = opening.await?.map_err(|error| advice(error, &folder.audit()))?;
        if opened.cut_bytes > 0 {
            tracing::warn!(bytes = opened.cut_bytes, "cut an unfinished write off the audit log");
        }
        let writer = Writer::start(log, Controller(clock.clone())).context("the audit log's thread")?;
        let audit = Self {
            log: writer.handle(),
            clock: clock.clone(),
        };
        audit.record(opened_by(owner, opened)).await?;
        audit.take_up(folder).await?;
        Ok((audit, writer))
    }

    /// Records an event and waits until it is signed and durable. Gives its index.
    pub async fn record(&self, event: Event) -> Result<u64, Refusal> {
        self.append(encoded(unix_ms(self.clock.now()), event)).await
    }

    async fn append(&self, record: Vec<u8>) -> Result<u64, Refusal> {
        let (tell, told) = oneshot::channel();
        // Whoever waited may have gone, which changes nothing.
        self.log
            .commit(record, Box::new(move |outcome| drop(tell.send(outcome))));
        told.await
            .map_err(|_| Refusal::ShuttingDown)?
            .map_err(Refusal::Unrecorded)
    }

    /// Records what came of a call.
    pub(crate) async fn outcome<T>(
        &self,
        of_record: u64,
        done: &Result<T, Refusal>,
        response: Vec<u8>,
    ) -> Result<(), Refusal> {
        let outcome = match done {
            Err(refusal) => return self.undone(of_record, refusal).await,
            Ok(_) => AuditOutcome {
                of_record,
                response,
                ..AuditOutcome::default()
            },
        };
        self.record(Event::Outcome(outcome)).await.map(drop)
    }

    /// Records that what a record announced was not done.
    pub async fn undone(&self, of_record: u64, refusal: &Refusal) -> Result<(), Refusal> {
        let outcome = AuditOutcome {
            of_record,
            code: refusal.code() as u32,
            detail: chain(refusal),
            response: Vec::new(),
        };
        self.record(Event::Outcome(outcome)).await.map(drop)
    }

    /// Records that were committed since the start.
    pub fn written(&self) -> u64 {
        self.log.written()
    }
}
