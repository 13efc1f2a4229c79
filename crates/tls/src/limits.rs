//! Every bound of this crate, each with its reason.

use std::time::Duration;

use crate::strangers::StrangersMax;

/// Longest certificate request read, in bytes. A P-256 request with an empty subject has about 250.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;

/// Longest certificate accepted from a peer or a file, in bytes. Ours have 500 to 700.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// Most certificates a peer may present: a leaf, one intermediate, and the authority during its rotation.
pub const MAX_CHAIN_CERTIFICATES: usize = 4;

/// Most authorities trusted at once: one in use, one incoming, and room for a fleet that was merged from several.
pub const MAX_AUTHORITIES: usize = 8;

/// Longest PEM file of an identity, in bytes: a full chain or bundle in base64 with its headers.
pub const MAX_PEM_BYTES: usize = 128 * 1024;

/// Most DNS names and addresses in one server certificate; a replica set behind a few names needs far fewer.
pub const MAX_SERVER_NAMES: usize = 32;

/// Longest text of a join token, in characters: all endpoints at their longest, encoded.
pub const MAX_TOKEN_TEXT: usize = 4 * 1024;

/// Most endpoints in a join token: a few replicas or a name and its addresses.
pub const MAX_TOKEN_ENDPOINTS: usize = 8;

/// Longest host of an endpoint, in bytes: a DNS name has at most 253 (RFC 1035).
pub const MAX_HOST_BYTES: usize = 253;

/// How long a client may take for its handshake. Two round trips over a satellite link take under three seconds.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes in progress at once. Beyond it the oldest one is dropped: an honest one lasts two round trips, so only
/// somebody who opens this many connections in that time can displace it.
pub const MAX_HANDSHAKES: usize = 512;

/// Open connections of one acceptor. About 60 KiB each with their HTTP/2 state: 1 GiB when full.
pub const MAX_CONNECTIONS: usize = 16 * 1024;

/// Open connections of peers without a certificate, in all and from one address; beyond it the oldest one is dropped. They enrol, which
/// takes a second, or ask for a process's health. A hundred devices behind one address may do so at once, and nobody can take
/// the descriptors of enrolled peers.
pub const STRANGERS_MAX: StrangersMax = StrangersMax {
    connected: 256,
    of_one_address: 128,
};

/// How long a peer without a certificate stays connected: an enrolment has three steps, each of them within 20 s. Whoever waits for
/// approval asks again on a new connection.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(90);

/// Connections that finished their handshake and wait for the server to take them.
pub const READY_QUEUE: usize = 64;

/// How long the acceptor waits after an error of `accept` that concerns the process, as when it is out of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long a refused client is listened to, so that it can read why.
pub const PARTING_TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes read from a refused client before its connection is closed.
pub const PARTING_BYTES: u64 = 64 * 1024;

/// How long after its end a certificate still opens a connection that can only be used to renew it. A device that was
/// switched off over a holiday comes back by itself; after longer an operator should look at it.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(14 * 24 * 3600);

/// How far in the past a certificate begins, for peers whose clock is behind. One that is further behind sees no valid certificate.
pub const CERTIFICATE_BACKDATING: Duration = Duration::from_secs(300);

/// How long a client waits for TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer that should say something and is silent for this long counts as dead, whatever is spoken with it. Everybody notices within
/// 30 s then, with 5 s for timers and scheduling.
pub const PEER_SILENCE: Duration = Duration::from_secs(25);

/// Silence after which either end of an HTTP/2 connection asks by a ping. Below the 60 s idle limit of common load balancers.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long the answer to that ping may take before the connection counts as dead. It waits behind what is on its way, which is
/// [`HTTP2_WINDOW`] at most.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = assert!(KEEP_ALIVE_INTERVAL.as_secs() + KEEP_ALIVE_TIMEOUT.as_secs() <= PEER_SILENCE.as_secs());

/// Bytes of one HTTP/2 connection that may be on their way to us, in all streams together. At 16 KiB a second, the slowest link that a
/// fleet is useful on, they take 8 s: less than the answer to a ping may. A path of 200 ms still carries 640 KiB a second.
pub const HTTP2_WINDOW: u32 = 128 * 1024;

/// Between two questions of TCP's own keep-alive, which begin after [`KEEP_ALIVE_INTERVAL`] of silence. It finds a dead peer where
/// nothing is spoken: between the requests of HTTP/1.1, and before the first.
pub const TCP_KEEP_ALIVE_PAUSE: Duration = Duration::from_secs(5);

/// Questions without an answer after which TCP gives a connection up.
pub const TCP_KEEP_ALIVE_QUESTIONS: u32 = 2;

const _: () = assert!(
    KEEP_ALIVE_INTERVAL.as_secs() + TCP_KEEP_ALIVE_PAUSE.as_secs() * TCP_KEEP_ALIVE_QUESTIONS as u64
        <= PEER_SILENCE.as_secs()
);

/// How long a client may take from its handshake to its first bytes. Ours say them at once.
pub const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// A client keeps an HTTP/1.1 connection that it does not use for this long. Our servers close it after
/// [`REQUEST_HEAD_TIMEOUT`]; where their farewell gets lost, the next request must not wait for a dead connection.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(10);

/// How long a client of [`crate::serve_http`] may take to send the head of a request.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTP/2 streams that one client of [`crate::serve_http`] may have open.
pub const MAX_STREAMS: u32 = 64;

/// How long [`crate::serve_http`] lets running requests finish after it was told to stop: well within the time that its process has.
pub const REQUEST_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
