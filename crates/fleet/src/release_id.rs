//! How a release, a round and an attempt are named.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{JobName, ModelName, NameError};

/// Number of a release within its model; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(pub u64);

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("r{}", self.0))
    }
}

/// One release of one model, written `<model>.r<number>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId {
    /// The model.
    pub model: ModelName,
    /// The release's number within the model.
    pub number: ReleaseNumber,
}

/// Why a text names no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseIdError {
    /// The text has not the form `<model>.r<number>`.
    #[error("a release is written MODEL.rNUMBER (as in soil-alerts.r3), {text:?} is not")]
    Form {
        /// The refused text.
        text: String,
    },
    /// The part before the dot is no model name.
    #[error("the model of a release")]
    Model(#[from] NameError),
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.model, self.number))
    }
}

impl FromStr for ReleaseId {
    type Err = ReleaseIdError;
    fn from_str(text: &str) -> Result<Self, ReleaseIdError> {
        let form = || ReleaseIdError::Form { text: text.to_owned() };
        let (model, digits) = text.split_once(".r").ok_or_else(form)?;
        let canonical = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| canonical).ok_or_else(form)?;
        Ok(Self {
            model: ModelName::new(model)?,
            number: ReleaseNumber(number),
        })
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = ReleaseIdError;
    fn try_from(text: String) -> Result<Self, ReleaseIdError> {
        text.parse()
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> Self {
        id.to_string()
    }
}

/// Number of a round within its job; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoundNumber(pub u32);

/// Number of an attempt at a round; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

/// One attempt at one round of one job: what a contribution is stored under, together with the device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct RoundId {
    /// The job.
    pub job: JobName,
    /// The round within the job.
    pub round: RoundNumber,
    /// The attempt at the round.
    pub attempt: Attempt,
}

impl fmt::Display for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}/{}", self.job, self.round.0, self.attempt.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_one_text_form() {
        let id: ReleaseId = "soil-alerts.r12".parse().unwrap();
        assert_eq!((id.model.as_str(), id.number), ("soil-alerts", ReleaseNumber(12)));
        assert_eq!(id.to_string(), "soil-alerts.r12");
        for text in [
            "",
            "a",
            "a.r",
            "a.r0",
            "a.r01",
            "a.r+1",
            "a.1",
            ".r1",
            "a.r1.r2",
            "A.r1",
            "a.r99999999999999999999",
        ] {
            assert!(text.parse::<ReleaseId>().is_err(), "{text:?}");
        }
    }
}
