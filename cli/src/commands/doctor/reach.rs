//! Whether the controller is reached: name, port, TLS, in this order.

use std::time::{Duration, Instant};

use fieldfare_member::diagnosis::{Check, Level, ok, problem, warning};
use fieldfare_tls::{ConnectError, Endpoint};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::client::Client;
use crate::context::Context;
use crate::limits::SLOW_ANSWER;

/// Looks at both addresses, and connects where that is possible.
pub(super) async fn look(context: &Context, limit: Duration) -> (Vec<Check>, Option<Client>) {
    // Unreadable endpoints have been told.
    let Ok(endpoints) = context.endpoints() else {
        return (Vec::new(), None);
    };
    let mut checks = Vec::new();
    let mut reached = true;
    for (check, text) in [("controller", &endpoints.grpc), ("artifacts", &endpoints.artifacts)] {
        let found = match text.parse::<Endpoint>() {
            Ok(endpoint) => port(check, &endpoint, limit).await,
            Err(error) => problem(
                check,
                format!("{text:?}: {error}"),
                "correct endpoints.json in the context's folder",
            ),
        };
        reached &= check != "controller" || found.level < Level::Problem;
        checks.push(found);
    }
    if !reached || context.identity().is_err() {
        return (checks, None);
    }
    match timeout(limit, Client::connect(context, Some(limit))).await {
        Ok(Ok(client)) => {
            checks.push(ok(
                "tls",
                "the controller is the one of this fleet, and lets this operator in",
            ));
            (checks, Some(client))
        }
        Ok(Err(error)) if is_late(&error) => (with(checks, hung(format!("{error:#}"))), None),
        Ok(Err(error)) => {
            let advice = "the address is another server's, the fleet has another authority now, or this operator's credential is \
                          refused: compare with `fieldfare context list`";
            // What the connection says of a server that does not answer is no advice here: it does answer.
            (with(checks, problem("tls", format!("{error:#}"), advice)), None)
        }
        Err(_) => {
            let found = format!("no connection within {} s", limit.as_secs_f64());
            (with(checks, hung(found)), None)
        }
    }
}

fn with(mut checks: Vec<Check>, found: Check) -> Vec<Check> {
    checks.push(found);
    checks
}

/// Whether the server took the connection, and then said nothing.
fn is_late(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(ConnectError::Timeout { .. })))
}

/// The port is open, which the system sees to, and nobody speaks there: a process that hangs or is stopped, or far too much to do.
fn hung(found: String) -> Check {
    let advice = "the process behind the port hangs or its machine is overloaded: see the controller's log, start it anew, or give it \
                  longer with --timeout";
    problem("tls", found, advice)
}

/// Whether a name resolves and somebody listens there.
async fn port(check: &'static str, endpoint: &Endpoint, limit: Duration) -> Check {
    let (host, number) = (endpoint.host(), endpoint.port());
    let addresses = match timeout(limit, lookup_host((host, number))).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            let advice = "see whether the name is right, and whether this machine's DNS answers";
            return problem(check, format!("the name {host} does not resolve: {error}"), advice);
        }
        Err(_) => {
            return problem(
                check,
                format!("nobody says what the name {host} is"),
                "see whether this machine's DNS answers",
            );
        }
    };
    let begun = Instant::now();
    match timeout(limit, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(_)) => {
            let took = begun.elapsed();
            let found = format!("{endpoint} answers in {:.1} ms", took.as_secs_f64() * 1000.0);
            match took > SLOW_ANSWER {
                true => warning(check, found, "the network between here and the controller is slow"),
                false => ok(check, found),
            }
        }
        Ok(Err(error)) => {
            let advice =
                "start the controller with `fieldfare-controller run`, or open the port in the firewall between";
            problem(check, format!("nobody listens at {endpoint}: {error}"), advice)
        }
        Err(_) => {
            let advice = "a firewall swallows the connection, or the machine is off";
            problem(
                check,
                format!("{endpoint} does not answer within {} s", limit.as_secs_f64()),
                advice,
            )
        }
    }
}
