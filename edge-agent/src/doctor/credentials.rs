//! The clock, and who the device is.

use fieldfare_files::is_exposed;
use fieldfare_member::diagnosis::{Check, ok, problem, warning};
use fieldfare_tls::limits::RENEWAL_GRACE;
use fieldfare_tls::{Identity, IdentityError, StorageError};

use super::Patient;
use crate::clock_proof;
use crate::folder::Folder;
use crate::limits::CLOCK_SKEW_MAX;
use crate::process;

const SET_THE_CLOCK: &str =
    "set the clock, best by NTP; the device serves meanwhile, but hears no controller while the clock is wrong";

/// The identity of a folder; and what is wrong with it, or with who can read its key.
pub(super) fn identity(folder: &Folder) -> (Option<Identity>, Vec<Check>) {
    let mut checks = Vec::new();
    let key = folder.identity().join("key.pem");
    if let Ok(true) = is_exposed(&key) {
        let found = format!("{} can be read or written by others than its owner", key.display());
        checks.push(problem("key", found, format!("chmod 600 {}", key.display())));
    }
    match Identity::look(&folder.identity()) {
        Ok(Some(identity)) => return (Some(identity), checks),
        Ok(None) => checks.push(problem(
            "certificate",
            format!("{} has no key", folder.identity().display()),
            "enrol this device: fieldfare-agent enrol --dir ... --token ...",
        )),
        Err(error) => {
            let advice = match &error {
                StorageError::File(_) => "make the folder readable for the user whom the agent runs as",
                StorageError::Identity {
                    source: IdentityError::KeyMismatch { .. },
                    ..
                } => {
                    "key and certificate are not of one issue: bring both back from one backup, or enrol this device anew in another folder"
                }
                _ => "bring the folder `identity` back from a backup, or enrol this device anew in another folder",
            };
            checks.push(problem("certificate", process::chain(&error), advice));
        }
    }
    (None, checks)
}

/// The clock against what is proven, and against the controller's.
pub(super) fn clock(patient: &Patient<'_>) -> Check {
    const CHECK: &str = "clock";
    let now = patient.now;
    if let Some(server) = patient.reached.server_time() {
        let (ahead, behind) = (now.since(server), server.since(now));
        let off = ahead.max(behind);
        let seconds = off.as_secs();
        if off > CLOCK_SKEW_MAX {
            let way = if ahead > behind { "ahead of" } else { "behind" };
            let found = format!("it says {now}, {seconds} s {way} the controller's");
            return problem(CHECK, found, SET_THE_CLOCK);
        }
        return ok(
            CHECK,
            format!("it says {now}, within {} s of the controller's", seconds + 1),
        );
    }
    let certificate = patient
        .identity
        .as_ref()
        .map(|identity| identity.certificate().validity);
    let metadata = clock_proof::metadata_signed(patient.folder);
    match certificate.and_then(|window| clock_proof::behind(now, window, metadata)) {
        Some(behind) => problem(CHECK, behind.to_string(), SET_THE_CLOCK),
        None => ok(
            CHECK,
            format!("it says {now}; no controller's was there to compare it with"),
        ),
    }
}

/// The certificate's age.
pub(super) fn certificate(patient: &Patient<'_>) -> Option<Check> {
    const CHECK: &str = "certificate";
    let identity = patient.identity.as_ref()?;
    let (now, window) = (patient.probable_time(), identity.certificate().validity);
    let (who, until) = (identity.principal(), window.not_after());
    let grace = until.saturating_add(RENEWAL_GRACE);
    if now > grace {
        return Some(problem(
            CHECK,
            format!("of {who}: it expired at {until}, and no controller renews it since {grace}"),
            "enrol this device anew, in another folder",
        ));
    }
    if identity.is_expired(now) {
        let found = format!("of {who}: it expired at {until}, and can be renewed until {grace}");
        let advice = "run the agent where it reaches a controller: it renews the certificate by itself";
        return Some(problem(CHECK, found, advice));
    }
    let half_life = window.half_life();
    if patient.presence.runs() && now.since(half_life) > (until.since(half_life) / 2) {
        let found = format!("of {who}: valid until {until}, and its renewal is overdue since {half_life}");
        return Some(warning(
            CHECK,
            found,
            "see what is said of the controller, and the agent's log",
        ));
    }
    Some(ok(CHECK, format!("of {who}, valid until {until}; the key is its own")))
}
