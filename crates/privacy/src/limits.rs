//! The limits of this crate, each with its reason.

/// Smallest noise multiplier that is accepted. Below it one step costs an epsilon of thousands: not a privacy
/// guarantee any more, and the accountant's terms leave the range in which they were checked.
pub const MIN_NOISE_MULTIPLIER: f64 = 1e-2;

/// Largest noise multiplier that is accepted: beyond it the update is noise alone, and the noise in lattice units
/// (below 2^39 in standard deviation) would come too near the 53 bits of an f64 to hide its spacing.
pub const MAX_NOISE_MULTIPLIER: f64 = 1e4;

/// Smallest sampling rate that is accepted: one example in a thousand million.
pub const MIN_SAMPLING_RATE: f64 = 1e-9;

/// Smallest clip norm: the lattice of [`crate::clip`] must stay far above the smallest normal f64 and, once divided
/// by the public divisor, representable in f32.
pub const MIN_CLIP_NORM: f64 = 1e-12;

/// Largest clip norm: gradients are f32, and `C` plus its noise must stay finite in f32.
pub const MAX_CLIP_NORM: f64 = 1e12;

/// Largest epsilon that a budget may state. More is no promise, and a budget of 1e9 is a mistake.
pub const MAX_BUDGET_EPSILON: f64 = 1e4;

/// Most steps of one mechanism (one contribution): ten times the longest published DP-SGD run, per round.
pub const MAX_STEPS: u64 = 10_000_000;

/// Most examples per device that a job may state as its public constant. With [`MAX_CLIP_NORM`] and the lattice this
/// keeps every clipped sum inside an i64.
pub const MAX_PUBLIC_EXAMPLES: u64 = 1 << 30;

/// Most examples that one clipped sum takes: each entry of each example stays below 2^25 lattice
/// units, so that the sum stays below 2^56 and leaves an i64 room for the noise.
pub const MAX_BATCH_EXAMPLES: u64 = 1 << 31;

/// Most entries of one gradient or contribution: 2 GiB of f64 noise would already exceed every device we serve.
pub const MAX_LENGTH: usize = 1 << 28;

/// Most different (q, sigma) pairs in one ledger. Each keeps its Rényi curve in memory (about 1.2 kB), and every
/// quote adds them all up; a job uses one pair, so a thousand jobs with unlike settings fit.
pub const MAX_DISTINCT_MECHANISMS: usize = 1024;

/// Most charges in one ledger: at ten rounds a day, 27 years, in about 20 MB.
pub const MAX_CHARGES: usize = 100_000;

/// Longest job name in bytes, so that a server cannot grow the device's ledger by naming.
pub const MAX_JOB_NAME_BYTES: usize = 253;

/// Largest cohort of one round: the ring must keep enough bits for the values.
pub const MAX_COHORT: u32 = 1 << 24;

/// Widest ring in bits. Above 53 value bits an f64 no longer holds every level.
pub const MAX_RING_BITS: u32 = 56;

/// Fewest levels on each side of zero that a contribution's entry may have: eight bits of precision.
pub const MIN_LEVELS: i64 = 127;

/// Most levels on each side of zero: every level is exact in f64.
pub const MAX_LEVELS: i64 = 1 << 52;
