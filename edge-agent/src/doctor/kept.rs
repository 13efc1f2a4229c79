//! What must never be lost: the ledger, and the audit log.

use fieldfare_audit::folder::LogFolder;
use fieldfare_audit::read::{Trust, examine};
use fieldfare_files as files;
use fieldfare_member::diagnosis::{Check, ok, problem, warning};
use fieldfare_privacy::Epsilon;
use fieldfare_release::tuf::SigningKey;
use ring::rand::SystemRandom;

use super::Patient;
use super::presence::Presence;
use crate::limits::{AUDIT_LOGS_KEPT, LEDGER_LOW};
use crate::private::PrivateStore;
use crate::process;

const LEDGER_LOST: &str = "the device refuses to train while its ledger cannot be read, and serves on. Bring private.redb back from a backup \
    of this device; without one its examples must not be used again, since nobody knows what they have paid";

/// What the examples have paid, of what they may.
pub(super) async fn ledger(patient: &Patient<'_>) -> Check {
    const CHECK: &str = "ledger";
    let budget = patient.settings.budget;
    let (spent, rounds) = match &patient.presence {
        Presence::Running(_) => {
            let at = |pointer: &str| patient.presence.says(pointer);
            let epsilon = at("/training/spent/epsilon").and_then(|value| value.as_f64());
            let rounds = at("/training/spent/contributions").and_then(|value| value.as_u64());
            match (epsilon, rounds) {
                (Some(epsilon), Some(rounds)) => (epsilon, rounds),
                _ => {
                    let error = at("/training/spent/error").and_then(|value| value.as_str());
                    return problem(
                        CHECK,
                        error.unwrap_or("the agent does not say what was spent"),
                        LEDGER_LOST,
                    );
                }
            }
        }
        _ => {
            let path = patient.folder.private_store();
            if !path.exists() {
                return ok(CHECK, "there is none before the agent ran for the first time");
            }
            let delta = budget.delta();
            let read = tokio::task::spawn_blocking(move || PrivateStore::look(&path)?.spending(delta));
            match read.await {
                Ok(Ok(spending)) => (spending.epsilon.get(), spending.charges as u64),
                Ok(Err(error)) => return problem(CHECK, process::chain(&error), LEDGER_LOST),
                Err(error) => return problem(CHECK, error.to_string(), LEDGER_LOST),
            }
        }
    };
    left(spent, budget.epsilon(), rounds)
}

fn left(spent: f64, budget: Epsilon, rounds: u64) -> Check {
    const CHECK: &str = "ledger";
    let budget = budget.get();
    // Rounded up: it is never said that less was spent.
    let shown = (spent * 1e4).ceil() / 1e4;
    let found = format!("epsilon {shown} of {budget} is spent, in {rounds} rounds");
    if spent >= budget * LEDGER_LOW {
        let advice = "the device serves on and refuses rounds that would overdraw its budget. That is as its owner wanted it; only the \
            owner may raise `budget` in the settings";
        return warning(CHECK, found, advice);
    }
    ok(CHECK, found)
}

/// The audit log, judged like `fieldfare audit verify` does, by the device's own key.
pub(super) async fn audit(patient: &Patient<'_>) -> Check {
    const CHECK: &str = "audit log";
    let folder = patient.folder.clone();
    if !folder.audit().exists() {
        return ok(CHECK, "there is none before the agent ran for the first time");
    }
    let judged = tokio::task::spawn_blocking(move || {
        let pem = files::read_text(&folder.audit_key()).ok().flatten();
        let own = pem.and_then(|pem| SigningKey::from_pem(&pem, &SystemRandom::new()).ok());
        let trust = Trust {
            key: own.map(|key| key.public().clone()),
            heads: Vec::new(),
        };
        let pinned = trust.key.is_some();
        examine(&LogFolder::at(folder.audit()), &trust, &mut |_, _| {}).map(|examined| (pinned, examined.report))
    });
    let report = match judged.await {
        Ok(Ok((true, report))) => report,
        Ok(Ok((false, _))) => {
            let found = format!("{} is missing or no key", patient.folder.audit_key().display());
            let advice = "the agent sets the log aside at its next start and begins a new one: keep the old one (audit.damaged-N) for whoever \
                asks for it";
            return problem(CHECK, found, advice);
        }
        Ok(Err(error)) => {
            let advice = "make the folder `audit` readable for the user whom the agent runs as, and test the disk";
            return problem(CHECK, process::chain(&error), advice);
        }
        Err(error) => return problem(CHECK, error.to_string(), "run the doctor again"),
    };
    if let Some(finding) = report.findings.first() {
        let more = report.findings.len() as u64 - 1 + report.more_findings;
        let advice = "copy the folder `audit` away before the agent starts again: it sets a damaged log aside (audit.damaged-N) and begins a \
            new one. `fieldfare audit verify` says all that was found; find out who can write to this folder";
        return problem(CHECK, format!("{finding}, and {more} more findings"), advice);
    }
    let missing = patient
        .presence
        .says("/audit/missing")
        .and_then(|value| value.as_u64())
        .unwrap_or(0);
    if missing > 0 {
        let advice = "the disk was full or too slow for a while; the log itself says how many records are missing and since when";
        return warning(
            CHECK,
            format!("{missing} records could not be written since the agent started"),
            advice,
        );
    }
    let aside = (1..=AUDIT_LOGS_KEPT).filter(|number| patient.folder.damaged_audit(*number).exists());
    let aside = aside.count();
    if aside > 0 {
        let found = format!("{} records verify; {aside} damaged logs were set aside", report.records);
        return warning(
            CHECK,
            found,
            "look at audit.damaged-N with `fieldfare audit verify`, and remove what nobody asks for",
        );
    }
    ok(
        CHECK,
        format!(
            "{} records verify, {} of them under a signed head",
            report.records, report.signed
        ),
    )
}

#[cfg(test)]
mod tests {
    use fieldfare_member::diagnosis::Level;

    use super::*;

    #[test]
    fn a_budget_that_is_nearly_spent_is_said() {
        let budget = Epsilon::new(8.0).unwrap();
        for (spent, level) in [
            (0.0, Level::Ok),
            (7.0, Level::Ok),
            (7.3, Level::Warning),
            (8.0, Level::Warning),
        ] {
            assert_eq!(left(spent, budget, 1).level, level, "{spent}");
        }
        assert!(left(1.000_01, budget, 1).found.contains("1.0001 of 8"));
    }
}
