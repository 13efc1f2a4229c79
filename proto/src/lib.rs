//! The wire contract of Fieldfare: `.proto` files, the code generated from them, and the conversions to the domain's types.
//!
//! Generated types appear here and in RPC handlers only. A conversion that fails names the field.

mod convert;

pub use convert::{ConversionError, OptionExt, ResultExt};

/// Messages and services of package `fieldfare.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, unreachable_pub)]
pub mod v1 {
    include!("generated/fieldfare.v1.rs");
}

/// Encoded `FileDescriptorSet` of package `fieldfare.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/fieldfare.v1.descriptors");

/// The protocol version that this build speaks. A peer one version behind is still understood.
pub const PROTOCOL_VERSION: u32 = 1;
