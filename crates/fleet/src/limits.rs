//! Every bound of this crate, each with its reason.

/// Longest DNS-1123 label (RFC 1123, section 2.1), because names become Kubernetes object names and TUF target names.
pub const MAX_NAME_BYTES: usize = 63;

/// Most labels on one device: a device record must stay far below the store's 1 MiB per commit.
pub const MAX_LABELS: usize = 64;

/// Longest prefix of a label key (`prefix/name`), as in Kubernetes.
pub const MAX_LABEL_PREFIX_BYTES: usize = 253;

/// Most requirements in one selector: selectors are evaluated against every device of a tenant.
pub const MAX_SELECTOR_TERMS: usize = 32;

/// Longest selector text that is parsed.
pub const MAX_SELECTOR_BYTES: usize = 4096;

/// Longest device model name; it is shown in one table column.
pub const MAX_DEVICE_MODEL_BYTES: usize = 63;

/// Most CPU feature names in one profile; `/proc/cpuinfo` of today's servers lists about 130.
pub const MAX_CPU_FEATURES: usize = 256;

/// Longest CPU feature name.
pub const MAX_CPU_FEATURE_BYTES: usize = 32;

/// Most cores of one device; the largest servers sold have 768 hardware threads.
pub const MAX_CORES: u32 = 1024;

/// Most memory of one device, 4 TiB: beyond an edge device by far, and small enough that sums of sizes cannot overflow.
pub const MAX_MEMORY_BYTES: u64 = 4 << 40;

/// Most free disk of one device, 1 PiB.
pub const MAX_DISK_BYTES: u64 = 1 << 50;

/// Highest memory bandwidth, 10 TB/s: above today's fastest accelerator (8 TB/s of HBM3E).
pub const MAX_BANDWIDTH_BYTES_PER_SECOND: u64 = 10_000_000_000_000;

/// Highest compute, 10 Pop/s: above today's fastest accelerator at eight bits.
pub const MAX_OPS_PER_SECOND: u64 = 10_000_000_000_000_000;

/// Highest speed that is believed, one token a microsecond: the smallest models on the fastest CPUs stay below.
pub const MAX_TOKENS_PER_SECOND: f64 = 1_000_000.0;

/// Highest loss that is believed: a uniform guess over a vocabulary of 2^32 costs 22.2 nats.
pub const MAX_NATS_PER_TOKEN: f64 = 64.0;

/// Most variants of one release.
pub const MAX_VARIANTS: usize = 32;

/// Longest context that is planned for; the longest published context window is 10 million tokens.
pub const MAX_CONTEXT_TOKENS: u32 = 16 << 20;

/// Bounds of the learned ratio between measured and predicted speed, so that one lying device cannot move its class
/// to an absurd value.
pub const CORRECTION_RANGE: (f64, f64) = (0.01, 2.0);

/// Most waves of one rollout.
pub const MAX_WAVES: usize = 32;

/// Most gates of one rollout policy.
pub const MAX_GATES: usize = 32;

/// Longest duration in a policy, 90 days: a rollout or a round that needs longer is forgotten, not slow.
pub const MAX_POLICY_SECONDS: u64 = 90 * 24 * 3600;

/// Most rounds of one federated job: a line for each stands in the job's record and in its checkpoint, and both are committed with a
/// round of the largest cohort in one transaction of the store's 1 MiB.
pub const MAX_ROUNDS: u32 = 2_000;

/// Largest cohort of one round: the accepted set (16 bytes a device) must fit in one record of the store's 1 MiB.
pub const MAX_COHORT: u32 = 20_000;

/// Most attempts at one round.
pub const MAX_ATTEMPTS: u32 = 16;

/// Largest contribution of one device, 256 MiB: rank 64 on every projection of a 7 B model takes about 160 MB at f32.
pub const MAX_CONTRIBUTION_BYTES: u64 = 256 << 20;

/// Most releases that a device remembers as bad; the oldest is forgotten first.
pub const MAX_REFUSED_RELEASES: usize = 64;

/// Most attempts of one install step before the device reports that it cannot converge.
pub const MAX_STEP_ATTEMPTS: u32 = 8;

/// Most accelerators of one device; a board has one or two.
pub const MAX_ACCELERATORS: usize = 16;

/// Most local steps in one round: an evening's work for a slow device.
pub const MAX_ROUND_STEPS: u32 = 10_000;

/// Longest sequence that a job may ask a device to train on, in tokens: its activations are what training holds in memory.
pub const MAX_TRAINING_SEQUENCE: u32 = 4096;

/// Largest epsilon that a job may ask for. More is no promise, and a budget of 1e9 is a mistake.
pub const MAX_JOB_EPSILON: f64 = 1e4;

/// Most blocks of a decoder whose size is planned: eight times those of Llama 3.1 405B.
pub const MAX_DECODER_LAYERS: u64 = 1024;

/// Widest residual stream of a decoder: four times that of Llama 3.1 405B.
pub const MAX_DECODER_WIDTH: u64 = 1 << 16;

/// Widest feed-forward block: twenty times that of Llama 3.1 405B.
pub const MAX_DECODER_FEED_FORWARD: u64 = 1 << 20;

/// Largest vocabulary: sixteen times that of Gemma.
pub const MAX_DECODER_VOCABULARY: u64 = 1 << 22;

/// Most parameters that are vectors: norms and biases of the largest decoder within the other bounds.
pub const MAX_DECODER_VECTOR_PARAMS: u64 = 1 << 34;

/// Devices that are counted for one reason of being turned away from a round: more than any cohort has liars, 16 KiB each.
pub const TURNED_AWAY_DEVICES_MAX: usize = 1024;
