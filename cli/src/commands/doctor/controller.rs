//! What the controller says of itself.

use std::time::Duration;

use anyhow::Result;
use fieldfare_fleet::Timestamp;
use fieldfare_member::diagnosis::{Check, ok, problem, warning};
use fieldfare_proto::v1::{ExamineRequest, ExamineResponse};

use super::super::Session;
use super::place::span;
use crate::clock;
use crate::limits::{
    AUTHORITY_ENDS_SOON, CLOCK_DIFFERENCE, CLOCK_DIFFERENCE_UNSAFE, LITTLE_DISK_BYTES, METADATA_ENDS_SOON,
    ONLINE_METADATA_ENDS_SOON, SHORT_OF_DISK_BYTES, SLOW_ANSWER,
};
use crate::output::bytes;

/// When the question was asked and answered, by the clock of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    from: Timestamp,
    to: Timestamp,
}

pub(super) async fn ask(session: &Session) -> Result<(ExamineResponse, Asked)> {
    let from = clock::now();
    let answer = session.client.call(ExamineRequest {}, |mut api, request| async move {
        api.examine(request).await
    });
    let answer = answer.await?;
    Ok((answer, Asked { from, to: clock::now() }))
}

pub(super) fn look(answer: &ExamineResponse, asked: &Asked) -> Vec<Check> {
    let now = time(answer.now_unix_ms);
    let mut checks = vec![clocks(now, asked), store(answer)];
    checks.extend(
        answer
            .disks
            .iter()
            .map(|disk| room(&disk.holds, disk.free_bytes, disk.total_bytes)),
    );
    checks.push(keys(answer));
    checks.push(certificates(answer, now));
    checks.extend(metadata(answer, now));
    checks.push(artifacts(answer));
    checks
}

pub(super) fn time(unix_ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(u64::try_from(unix_ms).unwrap_or_default())
}

fn clocks(controller: Timestamp, asked: &Asked) -> Check {
    let (difference, side) = if controller > asked.to {
        (controller.since(asked.to), "behind")
    } else {
        (asked.from.since(controller), "ahead of")
    };
    let found = format!(
        "this machine's clock is {:.0} s {side} the controller's",
        difference.as_secs_f64()
    );
    let advice = "set the clock that is wrong, best by NTP on both machines";
    match difference {
        difference if difference >= CLOCK_DIFFERENCE_UNSAFE => problem(
            "clock",
            found,
            format!(
                "{advice}: certificates are backdated by {} only",
                span(CLOCK_DIFFERENCE_UNSAFE)
            ),
        ),
        difference if difference >= CLOCK_DIFFERENCE => warning("clock", found, advice),
        _ => ok("clock", "this machine's and the controller's agree"),
    }
}

fn store(answer: &ExamineResponse) -> Check {
    let took = Duration::from_micros(answer.store_answer_us);
    let found = format!("{} answers in {:.1} ms", answer.store, took.as_secs_f64() * 1000.0);
    match took > SLOW_ANSWER {
        true => warning("store", found, "see what keeps its disk or the network to it busy"),
        false => ok("store", found),
    }
}

fn room(holds: &str, free: u64, total: u64) -> Check {
    let found = format!(
        "{} of {} free on the disk of the controller's {holds}",
        bytes(free),
        bytes(total)
    );
    let advice = "make room there; a full disk refuses every change, while devices go on serving";
    if free < SHORT_OF_DISK_BYTES {
        problem("controller disk", found, advice)
    } else if free < LITTLE_DISK_BYTES {
        warning("controller disk", found, advice)
    } else {
        ok("controller disk", found)
    }
}

fn keys(answer: &ExamineResponse) -> Check {
    let check = "online keys";
    if !answer.exposed_keys.is_empty() {
        let files = answer.exposed_keys.join(" ");
        let found = format!("others on the controller's machine may read {files}");
        let advice = format!("in the fleet's folder: chmod 600 {files}; replace what somebody may have copied");
        return problem(check, found, advice);
    }
    if !answer.online_keys_named {
        let advice = "put the controller's `online` keys back from its backup, or sign a root that names the new ones";
        return problem(
            check,
            "the root names other keys than those of this controller: it can sign nothing",
            advice,
        );
    }
    ok(check, "for the controller alone, and named by the root")
}

