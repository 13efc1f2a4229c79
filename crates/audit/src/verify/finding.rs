//! What can be wrong with a log.

use std::fmt;

use crate::note::NoteError;

/// The name of the file of the segment that begins with this record.
pub fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

/// Something that is wrong with a log. Records are counted from 0; a range goes from its first record to before its second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The content of a record is not that of its own hash.
    Changed {
        /// The record.
        record: u64,
    },
    /// A signed head says that these records are not those that were written.
    ChangedBetween {
        /// The first that may be another one: all before agree with an earlier head.
        from: u64,
        /// The size of the head.
        to: u64,
    },
    /// Records are not there.
    Missing {
        /// The first.
        from: u64,
        /// The one after the last.
        to: u64,
    },
    /// A record stands where another belongs: it is repeated, or out of order.
    Misplaced {
        /// The record.
        record: u64,
        /// The one that belongs there.
        expected: u64,
    },
    /// A signed head comes after more records than it covers: some were added before it.
    Added {
        /// The size of the head.
        size: u64,
        /// How many there are.
        records: u64,
    },
    /// A signed head covers more records than there are: the end was cut off.
    Truncated {
        /// Which head.
        head: String,
        /// How many it covers.
        signed: u64,
        /// How many there are.
        records: u64,
    },
    /// A signed head is of other records.
    HeadMismatch {
        /// Which head.
        head: String,
        /// How many it covers.
        size: u64,
    },
    /// A head is of records that the log has removed: nothing can be said.
    TooOld {
        /// Which head.
        head: String,
        /// How many it covers.
        size: u64,
        /// The first record that is kept.
        first: u64,
    },
    /// A segment cannot be read on.
    Unreadable {
        /// The segment.
        segment: u64,
        /// From which byte on.
        offset: u64,
        /// The record that should come there.
        record: u64,
    },
    /// A segment does not begin as it should.
    BadStart {
        /// The segment.
        segment: u64,
        /// What is wrong.
        why: NoteError,
    },
    /// A segment's file has the name of another.
    Renamed {
        /// What the name says.
        segment: u64,
        /// What it begins with.
        found: u64,
    },
    /// What should be signed by the log is not.
    BadNote {
        /// What it is.
        note: String,
        /// What is wrong.
        why: NoteError,
    },
    /// The log's own key is not the one that was asked for.
    OtherKey {
        /// Fingerprint of the log's.
        found: String,
    },
    /// A file that every log has is not there, or cannot be read as what it is.
    BadFile {
        /// Its name.
        file: String,
        /// What is wrong.
        why: String,
    },
}

impl Finding {
    /// Names the kind of finding, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::ChangedBetween { .. } => "changed_between",
            Self::Missing { .. } => "missing",
            Self::Misplaced { .. } => "misplaced",
            Self::Added { .. } => "added",
            Self::Truncated { .. } => "truncated",
            Self::HeadMismatch { .. } => "head_mismatch",
            Self::TooOld { .. } => "too_old",
            Self::Unreadable { .. } => "unreadable",
            Self::BadStart { .. } => "bad_start",
            Self::Renamed { .. } => "renamed",
            Self::BadNote { .. } => "bad_note",
            Self::OtherKey { .. } => "other_key",
            Self::BadFile { .. } => "bad_file",
        }
    }

    /// The first record that it concerns, where it concerns one.
    pub const fn record(&self) -> Option<u64> {
        match self {
            Self::Changed { record } | Self::Misplaced { record, .. } | Self::Unreadable { record, .. } => {
                Some(*record)
            }
            Self::ChangedBetween { from, .. } | Self::Missing { from, .. } => Some(*from),
            Self::Truncated { records, .. } => Some(*records),
            Self::Added { size, .. } => Some(*size),
            _ => None,
        }
    }
}

/// "record 4", or "records 4 to 6".
struct Range(u64, u64);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.saturating_sub(self.0) {
            0 | 1 => write!(f, "record {}", self.0),
            _ => write!(f, "records {} to {}", self.0, self.1 - 1),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { record } => write!(f, "record {record} was changed"),
            Self::ChangedBetween { from, to } => {
                let range = Range(*from, *to);
                write!(f, "{range}: not as signed; at least one was changed, dropped or moved")
            }
            Self::Missing { from, to } if to.saturating_sub(*from) > 1 => {
                write!(f, "{} are missing", Range(*from, *to))
            }
            Self::Missing { from, to } => write!(f, "{} is missing", Range(*from, *to)),
            Self::Misplaced { record, expected } => {
                write!(
                    f,
                    "record {record} stands in the place of record {expected}: repeated, or out of order"
                )
            }
            Self::Added { size, records } => {
                let range = Range(*size, *records);
                write!(
                    f,
                    "{range}: written before the signed head of {size} records, which does not cover them"
                )
            }
            Self::Truncated { head, signed, records } => write!(
                f,
                "{head} covers {signed} records and only {records} are here: the end was cut off, or the files were copied \
                 while they were written"
            ),
            Self::HeadMismatch { head, size } => {
                write!(f, "{head} is of other records than the first {size} of this log")
            }
            Self::TooOld { head, size, first } => {
                write!(
                    f,
                    "{head} is of {size} records and record {first} is the first that is kept: nothing can be said"
                )
            }
            Self::Unreadable {
                segment,
                offset,
                record,
            } => {
                let segment = segment_name(*segment);
                write!(
                    f,
                    "{segment} cannot be read from byte {offset} on, where record {record} should be"
                )
            }
            Self::BadStart { segment, why } => write!(f, "the beginning of {}: {why}", segment_name(*segment)),
            Self::Renamed { segment, found } => {
                write!(f, "{} begins with record {found}", segment_name(*segment))
            }
            Self::BadNote { note, why } => write!(f, "{note}: {why}"),
            Self::OtherKey { found } => write!(
                f,
                "the log's key has the fingerprint {found}: it is not the key that was given"
            ),
            Self::BadFile { file, why } => write!(f, "{file}: {why}"),
        }
    }
}
