//! Every bound on foreign bytes, with its reason.

/// Longest release manifest, in bytes. Ten thousand rounds of cohort sizes, 64 probes and a chat template
/// stay below a third of it.
pub const MAX_MANIFEST_BYTES: usize = 512 * 1024;

/// Most variants in one release. Known GGUF quantisations number about thirty.
pub const MAX_VARIANTS: usize = 32;

/// Most probes in one release. A device runs all of them before it switches, so they must be few.
pub const MAX_PROBES: usize = 64;

/// Longest prompt or expected completion of a probe, in bytes: a probe is a few sentences.
pub const MAX_PROBE_TEXT_BYTES: usize = 4 * 1024;

/// Most tokens a probe may generate; a slow device produces about one token per second.
pub const MAX_PROBE_TOKENS: u32 = 512;

/// Longest chat template, in bytes. The longest templates in public use are about 10 KiB.
pub const MAX_CHAT_TEMPLATE_BYTES: usize = 64 * 1024;

/// Longest one-line text (title, source, job name), in bytes.
pub const MAX_LINE_BYTES: usize = 512;

/// Most federated rounds that a provenance lists, one cohort size for each.
pub const MAX_ROUNDS: usize = 10_000;

/// Longest model name, in bytes: a DNS-1123 label, so that it may name a Kubernetes object.
pub const MAX_MODEL_NAME_BYTES: usize = 63;

/// Longest variant name, in bytes.
pub const MAX_VARIANT_NAME_BYTES: usize = 32;

/// Longest target name, in bytes. With the 65 bytes of a digest prefix it stays below the 255 bytes that
/// common file systems allow for one name.
pub const MAX_TARGET_NAME_BYTES: usize = 160;

/// Longest root metadata, in bytes. Ten keys and their signatures need about 5 KiB; python-tuf allows 512,000.
pub const MAX_ROOT_BYTES: u64 = 512 * 1024;

/// Longest timestamp metadata, in bytes. It lists one file.
pub const MAX_TIMESTAMP_BYTES: u64 = 16 * 1024;

/// Longest snapshot metadata, in bytes: ten thousand delegated roles at about 200 bytes each.
pub const MAX_SNAPSHOT_BYTES: u64 = 2 * 1024 * 1024;

/// Longest targets or delegated targets metadata, in bytes: twenty thousand targets at about 250 bytes each.
pub const MAX_TARGETS_BYTES: u64 = 5 * 1024 * 1024;

/// Most root versions followed in one update. A yearly rotation takes centuries to reach it, so a device
/// that slept for its whole life still catches up, and a server cannot feed roots for ever.
pub const MAX_ROOT_STEPS: u32 = 1024;

/// Most delegated roles consulted for one target. Our repositories need one.
pub const MAX_DELEGATED_ROLES: usize = 32;

/// Most signatures in one metadata file; each costs the verifier one elliptic curve operation.
pub const MAX_SIGNATURES: usize = 64;

/// Longest serialised trusted state, in bytes: the root, and a version for each file of the snapshot.
pub const MAX_STATE_BYTES: usize = (MAX_ROOT_BYTES + MAX_SNAPSHOT_BYTES) as usize * 2;
