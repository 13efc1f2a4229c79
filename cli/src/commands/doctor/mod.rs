//! `fieldfare doctor`: looks at everything that an operator's work needs, and says what to do about what it finds.
//!
//! It changes nothing but a credential that is due for renewal, which every command renews.

mod controller;
mod devices;
mod place;
mod reach;

use anyhow::Result;
use fieldfare_member::diagnosis::{Check, Diagnosis, problem};

use super::Session;
use crate::args::Global;
use crate::context::Contexts;
use crate::exit::{Advice, Failure};
use crate::limits::CALL_TIMEOUT;
use crate::output::show;

/// Does it.
///
/// # Errors
/// There is a problem among what was found, which has been printed; or nothing can be printed.
pub async fn run(global: &Global) -> Result<()> {
    let diagnosis = Diagnosis::of(examine(global).await);
    show(global.output, &diagnosis, Diagnosis::text)?;
    match diagnosis.problems() {
        0 => Ok(()),
        count => Err(Failure::Unwell(count).into()),
    }
}

async fn examine(global: &Global) -> Vec<Check> {
    let context = Contexts::of_user(global.config.as_deref()).and_then(|all| all.open(global.context.as_deref()));
    let context = match context {
        Ok(context) => context,
        Err(error) => {
            return vec![of_error("context", &error, "name another one with --context")];
        }
    };
    let mut checks = place::look(&context);
    let limit = global.timeout.unwrap_or(CALL_TIMEOUT);
    let (endpoints, reached) = reach::look(&context, limit).await;
    checks.extend(endpoints);
    let client = match reached {
        Some(client) => client,
        None => return checks,
    };
    let session = Session {
        context,
        client,
        format: global.output,
    };
    match controller::ask(&session).await {
        Ok((examination, asked)) => {
            checks.extend(controller::look(&examination, &asked));
            checks.extend(devices::look(&session, &examination).await);
        }
        Err(error) => checks.push(of_error(
            "controller",
            &error,
            "see the controller's log; a store that is away comes back by itself",
        )),
    }
    match super::trainers::list(&session).await {
        Ok(trainers) => checks.push(devices::trainers(&trainers)),
        Err(error) => checks.push(problem("trainers", format!("{error:#}"), "see the controller's log")),
    }
    checks
}

/// A problem that an error tells, with its own advice where it has some.
pub(super) fn of_error(check: &'static str, error: &anyhow::Error, otherwise: &str) -> Check {
    let advice = error.downcast_ref::<Advice>().map_or(otherwise, |advice| &advice.next);
    problem(check, format!("{error:#}"), advice)
}
