//! The monotone number on every command and record.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Order of commands and records: first by epoch, then by counter. Restoring a backup raises the epoch, so that
/// whatever a restored controller says is newer than everything said before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Generation {
    /// Raised whenever state is restored from a backup.
    pub epoch: u32,
    /// Raised with every change within an epoch.
    pub counter: u64,
}

impl Generation {
    /// The generation before any command.
    pub const ZERO: Self = Self { epoch: 0, counter: 0 };

    /// The generation after this one, within the epoch. A counter that is used up opens the next epoch; past the last
    /// epoch the generation stays where it is, and what carries it is refused as stale.
    #[must_use]
    pub fn next(self) -> Self {
        match self.counter.checked_add(1) {
            Some(counter) => Self { counter, ..self },
            None => self.next_epoch(),
        }
    }

    /// The same step in an epoch that is not before its own, as a restored backup tells it. Generations of one record keep their order,
    /// and [`Generation::ZERO`], under which nothing was ever commanded, stays.
    #[must_use]
    pub fn in_epoch(self, epoch: u32) -> Self {
        match self {
            Self::ZERO => self,
            Self { epoch: own, counter } => Self {
                epoch: own.max(epoch),
                counter,
            },
        }
    }

    /// The first generation of the next epoch, as after restoring a backup.
    #[must_use]
    pub fn next_epoch(self) -> Self {
        match self.epoch.checked_add(1) {
            Some(epoch) => Self { epoch, counter: 0 },
            None => self,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

/// A text is not of the form `epoch.counter`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a generation is written EPOCH.COUNTER, {text:?} is not")]
pub struct GenerationError {
    /// The refused text.
    pub text: String,
}

impl FromStr for Generation {
    type Err = GenerationError;
    fn from_str(text: &str) -> Result<Self, GenerationError> {
        let parse = || {
            let (epoch, counter) = text.split_once('.')?;
            Some(Self {
                epoch: epoch.parse().ok()?,
                counter: counter.parse().ok()?,
            })
        };
        parse().ok_or_else(|| GenerationError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_backup_is_newer_than_everything_before() {
        let before = Generation {
            epoch: 1,
            counter: u64::MAX,
        };
        let restored = Generation { epoch: 1, counter: 7 }.next_epoch();
        assert!(restored > before);
        assert!(before.next() > before);
        assert!(Generation::ZERO.next() > Generation::ZERO);
        assert_eq!(before.in_epoch(3), Generation { epoch: 3, ..before });
        assert_eq!(before.in_epoch(0), before);
        assert_eq!(Generation::ZERO.in_epoch(3), Generation::ZERO);
        assert_eq!("3.14".parse(), Ok(Generation { epoch: 3, counter: 14 }));
        assert!("3".parse::<Generation>().is_err());
        let last = Generation {
            epoch: u32::MAX,
            counter: u64::MAX,
        };
        assert_eq!(last.next(), last);
    }
}
