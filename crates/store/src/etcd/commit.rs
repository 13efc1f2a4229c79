//! Commits: one transaction of etcd each, sent until its outcome is known.

use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnResponse};

use super::Etcd;
use super::call::{Fault, LEASE_NOT_FOUND, once};
use super::layout::{Layout, lease_number, number, revision};
use super::session::Slot;
use crate::commit::Operation;
use crate::{Commit, CommitError, Condition, Outcome, StoreError};

/// What a transaction came to.
enum Answer {
    /// It happened, now or in an earlier attempt, at this revision of etcd.
    Committed(i64),
    /// This does not hold, and the transaction did not happen until now.
    Refused(Condition),
    /// The slot is not what it was: its session has ended.
    SlotLost,
}

/// A commit in etcd's terms.
struct Plan<'a> {
    layout: &'a Layout,
    commit: &'a Commit,
    /// What must hold, and the key of etcd that tells.
    required: Vec<(Condition, Vec<u8>)>,
}

impl<'a> Plan<'a> {
    fn new(layout: &'a Layout, commit: &'a Commit) -> Plan<'a> {
        let key = |condition: &Condition| match condition {
            Condition::Absent(key) | Condition::Present(key) | Condition::ModRevision(key, _) => layout.of(key),
            // No lease is number 0, so nothing is ever there.
            Condition::LeaseLive(lease) => layout.lease(lease_number(*lease).unwrap_or_default()).into_bytes(),
        };
        let required = commit.requirements().into_iter().map(|condition| {
            let key = key(&condition);
            (condition, key)
        });
        Plan {
            layout,
            commit,
            required: required.collect(),
        }
    }

    fn compares(&self) -> Vec<Compare> {
        let compare = |(condition, key): &(Condition, Vec<u8>)| match condition {
            Condition::Absent(_) => Compare::version(key.clone(), CompareOp::Equal, 0),
            Condition::Present(_) | Condition::LeaseLive(_) => Compare::version(key.clone(), CompareOp::Greater, 0),
            Condition::ModRevision(_, at) => Compare::mod_revision(key.clone(), CompareOp::Equal, number(*at)),
        };
        self.required.iter().map(compare).collect()
    }

    fn looks(&self) -> Vec<TxnOp> {
        let look = |(_, key): &(Condition, Vec<u8>)| TxnOp::get(key.clone(), Some(GetOptions::new().with_keys_only()));
        self.required.iter().map(look).collect()
    }

    /// Happens at most once for each mark, however often it is sent.
    fn transaction(&self, slot: &Slot, mark: u64) -> Txn {
        let place = self.layout.commit(slot.session, slot.number);
        let mut compares = self.compares();
        compares.push(Compare::mod_revision(place.clone(), CompareOp::Equal, slot.modified));
        let mut writes: Vec<TxnOp> = self
            .commit
            .operations
            .iter()
            .map(|operation| self.write(operation))
            .collect();
        let leased = PutOptions::new().with_lease(slot.session);
        writes.push(TxnOp::put(place.clone(), mark.to_string(), Some(leased)));
        writes.push(TxnOp::put(self.layout.head(), "", None));
        let mut looks = self.looks();
        looks.push(TxnOp::get(place, None));
        Txn::new().when(compares).and_then(writes).or_else(looks)
    }

    fn write(&self, operation: &Operation) -> TxnOp {
        match operation {
            Operation::Delete { key } => TxnOp::delete(self.layout.of(key), None),
            Operation::Put { key, value, lease } => {
                // A lease that cannot exist in etcd is required before, and so never put.
                let options = lease
                    .and_then(lease_number)
                    .map(|lease| PutOptions::new().with_lease(lease));
                TxnOp::put(self.layout.of(key), value.to_vec(), options)
            }
        }
    }

    /// What the answer to [`Plan::transaction`] says.
    fn read(&self, answer: TxnResponse, slot: &Slot, mark: u64) -> Result<Answer, Fault> {
        if answer.succeeded() {
            return Ok(Answer::Committed(at(&answer)?));
        }
        let mut looked = looked(answer)?;
        let found = looked.pop().flatten();
        if let Some(found) = found
            .as_ref()
            .filter(|found| found.value() == mark.to_string().as_bytes())
        {
            return Ok(Answer::Committed(found.mod_revision()));
        }
        if found.map_or(0, |found| found.mod_revision()) != slot.modified {
            return Ok(Answer::SlotLost);
        }
        Ok(Answer::Refused(self.failed(looked)?))
    }

    /// The first condition that does not hold.
    fn failed(&self, looked: Vec<Option<KeyValue>>) -> Result<Condition, Fault> {
        let holds = |condition: &Condition, found: &Option<KeyValue>| match condition {
            Condition::Absent(_) => found.is_none(),
            Condition::Present(_) | Condition::LeaseLive(_) => found.is_some(),
            Condition::ModRevision(_, at) => found.as_ref().map_or(0, KeyValue::mod_revision) == number(*at),
        };
        let mut both = self.required.iter().zip(&looked);
        let failed = both.find(|((condition, _), found)| !holds(condition, found));
        failed
            .map(|((condition, _), _)| condition.clone())
            .ok_or(Fault::Nonsense("etcd refused a commit whose conditions all hold"))
    }
}

fn at(answer: &TxnResponse) -> Result<i64, Fault> {
    let header = answer.header().ok_or(Fault::Nonsense("etcd told no revision"))?;
    Ok(header.revision())
}

