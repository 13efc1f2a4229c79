//! Every bound of the trainer, each with its reason.

use std::time::Duration;

use fieldfare_tls::limits::PEER_SILENCE;

/// Longest gRPC message, in bytes: delegated targets metadata of 5 MiB is the largest honest one.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a call to the controller may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a call that did not reach the controller is repeated, with [`BACKOFF_MAX`] between the last of them: longer than
/// any lease, so that the lease and not the patience decides whose the work is.
pub const CALL_ATTEMPTS_MAX: u32 = 30;

/// First wait before something is tried again; it doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// Longest wait before something is tried again: what a restarting controller or network needs.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How often work is asked for without a hint, in case one was lost.
pub const CLAIM_INTERVAL: Duration = Duration::from_secs(20);

/// A lease is renewed when this part of it is over: two renewals may fail before it ends.
pub const RENEW_AT_PART: u32 = 3;

/// Shortest time between two renewals, whatever the controller says.
pub const RENEW_INTERVAL_MIN: Duration = Duration::from_millis(200);

/// Largest file that is imported, 64 GiB: a 34-billion-parameter model in F16, more than any device here serves.
pub const SOURCE_BYTES_MAX: u64 = 64 << 30;

/// How long a download may stay silent before it is taken up again from where it broke.
pub const DOWNLOAD_SILENCE: Duration = PEER_SILENCE;

/// How often a download is taken up again without a single new byte in between.
pub const DOWNLOAD_FRUITLESS_MAX: u32 = 5;

/// How often progress within a stage is told to the controller: people watch it, and each one is a commit.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Largest set of examples that is evaluated on, in bytes: a hundred thousand short examples.
pub const EXAMPLES_BYTES_MAX: u64 = 64 << 20;

/// Most examples in one set: an evaluation reads each of them after every round.
pub const EXAMPLES_MAX: usize = 100_000;

/// Longest single example, in bytes: the most text that the tokenizer takes, with room for its JSON.
pub const EXAMPLE_BYTES_MAX: usize = 1 << 20;

/// Context that a variant's figures assume, in tokens, where the model has more: what a prompt and an answer of the
/// OpenAI-compatible endpoint take on a device with little memory.
pub const FIGURE_CONTEXT_TOKENS: usize = 2048;

/// Tokens of a probe's answer where the probe says nothing: a sentence.
pub const PROBE_TOKENS_DEFAULT: u32 = 48;

/// Probes taken from the held-out examples where no probes are given: enough for a gate's evidence, few enough for a slow device.
pub const PROBES_DERIVED: usize = 8;

/// Examples of one physical pass of training on a device: bounds its memory, changes no number.
pub const PHYSICAL_BATCH: usize = 8;

/// Bits of the ring in which contributions are summed.
pub const RING_BITS: u32 = 32;

/// Smallest cohort limit of a ring: with it an entry travels in three bytes, at a resolution of 2^-23 of its range.
pub const RING_COHORT_MIN: u32 = 256;

/// Largest step of Adam in units of its learning rate: (1 - beta1) / sqrt(1 - beta2) for the constants in use is 3.17
/// (Kingma and Ba 2015, section 2.1), rounded up. Entries of an update are never clamped with it.
pub const ADAM_STEP_MAX: f64 = 4.0;

/// Smallest range of an update's entry, so that a job that learns nothing still has a ring.
pub const RING_RANGE_MIN: f64 = 1e-6;

/// Longest wait of a round for the trainer itself to sum or to evaluate. A large model's evaluation takes minutes.
pub const COMPUTE_WITHIN: Duration = Duration::from_secs(3600);

/// Wait before another attempt at a round: the devices that failed it need a moment to come back.
pub const ROUND_RETRY: Duration = Duration::from_secs(2);

/// State and contributions travel in pieces of this size.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Longest message on the data plane: one piece with its header.
pub const ROUNDS_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Contributions received at once. Each holds its bytes in memory until they are on disk; others wait for their turn.
pub const UPLOADS_AT_ONCE: usize = 4;

/// How long an upload may stay silent.
pub const UPLOAD_SILENCE: Duration = Duration::from_secs(20);

/// Slowest upload that is waited for, in bytes per second: a poor mobile link. A slower one would keep its turn from others for
/// longer than rounds last, be it a byte at a time or nothing at all in messages without an end. The same holds of the state on its
/// way to a device: who reads more slowly, or never, would hold it in memory for as long as it answers pings.
pub const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 16 * 1024;

/// Devices that are named for one reason why contributions were turned away: enough to see a pattern in a job's status.
pub const TURNED_AWAY_SHOWN_MAX: usize = 8;

/// Rounds, from the last one back, of which a checkpoint says who was turned away: as many as the controller keeps them of.
pub const TURNED_AWAY_ROUNDS_MAX: usize = 4;

/// Offers that wait for the round's decision. Those who wait hold no bytes any more.
pub const OFFER_QUEUE: usize = 64;

/// How long the metadata of a delegated role is good for: a year. The snapshot above it expires long before and is renewed.
pub const DELEGATION_SECONDS: u64 = 365 * 24 * 3600;

/// Longest reason that is told to the controller, in bytes.
pub const REASON_BYTES_MAX: usize = 2048;

/// How long an attempt at a round waits until enough devices are eligible: a fleet that is rolling out is busy for minutes.
pub const SELECT_WITHIN: Duration = Duration::from_secs(120);

/// How often the controller is asked again while too few devices are eligible.
pub const SELECT_INTERVAL: Duration = Duration::from_secs(2);

/// Events of a round that wait for its decision.
pub const EVENT_QUEUE: usize = 64;

/// How long a trainer that ends waits for the controller to take its claim back; it has some seconds for everything.
pub const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(2);
