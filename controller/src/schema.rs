//! The version of the form of a tenant's records.

/// The version that this build writes.
pub const RECORDS: u32 = 1;
