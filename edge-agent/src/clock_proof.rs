//! Times that a device has proof of: others signed them, so that they are over. A clock that is earlier is behind.
//!
//! Such a device serves what it has. It hears no controller, since no certificate is valid yet, and so installs nothing.

use std::fmt;

use fieldfare_files as files;
use fieldfare_fleet::Timestamp;
use fieldfare_release::tuf::TrustedState;
use fieldfare_tls::ValidityWindow;

use crate::clock;
use crate::folder::Folder;

/// What proves a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The controller issued the device's certificate then, or a little later.
    Certificate,
    /// The release repository's newest metadata were signed then.
    Metadata,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "the certificate of this device begins",
            Self::Metadata => "the newest release metadata were signed",
        })
    }
}

/// The device's clock is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// What it says.
    pub now: Timestamp,
    /// What it is later than.
    pub proven: Timestamp,
    /// Why that is known.
    pub by: Proof,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { now, proven, by } = self;
        write!(f, "the clock says {now}, but {by} at {proven}: set the clock")
    }
}

/// Whether a clock that says `now` is behind what is proven by a certificate's window and by the signatures of metadata.
pub fn behind(now: Timestamp, certificate: ValidityWindow, metadata: Option<Timestamp>) -> Option<Behind> {
    let proofs = [
        (certificate.not_before(), Proof::Certificate),
        (metadata.unwrap_or_default(), Proof::Metadata),
    ];
    let (proven, by) = proofs.into_iter().max_by_key(|(proven, _)| *proven)?;
    (now < proven).then_some(Behind { now, proven, by })
}

/// When the newest release metadata of a folder were signed; nothing where there are none that can be read.
pub fn metadata_signed(folder: &Folder) -> Option<Timestamp> {
    let bytes = files::read(&folder.trusted_state()).ok().flatten()?;
    let floor = TrustedState::from_bytes(&bytes).ok()?.time_floor();
    Some(clock::of_seconds(floor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_behind_what_was_signed_last() {
        let at = Timestamp::from_unix_ms;
        let window = ValidityWindow::new(at(1_000_000), at(9_000_000)).unwrap();
        let by = |now, metadata: Option<u64>| {
            behind(at(now), window, metadata.map(at)).map(|found| (found.proven, found.by))
        };
        let certificate = Some((at(1_000_000), Proof::Certificate));
        assert_eq!(by(0, None), certificate);
        assert_eq!(by(999_999, Some(5)), certificate);
        assert_eq!(by(1_000_000, None), None);
        assert_eq!(by(1_000_000, Some(2_000_000)), Some((at(2_000_000), Proof::Metadata)));
        assert_eq!(by(2_000_000, Some(2_000_000)), None);
        assert_eq!(
            by(u64::MAX, Some(2_000_000)),
            None,
            "a clock that is ahead proves nothing by itself"
        );
    }
}
