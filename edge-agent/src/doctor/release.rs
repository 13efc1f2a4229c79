//! The installed release: its bytes, and whether they serve.

use fieldfare_member::diagnosis::{Check, ok, problem, warning};

use super::Patient;
use crate::clock;
use crate::install::{BytesError, Shelf, load_order, standing};
use crate::limits::CRASH_WINDOW;
use crate::process;
use crate::serving::Engine;

const FETCHED_ANEW: &str = "the agent never starts these bytes; it fetches them again by itself when it reaches a controller that assigns \
    the release. If it happens again, test the disk and the memory of this machine";

/// Hashes everything that serves, and has it loaded where no agent serves it already.
pub(super) async fn installed(patient: &Patient<'_>) -> Check {
    const CHECK: &str = "release";
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
    let (release, variant) = (active.release.clone(), active.variant.clone());
    let verified = {
        let (shelf, active) = (shelf.clone(), active.clone());
        tokio::task::spawn_blocking(move || shelf.verify(&active)).await
    };
    let described = match verified {
        Ok(Ok(described)) => described,
        Ok(Err(error @ (BytesError::File(_) | BytesError::Read { .. }))) => {
            let advice = "make the agent's folder readable for the user whom the agent runs as, and test the disk";
            return problem(
                CHECK,
                format!("{release} {variant}: {}", process::chain(&error)),
                advice,
            );
        }
        Ok(Err(error)) => {
            return problem(
                CHECK,
                format!("{release} {variant}: {}", process::chain(&error)),
                FETCHED_ANEW,
            );
        }
        Err(error) => return problem(CHECK, error.to_string(), "run the doctor again"),
    };
    if let Some(serving) = patient
        .presence
        .says("/serving/release")
        .and_then(|value| value.as_str())
    {
        let now = clock::now();
        let lately = crashes
            .iter()
            .filter(|at| now < at.saturating_add(CRASH_WINDOW))
            .count();
        return match serving == release.to_string() {
            true if lately > 0 => {
                let found = format!(
                    "{release} {variant}: its digests are right, and its serving process crashed in the last {} minutes, at least {lately} times",
                    CRASH_WINDOW.as_secs() / 60
                );
                let advice = "look at the agent's log, which says how it ended; deploy another release if it goes on: this one is reverted \
                    by itself only where the one before it is still there";
                warning(CHECK, found, advice)
            }
            true => ok(
                CHECK,
                format!("{release} {variant}: its digests are right, and the agent serves it"),
            ),
            false => warning(
                CHECK,
                format!("{release} {variant} is installed, and the agent serves {serving}"),
                "it is being switched: look again in a minute",
            ),
        };
    }
    if patient.presence.runs() {
        let advice = "look at the agent's log: it says why the serving process does not start or stay";
        return problem(
            CHECK,
            format!("{release} {variant}: its digests are right, and the agent does not serve it"),
            advice,
        );
    }
    let Some(load) = load_order(&shelf, &described, patient.settings.model_memory.get()) else {
        return problem(CHECK, format!("{release} {variant} has no weights"), FETCHED_ANEW);
    };
    match Engine::start(patient.binary, load).await {
        Ok(engine) => {
            let context = engine.context();
            engine.stop().await;
            ok(
                CHECK,
                format!(
                    "{release} {variant}: its digests are right, and a serving process loaded it ({context} tokens of context)"
                ),
            )
        }
        Err(error) => {
            let advice = "see that the machine has the memory that the owner grants (settings.json, model_memory); roll back to a release \
                that loads, or publish one";
            let found = format!(
                "{release} {variant}: its digests are right, and it does not load: {}",
                process::chain(&error)
            );
            problem(CHECK, found, advice)
        }
    }
}