/// What each look of a transaction found.
fn looked(answer: TxnResponse) -> Result<Vec<Option<KeyValue>>, Fault> {
    let looked = answer.0.responses.into_iter().map(|look| match look.response {
        Some(PbTxnOpResponse::ResponseRange(mut range)) => Ok(range.kvs.pop().map(KeyValue)),
        _ => Err(Fault::Nonsense("etcd answered another question")),
    });
    looked.collect()
}

const DOING: &str = "commit to etcd";

impl Etcd {
    pub(crate) async fn commit(&self, commit: &Commit) -> Result<Outcome, CommitError> {
        let plan = Plan::new(&self.0.layout, commit);
        if commit.operations() == 0 {
            return self.check(&plan).await;
        }
        let permit = self.0.commits.acquire().await;
        let _permit = permit.map_err(|_| StoreError::Closed)?;
        let outcome = self.send(&plan).await;
        outcome.map_err(|fault| CommitError::Store(fault.while_doing(DOING)))
    }

    /// Sends the transaction until an answer arrives, and reads from that answer what any of the attempts did.
    async fn send(&self, plan: &Plan<'_>) -> Result<Outcome, Fault> {
        let mut attempts = self.0.calls.attempts()?;
        let mark = self.next_mark();
        let mut slot = self.slot().await?;
        // Whether an earlier attempt may have happened, or may still.
        let mut unsure = false;
        loop {
            let mut kv = self.0.kv.clone();
            let answer = once(kv.txn(plan.transaction(&slot, mark))).await;
            let fault = match answer.and_then(|answer| plan.read(answer, &slot, mark)) {
                Ok(Answer::Committed(at)) => {
                    slot.modified = at;
                    self.0.sessions.give_back(slot).await;
                    return Ok(Outcome::Committed(revision(at)));
                }
                Ok(Answer::Refused(condition)) => {
                    if unsure {
                        return self.settle(slot, mark, condition).await;
                    }
                    self.0.sessions.give_back(slot).await;
                    return Ok(Outcome::Refused(condition));
                }
                Ok(Answer::SlotLost) => Fault::SessionLost,
                // Every other lease is looked at by a key of its own.
                Err(fault) if fault.says(LEASE_NOT_FOUND) => Fault::SessionLost,
                Err(fault) => fault,
            };
            let lost = matches!(fault, Fault::SessionLost);
            if lost {
                self.0.sessions.forget(slot.session).await;
                if unsure {
                    return Err(fault);
                }
            }
            unsure |= !lost;
            attempts.after(fault).await?;
            if lost {
                slot = self.slot().await?;
            }
        }
    }

    /// A condition did not hold while an earlier attempt was still under way somewhere. Moves the slot on, so that no such
    /// attempt happens any more, or learns that one has.
    async fn settle(&self, mut slot: Slot, mark: u64, condition: Condition) -> Result<Outcome, Fault> {
        let place = self.0.layout.commit(slot.session, slot.number);
        let settled = format!("{mark} refused");
        let leased = PutOptions::new().with_lease(slot.session);
        let transaction = Txn::new()
            .when([Compare::mod_revision(place.clone(), CompareOp::Equal, slot.modified)])
            .and_then([TxnOp::put(place.clone(), settled.clone(), Some(leased))])
            .or_else([TxnOp::get(place, None)]);
        let answer = self.0.calls.answer(|| {
            let (mut kv, transaction) = (self.0.kv.clone(), transaction.clone());
            async move { kv.txn(transaction).await }
        });
        let answer = answer.await?;
        if answer.succeeded() {
            slot.modified = at(&answer)?;
            self.0.sessions.give_back(slot).await;
            return Ok(Outcome::Refused(condition));
        }
        let found = looked(answer)?.pop().flatten().ok_or(Fault::SessionLost)?;
        slot.modified = found.mod_revision();
        let outcome = match found.value() {
            value if value == mark.to_string().as_bytes() => Outcome::Committed(revision(slot.modified)),
            value if value == settled.as_bytes() => Outcome::Refused(condition),
            _ => return Err(Fault::SessionLost),
        };
        self.0.sessions.give_back(slot).await;
        Ok(outcome)
    }

    /// A commit that writes nothing: it may be asked any number of times.
    async fn check(&self, plan: &Plan<'_>) -> Result<Outcome, CommitError> {
        let head = TxnOp::get(self.0.layout.head(), Some(GetOptions::new().with_keys_only()));
        let transaction = Txn::new().when(plan.compares()).and_then([head]).or_else(plan.looks());
        let answer = self.0.calls.answer(|| {
            let (mut kv, transaction) = (self.0.kv.clone(), transaction.clone());
            async move { kv.txn(transaction).await }
        });
        let outcome = answer.await.and_then(|answer| {
            if !answer.succeeded() {
                return Ok(Outcome::Refused(plan.failed(looked(answer)?)?));
            }
            let head = looked(answer)?.pop().flatten();
            Ok(Outcome::Committed(revision(head.map_or(0, |head| head.mod_revision()))))
        });
        outcome.map_err(|fault| CommitError::Store(fault.while_doing(DOING)))
    }

    async fn slot(&self) -> Result<Slot, Fault> {
        self.0.sessions.slot(&self.0.calls, &self.0.leases).await
    }
}
