//! Signed releases: manifests, content-addressed artifacts, TUF metadata. Pure.
//!
//! Nothing here reads a file, a socket, a clock or a source of randomness of its own. Bytes, the time and
//! the trusted state come in as arguments, a verdict comes out; key generation and signing take a
//! [`ring::rand::SecureRandom`]. The caller fetches, stores, and decides when to ask.
//!
//! * [`manifest`] says what a release is: variants, artifacts by role, figures, probes, provenance.
//! * [`tuf`] says which bytes may be installed: metadata of The Update Framework 1.0, a writer and a verifier.
//! * [`digest`] checks downloaded bytes against what was listed, while they stream by.

pub mod digest;
pub mod limits;
pub mod manifest;
pub mod names;
#[cfg(feature = "samples")]
pub mod samples;
pub mod time;
pub mod tuf;

pub use digest::{ArtifactError, ArtifactVerifier, Sha256Digest};
pub use manifest::{ManifestError, ReleaseManifest};
pub use names::{ModelName, NameError, ReleaseNumber, TargetKind, TargetName, VariantName};
pub use time::UnixSeconds;