fn certificates(answer: &ExamineResponse, now: Timestamp) -> Check {
    let (own, authority) = (
        time(answer.certificate_expires_unix_ms),
        time(answer.authority_expires_unix_ms),
    );
    let check = "certificates";
    if own <= now || authority <= now {
        let advice = "restart the controller, which issues its own anew; an authority that expired needs every member to join anew";
        return problem(
            check,
            "the controller's own certificate, or the authority's, has expired",
            advice,
        );
    }
    let found = format!(
        "the controller's for {}, the authority's for {}",
        span(own.since(now)),
        span(authority.since(now))
    );
    match authority.since(now) < AUTHORITY_ENDS_SOON {
        true => warning(
            check,
            found,
            "replace the authority before it expires, while members can still renew",
        ),
        false => ok(check, found),
    }
}

fn metadata(answer: &ExamineResponse, now: Timestamp) -> Vec<Check> {
    if answer.metadata.is_empty() {
        return vec![warning(
            "metadata",
            "there is no release repository yet",
            "`fieldfare release init`",
        )];
    }
    let check = |state: &fieldfare_proto::v1::MetadataState| {
        let is_online = matches!(state.role.as_str(), "snapshot" | "timestamp");
        let soon = if is_online {
            ONLINE_METADATA_ENDS_SOON
        } else {
            METADATA_ENDS_SOON
        };
        let advice = match state.role.as_str() {
            "root" => "sign the next root with the root key, and install it",
            "targets" => "`fieldfare release publish` signs it anew",
            "snapshot" | "timestamp" => {
                "the controller renews it by itself, and publishes a snapshot with the next targets: see its log, and publish anew"
            }
            _ => "`fieldfare release delegate` signs the delegation anew, and the trainer its releases",
        };
        let ends = time(state.expires_unix_ms);
        let name = format!("{} {}", state.role, state.version);
        if ends <= now {
            let found = format!(
                "{name} expired {} ago: devices install nothing, and go on serving",
                span(now.since(ends))
            );
            return problem("metadata", found, advice);
        }
        let found = format!("{name}, for {} more", span(ends.since(now)));
        match ends.since(now) < soon {
            true => warning("metadata", found, advice),
            false => ok("metadata", found),
        }
    };
    answer.metadata.iter().map(check).collect()
}

fn artifacts(answer: &ExamineResponse) -> Check {
    if answer.missing_artifacts == 0 {
        return ok(
            "releases",
            format!("all {} listed files are there", answer.listed_artifacts),
        );
    }
    let found = format!(
        "{} of {} listed files are missing or short: {}",
        answer.missing_artifacts,
        answer.listed_artifacts,
        answer.missing.join(", ")
    );
    problem(
        "releases",
        found,
        "put the controller's `blobs` back from its backup, or withdraw the release",
    )
}

#[cfg(test)]
mod tests {
    use fieldfare_proto::v1::{DiskSpace, MetadataState};

    use super::*;
    use fieldfare_member::diagnosis::Level;

    const DAY_MS: i64 = 24 * 3600 * 1000;
    const NOW_MS: i64 = 20_000 * DAY_MS;

