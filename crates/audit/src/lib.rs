//! The audit log: records that are only ever added, in a Merkle tree whose heads are signed.
//!
//! A log is a folder. Its records are bytes to this crate; what they mean is written in `proto/`. The tree is that of
//! Certificate Transparency (RFC 6962, RFC 9162), so that a signed head of a few hundred bytes, kept elsewhere, later shows
//! whether any record before it was changed, dropped or moved.
//!
//! * [`tree`] and [`proof`] are the hashes and the proofs; [`note`] and [`head`] are what is signed. Pure.
//! * [`verify`] judges a log frame by frame and says what is wrong with which record. Pure.
//! * [`log`] keeps a log in files; [`writer`] is the thread that owns one; [`read`] walks over one that lies still.
//!
//! Time is always an argument, in milliseconds since 1970.

pub mod folder;
pub mod frame;
pub mod head;
pub mod limits;
pub mod log;
pub mod note;
pub mod proof;
pub mod read;
pub mod tree;
pub mod verify;
pub mod writer;
