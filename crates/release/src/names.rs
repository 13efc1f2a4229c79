//! Names of models, releases, variants and targets. A value of these types is valid by construction.
//!
//! Target names are flat, without `/`, because TUF clients disagree about where the digest of a consistent
//! snapshot goes in a path with folders.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Sha256Digest;
use crate::limits::{MAX_MODEL_NAME_BYTES, MAX_TARGET_NAME_BYTES, MAX_VARIANT_NAME_BYTES};

/// The first part of every target that a trainer's delegated key may list; no model may bear this name.
const ADAPTER: &str = "adapter";

/// Why a text is not a name.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// Not a model name.
    #[error(
        "model name {0:?}: expected 1 to {MAX_MODEL_NAME_BYTES} of a-z, 0-9 and '-', starting and ending with a letter or digit, and not \"adapter\""
    )]
    Model(String),
    /// Not a variant name.
    #[error(
        "variant name {0:?}: expected 1 to {MAX_VARIANT_NAME_BYTES} of a-z, 0-9 and '-', starting and ending with a letter or digit, and not \"release\""
    )]
    Variant(String),
    /// Not a release number.
    #[error("release number {0:?}: expected r1 to r4294967295 without leading zeros")]
    Release(String),
    /// Not a target name.
    #[error(
        "target name {0:?}: expected MODEL.rN.release.json, MODEL.rN.VARIANT.gguf, adapter.MODEL.rN.release.json or adapter.MODEL.rN.safetensors"
    )]
    Target(String),
}

fn excerpt(text: &str) -> String {
    text.chars().take(MAX_TARGET_NAME_BYTES).collect()
}

macro_rules! text_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        serde_as_text!($name);
    };
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A named line of releases: a DNS-1123 label other than `adapter`.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct ModelName(String);

text_name!(ModelName);

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = text.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let valid = edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(inner)
            && bytes.len() <= MAX_MODEL_NAME_BYTES
            && text != ADAPTER;
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| NameError::Model(excerpt(text)))
    }
}

/// One runnable form of a release, such as `f16`, `q8-0` or `q4-0`.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct VariantName(String);

text_name!(VariantName);

impl FromStr for VariantName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let first = bytes
            .first()
            .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let valid = first
            && bytes.iter().all(inner)
            && bytes.last() != Some(&b'-')
            && bytes.len() <= MAX_VARIANT_NAME_BYTES
            && text != "release";
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| NameError::Variant(excerpt(text)))
    }
}

/// The number of a release within its model, from 1. Shown as `r7`, serialised as an integer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(NonZeroU32);

impl ReleaseNumber {
    /// The first release of a model.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The release with this number; none for 0.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The bare number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The number after this one; none after the last.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for ReleaseNumber {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.strip_prefix('r')
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0'))
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| NameError::Release(excerpt(text)))
    }
}

/// What a target is, as its name says.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum TargetKind {
    /// `MODEL.rN.release.json`: a manifest signed by the operator's targets key.
    Release,
    /// `MODEL.rN.VARIANT.gguf`: weights.
    Weights(VariantName),
    /// `adapter.MODEL.rN.release.json`: a manifest signed by a trainer's delegated key.
    AdapterRelease,
    /// `adapter.MODEL.rN.safetensors`: LoRA factors.
    AdapterFactors,
}

/// The flat name of a target, with the model, release and kind that it spells.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct TargetName {
    model: ModelName,
    release: ReleaseNumber,
    kind: TargetKind,
    text: String,
}

impl TargetName {
    /// The name of a target of this model, release and kind.
    pub fn new(model: ModelName, release: ReleaseNumber, kind: TargetKind) -> Self {
        let text = match &kind {
            TargetKind::Release => format!("{model}.{release}.release.json"),
            TargetKind::Weights(variant) => format!("{model}.{release}.{variant}.gguf"),
            TargetKind::AdapterRelease => format!("{ADAPTER}.{model}.{release}.release.json"),
            TargetKind::AdapterFactors => format!("{ADAPTER}.{model}.{release}.safetensors"),
        };
        Self {
            model,
            release,
            kind,
            text,
        }
    }

    /// The model that the target belongs to.
    pub fn model(&self) -> &ModelName {
        &self.model
    }

    /// The release that brought the target.
    pub fn release(&self) -> ReleaseNumber {
        self.release
    }

    /// What the target is.
    pub fn kind(&self) -> &TargetKind {
        &self.kind
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name under which a consistent snapshot stores the bytes: `DIGEST.NAME`.
    pub fn stored_as(&self, sha256: &Sha256Digest) -> String {
        format!("{sha256}.{self}")
    }
}

impl Ord for TargetName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for TargetName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for TargetName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Target(excerpt(text));
        if text.len() > MAX_TARGET_NAME_BYTES {
            return Err(wrong());
        }
        let parts: Vec<&str> = text.split('.').collect();
        let (model, release, kind) = match parts[..] {
            [ADAPTER, model, release, "release", "json"] => (model, release, TargetKind::AdapterRelease),
            [ADAPTER, model, release, "safetensors"] => (model, release, TargetKind::AdapterFactors),
            [model, release, "release", "json"] => (model, release, TargetKind::Release),
            [model, release, variant, "gguf"] => (model, release, TargetKind::Weights(variant.parse()?)),
            _ => return Err(wrong()),
        };
        Ok(Self::new(model.parse()?, release.parse()?, kind))
    }
}

serde_as_text!(TargetName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ModelName, ReleaseNumber, TargetKind, TargetName, VariantName};

    #[test]
    fn each_kind_of_target_reads_back_as_written() {
        let model: ModelName = "farm-gateway".parse().unwrap();
        let release = ReleaseNumber::new(12).unwrap();
        let weights = TargetKind::Weights("q4-0".parse().unwrap());
        for (kind, text) in [
            (TargetKind::Release, "farm-gateway.r12.release.json"),
            (weights, "farm-gateway.r12.q4-0.gguf"),
            (TargetKind::AdapterRelease, "adapter.farm-gateway.r12.release.json"),
            (TargetKind::AdapterFactors, "adapter.farm-gateway.r12.safetensors"),
        ] {
            let name = TargetName::new(model.clone(), release, kind);
            assert_eq!(name.as_str(), text);
            assert_eq!(text.parse(), Ok(name));
        }
    }

    #[test]
    fn names_that_escape_or_confuse_are_refused() {
        for text in [
            "",
            "m.r1",
            "m.r0.release.json",
            "m.r01.release.json",
            "m.r+1.release.json",
            "m.r1.release.gguf",
            "m.r4294967296.release.json",
            "M.r1.release.json",
            "-m.r1.release.json",
            "m.r1.../x.gguf",
            "../m.r1.release.json",
            "m/r1.r1.release.json",
            "adapter.r1.release.json",
            "adapter.r1.q8-0.gguf",
            "adapter.adapter.r1.safetensors",
            "adapter.m.r1.q8-0.gguf",
            "m.r1.q8-0.gguf.",
            "m.r1.q8_0.gguf",
            "m.r1.q8-.gguf",
            "m.r1.Q8-0.gguf",
            "m.r1.safetensors",
        ] {
            assert!(text.parse::<TargetName>().is_err(), "{text}");
        }
        assert!("m".repeat(64).parse::<ModelName>().is_err());
        assert!("v".repeat(33).parse::<VariantName>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_the_one_spelling_of_itself(text in "(adapter\\.)?[a-z0-9.-]{1,8}\\.r[0-9]{1,3}\\.[a-z0-9_.]{1,12}") {
            if let Ok(name) = text.parse::<TargetName>() {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(!text.contains('/'));
            }
        }
    }
}
