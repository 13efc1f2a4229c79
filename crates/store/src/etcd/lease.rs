//! Leases: etcd's own, each with a key that says whether it lives.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, LeaseClient, PutOptions, Txn, TxnOp};

use super::Etcd;
use super::call::{Calls, Fault, once};
use super::layout::lease_number;
use crate::{Lease, LeaseError, LeaseId, StoreError};

/// A lease that no key tells of yet, and its time to live in seconds. Where an answer was lost there may be two; the other one
/// ends by itself, with nothing.
pub(super) async fn grant(calls: &Calls, leases: &LeaseClient, ttl: Duration) -> Result<(i64, i64), Fault> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let granted = calls
        .answer(|| {
            let mut leases = leases.clone();
            async move { leases.grant(seconds, None).await }
        })
        .await?;
    Ok((granted.id(), granted.ttl()))
}

/// Gives the lease its time again; says whether it was live.
pub(super) async fn renew(calls: &Calls, leases: &LeaseClient, lease: i64) -> Result<bool, Fault> {
    let renewed = calls.answer(|| {
        let mut leases = leases.clone();
        async move { leases.keep_alive(lease).await }
    });
    match renewed.await {
        Ok(_) => Ok(true),
        Err(Fault::Client(etcd_client::Error::LeaseKeepAliveError(_))) => Ok(false),
        Err(fault) => Err(fault),
    }
}

fn failed(fault: Fault) -> LeaseError {
    LeaseError::Store(fault.while_doing("ask etcd about a lease"))
}

impl Etcd {
    pub(crate) async fn grant_lease(&self, ttl: Duration) -> Result<Lease, LeaseError> {
        let (id, seconds) = grant(&self.0.calls, &self.0.leases, ttl).await.map_err(failed)?;
        let key = self.0.layout.lease(id);
        let mark = TxnOp::put(key.clone(), "", Some(PutOptions::new().with_lease(id)));
        let transaction = Txn::new()
            .when([Compare::version(key, CompareOp::Equal, 0)])
            .and_then([mark]);
        let marked = self.0.calls.answer(|| {
            let (mut kv, transaction) = (self.0.kv.clone(), transaction.clone());
            async move { kv.txn(transaction).await }
        });
        marked.await.map_err(failed)?;
        let told = (u64::try_from(id), u64::try_from(seconds));
        let (Ok(id), Ok(seconds)) = told else {
            return Err(failed(Fault::Nonsense("etcd granted a lease with a number below zero")));
        };
        Ok(Lease {
            id: LeaseId::new(id),
            ttl: Duration::from_secs(seconds),
        })
    }

    pub(crate) async fn keep_alive(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.0.calls.check_open().map_err(failed)?;
        let number = lease_number(lease).ok_or(LeaseError::NotLive(lease))?;
        match renew(&self.0.calls, &self.0.leases, number).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(LeaseError::NotLive(lease)),
            Err(fault) => Err(failed(fault)),
        }
    }

    pub(crate) async fn revoke_lease(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.0.calls.check_open().map_err(failed)?;
        let number = lease_number(lease).ok_or(LeaseError::NotLive(lease))?;
        let mut attempts = self.0.calls.attempts().map_err(failed)?;
        let mut unsure = false;
        loop {
            let mut leases = self.0.leases.clone();
            match once(leases.revoke(number)).await {
                Ok(_) => return Ok(()),
                // An earlier attempt may have done it.
                Err(fault) if fault.is_not_found() && unsure => return Ok(()),
                Err(fault) if fault.is_not_found() => return Err(LeaseError::NotLive(lease)),
                Err(fault) => {
                    unsure = true;
                    attempts.after(fault).await.map_err(failed)?;
                }
            }
        }
    }

    /// Ends the session, so that its marks are gone now. One attempt: it ends by itself as well.
    pub(super) async fn end_session(&self) {
        if let Some(lease) = self.0.sessions.end().await {
            let mut leases = self.0.leases.clone();
            let _ = once(leases.revoke(lease)).await;
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> StoreError {
        fault.while_doing("get an answer from etcd")
    }
}
