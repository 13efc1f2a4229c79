//! What lies in the context's folder: keys, the credential, the trusted root.

use std::fs;
use std::path::Path;
use std::time::Duration;

use fieldfare_files::is_exposed;
use fieldfare_fleet::Timestamp;
use fieldfare_member::diagnosis::{Check, ok, problem, warning};
use fieldfare_tls::Identity;
use fieldfare_tls::limits::RENEWAL_GRACE;

use super::of_error;
use crate::clock;
use crate::context::{Context, OfflineKey};
use crate::limits::{AUTHORITY_ENDS_SOON, SHORT_OF_DISK_BYTES};
use crate::output::bytes;

pub(super) fn look(context: &Context) -> Vec<Check> {
    let mut checks = vec![match context.endpoints() {
        Ok(endpoints) => ok(
            "context",
            format!("{}, a controller at {}", context.name(), endpoints.grpc),
        ),
        Err(error) => of_error(
            "context",
            &error,
            "add the context anew with `fieldfare context add NAME --from DIR/operator`",
        ),
    }];
    checks.extend(credential(context));
    checks.push(key_files(context.folder()));
    checks.push(offline_keys(context));
    checks.push(disk(context.folder()));
    checks
}

fn credential(context: &Context) -> Vec<Check> {
    let anew = "have another operator make a token (`fieldfare token create --role operator`), or add the context anew from the \
                controller's folder";
    match context.identity() {
        Ok(identity) => vec![certificate(&identity, clock::now()), authority(&identity, clock::now())],
        Err(error) => vec![of_error("certificate", &error, anew)],
    }
}

/// A time span in the largest unit of which it has two.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let unit = units.iter().find(|(size, _)| seconds >= 2 * size);
    unit.map_or(format!("{seconds} s"), |(size, name)| {
        format!("{} {name}", seconds / size)
    })
}

fn certificate(identity: &Identity, now: Timestamp) -> Check {
    let validity = identity.certificate().validity;
    let who = identity.principal();
    if validity.is_ahead(now) {
        let advice = "set the clock of this machine";
        return problem(
            "certificate",
            format!("that of {who} is not valid yet by this machine's clock"),
            advice,
        );
    }
    if !validity.is_over(now) {
        let left = span(validity.not_after().since(now));
        return ok(
            "certificate",
            format!("{who}, for {left} more; every command renews it in time"),
        );
    }
    let over = now.since(validity.not_after());
    let found = format!("that of {who} expired {} ago", span(over));
    if over <= RENEWAL_GRACE {
        let left = span(RENEWAL_GRACE.saturating_sub(over));
        return warning(
            "certificate",
            found,
            format!("any command that reaches the controller renews it, within {left}"),
        );
    }
    let advice = "it can no more be renewed: join anew with a token of another operator, or with the first operator's folder at the \
                  controller";
    problem("certificate", found, advice)
}

fn authority(identity: &Identity, now: Timestamp) -> Check {
    let ends = identity
        .bundle()
        .authorities()
        .iter()
        .map(|authority| authority.validity().not_after())
        .max();
    let ends = ends.unwrap_or_default();
    if now >= ends {
        let advice = "the fleet needs a new authority: every member has to join anew";
        return problem(
            "authority",
            format!("its certificate expired {} ago", span(now.since(ends))),
            advice,
        );
    }
    let left = ends.since(now);
    let found = format!("the fleet's authority, for {} more", span(left));
    match left < AUTHORITY_ENDS_SOON {
        true => warning(
            "authority",
            found,
            "replace the authority before it expires, while members can still renew",
        ),
        false => ok("authority", found),
    }
}

/// Keys that others on this machine may read.
fn key_files(folder: &Path) -> Check {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let keys: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().ends_with("key.pem"))
        })
        .collect();
    let exposed: Vec<String> = keys
        .iter()
        .filter(|path| is_exposed(path).unwrap_or(false))
        .map(|path| path.display().to_string())
        .collect();
    if exposed.is_empty() {
        return ok("key files", format!("{} keys, for their owner alone", keys.len()));
    }
    let found = format!("others on this machine may read {}", exposed.join(" and "));
    problem(
        "key files",
        found,
        format!(
            "chmod 600 {}; whoever may have copied one can act as you",
            exposed.join(" ")
        ),
    )
}

fn offline_keys(context: &Context) -> Check {
    let check = "release keys";
    let (root, targets) = match (
        context.offline_key(OfflineKey::Root),
        context.offline_key(OfflineKey::Targets),
    ) {
        (Ok(root), Ok(targets)) => (root, targets),
        (Err(error), _) | (_, Err(error)) => return of_error(check, &error, "put the file back from your backup"),
    };
    let trust = match context.trust() {
        Ok(trust) => trust,
        Err(error) => {
            return of_error(
                check,
                &error,
                "remove the file; `fieldfare release verify` trusts the root anew",
            );
        }
    };
    match (root, targets, trust) {
        (Some(_), Some(_), _) => ok(
            check,
            "the root key and the targets key are here: keep a backup of them elsewhere",
        ),
        (None, None, None) => warning(
            check,
            "none yet",
            "`fieldfare release init` makes them, on the machine of whoever signs releases",
        ),
        (None, None, Some(_)) => ok(check, "none: releases are signed elsewhere"),
        (root, _, _) => {
            let missing = if root.is_none() { "root" } else { "targets" };
            let advice = "put it back from your backup; without it nothing can be signed here";
            warning(check, format!("the {missing} key is not here"), advice)
        }
    }
}

fn disk(folder: &Path) -> Check {
    match rustix::fs::statvfs(folder) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let found = format!("{} free where the context lies", bytes(free));
            match free < SHORT_OF_DISK_BYTES {
                true => warning(
                    "disk",
                    found,
                    "make room: a renewed credential must be written before it is used",
                ),
                false => ok("disk", found),
            }
        }
        Err(error) => problem(
            "disk",
            format!("{}: {error}", folder.display()),
            "see what is wrong with that folder",
        ),
    }
}
