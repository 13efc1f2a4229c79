//! Trainers and devices, as the controller knows them.

use std::time::Duration;

use fieldfare_member::diagnosis::{Check, ok, warning};
use fieldfare_proto::v1::{Device, DeviceStanding, ExamineResponse, Trainer};

use super::super::{Session, devices};
use super::controller::time;
use super::of_error;
use super::place::span;
use crate::limits::{DEVICE_SHORT_OF_DISK_BYTES, DEVICES_NAMED};
use crate::output::bytes;

pub(super) fn trainers(trainers: &[Trainer]) -> Check {
    let connected = trainers.iter().filter(|trainer| trainer.connected).count();
    let found = format!("{connected} of {} connected", trainers.len());
    match connected {
        0 => warning(
            "trainers",
            found,
            "imports and federated jobs wait until one runs: `fieldfare-trainer run`",
        ),
        _ => ok("trainers", found),
    }
}

/// Names of some, and how many more.
fn named(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(DEVICES_NAMED);
    names.truncate(DEVICES_NAMED);
    match more {
        0 => names.join(", "),
        _ => format!("{} and {more} more", names.join(", ")),
    }
}

pub(super) async fn look(session: &Session, answer: &ExamineResponse) -> Vec<Check> {
    let all = match devices::list(session, "").await {
        Ok(all) => all,
        Err(error) => return vec![of_error("devices", &error, "see the controller's log")],
    };
    let enrolled: Vec<Device> = all
        .into_iter()
        .filter(|device| device.standing() == DeviceStanding::Enrolled)
        .collect();
    let connected = enrolled.iter().filter(|device| device.connected).count();
    let mut checks = vec![ok("devices", format!("{connected} of {} connected", enrolled.len()))];
    checks.extend(clocks(answer));
    checks.extend(disks(&enrolled));
    checks.extend(expired(&enrolled, answer));
    checks
}

fn clocks(answer: &ExamineResponse) -> Option<Check> {
    if answer.clocks.is_empty() {
        return None;
    }
    let shown = |clock: &fieldfare_proto::v1::DeviceClock| {
        let side = if clock.ahead_ms > 0 { "ahead" } else { "behind" };
        format!(
            "{} {} {side}",
            clock.name,
            span(Duration::from_millis(clock.ahead_ms.unsigned_abs()))
        )
    };
    let found = format!("clocks are off: {}", named(answer.clocks.iter().map(shown).collect()));
    let advice =
        "have those devices set their clock by NTP; until then they install nothing that their clock calls expired";
    Some(warning("devices", found, advice))
}

fn disks(devices: &[Device]) -> Option<Check> {
    let free = |device: &Device| {
        device
            .profile
            .as_ref()
            .map_or(u64::MAX, |profile| profile.disk_free_bytes)
    };
    let short = devices
        .iter()
        .filter(|device| free(device) < DEVICE_SHORT_OF_DISK_BYTES);
    let short: Vec<String> = short
        .map(|device| format!("{} ({} free)", device.name, bytes(free(device))))
        .collect();
    if short.is_empty() {
        return None;
    }
    let found = format!("short of disk: {}", named(short));
    Some(warning(
        "devices",
        found,
        "make room there: `fieldfare-agent doctor` on the device says what takes it",
    ))
}

fn expired(devices: &[Device], answer: &ExamineResponse) -> Option<Check> {
    let now = time(answer.now_unix_ms);
    let lifetime = Duration::from_millis(answer.device_certificate_lifetime_ms);
    let grace = Duration::from_millis(answer.renewal_grace_ms);
    let silent = |device: &&Device| !device.connected && now.since(time(device.last_heard_unix_ms)) > lifetime;
    let silent: Vec<&Device> = devices.iter().filter(silent).collect();
    if silent.is_empty() {
        return None;
    }
    let shown = |device: &&Device| {
        let silence = now.since(time(device.last_heard_unix_ms));
        format!("{} (silent for {})", device.name, span(silence))
    };
    let found = format!(
        "certificates have expired: {}",
        named(silent.iter().map(shown).collect())
    );
    let advice = format!(
        "switch them on within {} of silence, and they renew by themselves; after that they enrol anew, or `fieldfare devices revoke` \
         those that are gone",
        span(lifetime + grace)
    );
    Some(warning("devices", found, advice))
}
