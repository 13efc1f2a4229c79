//! Every bound of the agent, each with its reason.

use std::time::Duration;

use fieldfare_tls::limits::{CERTIFICATE_BACKDATING, PEER_SILENCE};

/// First wait after a lost session. Doubled with each failure, and the wait is drawn uniformly from zero to it (full jitter).
pub const RECONNECT_BASE: Duration = Duration::from_millis(500);

/// Longest wait before a session is tried again: a device is back within two minutes of its controller.
pub const RECONNECT_MAX: Duration = Duration::from_secs(120);

/// Shortest wait that a controller may ask for: a device that it sends around in circles connects twice a second.
pub const COME_BACK_MIN: Duration = Duration::from_millis(500);

/// Longest wait that a controller may ask for: a longer one would be a device lost by one wrong number.
pub const COME_BACK_MAX: Duration = Duration::from_secs(3600);

/// Messages that wait for the session's stream. Observed state is replaced, not queued, so that few are ever in flight.
pub const SESSION_QUEUE: usize = 16;

/// How long a gateway may take to answer hello.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);

/// Shortest and longest heartbeat interval that a gateway may ask for.
pub const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(300));

/// Deployments that one agent serves at a time: one serving process fits the memory that its owner gave it.
pub const MAX_DEPLOYMENTS: usize = 1;

/// Silence after which a download is given up and resumed.
pub const DOWNLOAD_SILENCE: Duration = PEER_SILENCE;

/// Bytes hashed or written at a time: large enough for a disk, small beside any device's memory.
pub const COPY_CHUNK: usize = 256 * 1024;

/// Disk that stays free beside a release: logs, examples and the system's own needs.
pub const DISK_RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// Attempts at one step of an installation before it is given up.
pub const INSTALL_ATTEMPTS: u32 = 5;

/// Wait after the first failed attempt; doubled with each.
pub const INSTALL_RETRY: Duration = Duration::from_secs(2);

/// How long a release is watched after the switch, before it counts as confirmed and as one to go back to. The gates of a rollout
/// watch it for longer, and so does [`CRASH_WINDOW`].
pub const CONFIRM_WINDOW: Duration = Duration::from_secs(5);

/// Crashes within the crash window that revert a release.
pub const MAX_CRASHES: u32 = 3;

/// How long a crash of the serving process counts: a release that crashes each few minutes, with the waits between, is reverted; one
/// that crashes once in a while is started again.
pub const CRASH_WINDOW: Duration = Duration::from_secs(15 * 60);

/// How often an assignment whose metadata could not be had is looked up again.
pub const RESOLVE_RETRY: Duration = Duration::from_secs(5);

/// Longest line of the protocol between the agent and its children, in bytes: an evaluation of a thousand examples, or the state
/// of an adapter with half a million parameters in base64.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Open connections of the local endpoints: three times what may be worked on or wait ([`MAX_SESSIONS`], [`MAX_WAITING`]). A program
/// without the token that opens thousands and says half a request on each would otherwise take the descriptors that the release
/// needs; those without a request in progress give way.
pub const LOCAL_CONNECTIONS_MAX: usize = 128;

/// Requests that one serving process works on in turn. Each holds a key-value cache.
pub const MAX_SESSIONS: usize = 8;

/// Requests that wait for a turn, beyond which an answer is "too many requests".
pub const MAX_WAITING: usize = 32;

/// How long a serving process may take to load a release: a gigabyte from an SD card.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How long one probe may take: [`fieldfare_release::limits::MAX_PROBE_TOKENS`] at one token per second would be longer, and no
/// release that slow passes a gate.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a child that was told to stop may take before it is killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits before a serving process that crashed is started again: first and longest.
pub const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A serving process that lived this long is no crash loop: the wait begins anew.
pub const RESTART_FORGIVEN: Duration = Duration::from_secs(60);

/// Address space of a serving process beside the model itself: the program, its libraries, thread stacks and the allocator's
/// reserve. Only a runaway process reaches it.
pub const SERVE_ADDRESS_SPACE_SLACK: u64 = 2 << 30;

/// Longest request body of the OpenAI endpoints, in bytes: a context of a hundred thousand tokens.
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// Longest body of examples or held-out examples in one request, in bytes.
pub const MAX_EXAMPLES_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Most examples in one request.
pub const MAX_EXAMPLES_PER_REQUEST: usize = 10_000;

/// Most examples that a device keeps; at a kilobyte each, 100 MB.
pub const MAX_EXAMPLES: u64 = 100_000;

/// Longest example, in bytes: longer than any context that is trained on.
pub const MAX_EXAMPLE_BYTES: usize = 64 * 1024;

/// Most examples on one page of a listing.
pub const MAX_PAGE: usize = 1000;

/// Most tokens generated for a request that names no number.
pub const DEFAULT_MAX_TOKENS: usize = 256;

/// Stop strings in one request, as OpenAI allows.
pub const MAX_STOP_STRINGS: usize = 4;

/// Pieces of text that a client may leave unread before its request is given up.
pub const STREAM_QUEUE: usize = 1024;

