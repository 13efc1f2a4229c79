//! What devices brought to a round that was turned away: counted by reason, so that whoever lies is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::admission::NotAdmitted;
use super::event::Refused;
use crate::DeviceId;
use crate::limits::TURNED_AWAY_DEVICES_MAX;

/// Why something that a device brought was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TurnedAway {
    /// The ticket is another's, for another trainer, or not genuine.
    Ticket,
    /// The ticket is over.
    TicketOver,
    /// The ticket is for another round or attempt.
    OtherRound,
    /// The ticket or the contribution names another configuration.
    OtherConfiguration,
    /// A message is missing, comes twice, or cannot be read.
    Malformed,
    /// A message is longer than any may be.
    TooLarge,
    /// The contribution has not the public length.
    Length,
    /// The bytes are not those that were announced.
    OtherDigest,
    /// An entry lies outside of the public range.
    OutOfRange,
    /// The device has contributed other bytes to the same attempt.
    OtherBytes,
    /// A second upload of the device beside its first.
    AtOnce,
    /// The bytes came too slowly, or without an end.
    TooSlow,
    /// The device is not of the cohort, or has left it.
    NotOfTheCohort,
    /// The round takes no contributions any more.
    Late,
}

impl fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ticket => "a ticket that is another's or not genuine",
            Self::TicketOver => "a ticket that is over",
            Self::OtherRound => "a ticket of another round or attempt",
            Self::OtherConfiguration => "another configuration",
            Self::Malformed => "messages that cannot be read",
            Self::TooLarge => "a message over the limit",
            Self::Length => "a contribution of another length",
            Self::OtherDigest => "other bytes than announced",
            Self::OutOfRange => "entries out of range",
            Self::OtherBytes => "other bytes than it had contributed",
            Self::AtOnce => "a second upload beside the first",
            Self::TooSlow => "an upload too slow to end",
            Self::NotOfTheCohort => "not of the cohort, or no longer",
            Self::Late => "a contribution after the round's end",
        })
    }
}

impl TurnedAway {
    /// The reason, where a device is to blame for not being admitted.
    pub const fn of_admission(refused: &NotAdmitted) -> Self {
        match refused {
            NotAdmitted::OtherRound { .. } => Self::OtherRound,
            NotAdmitted::OtherConfiguration { .. } => Self::OtherConfiguration,
            NotAdmitted::Length { .. } => Self::Length,
        }
    }

    /// The reason, where what the round says is a device's doing.
    pub const fn of_round(refused: &Refused) -> Option<Self> {
        match refused {
            Refused::OtherRound { .. } => Some(Self::OtherRound),
            Refused::Late { .. } | Refused::Over { .. } => Some(Self::Late),
            Refused::NotInvited { .. } | Refused::LeftRound { .. } => Some(Self::NotOfTheCohort),
            Refused::OtherConfiguration { .. } => Some(Self::OtherConfiguration),
            Refused::Length { .. } => Some(Self::Length),
            Refused::Conflicting { .. } => Some(Self::OtherBytes),
            Refused::Early { .. } | Refused::EmptyEvaluation | Refused::MissingVariant { .. } => None,
        }
    }
}

/// Whose was turned away, by reason. A device counts once for a reason, however often it tries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    devices: BTreeMap<TurnedAway, BTreeSet<DeviceId>>,
}

impl Tally {
    /// Counts a device. Beyond [`TURNED_AWAY_DEVICES_MAX`] of one reason nobody is added.
    pub fn note(&mut self, why: TurnedAway, device: DeviceId) {
        let devices = self.devices.entry(why).or_default();
        if devices.len() < TURNED_AWAY_DEVICES_MAX {
            devices.insert(device);
        }
    }

    /// Takes in what another one counted.
    pub fn add(&mut self, other: &Self) {
        for (why, devices) in &other.devices {
            devices.iter().for_each(|device| self.note(*why, *device));
        }
    }

    /// Every reason that occurred, with its devices.
    pub fn reasons(&self) -> impl Iterator<Item = (TurnedAway, &BTreeSet<DeviceId>)> {
        self.devices.iter().map(|(why, devices)| (*why, devices))
    }

    /// Whether nobody was turned away.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (why, devices)) in self.devices.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{} turned away: {why}", devices.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: usize) -> DeviceId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        DeviceId::from_bytes(bytes)
    }

    #[test]
    fn a_device_counts_once_for_a_reason_however_often_it_lies() {
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.note(TurnedAway::Length, device(1));
            tally.note(TurnedAway::OutOfRange, device(1));
        }
        tally.note(TurnedAway::Length, device(2));
        let expected = "2 turned away: a contribution of another length, 1 turned away: entries out of range";
        assert_eq!(tally.to_string(), expected);
        let mut sum = Tally::default();
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!(sum, tally);
    }

    #[test]
    fn a_fleet_of_liars_takes_bounded_memory() {
        let mut tally = Tally::default();
        (0..2 * TURNED_AWAY_DEVICES_MAX).for_each(|n| tally.note(TurnedAway::Late, device(n)));
        let counts: Vec<usize> = tally.reasons().map(|(_, devices)| devices.len()).collect();
        assert_eq!(counts, [TURNED_AWAY_DEVICES_MAX]);
    }
}
