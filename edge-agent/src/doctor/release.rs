//! The installed release: its bytes, and whether they serve.

use fieldfare_fleet::{ReleaseId, Timestamp};
use fieldfare_member::diagnosis::{Check, ok, problem, warning};

use super::Patient;
use crate::clock;
use crate::install::{BytesError, Described, Shelf, load_order, standing};
use crate::limits::CRASH_WINDOW;
use crate::process;
use crate::serving::Engine;

const FETCHED_ANEW: &str = "the agent never starts these bytes; it fetches them again by itself when it reaches a controller that assigns \
    the release. If it happens again, test the disk and the memory of this machine";

const CHECK: &str = "release";

/// Hashes everything that serves, and has it loaded where no agent serves it already.
pub(super) async fn installed(patient: &Patient<'_>) -> Check {
    let (active, crashes) = match standing(patient.folder) {
        Ok(standing) => (standing.active, standing.crashes),
        Err(error) => {
            let advice = "bring installation.json back from a backup, or remove it: the agent then installs what it is assigned anew";
            return problem(CHECK, process::chain(&error), advice);
        }
    };
    let Some(active) = active else {
        let advice = "deploy a release to this device; `fieldfare devices explain` says why it has none";
        return warning(CHECK, "nothing is installed", advice);
    };
    let shelf = Shelf::new(patient.folder.clone());
    let what = format!("{} {}", active.release, active.variant);
    let verified = {
        let (shelf, active) = (shelf.clone(), active.clone());
        tokio::task::spawn_blocking(move || shelf.verify(&active)).await
    };
    match verified {
        Ok(Ok(described)) => match in_use(patient, &active.release, &crashes, &what) {
            Some(check) => check,
            None => loads(patient, &shelf, &described, &what).await,
        },
        Ok(Err(error)) => {
            let advice = match error {
                BytesError::File(_) | BytesError::Read { .. } => {
                    "make the agent's folder readable for the user whom the agent runs as, and test the disk"
                }
                _ => FETCHED_ANEW,
            };
            problem(CHECK, format!("{what}: {}", process::chain(&error)), advice)
        }
        Err(error) => problem(CHECK, error.to_string(), "run the doctor again"),
    }
}

/// What a running agent says of its serving; nothing where none runs.
fn in_use(patient: &Patient<'_>, installed: &ReleaseId, crashes: &[Timestamp], what: &str) -> Option<Check> {
    let now = clock::now();
    let lately = crashes
        .iter()
        .filter(|at| now < at.saturating_add(CRASH_WINDOW))
        .count();
    let serving = patient.presence.says("/serving/release");
    match serving.and_then(|value| value.as_str()) {
        Some(serving) if serving == installed.to_string() && lately > 1 => {
            let minutes = CRASH_WINDOW.as_secs() / 60;
            let often = format!("its serving process crashed in the last {minutes} minutes, at least {lately} times");
            let advice = "look at the agent's log, which says how it ended; deploy another release if it goes on: this one is reverted by \
                itself only where the one before it is still there";
            Some(warning(
                CHECK,
                format!("{what}: its digests are right, and {often}"),
                advice,
            ))
        }
        Some(serving) if serving == installed.to_string() => Some(ok(
            CHECK,
            format!("{what}: its digests are right, and the agent serves it"),
        )),
        Some(serving) => Some(warning(
            CHECK,
            format!("{what} is installed, and the agent serves {serving}"),
            "it is being switched: look again in a minute",
        )),
        None if patient.presence.runs() => Some(problem(
            CHECK,
            format!("{what}: its digests are right, and the agent does not serve it"),
            "look at the agent's log: it says why the serving process does not start or stay",
        )),
        None => None,
    }
}

/// Has a serving process load what is installed.
async fn loads(patient: &Patient<'_>, shelf: &Shelf, described: &Described, what: &str) -> Check {
    let Some(load) = load_order(shelf, described, patient.settings.model_memory.get()) else {
        return problem(CHECK, format!("{what} has no weights"), FETCHED_ANEW);
    };
    match Engine::start(patient.binary, load).await {
        Ok(engine) => {
            let context = engine.context();
            engine.stop().await;
            let loaded = format!("a serving process loaded it ({context} tokens of context)");
            ok(CHECK, format!("{what}: its digests are right, and {loaded}"))
        }
        Err(error) => {
            let advice = "see that the machine has the memory that the owner grants (settings.json, model_memory); roll back to a release \
                that loads, or publish one";
            let why = process::chain(&error);
            let found = format!("{what}: its digests are right, and it does not load: {why}");
            problem(CHECK, found, advice)
        }
    }
}
