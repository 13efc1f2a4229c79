//! How much is known about the machine behind a device.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a device proved what it is; a later tier is trusted more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustTier {
    /// The device holds a key in software: it proved possession of the key and nothing about the machine.
    #[default]
    Unattested,
    /// The device's key lives in hardware that attested it, and the machine's state was checked.
    Attested,
}

impl fmt::Display for TrustTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unattested => "unattested",
            Self::Attested => "attested",
        })
    }
}
