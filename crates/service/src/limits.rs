//! Every bound of a process that ends, each with its reason.

use std::time::Duration;

/// How long a process may take to end after it was told to. Kubernetes kills after 30 s and systemd after 90 s, unless they are told
/// otherwise; whoever waits at a terminal expects less.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long what is under way may take to finish after the process was told to stop. Two seconds less than [`STOP_DEADLINE`]: in
/// them logs are closed and the store is.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
