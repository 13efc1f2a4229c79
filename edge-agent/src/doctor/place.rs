//! The disk, and the address of the local API.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use fieldfare_fleet::ByteSize;
use fieldfare_member::diagnosis::{Check, ok, problem, warning};
use rustix::fs::{Mode, OFlags};
use tokio::net::TcpListener;

use super::Patient;
use super::presence::Presence;
use crate::install::{Shelf, standing};
use crate::limits::DISK_RESERVE_BYTES;
use crate::measure;

/// What a file system says that has no files without a name, and a kernel that knows none.
const NO_NAMELESS_FILES: [Option<i32>; 2] = [
    Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()),
    Some(rustix::io::Errno::ISDIR.raw_os_error()),
];

/// Writes and syncs a file that has no name, so that nothing of it is ever seen.
fn takes_bytes(folder: &Path) -> std::io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    fieldfare_files::sync_folder(folder).map_err(|error| error.source)
}

/// The disk, written to and counted.
pub(super) fn disk(patient: &Patient<'_>) -> Check {
    const CHECK: &str = "disk";
    let path = patient.folder.path();
    match takes_bytes(path) {
        // Not every file system has files without a name; then only the agent itself can tell.
        Err(error) if NO_NAMELESS_FILES.contains(&error.raw_os_error()) => {}
        Err(error) => {
            let found = format!("{} takes no bytes: {error}", path.display());
            let advice = "make the folder writable for the user whom the agent runs as, and see that its disk is neither full, read-only \
                nor broken (dmesg)";
            return problem(CHECK, found, advice);
        }
        Ok(()) => {}
    }
    let active = standing(patient.folder).ok().and_then(|standing| standing.active);
    let shelf = Shelf::new(patient.folder.clone());
    let bytes = active.and_then(|active| shelf.describe(&active).ok());
    let bytes = bytes.map_or(0, |described| {
        described
            .variant
            .artifacts
            .values()
            .map(|artifact| artifact.length)
            .sum()
    });
    match measure::disk_free(path) {
        Ok(free) => room(free, ByteSize::new(bytes)),
        Err(error) => problem(CHECK, error.to_string(), "look at the disk that has the agent's folder"),
    }
}

/// Whether there is room for the device's own records, and for a release as large as the present one.
fn room(free: ByteSize, release: ByteSize) -> Check {
    const CHECK: &str = "disk";
    let reserve = ByteSize::new(DISK_RESERVE_BYTES);
    let needed = release.saturating_add(reserve);
    if free < reserve {
        let found = format!("{free} are free, less than the {reserve} that stay free for the device's own records");
        return problem(
            CHECK,
            found,
            format!("make room on the disk: {needed} for records and the next release"),
        );
    }
    if free < needed {
        let found =
            format!("{free} are free, and a release as large as the present one ({release}) would not fit beside it");
        return warning(
            CHECK,
            found,
            format!("make room on the disk: an installation needs {needed}"),
        );
    }
    ok(
        CHECK,
        format!("it takes bytes and syncs them; {free} are free, and an installation needs {needed}"),
    )
}

/// The local API: answered by the agent, or free for it.
pub(super) async fn api(patient: &Patient<'_>) -> Check {
    const CHECK: &str = "local API";
    let address = patient.settings.api_listen;
    let killed = match &patient.presence {
        Presence::Running(_) => return ok(CHECK, "the agent of this folder answers"),
        Presence::Silent(why) => {
            let advice = "restart the agent; if it stays silent, look at its log for what it waits for";
            return problem(CHECK, format!("an agent runs and does not answer: {why}"), advice);
        }
        Presence::Killed => "; the last agent was killed",
        Presence::Absent => "",
    };
    // The port is free again at once: nobody has connected.
    match TcpListener::bind(address).await {
        Ok(_) if address.port() == 0 => ok(CHECK, format!("no agent runs, and it may take any free port{killed}")),
        Ok(_) => ok(CHECK, format!("no agent runs, and {address} is free{killed}")),
        Err(error) => {
            let advice = format!(
                "find who listens (ss -ltnp 'sport = :{}') and stop it, or set another `api_listen` in {}",
                address.port(),
                patient.folder.settings().display()
            );
            problem(
                CHECK,
                format!("no agent runs, and {address} cannot be listened on: {error}"),
                advice,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use fieldfare_member::diagnosis::Level;

    use super::*;

    #[test]
    fn the_disk_must_have_its_reserve_and_should_have_room_for_a_release() {
        let mib = ByteSize::from_mib;
        for (free, release, level, advice) in [
            (65, 0, Level::Ok, None),
            (63, 0, Level::Problem, Some("64.0 MiB")),
            (164, 100, Level::Ok, None),
            (163, 100, Level::Warning, Some("164 MiB")),
            (63, 100, Level::Problem, Some("164 MiB")),
        ] {
            let check = room(mib(free), mib(release));
            assert_eq!(check.level, level, "{check:?}");
            assert_eq!(check.advice.is_some(), advice.is_some(), "{check:?}");
            let (found, wanted) = (check.advice.clone().unwrap_or_default(), advice.unwrap_or_default());
            assert!(found.contains(wanted), "{check:?}");
        }
    }
}
