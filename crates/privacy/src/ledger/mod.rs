//! The rules of the privacy ledger: what a device's data has paid, and whether it may pay more.
//!
//! The ledger keeps mechanisms, not epsilons, and composes them over all jobs of the device. It is plain data: the
//! shell loads the records, asks for a charge, writes the returned record durably *in the same transaction as the
//! contribution it pays for*, and only then lets a byte leave. A crash between the two leaves a charge without a
//! release, which is the safe side.

pub mod payment;
mod record;

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

pub use self::record::{Budget, BudgetError, ChargeKey, ChargeRecord, JobName, JobNameError};
use crate::accountant::{Accountant, Mechanism, RdpCurve};
use crate::limits::{MAX_CHARGES, MAX_DISTINCT_MECHANISMS, MAX_STEPS};
use crate::quantity::{Delta, Epsilon};

/// Why a device does not pay.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Refusal {
    /// The charge would take the device over its budget.
    #[error(
        "the budget is epsilon {} at delta {:e}: {spent} is spent and this round would make it {would_spend}",
        budget.epsilon(), budget.delta().get()
    )]
    BudgetExhausted {
        /// Spent so far, at the budget's delta.
        spent: Epsilon,
        /// Spent if the charge were made.
        would_spend: Epsilon,
        /// The device's budget.
        budget: Budget,
    },
    /// The round was charged before, for something else.
    #[error("{key} was charged for {recorded}; a repetition asks for {offered}")]
    OtherParameters {
        /// The job, round and attempt.
        key: ChargeKey,
        /// What was paid for.
        recorded: Mechanism,
        /// What is asked for now.
        offered: Mechanism,
    },
    /// No steps, or more than the limit.
    #[error("the round has {given} steps, expected 1 to {MAX_STEPS}")]
    Steps {
        /// What was given.
        given: u64,
    },
    /// The ledger holds as many different mechanisms as it may.
    #[error("the ledger already holds {MAX_DISTINCT_MECHANISMS} different pairs of sampling rate and noise multiplier")]
    TooManyMechanisms,
    /// The ledger holds as many charges as it may.
    #[error("the ledger already holds {MAX_CHARGES} charges")]
    Full,
}

/// Records that are no ledger.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("charge {index} of the stored ledger cannot be restored")]
pub struct RestoreError {
    /// Which record, counted from 0.
    pub index: usize,
    /// What is wrong with it.
    pub source: Refusal,
}

/// Whether a charge was made now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeOutcome {
    /// A new charge: write its record before anything leaves.
    New,
    /// The same charge was made before: send the bytes kept from then, train nothing anew.
    Repeated,
}

/// A charge that the ledger grants.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// The record to keep; for a repetition, the one that is kept already.
    pub record: ChargeRecord,
    /// Whether it is new.
    pub outcome: ChargeOutcome,
    /// Spent before, at the budget's delta.
    pub spent_before: Epsilon,
    /// Spent with this charge, at the budget's delta.
    pub spent_after: Epsilon,
}

/// What a device's data has paid so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spending {
    /// Spent epsilon at `delta`, over all jobs.
    pub epsilon: Epsilon,
    /// The delta it is stated at.
    pub delta: Delta,
    /// How it was computed.
    pub accountant: Accountant,
    /// Rounds that were charged.
    pub charges: usize,
    /// Noisy steps in them.
    pub steps: u64,
}

impl fmt::Display for Spending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            epsilon,
            delta,
            accountant,
            charges,
            steps,
        } = self;
        // Rounded up: a statement never says less than was spent.
        let (shown, delta) = ((epsilon.get() * 1e4).ceil() / 1e4, delta.get());
        write!(
            formatter,
            "epsilon {shown:.4} at delta {delta:e} ({accountant}, {steps} steps in {charges} rounds)"
        )
    }
}

/// The device's ledger. See the module's documentation for the order in which a shell uses it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accountant: Accountant,
    charges: BTreeMap<ChargeKey, ChargeRecord>,
    totals: BTreeMap<MechanismBits, Total>,
}

/// (q, sigma) by their bits: equal mechanisms are counted together, and the order of summation is fixed.
type MechanismBits = (u64, u64);

/// All steps of equal mechanisms, and the curve of one of them.
#[derive(Clone, Debug)]
struct Total {
    steps: u64,
    step: RdpCurve,
}

impl Ledger {
    /// The ledger of a device whose data paid nothing yet.
    #[must_use]
    pub fn new(accountant: Accountant) -> Self {
        Self {
            accountant,
            ..Self::default()
        }
    }

    /// The ledger that these stored records make, in any order. No budget is asked: what was paid was paid.
    ///
    /// # Errors
    /// [`RestoreError`] names the record: the same round twice with other parameters, impossible steps, or a limit.
    pub fn restore(
        accountant: Accountant,
        records: impl IntoIterator<Item = ChargeRecord>,
    ) -> Result<Self, RestoreError> {
        let mut ledger = Self::new(accountant);
        for (index, record) in records.into_iter().enumerate() {
            ledger
                .check(&record.key, record.mechanism)
                .map_err(|source| RestoreError { index, source })?;
            ledger.apply(record);
        }
        Ok(ledger)
    }

