//! What one contribution costs, and which bytes may leave for it.
//!
//! The shell asks [`pay`] inside the transaction that holds the ledger, the contributions and the examples, and commits what it
//! says before a byte leaves.

use thiserror::Error;

use super::{Charge, ChargeKey, ChargeOutcome, ChargeRecord, Ledger, Refusal, RestoreError};
use crate::accountant::{Accountant, Mechanism};
use crate::ledger::Budget;

/// What may be spent: by the device in its whole life, whatever a server says, and by one job in all its rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budgets {
    /// The owner's.
    pub device: Budget,
    /// The job's.
    pub job: Budget,
}

/// What is to be paid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due<'a> {
    /// The attempt at a round.
    pub key: &'a ChargeKey,
    /// The price.
    pub mechanism: Mechanism,
    /// What may be spent.
    pub budgets: Budgets,
    /// The device's clock; recorded, decides nothing.
    pub now_unix_ms: u64,
}

/// What training brought forth, as far as it decides about the payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trained {
    /// Digest of the configuration that was trained under.
    pub configuration: [u8; 32],
    /// How often examples had been erased or corrected when it began.
    pub removals: u64,
}

/// What the device keeps that decides about a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Digest of the configuration of the contribution that is kept for this attempt, if one is.
    pub contribution: Option<[u8; 32]>,
    /// How often examples have been erased or corrected.
    pub removals: u64,
}

/// What a payment comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Payment {
    /// It was paid before: the bytes of then leave, whatever is offered now.
    Before,
    /// Commit this record together with the offered bytes; then they may leave.
    New(ChargeRecord),
}

/// Why nothing was paid; nothing may leave then.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Unpaid {
    /// The ledger refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A contribution under another configuration was paid for under the same name.
    #[error("another configuration was contributed to under the same job, round and attempt")]
    OtherConfiguration,
    /// The owner has erased or corrected examples since training began.
    #[error("examples were erased or corrected while the device trained on them")]
    TakenBack,
    /// The round was paid for, and its bytes are gone: other bytes would be a second contribution for one payment.
    #[error("this round was paid for before, and its bytes are gone")]
    BytesLost,
    /// The ledger cannot be read.
    #[error("the ledger on this disk")]
    Ledger(#[from] RestoreError),
}

/// Whether the bytes of a contribution that is kept are what this configuration asks for; false where none is kept.
///
/// # Errors
/// [`Unpaid::OtherConfiguration`].
pub fn is_kept(contribution: Option<[u8; 32]>, configuration: [u8; 32]) -> Result<bool, Unpaid> {
    match contribution {
        Some(kept) if kept != configuration => Err(Unpaid::OtherConfiguration),
        kept => Ok(kept.is_some()),
    }
}

/// Charges a round to the device's budget and to its job's; both must allow it. `records` is the whole ledger.
///
/// # Errors
/// [`Unpaid::Refused`], [`Unpaid::Ledger`].
pub fn price(records: Vec<ChargeRecord>, due: Due<'_>) -> Result<Charge, Unpaid> {
    let Due {
        key,
        mechanism,
        budgets,
        now_unix_ms,
    } = due;
    let of_job: Vec<ChargeRecord> = records
        .iter()
        .filter(|record| record.key.job == key.job)
        .cloned()
        .collect();
    Ledger::restore(Accountant::Rdp, of_job)?.quote(key, mechanism, budgets.job, now_unix_ms)?;
    Ok(Ledger::restore(Accountant::Rdp, records)?.charge(key, mechanism, budgets.device, now_unix_ms)?)
}

