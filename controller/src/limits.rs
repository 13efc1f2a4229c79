//! Every bound of the controller, each with its reason.

use std::time::Duration;

use fieldfare_tls::limits::PEER_SILENCE;

/// How often a compare-and-swap is tried before the caller is told to try again. Writers of one record are few, so that
/// five collisions in a row mean a loop between two of them.
pub const COMMIT_ATTEMPTS_MAX: usize = 5;

/// Longest gRPC message received, in bytes: targets metadata of 5 MiB and its new manifests are the largest honest one.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest gRPC message of a device, in bytes. A hello with profile, labels and the state of a few models has under 32 KiB.
pub const DEVICE_MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// How long a unary call may take. Verifying a large publication reads its artifacts' headers, seconds on a slow disk.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls and streams in progress on one connection: a device has one, an operator's console a few dozen.
pub const CONCURRENCY_PER_CONNECTION: usize = 64;

/// Open connections of the port of metrics and health checks: a few collectors and probes; whoever else opens more takes them from
/// each other.
pub const PLAIN_CONNECTIONS_MAX: usize = 64;

/// Longest request or answer that the audit log keeps in full, in bytes. Of a longer one, such as new targets metadata, it keeps
/// the digest.
pub const AUDIT_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of audit log that a replica keeps, the oldest leaving first with a signed statement. A hundred thousand devices that renew
/// twice a day write about 80 MiB in that day: these are three months of them, and decades of a small fleet.
pub const AUDIT_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// Between two steps of an enrolment stream: the caller computes one signature, or two round trips with its TPM.
pub const ENROLMENT_STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long after a pending enrolment the caller should ask again; somebody has to type a command in between.
pub const APPROVAL_RETRY: Duration = Duration::from_secs(5);

/// Devices that wait for approval at once; past this a token that asks for approval refuses newcomers.
pub const PENDING_DEVICES_MAX: usize = 10_000;

/// Longest lifetime of a join token, 90 days: longer ones outlive the memory of who made them.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Lifetime of a join token for which none is asked for.
pub const TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// Most principals that one join token may enrol.
pub const TOKEN_USES_MAX: u32 = 100_000;

/// A hello must arrive this soon after its stream opened.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a device sends a heartbeat: below the 60 s after which common load balancers cut idle connections.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// A session without any message for this long is over: two heartbeats lost, and half of a third one's time. Pings of HTTP/2 find a
/// dead connection as soon; this finds a dead device behind something that answers them.
pub const SESSION_SILENCE: Duration = PEER_SILENCE;

/// A device that leaves [`SESSION_QUEUE`] messages unread for this long is refused, whatever it sends itself. A path that carries
/// none of them in this time is dead, and pings of HTTP/2 would not come back on it.
pub const SESSION_UNREAD: Duration = PEER_SILENCE;

/// Messages waiting for a slow device. A session sends levels, not events, so that more would only be older ones.
pub const SESSION_QUEUE: usize = 8;

/// Open sessions of one replica, from the memory that one takes (about 100 KiB with its TLS state).
pub const SESSIONS_MAX: usize = 16 * 1024;

/// Upper end of the come-back time at a drain. Full jitter over it spreads a thousand devices over half a minute.
pub const COME_BACK_MAX: Duration = Duration::from_secs(30);

/// Upper end of the come-back time when a replica is full: the herd must thin out first.
pub const COME_BACK_FULL_MAX: Duration = Duration::from_secs(300);

/// Most models whose state one device reports.
pub const OBSERVED_MODELS_MAX: usize = 16;

/// Longest free text of a device or a trainer that is kept, in bytes; the rest is cut.
pub const FREE_TEXT_BYTES_MAX: usize = 512;

/// Longest name of an agent's version.
pub const VERSION_BYTES_MAX: usize = 64;

/// Time to live of the lease that says a replica is alive.
pub const REPLICA_LEASE: Duration = Duration::from_secs(15);

/// Time to live of a trainer's claim: a crashed trainer's work is taken over after it. Renewed at a third of it.
pub const CLAIM_LEASE: Duration = Duration::from_secs(15);

/// Claims of one job that end without a word of their trainers, and without progress in between, until the job is failed: what ends
/// every process that works on it would otherwise hold up all jobs behind it for ever. A trainer that loses its power, is killed or
/// loses the controller takes one each time; one that says that it cannot go on takes none.
pub const FRUITLESS_CLAIMS_MAX: u32 = 8;

/// A device whose session ended is taken as lost to its round after this long; a reconnect takes a few seconds.
pub const ROUND_SESSION_GRACE: Duration = Duration::from_secs(15);

/// How often the clock is looked at for what only time changes: presence, rounds, rollouts.
pub const TICK: Duration = Duration::from_secs(1);

/// Largest blob, 64 GiB: a 30 B model in sixteen bits.
pub const BLOB_BYTES_MAX: u64 = 64 << 30;

/// Part of a streaming upload to the object store, in bytes; S3 wants at least 5 MiB.
pub const BLOB_PART_BYTES: usize = 8 * 1024 * 1024;

/// A connection to the artifact server that brings no bytes of its upload for this long is closed.
pub const UPLOAD_SILENCE: Duration = PEER_SILENCE;

