//! What a device keeps of its installation: plain data, written before anything is done about it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::duration_ms;
use crate::{ByteSize, Digest, Generation, Obstacle, ReleaseId, Timestamp, VariantName};

/// A step of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Bytes are being fetched; resumable.
    Fetch,
    /// Bytes are being checked against the signed release.
    Verify,
    /// Bytes are being put in their place beside the running release.
    Stage,
    /// A second serving process loads the release.
    WarmUp,
    /// The release's probe prompts are being answered.
    Probe,
    /// Requests are moving over to the new process.
    Switch,
    /// The release serves; crashes within the window revert it.
    Confirm,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fetch => "fetching",
            Self::Verify => "verifying",
            Self::Stage => "staging",
            Self::WarmUp => "warming up",
            Self::Probe => "probing",
            Self::Switch => "switching",
            Self::Confirm => "confirming",
        })
    }
}

/// A release as it is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Installed {
    /// The release.
    pub release: ReleaseId,
    /// The variant.
    pub variant: VariantName,
    /// Digest of the signed manifest that lists its bytes.
    pub manifest: Digest,
    /// The assignment under which it came.
    pub assignment: Generation,
}

/// What the device shall run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Assignment {
    /// The release and variant.
    pub install: Installed,
    /// Bytes of its artifacts that are not on the disk yet.
    pub bytes_missing: ByteSize,
    /// Exact probe answers needed, of the probes in the release.
    pub probes_required: u32,
}

/// A release on its way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Candidate {
    /// What is being installed.
    pub assignment: Assignment,
    /// The step that it is in.
    pub stage: Stage,
    /// How often this step has failed.
    pub failures: u32,
    /// When the step is tried again; none while it is under way.
    pub retry_at: Option<Timestamp>,
    /// Whether it may have been withdrawn: since it was assigned the agent has started, and nobody listened meanwhile, or desired
    /// state has named a newer assignment. Nothing is done about it until it is assigned again.
    #[serde(default)]
    pub in_doubt: bool,
}

/// A release that failed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct FailedRelease {
    /// The release.
    pub release: ReleaseId,
    /// The variant.
    pub variant: VariantName,
    /// The assignment under which it failed.
    pub assignment: Generation,
    /// Why.
    pub obstacle: Obstacle,
}

/// How patient an installation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct InstallPolicy {
    /// How long a release is watched after the switch.
    #[serde(rename = "confirm_window_ms", with = "duration_ms")]
    pub confirm_window: Duration,
    /// Crashes within the crash window that revert it, at least 1.
    pub max_crashes: u32,
    /// How long a crash counts. At least the confirm window.
    #[serde(rename = "crash_window_ms", with = "duration_ms", default)]
    pub crash_window: Duration,
    /// Attempts at one step before the device gives up, 1 to 8.
    pub max_attempts: u32,
    /// Wait after the first failure of a step; doubled with each further one.
    #[serde(rename = "retry_after_ms", with = "duration_ms")]
    pub retry_after: Duration,
    /// Disk that stays free beside the release.
    pub disk_reserve: ByteSize,
}

/// What a device keeps of its installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct InstallState {
    /// How patient it is.
    pub policy: InstallPolicy,
    /// What serves.
    pub active: Option<Installed>,
    /// What served before, kept to go back to.
    pub previous: Option<Installed>,
    /// What is on its way in, up to the confirmation.
    pub candidate: Option<Candidate>,
    /// When the active release was switched to, until it is confirmed.
    pub switched_at: Option<Timestamp>,
    /// The newest crashes of the active release, within the crash window: at most as many as revert it.
    pub crashes: Vec<Timestamp>,
    /// Newest assignment seen.
    pub assignment: Generation,
    /// What it names.
    #[serde(default)]
    pub assigned: Option<Installed>,
    /// Releases that failed here, the oldest first.
    pub failed: Vec<FailedRelease>,
    /// Why the newest assignment cannot be reached, if it cannot.
    pub obstacle: Option<Obstacle>,
}