/// Decides about a payment by what is kept in the transaction that would make it. `records` reads the whole ledger.
///
/// # Errors
/// [`Unpaid`], or that of reading the ledger.
pub fn pay<E: From<Unpaid>>(
    kept: Kept,
    trained: Trained,
    due: Due<'_>,
    records: impl FnOnce() -> Result<Vec<ChargeRecord>, E>,
) -> Result<Payment, E> {
    if is_kept(kept.contribution, trained.configuration)? {
        return Ok(Payment::Before);
    }
    // In the transaction that pays: an owner who was told that an example is gone is right from then on.
    if kept.removals != trained.removals {
        return Err(Unpaid::TakenBack.into());
    }
    let charge = price(records()?, due)?;
    match charge.outcome {
        ChargeOutcome::New => Ok(Payment::New(charge.record)),
        ChargeOutcome::Repeated => Err(Unpaid::BytesLost.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::JobName;
    use crate::parameters::DpSgdParameters;

    const CONFIGURATION: [u8; 32] = [7; 32];

    fn key(job: &str, round: u64) -> ChargeKey {
        let job = JobName::new(job).expect("a name");
        ChargeKey { job, round, attempt: 1 }
    }

    fn due(key: &ChargeKey, device: f64, job: f64) -> Due<'_> {
        let budget = |epsilon| Budget::from_numbers(epsilon, 1e-5).expect("a budget");
        let mechanism = DpSgdParameters::from_numbers(1.0, 1, 1.0, 4.0, 10)
            .expect("valid")
            .mechanism();
        let (device, job) = (budget(device), budget(job));
        Due {
            key,
            mechanism,
            budgets: Budgets { device, job },
            now_unix_ms: 0,
        }
    }

    /// Pays for what was trained before any example was taken back.
    fn offer(kept: Kept, due: Due<'_>, records: &[ChargeRecord]) -> Result<Payment, Unpaid> {
        let trained = Trained {
            configuration: CONFIGURATION,
            removals: 0,
        };
        pay(kept, trained, due, || Ok(records.to_vec()))
    }

    const NOTHING: Kept = Kept {
        contribution: None,
        removals: 0,
    };

    #[test]
    fn a_round_is_paid_once_and_the_bytes_of_then_leave_again() {
        let key = key("gain", 1);
        let Ok(Payment::New(record)) = offer(NOTHING, due(&key, 8.0, 8.0), &[]) else {
            panic!("the first payment is granted")
        };
        let kept = |contribution| Kept {
            contribution,
            ..NOTHING
        };
        let records = [record];
        let again = |contribution| offer(kept(contribution), due(&key, 8.0, 8.0), &records);
        assert_eq!(again(Some(CONFIGURATION)), Ok(Payment::Before));
        assert_eq!(again(Some([8; 32])), Err(Unpaid::OtherConfiguration));
        assert_eq!(
            again(None),
            Err(Unpaid::BytesLost),
            "other bytes would be a second contribution"
        );
        // What was paid goes out again even where nothing more may be spent, or examples were taken back.
        let taken_back = Kept {
            contribution: Some(CONFIGURATION),
            removals: 3,
        };
        assert_eq!(offer(taken_back, due(&key, 0.0, 0.0), &records), Ok(Payment::Before));
        assert_eq!(is_kept(None, CONFIGURATION), Ok(false));
    }

    #[test]
    fn the_device_and_the_job_must_both_allow_it() {
        let (first, second, other) = (key("gain", 1), key("gain", 2), key("rain", 1));
        let Ok(Payment::New(record)) = offer(NOTHING, due(&first, 1.2, 1.2), &[]) else {
            panic!("one round costs 1.0")
        };
        let records = [record];
        let refused = |answer| matches!(answer, Err(Unpaid::Refused(Refusal::BudgetExhausted { .. })));
        assert!(
            refused(offer(NOTHING, due(&second, 1.2, 8.0), &records)),
            "the device's budget"
        );
        assert!(
            refused(offer(NOTHING, due(&second, 8.0, 1.2), &records)),
            "the job's budget"
        );
        assert!(
            refused(offer(NOTHING, due(&other, 1.2, 8.0), &records)),
            "the device's, over all jobs"
        );
        assert!(
            offer(NOTHING, due(&other, 8.0, 1.2), &records).is_ok(),
            "another job has its own"
        );
    }

    #[test]
    fn what_was_learnt_from_examples_that_are_gone_is_not_paid_for() {
        let key = key("gain", 1);
        let kept = Kept {
            contribution: None,
            removals: 1,
        };
        assert_eq!(offer(kept, due(&key, 8.0, 8.0), &[]), Err(Unpaid::TakenBack));
    }
}