    /// What [`Ledger::charge`] would answer; changes nothing.
    ///
    /// # Errors
    /// Those of [`Ledger::charge`].
    pub fn quote(
        &self,
        key: &ChargeKey,
        mechanism: Mechanism,
        budget: Budget,
        charged_at_unix_ms: u64,
    ) -> Result<Charge, Refusal> {
        self.check(key, mechanism)?;
        let spent_before = self.epsilon(None, budget.delta());
        if let Some(record) = self.charges.get(key) {
            let record = record.clone();
            return Ok(Charge {
                record,
                outcome: ChargeOutcome::Repeated,
                spent_before,
                spent_after: spent_before,
            });
        }
        let spent_after = self.epsilon(Some(mechanism), budget.delta());
        if spent_after > budget.epsilon() {
            return Err(Refusal::BudgetExhausted {
                spent: spent_before,
                would_spend: spent_after,
                budget,
            });
        }
        let record = ChargeRecord {
            key: key.clone(),
            mechanism,
            charged_at_unix_ms,
        };
        Ok(Charge {
            record,
            outcome: ChargeOutcome::New,
            spent_before,
            spent_after,
        })
    }

    /// Pays for one attempt at one round, or says why not.
    ///
    /// The same key with the same mechanism is granted again without paying again, even when the budget has since
    /// been lowered: repeating the same bytes releases nothing new. Another attempt at the same round draws fresh
    /// noise, so it is a charge of its own. `charged_at_unix_ms` is recorded and decides nothing.
    ///
    /// # Errors
    /// [`Refusal`]; the ledger is then unchanged.
    pub fn charge(
        &mut self,
        key: &ChargeKey,
        mechanism: Mechanism,
        budget: Budget,
        charged_at_unix_ms: u64,
    ) -> Result<Charge, Refusal> {
        let charge = self.quote(key, mechanism, budget, charged_at_unix_ms)?;
        self.apply(charge.record.clone());
        Ok(charge)
    }

    /// What was spent on all jobs together, at `delta`.
    #[must_use]
    pub fn spending(&self, delta: Delta) -> Spending {
        Spending {
            epsilon: self.epsilon(None, delta),
            delta,
            accountant: self.accountant,
            charges: self.charges.len(),
            steps: self.totals.values().map(|total| total.steps).sum(),
        }
    }

    /// The record of one attempt at one round, when it was charged.
    #[must_use]
    pub fn find(&self, key: &ChargeKey) -> Option<&ChargeRecord> {
        self.charges.get(key)
    }

    /// All records, ordered by job, round and attempt.
    pub fn records(&self) -> impl Iterator<Item = &ChargeRecord> {
        self.charges.values()
    }

    /// Everything that is refused whatever the budget.
    fn check(&self, key: &ChargeKey, offered: Mechanism) -> Result<(), Refusal> {
        if !(1..=MAX_STEPS).contains(&offered.steps) {
            return Err(Refusal::Steps { given: offered.steps });
        }
        if let Some(record) = self.charges.get(key) {
            if record.mechanism == offered {
                return Ok(());
            }
            return Err(Refusal::OtherParameters {
                key: key.clone(),
                recorded: record.mechanism,
                offered,
            });
        }
        if self.charges.len() >= MAX_CHARGES {
            return Err(Refusal::Full);
        }
        if self.totals.len() >= MAX_DISTINCT_MECHANISMS && !self.totals.contains_key(&bits(offered)) {
            return Err(Refusal::TooManyMechanisms);
        }
        Ok(())
    }

    /// Takes over a checked record; one that is there already changes nothing.
    fn apply(&mut self, record: ChargeRecord) {
        let mechanism = record.mechanism;
        if self.charges.contains_key(&record.key) {
            return;
        }
        self.charges.insert(record.key.clone(), record);
        self.totals
            .entry(bits(mechanism))
            .or_insert_with(|| Total {
                steps: 0,
                step: curve_of(mechanism),
            })
            .steps += mechanism.steps;
    }

    /// The epsilon of everything charged, and of `more`, summed in the order of the mechanisms' bits: a quote and the
    /// spending after its charge are the same number.
    fn epsilon(&self, more: Option<Mechanism>, delta: Delta) -> Epsilon {
        let mut composed = RdpCurve::nothing();
        let mut pending = more;
        for (&key, total) in &self.totals {
            let mut steps = total.steps;
            if let Some(mechanism) = pending.filter(|&mechanism| bits(mechanism) <= key) {
                pending = None;
                if bits(mechanism) == key {
                    steps += mechanism.steps;
                } else {
                    composed.add_steps(&curve_of(mechanism), mechanism.steps);
                }
            }
            composed.add_steps(&total.step, steps);
        }
        if let Some(mechanism) = pending {
            composed.add_steps(&curve_of(mechanism), mechanism.steps);
        }
        match self.accountant {
            Accountant::Rdp => composed.epsilon(delta),
        }
    }
}

fn bits(mechanism: Mechanism) -> MechanismBits {
    (
        mechanism.sampling_rate.get().to_bits(),
        mechanism.noise_multiplier.get().to_bits(),
    )
}

fn curve_of(mechanism: Mechanism) -> RdpCurve {
    RdpCurve::of_step(mechanism.sampling_rate, mechanism.noise_multiplier)
}

#[cfg(test)]
mod tests;
