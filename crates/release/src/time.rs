//! The one notion of time: whole seconds since 1970, always an argument.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds since 1970-01-01T00:00:00Z. Serialised as an integer; shown as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(u64);

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z, less the day that jiff keeps for time zones.
const LAST: u64 = 253_402_207_200;

impl UnixSeconds {
    /// The start of 1970, which is what a clock without a battery shows.
    pub const EPOCH: Self = Self(0);

    /// A moment by its distance from the epoch. Moments after the year 9999 are cut to its last day.
    pub const fn new(seconds: u64) -> Self {
        Self(if seconds > LAST { LAST } else { seconds })
    }

    /// Seconds since the epoch.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The moment `seconds` later.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self::new(self.0.saturating_add(seconds))
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        match Timestamp::from_second(seconds) {
            Ok(moment) => write!(f, "{}", moment.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => write!(f, "{}s after 1970", self.0),
        }
    }
}

/// The date format of TUF metadata, `YYYY-MM-DDTHH:MM:SSZ`, for `#[serde(with)]`.
pub(crate) mod rfc3339 {
    use super::{Deserialize, Deserializer, Serializer, Timestamp, UnixSeconds};

    pub(crate) fn serialize<S: Serializer>(value: &UnixSeconds, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<UnixSeconds, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("date {text:?} is not YYYY-MM-DDTHH:MM:SSZ of 1970 or later"))
        })
    }

    pub(super) fn parse(text: &str) -> Option<UnixSeconds> {
        let moment: Timestamp = text.parse().ok()?;
        let value = UnixSeconds::new(u64::try_from(moment.as_second()).ok()?);
        (value.to_string() == text).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::{UnixSeconds, rfc3339};

    #[test]
    fn dates_read_back_as_written() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_366_724, "2026-11-22T16:58:44Z"),
            (253_402_207_200, "9999-12-30T22:00:00Z"),
        ] {
            assert_eq!(UnixSeconds::new(seconds).to_string(), text);
            assert_eq!(rfc3339::parse(text), Some(UnixSeconds::new(seconds)));
        }
    }

    #[test]
    fn another_spelling_of_a_date_is_refused() {
        for text in [
            "2026-11-22t16:58:44Z",
            "2026-11-22T16:58:44.5Z",
            "2026-11-22T16:58:44+00:00",
            "1969-12-31T23:59:59Z",
            "",
        ] {
            assert_eq!(rfc3339::parse(text), None, "{text}");
        }
    }
}
