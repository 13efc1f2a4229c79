//! Metadata of The Update Framework, specification 1.0: types, a writer and a verifier.
//!
//! *Writing.* An operator signs [`Root`] and [`Targets`] with [`Signed::sign`]; a trainer signs its delegated
//! [`Targets`]; the controller takes both into a [`Repository`], which signs [`Snapshot`] and [`Timestamp`] and names
//! the files to serve.
//!
//! *Verifying.* A device keeps a [`TrustedState`], drives an [`Update`] by feeding it the files it asks for, and asks
//! the resulting [`VerifiedRepository`] for targets. Whoever persists the state must persist it also after an error:
//! each accepted file moves it forward, and a refused one changes nothing.
//!
//! A signature covers the canonical form of the `signed` part. That form is computed from the received document as a
//! whole, with every field known or not, never from the typed value; a document with a repeated key is refused, so
//! that no two readers can see different values in it. File digests are those of the received bytes.

mod canonical;
mod json;
mod key;
mod lookup;
mod metadata;
mod paths;
mod pem;
mod repository;
mod signed;
mod targets;
mod trust;
mod update;

pub use key::{KeyError, KeyId, KeyValue, PublicKey, Signature, SigningKey};
pub use lookup::{DelegationRequest, ListedTarget, Lookup, VerifiedRepository};
pub use metadata::{
    Extra, FileMeta, Header, Payload, RoleHolders, RoleKeys, RoleType, Roles, Root, Snapshot, Timestamp, Version,
};
pub use repository::{OnlineRoles, PublishError, PublishedFile, Repository};
pub use signed::{MetadataError, SignError, SignatureError, Signed};
pub use targets::{DelegatedRole, Delegations, Hashes, Target, Targets, adapter_role};
pub use trust::{RollbackError, TrustError, TrustedState};
pub use update::{FileRequest, Purpose, Refusal, Update, UpdateError};