/// Lifetime of the online metadata. Devices may install for this long after the controller stopped signing.
pub const TIMESTAMP_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Lifetime of snapshot metadata; it is signed anew with every publication and together with the timestamp when it ages.
pub const SNAPSHOT_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The timestamp is signed again when less than this is left, a third of its life.
pub const TIMESTAMP_RENEW_BEFORE: Duration = Duration::from_secs(8 * 3600);

/// Superseded metadata files that are still served: a client in the middle of an update needs the last one, a slow
/// client during a burst of publications a few.
pub const RETIRED_METADATA_MAX: usize = 32;

/// Decoded manifests in memory; at most half a MiB each.
pub const MANIFEST_CACHE_MAX: usize = 64;

/// Entries of one page of devices that a caller gets at most.
pub const DEVICE_PAGE_MAX: usize = 500;

/// Devices listed in a rollout's status; a page of a larger fleet is read from `ListDevices`.
pub const ROLLOUT_DEVICES_SHOWN_MAX: usize = 1_000;

/// Devices that are taken back into a round that is opened again in one commit, below the store's limit of operations.
pub const FORGIVEN_BATCH: usize = 50;

/// How long a round stays open at most, whatever a trainer asks for.
pub const ROUND_DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Longest encoded round configuration, in bytes; it has a few hundred.
pub const ROUND_CONFIGURATION_BYTES_MAX: usize = 16 * 1024;

/// Lifetime of the certificates of devices, trainers and the controller itself: a stolen key is worth a day.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Lifetime of an operator's certificate. People renew by using the command line, some of them once a month.
pub const OPERATOR_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Lifetime of the fleet's authority, ten years: replacing it touches every device.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// How long news of devices are gathered before rollouts look at them: a thousand reports in one burst cost one look.
pub const ROLLOUT_PACE: Duration = Duration::from_millis(50);

/// Devices named in a job's list of those that could not be invited; the reasons of a larger fleet repeat themselves.
pub const INELIGIBLE_SHOWN_MAX: usize = 200;

/// Highest rank of trained LoRA factors: beyond it full fine-tuning is cheaper.
pub const LORA_RANK_MAX: u32 = 256;

/// How long a caller waits for the mirror to show what was written before. It takes a millisecond where all is well.
pub const MIRROR_PATIENCE: Duration = Duration::from_millis(500);

/// Between two attempts to read the whole store again. Each attempt is patient itself.
pub const MIRROR_RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// The store must answer within this time for the process to count as ready: the patience of Kubernetes' probes, unless they are given more.
pub const READY_TIMEOUT: Duration = Duration::from_millis(900);

/// Requests that wait for the task that moves rollouts: what callers ask for; a device's news are gathered.
pub const ROLLOUT_REQUESTS: usize = 64;

/// Assignments written in one commit, below the store's limit of operations.
pub const ASSIGNMENT_BATCH: usize = 50;

/// Messages of a challenge stream that wait for a slow caller: there are two in all.
pub const ENROLMENT_QUEUE: usize = 2;

/// Longest metadata file that is read back, in bytes.
pub const METADATA_BYTES_MAX: u64 = fieldfare_release::limits::MAX_TARGETS_BYTES;

/// How often it is looked at whether the timestamp must be signed again, and how soon it is tried again where that failed.
pub const TIMESTAMP_CHECK: Duration = Duration::from_secs(60);

/// Reasons for which contributions to one round were turned away, and devices named for each: a trainer has about a dozen.
pub const TURNED_AWAY_REASONS_MAX: usize = 16;

/// Rounds of a job, from the last one back, whose liars are still named in its status: each takes 18 KiB at most, in the record and in
/// its checkpoint, and the longest job still fits a commit.
pub const TURNED_AWAY_ROUNDS_MAX: usize = 4;

/// Names of missing artifacts that an examination tells; the rest is counted.
pub const MISSING_SHOWN_MAX: usize = 20;

/// Devices with a clock that is off, that an examination tells: whoever has more has one cause to look for.
pub const CLOCKS_SHOWN_MAX: usize = 100;

/// How much a device's clock may differ before an examination tells it: what a slow network makes of a heartbeat.
pub const CLOCK_DIFFERENCE_MIN_MS: u64 = 5_000;

/// Longest file of a backup but blobs, in bytes: the list of a million sums has 160 MB, a page of records at most 5 MiB.
pub const BACKUP_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Most files in a backup, whose names and digests are held in memory: a million blobs and pages.
pub const BACKUP_NAMES_MAX: usize = 1_000_000;

/// A blob that nothing names is kept this long after it was last stored: whoever uploads names it within minutes, or goes on with a broken
/// import within a day.
pub const ARTIFACT_GRACE: Duration = Duration::from_secs(24 * 3600);

/// How often blobs that nothing names are collected.
pub const COLLECT_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// Blobs that an answer to a collection names; of more only their number is told.
pub const COLLECTED_SHOWN_MAX: usize = 1_000;

/// Versions of snapshot and timestamp begin at the epoch's number times this: an epoch is at most a second, and no repository signs a
/// thousand times a second.
pub const VERSIONS_PER_EPOCH: u64 = 1_000;
