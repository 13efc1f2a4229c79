//! What one device uploads in a round: a vector of fixed-point ring integers of public length and range.
//!
//! Integers add exactly and in any order, so a round's aggregate is the sum over the accepted set and nothing else.
//! The bound on an entry leaves room in the ring for the whole cohort, so that a sum modulo `2^ring_bits`, which is
//! what masking will need, is the sum itself.

mod codec;
mod sum;

pub use self::codec::{ContributionError, Encoded, RingCodec, RingError, RingParameters};
pub use self::sum::{ExactSum, SumError};
