//! How many invitations a controller may send: what comes faster is not looked at.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::INVITATIONS_PER_MINUTE;

const MINUTE: Duration = Duration::from_secs(60);

/// Admits [`INVITATIONS_PER_MINUTE`] in any minute, evenly or at once: the generic cell rate algorithm (ITU-T I.371, annex A),
/// which keeps two times and nothing of what it refused.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the last one that was admitted would have come, had they come evenly. Nothing before the first.
    due: Option<Instant>,
    /// Refused since it was last told.
    refused: u64,
    told: Option<Instant>,
}

/// What becomes of one invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is looked at.
    Admitted,
    /// It came too fast.
    Refused {
        /// How many were refused since the last time that this was said, at most once in a minute.
        say: Option<u64>,
    },
}

impl Pace {
    /// One more comes now.
    pub fn admit(&mut self, now: Instant) -> Admission {
        let interval = MINUTE / INVITATIONS_PER_MINUTE;
        let due = self.due.map_or(now, |due| due.max(now));
        if due.duration_since(now) + interval <= MINUTE {
            self.due = Some(due + interval);
            return Admission::Admitted;
        }
        self.refused = self.refused.saturating_add(1);
        if self.told.is_some_and(|told| now.duration_since(told) < MINUTE) {
            return Admission::Refused { say: None };
        }
        self.told = Some(now);
        Admission::Refused {
            say: Some(std::mem::take(&mut self.refused)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of those that come at this interval for so long are admitted, and how often refusals are said.
    fn admitted(pace: &mut Pace, from: Instant, every: Duration, lasting: Duration) -> (u32, u64, u64) {
        let (mut admitted, mut lines, mut said, mut now) = (0, 0, 0, from);
        while now < from + lasting {
            match pace.admit(now) {
                Admission::Admitted => admitted += 1,
                Admission::Refused { say } => {
                    lines += u64::from(say.is_some());
                    said += say.unwrap_or(0);
                }
            }
            now += every;
        }
        (admitted, lines, said)
    }

    #[test]
    fn as_many_as_a_minute_allows_may_come_at_once_or_evenly_and_no_more() {
        let begun = Instant::now();
        let most = INVITATIONS_PER_MINUTE;
        assert_eq!(
            admitted(&mut Pace::default(), begun, MINUTE / most, 10 * MINUTE),
            (10 * most, 0, 0)
        );
        // Ten thousand a minute for ten minutes: a minute's worth at once, and then as many as every minute brings.
        let mut pace = Pace::default();
        let (flooded, lines, _) = admitted(&mut pace, begun, Duration::from_millis(6), 10 * MINUTE);
        assert!((10 * most..=11 * most).contains(&flooded), "{flooded}");
        assert_eq!(lines, 10, "refusals are said once a minute");
        // A minute later there is room again.
        let (calm, ..) = admitted(&mut pace, begun + 12 * MINUTE, MINUTE / most, MINUTE);
        assert_eq!(calm, most);
    }
}