/// Longest configuration of a round, in bytes.
pub const MAX_ROUND_CONFIGURATION_BYTES: usize = 256 * 1024;

/// Most parameters that a device trains: with Adam's two moments 24 MB, and 8 MB as a line of base64.
pub const MAX_TRAINED_PARAMETERS: u64 = 2 * 1024 * 1024;

/// Fewest examples that local training starts with: with fewer, noise is all that a round would add.
pub const MIN_EXAMPLES: usize = 8;

/// Bytes in one message of an upload or of a state, well below the gRPC limit of 4 MiB.
pub const UPLOAD_CHUNK: usize = 256 * 1024;

/// Attempts at having a round's configuration, with [`RECONNECT_BASE`] between the first two: nothing is paid for yet, and other
/// invitations wait. An upload is tried until the round's deadline.
pub const CONFIGURE_ATTEMPTS: u32 = 8;

/// Longest wait before a trainer is asked again: a round lasts minutes, and a claim is renewed within seconds.
pub const TRAINER_RETRY_MAX: Duration = Duration::from_secs(15);

/// The lifetime budget of a device whose owner says nothing else: epsilon 8 at delta 1e-5, the strongest guarantee at which the
/// pilot in `benches/quickstart-learning` still learns.
pub const DEFAULT_BUDGET: (f64, f64) = (8.0, 1e-5);

/// How long each kernel is timed when a device measures itself; there are ten timings.
pub const MEASURE_TIME: Duration = Duration::from_millis(60);

/// Invitations of a controller that are looked at in a minute, all at once or evenly: each costs a signature to check and perhaps a
/// connection to a trainer. A round lasts seconds at least, and is repeated only to a new session or when its trainer moved.
pub const INVITATIONS_PER_MINUTE: u32 = 60;

/// How long a file of release metadata may take in all: the largest one, of 5 MiB, at 9 kB/s. A server that sends a byte now and then
/// would otherwise keep everybody else from looking anything up.
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(600);

/// How far a device's clock may be from its controller's before that is a problem: no certificate that is new is valid for it then.
pub const CLOCK_SKEW_MAX: Duration = CERTIFICATE_BACKDATING;

/// Rest of a timestamp's life at which somebody should look: the controller signs it anew eight hours before its end.
pub const METADATA_NEARLY_EXPIRED: Duration = Duration::from_secs(2 * 3600);

/// Part of a budget from which on it counts as nearly spent: a round takes a tenth or so.
pub const LEDGER_LOW: f64 = 0.9;

/// How long the local API may take to say what the agent is doing.
pub const LOCAL_API_TIMEOUT: Duration = Duration::from_secs(10);

/// Most invitations that wait while a round is under way: they are answered "busy".
pub const INVITATION_QUEUE: usize = 8;

/// How often an assignment that the signed metadata refused is looked up again: metadata that expired may be renewed.
pub const RESOLVE_REFUSED_RETRY: Duration = Duration::from_secs(30);

/// How often it is looked whether a release that did not fit on the disk fits now.
pub const DISK_RETRY: Duration = Duration::from_secs(5);

/// How often it is tried whether state that the disk refused can be kept again: somebody makes room by hand.
pub const STATE_RETRY: Duration = Duration::from_secs(2);

/// Longest wait between two attempts to reach the artifact server while an installation is under way.
pub const OUTAGE_RETRY_MAX: Duration = Duration::from_secs(60);

/// Ends of steps and processes that wait for the installation's task: one step and a few processes are under way at a time.
pub const INSTALL_QUEUE: usize = 16;

/// How often the progress of a download is reported.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Longest order to a training process, in bytes: all examples at their most, and the state.
pub const MAX_ORDER_BYTES: usize = 256 * 1024 * 1024;

/// Address space of a training process beside what is predicted for it: the program, its libraries, stacks, and the
/// allocator's reserve. Only a runaway process reaches it.
pub const TRAIN_ADDRESS_SPACE_SLACK: u64 = 4 << 30;

/// How often it is looked at whether the device could train.
pub const READINESS_INTERVAL: Duration = Duration::from_secs(5);

/// How long one answer of a trainer may take, and how long it may take none of what is sent to it.
pub const TRAINER_TIMEOUT: Duration = Duration::from_secs(60);

/// Slowest rate, in bytes per second, at which the state of a round is waited for after [`TRAINER_TIMEOUT`]: a poor mobile link. A trainer
/// that sends a byte now and then would otherwise keep a device until the round's deadline, which it chooses.
pub const STATE_BYTES_PER_SECOND_MIN: u64 = 16 * 1024;

/// Shortest context that a release is installed for, in tokens, unless the model itself has less: a question and its answer.
pub const MIN_CONTEXT: u32 = 64;

/// Bytes of audit log that a device keeps, the oldest leaving first with a signed statement: about 400,000 answers.
pub const AUDIT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Damaged audit logs that are kept for somebody to look at. One is rare; a fourth says no more than the three before it.
pub const AUDIT_LOGS_KEPT: usize = 3;

/// How long a child whose input was closed may take to end before it is killed.
pub const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
