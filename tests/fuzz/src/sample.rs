//! Valid inputs, for tests of the limits.

use std::collections::BTreeMap;

pub use fieldfare_release::samples::{federated, imported};
use fieldfare_release::tuf::SigningKey;

use crate::keys;
pub use crate::targets::gguf::{decoder, file as gguf};
use crate::targets::metadata;
pub use crate::targets::metadata::NOW;

/// The key of the roots in [`mirror`].
pub fn key() -> SigningKey {
    keys::first()
}

/// The key of all other roles.
pub fn role_key() -> SigningKey {
    keys::second()
}

/// Files of a release repository with two roots, by their names.
pub fn mirror() -> &'static BTreeMap<String, Vec<u8>> {
    &metadata::world().mirror
}
