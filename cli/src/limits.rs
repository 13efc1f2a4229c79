//! What the command waits for and accepts, with the reasons.

use std::time::Duration;

use fieldfare_tls::limits::CERTIFICATE_BACKDATING;

/// A call that does no long work answers within this, unless `--timeout` says otherwise: a person is waiting.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Devices asked for with one request when everything is listed.
pub const PAGE_SIZE: u32 = 500;

/// Largest file of held-out text or probes. They are read whole, by the trainer too.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Bytes read and sent at once when a file is uploaded.
pub const UPLOAD_CHUNK: usize = 256 << 10;

/// Life of a root: one year, after the key ceremonies of comparable repositories.
pub const ROOT_LIFETIME_SECONDS: u64 = 365 * 24 * 3600;

/// Life of targets: six months; every publication signs them anew.
pub const TARGETS_LIFETIME_SECONDS: u64 = 182 * 24 * 3600;

/// How long a process of quickstart's fleet may take to end after it was told to: longer than it gives itself.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(12);

/// How long the end of such a process that was killed is waited for.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a process may take from its start until it says where it listens. A machine under load is slow, not broken.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a file that a process writes when it is ready is looked for.
pub const READY_CHECK: Duration = Duration::from_millis(20);

/// Most bytes of a log that an error shows.
pub const LOG_TAIL_BYTES: u64 = 4096;

/// Most lines of a log that an error shows.
pub const LOG_TAIL_LINES: usize = 15;

/// Fewest examples of a device in quickstart: with fewer, one of the three parts says nothing.
pub const MIN_EXAMPLES: usize = 20;

/// Most examples of one device in quickstart's consented evaluation set: it is measured once in each round, on each variant.
pub const MAX_EVALUATION_EXAMPLES: usize = 25;

/// Most devices in quickstart: each is a process with a model of its own.
pub const MAX_DEVICES: usize = 16;

/// Most probes in a release of quickstart: each device answers all of them before it switches to a release.
pub const MAX_PROBES: usize = 8;

/// How long the controller may take to hear from all devices of quickstart.
pub const DEVICES_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is asked.
pub const DEVICES_CHECK: Duration = Duration::from_millis(100);

/// How long an error is held back for the death of a process, which would explain it.
pub const EXPLANATION_WAIT: Duration = Duration::from_millis(500);

/// How long an answer or an evaluation may take: hundreds of examples on a machine that is shared by eight processes.
pub const DEVICE_REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Examples in one upload, and held-out examples in one evaluation.
pub const EXAMPLES_PER_REQUEST: usize = 500;

/// Calls in an audit log whose outcome may still come. Those of a process that died never do, so that they are bounded.
pub const MAX_OPEN_CALLS: usize = 10_000;

/// Longest example in a file of held-out text, in bytes: as the trainer takes them.
pub const MAX_EXAMPLE_BYTES: usize = 1 << 20;

/// A clock that differs by this much is told: more than any network makes of it.
pub const CLOCK_DIFFERENCE: Duration = Duration::from_secs(5);

/// A clock that differs by this much does harm: no certificate that is new is valid for it.
pub const CLOCK_DIFFERENCE_UNSAFE: Duration = CERTIFICATE_BACKDATING;

/// An answer that takes longer is called slow: a person notices it in every command.
pub const SLOW_ANSWER: Duration = Duration::from_millis(500);

/// Less free disk than this is a problem: one release of the smallest useful model does not fit.
pub const SHORT_OF_DISK_BYTES: u64 = 256 << 20;

/// Less free disk than this at a controller is told: an import of a model with its variants takes as much.
pub const LITTLE_DISK_BYTES: u64 = 2 << 30;

/// Less free disk than this on a device is told: an update needs room for a second model beside the one that serves.
pub const DEVICE_SHORT_OF_DISK_BYTES: u64 = 256 << 20;

/// An authority that ends sooner is told: its successor must reach members that are away for weeks.
pub const AUTHORITY_ENDS_SOON: Duration = Duration::from_secs(90 * 24 * 3600);

/// Metadata that somebody signs by hand, and that ends sooner, is told: whoever has the key may be on holiday.
pub const METADATA_ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Metadata that the controller signs by itself is renewed eight hours before its end.
pub const ONLINE_METADATA_ENDS_SOON: Duration = Duration::from_secs(4 * 3600);

/// Devices that one finding names; the rest is counted.
pub const DEVICES_NAMED: usize = 5;
