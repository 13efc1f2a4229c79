//! Why a device cannot reach its target.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::duration_ms;
use crate::{ByteSize, Generation};

/// Why a device cannot converge: reported by the device, shown by `explain`, counted by gates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Obstacle {
    /// No variant of the release fits the device.
    NoVariant,
    /// The release does not fit on the disk beside the one that runs.
    DiskTooSmall {
        /// Bytes to fetch and to keep free.
        needed: ByteSize,
        /// Free bytes.
        available: ByteSize,
    },
    /// The artifacts could not be fetched.
    Fetch {
        /// How often it was tried.
        attempts: u32,
        /// The last error.
        detail: String,
    },
    /// The bytes are not those of a trusted release.
    Verification {
        /// What was refused.
        detail: String,
    },
    /// The bytes could not be put in place.
    Staging {
        /// The last error.
        detail: String,
    },
    /// The serving process did not come up with the release.
    WarmUp {
        /// The last error.
        detail: String,
    },
    /// Too few of the release's probes were answered as expected.
    Probes {
        /// Probes answered exactly.
        matched: u32,
        /// Probes answered.
        run: u32,
        /// Exact answers needed.
        required: u32,
    },
    /// The serving process kept crashing, and the previous release is back.
    CrashLoop {
        /// Crashes within the window.
        crashes: u32,
        /// The window.
        #[serde(rename = "within_ms", with = "duration_ms")]
        within: Duration,
    },
    /// The release failed here before; it is tried again only when it is assigned anew.
    FailedBefore {
        /// The assignment under which it failed.
        generation: Generation,
        /// Why it failed then.
        because: Box<Obstacle>,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVariant => write!(f, "no variant of the release fits the device"),
            Self::DiskTooSmall { needed, available } => write!(f, "needs {needed} of disk, {available} are free"),
            Self::Fetch { attempts, detail } => write!(f, "not fetched after {attempts} attempts: {detail}"),
            Self::Verification { detail } => write!(f, "not trusted: {detail}"),
            Self::Staging { detail } => write!(f, "not put in place: {detail}"),
            Self::WarmUp { detail } => write!(f, "did not start: {detail}"),
            Self::Probes { matched, run, required } => {
                write!(f, "{matched} of {run} probes answered as expected, {required} needed")
            }
            Self::CrashLoop { crashes, within } => write!(f, "crashed {crashes} times within {} s", within.as_secs()),
            Self::FailedBefore { generation, because } => {
                write!(f, "failed before (assignment {generation}): {because}")
            }
        }
    }
}
