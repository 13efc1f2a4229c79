//! A metadata file: a signed document and its signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::{KeyError, KeyId, PublicKey, Signature, SigningKey};
use super::metadata::{Payload, RoleType, Root, Version};
use super::targets::{DelegatedRole, Delegations, Targets};
use super::{canonical, json};
use crate::digest::Sha256Digest;
use crate::limits::MAX_SIGNATURES;

/// Why bytes are no metadata file of the expected kind, whoever signed it.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Not JSON, with a repeated key, or with a fraction.
    #[error("the metadata cannot be read")]
    Json(#[source] serde_json::Error),
    /// JSON, and not of the role's form.
    #[error("the {role} metadata has the wrong form")]
    Form {
        /// The role that was expected.
        role: RoleType,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Metadata of another role.
    #[error("expected {expected} metadata, found {found}")]
    WrongRole {
        /// The role that was expected.
        expected: RoleType,
        /// The role that the metadata says it is of.
        found: RoleType,
    },
    /// Metadata of another major version of the specification.
    #[error("specification version {found:?} is not 1.x")]
    SpecVersion {
        /// What the metadata says.
        found: String,
    },
    /// More signatures than anybody needs.
    #[error("{found} signatures, more than the limit of {MAX_SIGNATURES}")]
    TooManySignatures {
        /// Their number.
        found: usize,
    },
    /// Two signatures of one key.
    #[error("two signatures of key {0}")]
    RepeatedSignature(KeyId),
}

/// Too few of the role's keys signed the metadata.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{valid} valid signatures of different keys for {role}, {threshold} are needed")]
pub struct SignatureError {
    /// The role: a top-level one or the name of a delegated one.
    pub role: String,
    /// Number of different keys of the role whose signature is valid.
    pub valid: u32,
    /// How many are needed.
    pub threshold: NonZeroU32,
}

/// Why metadata cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The value has no JSON form without fractions, or is no metadata of its role.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A metadata file with its exact bytes. Reading it verifies nothing: see [`Root::verify`] and [`Delegations::verify`].
#[derive(Clone, Debug, PartialEq)]
pub struct Signed<P> {
    payload: P,
    document: Value,
    signatures: Vec<Signature>,
    bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    signatures: Vec<Signature>,
    signed: Value,
}

impl<P: Payload> Signed<P> {
    /// Signs metadata with all of `keys`.
    ///
    /// # Errors
    /// A custom field holds a fraction, or the source of randomness failed.
    pub fn sign(payload: P, keys: &[&SigningKey], rng: &dyn SecureRandom) -> Result<Self, SignError> {
        let bytes = serde_json::to_vec(&payload).map_err(MetadataError::Json)?;
        let document = json::parse(&bytes).map_err(MetadataError::Json)?;
        let mut file = Self {
            payload,
            document,
            signatures: Vec::new(),
            bytes: Vec::new(),
        };
        for key in keys {
            file.add_signature(key, rng)?;
        }
        file.write()?;
        Ok(file)
    }

    /// Adds the signature of one more holder, or renews it. The document stays as it was read, byte for byte in its
    /// canonical form.
    ///
    /// # Errors
    /// The source of randomness failed.
    pub fn add_signature(&mut self, key: &SigningKey, rng: &dyn SecureRandom) -> Result<(), SignError> {
        let signature = key.sign(&canonical::canonical(&self.document), rng)?;
        self.signatures.retain(|earlier| earlier.keyid != signature.keyid);
        self.signatures.push(signature);
        self.write()
    }

    fn write(&mut self) -> Result<(), SignError> {
        let envelope = Envelope {
            signatures: self.signatures.clone(),
            signed: self.document.clone(),
        };
        self.bytes = serde_json::to_vec(&envelope).map_err(MetadataError::Json)?;
        Ok(())
    }

    /// Reads a metadata file. The caller has bounded its length.
    ///
    /// # Errors
    /// Any [`MetadataError`].
    pub fn read(bytes: &[u8]) -> Result<Self, MetadataError> {
        let form = |source| MetadataError::Form { role: P::ROLE, source };
        let envelope: Envelope =
            serde_json::from_value(json::parse(bytes).map_err(MetadataError::Json)?).map_err(form)?;
        let found = envelope.signatures.len();
        if found > MAX_SIGNATURES {
            return Err(MetadataError::TooManySignatures { found });
        }
        let mut signers = BTreeSet::new();
        for signature in &envelope.signatures {
            if !signers.insert(&signature.keyid) {
                return Err(MetadataError::RepeatedSignature(signature.keyid.clone()));
            }
        }
        let found = RoleType::deserialize(&envelope.signed["_type"]).map_err(form)?;
        if found != P::ROLE {
            return Err(MetadataError::WrongRole {
                expected: P::ROLE,
                found,
            });
        }
        let payload = P::deserialize(&envelope.signed).map_err(form)?;
        let spec = &payload.header().spec_version;
        if spec.split('.').next() != Some("1") {
            return Err(MetadataError::SpecVersion { found: spec.clone() });
        }
        Ok(Self {
            payload,
            document: envelope.signed,
            signatures: envelope.signatures,
            bytes: bytes.to_vec(),
        })
    }

    /// Whether at least `threshold` different keys of the role signed the document. A key that is listed under two ids
    /// counts once.
    fn verify(
        &self,
        role: &str,
        keys: &BTreeMap<KeyId, PublicKey>,
        keyids: &BTreeSet<KeyId>,
        threshold: NonZeroU32,
    ) -> Result<(), SignatureError> {
        let message = canonical::canonical(&self.document);
        let signers: BTreeSet<_> = self
            .signatures
            .iter()
            .filter(|signature| keyids.contains(&signature.keyid))
            .filter_map(|signature| keys.get(&signature.keyid).map(|key| (key, signature)))
            .filter(|(key, signature)| key.verifies(&message, signature))
            .filter_map(|(key, _)| key.point())
            .collect();
        let valid = u32::try_from(signers.len()).unwrap_or(u32::MAX);
        if valid >= threshold.get() {
            Ok(())
        } else {
            Err(SignatureError {
                role: role.to_owned(),
                valid,
                threshold,
            })
        }
    }

    /// The typed content.
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// The typed content alone.
    pub fn into_payload(self) -> P {
        self.payload
    }

    /// The version of the content.
    pub fn version(&self) -> Version {
        self.payload.header().version
    }

    /// The signatures, valid or not.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The exact bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the exact bytes.
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bytes)
    }
}

impl Root {
    /// Whether enough holders of the file's role, as this root names them, signed the file. The role is that of the
    /// payload's type, so delegated targets are not for this function.
    ///
    /// # Errors
    /// Too few did.
    pub fn verify<P: Payload>(&self, file: &Signed<P>) -> Result<(), SignatureError> {
        let role = self.roles.get(P::ROLE);
        file.verify(&P::ROLE.to_string(), &self.keys, &role.keyids, role.threshold)
    }
}

impl Delegations {
    /// Whether enough holders of this role, one of these delegations, signed the file.
    ///
    /// # Errors
    /// Too few did.
    pub fn verify(&self, role: &DelegatedRole, file: &Signed<Targets>) -> Result<(), SignatureError> {
        file.verify(&role.name, &self.keys, &role.keyids, role.threshold)
    }
}