    fn answer() -> ExamineResponse {
        let metadata = [
            ("root", 300),
            ("targets", 150),
            ("adapter-farm", 200),
            ("snapshot", 6),
            ("timestamp", 1),
        ];
        ExamineResponse {
            now_unix_ms: NOW_MS,
            store: "etcd".to_owned(),
            store_answer_us: 900,
            disks: vec![DiskSpace {
                holds: "artifacts".to_owned(),
                free_bytes: 50 << 30,
                total_bytes: 100 << 30,
            }],
            certificate_expires_unix_ms: NOW_MS + 20 * DAY_MS,
            authority_expires_unix_ms: NOW_MS + 3000 * DAY_MS,
            metadata: metadata
                .map(|(role, days)| MetadataState {
                    role: role.to_owned(),
                    version: 1,
                    expires_unix_ms: NOW_MS + days * DAY_MS,
                })
                .into(),
            online_keys_named: true,
            ..ExamineResponse::default()
        }
    }

    fn judged(answer: &ExamineResponse) -> Vec<Check> {
        let asked = Asked {
            from: time(NOW_MS - 20),
            to: time(NOW_MS + 20),
        };
        look(answer, &asked)
    }

    #[test]
    fn one_thing_at_a_time_is_told_with_what_to_do() {
        assert!(
            judged(&answer()).iter().all(|check| check.level == Level::Ok),
            "{:#?}",
            judged(&answer())
        );
        type Change = fn(&mut ExamineResponse);
        let cases: [(Change, Level, &str, &str); 14] = [
            (
                |a| a.store_answer_us = 2_000_000,
                Level::Warning,
                "etcd answers in 2000.0 ms",
                "busy",
            ),
            (
                |a| a.disks[0].free_bytes = 1 << 30,
                Level::Warning,
                "artifacts",
                "make room",
            ),
            (
                |a| a.disks[0].free_bytes = 1 << 20,
                Level::Problem,
                "artifacts",
                "make room",
            ),
            (
                |a| a.exposed_keys = vec!["authority/key.pem".to_owned()],
                Level::Problem,
                "authority/key.pem",
                "chmod 600",
            ),
            (|a| a.online_keys_named = false, Level::Problem, "other keys", "backup"),
            (
                |a| a.certificate_expires_unix_ms = NOW_MS,
                Level::Problem,
                "has expired",
                "restart",
            ),
            (
                |a| a.authority_expires_unix_ms = NOW_MS + 50 * DAY_MS,
                Level::Warning,
                "authority's for 50 days",
                "replace",
            ),
            (
                |a| a.metadata[0].expires_unix_ms = NOW_MS + 20 * DAY_MS,
                Level::Warning,
                "root 1, for 20 days",
                "root key",
            ),
            (
                |a| a.metadata[0].expires_unix_ms = NOW_MS - DAY_MS,
                Level::Problem,
                "root 1 expired 24 hours ago",
                "root key",
            ),
            (
                |a| a.metadata[1].expires_unix_ms = NOW_MS + DAY_MS,
                Level::Warning,
                "targets 1, for 24 hours",
                "release publish",
            ),
            (
                |a| a.metadata[2].expires_unix_ms = NOW_MS,
                Level::Problem,
                "adapter-farm 1 expired",
                "delegate",
            ),
            (
                |a| a.metadata[3].expires_unix_ms = NOW_MS,
                Level::Problem,
                "snapshot 1 expired",
                "by itself",
            ),
            (
                |a| a.metadata[4].expires_unix_ms = NOW_MS + 3_600_000,
                Level::Warning,
                "timestamp 1, for 60 minutes",
                "its log",
            ),
            (
                |a| a.now_unix_ms = NOW_MS - 400_000,
                Level::Problem,
                "400 s ahead of",
                "NTP",
            ),
        ];
        for (change, level, found, advice) in cases {
            let mut changed = answer();
            change(&mut changed);
            let faults: Vec<Check> = judged(&changed)
                .into_iter()
                .filter(|check| check.level != Level::Ok)
                .collect();
            assert_eq!(faults.len(), 1, "{faults:#?}");
            assert_eq!(faults[0].level, level, "{faults:#?}");
            assert!(faults[0].found.contains(found), "{found:?}: {faults:#?}");
            assert!(
                faults[0].advice.as_ref().is_some_and(|told| told.contains(advice)),
                "{advice:?}: {faults:#?}"
            );
        }
    }
}
