//! Bounds of what a member does, each with its reason.

use std::time::Duration;

/// How long one step of an enrolment stream may take: the controller signs one certificate.
pub const ENROLMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an enrolment waits for an operator's approval.
pub const APPROVAL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Shortest and longest wait before an application that waits for approval is repeated, whatever the controller asks for.
pub const APPROVAL_WAIT_RANGE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// Bytes a second that whoever receives a blob puts on its disk at least, in the time between the last byte and the answer: an SD card
/// does half of it again.
pub const KEPT_BYTES_PER_SECOND: u64 = 8 * 1024 * 1024;

/// The time in which a download must show that it gets somewhere: outages of a minute or two, with their retries, leave it be.
pub const DOWNLOAD_WINDOW: Duration = Duration::from_secs(600);

/// Bytes that come in a [`DOWNLOAD_WINDOW`] at least, 1.7 kB a second: a tenth of the poorest mobile link that anything here is waited
/// for on. At a byte now and then the largest artifact would take longer than its device lives.
pub const DOWNLOAD_WINDOW_BYTES_MIN: u64 = 1 << 20;

/// How often the certificate's age is looked at. Certificates live for hours at least.
pub const RENEWAL_CHECK: Duration = Duration::from_secs(30);

/// Steps of an enrolment that wait for its stream: one is answered before the next is made.
pub const STEP_QUEUE: usize = 2;
