//! The door: bytes become a manifest here, or an error that names what is wrong.

use serde::Deserialize;

use super::{
    Artifact, ArtifactRole, PrivacyStatement, Probe, Provenance, ReleaseManifest, SCHEMA_VERSION, Variant,
    VariantEvaluation,
};
use crate::limits::{
    MAX_CHAT_TEMPLATE_BYTES, MAX_LINE_BYTES, MAX_MANIFEST_BYTES, MAX_PROBE_TEXT_BYTES, MAX_PROBE_TOKENS, MAX_PROBES,
    MAX_ROUNDS, MAX_VARIANTS,
};
use crate::names::{TargetKind, TargetName, VariantName};
use crate::tuf::ListedTarget;

/// Why bytes are no manifest, or a manifest is no valid one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The manifest is too long to look at.
    #[error("the manifest has {found} bytes, more than the limit of {MAX_MANIFEST_BYTES}")]
    TooLong {
        /// Its length, in bytes.
        found: usize,
    },
    /// The bytes are not JSON of the right shape.
    #[error("the manifest cannot be read")]
    Json(#[source] serde_json::Error),
    /// The manifest is of a version that this build does not know.
    #[error("the manifest has schema version {found}, this build reads {SCHEMA_VERSION}")]
    UnknownSchema {
        /// Its version.
        found: u32,
    },
    /// The manifest is genuine, and was listed under the name of another one.
    #[error("the manifest describes {describes}, but is listed as {listed}")]
    WrongName {
        /// The name that its content spells.
        describes: Box<TargetName>,
        /// The name that it was listed under.
        listed: Box<TargetName>,
    },
    /// A field has a value that it must not have.
    #[error("{field}: {reason}")]
    Field {
        /// The path of the field.
        field: String,
        /// What is expected there.
        reason: String,
    },
}

/// The metadata and a manifest disagree about a target.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{target}: the manifest and the repository's metadata disagree about its bytes")]
pub struct ListingMismatch {
    target: TargetName,
}

impl Artifact {
    /// Whether the repository's metadata lists this target with the same bytes.
    ///
    /// # Errors
    /// The length or the digest differs.
    pub fn agrees_with(&self, listed: &ListedTarget) -> Result<(), ListingMismatch> {
        if self.length == listed.length && self.sha256 == listed.sha256 {
            Ok(())
        } else {
            Err(ListingMismatch {
                target: self.target.clone(),
            })
        }
    }
}

#[derive(Deserialize)]
struct SchemaOnly {
    schema: u32,
}

impl ReleaseManifest {
    /// Reads a manifest that was listed under `name`, from bytes that an
    /// [`ArtifactVerifier`](crate::ArtifactVerifier) has accepted.
    ///
    /// # Errors
    /// Too long, not JSON, another schema version, a manifest of something else than `name`, or a field out of range.
    pub fn decode(name: &TargetName, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong { found: bytes.len() });
        }
        let SchemaOnly { schema } = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if schema != SCHEMA_VERSION {
            return Err(ManifestError::UnknownSchema { found: schema });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        manifest.validate()?;
        let describes = manifest.target_name();
        if describes != *name {
            return Err(ManifestError::WrongName {
                describes: Box::new(describes),
                listed: Box::new(name.clone()),
            });
        }
        Ok(manifest)
    }

    /// Writes the manifest. Equal manifests give equal bytes.
    ///
    /// # Errors
    /// What [`ReleaseManifest::decode`] would refuse is not written.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        if self.schema != SCHEMA_VERSION {
            return Err(ManifestError::UnknownSchema { found: self.schema });
        }
        self.validate()?;
        let mut bytes = serde_json::to_vec_pretty(self).map_err(ManifestError::Json)?;
        bytes.push(b'\n');
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong { found: bytes.len() });
        }
        Ok(bytes)
    }

    fn validate(&self) -> Result<(), ManifestError> {
        line("title", &self.title)?;
        line("architecture.family", &self.architecture.family)?;
        if let Some(template) = &self.chat_template {
            length("chat_template", template.len(), MAX_CHAT_TEMPLATE_BYTES)?;
        }
        length("variants", self.variants.len(), MAX_VARIANTS)?;
        require(!self.variants.is_empty(), "variants", "at least one is needed")?;
        for (index, variant) in self.variants.iter().enumerate() {
            let first = self.variants[..index]
                .iter()
                .all(|earlier| earlier.name != variant.name);
            require(first, "variants", format_args!("{} is listed twice", variant.name))?;
            self.validate_variant(variant)?;
        }
        length("probes", self.probes.len(), MAX_PROBES)?;
        self.probes.iter().try_for_each(validate_probe)?;
        self.validate_base()?;
        self.validate_provenance()
    }

    fn validate_variant(&self, variant: &Variant) -> Result<(), ManifestError> {
        let field = |part: &str| format!("variants.{}.{part}", variant.name);
        require(variant.weights().is_some(), field("artifacts"), "weights are missing")?;
        for (role, artifact) in &variant.artifacts {
            let target = &artifact.target;
            let fits = match role {
                ArtifactRole::Weights => *target.kind() == TargetKind::Weights(variant.name.clone()),
                ArtifactRole::Adapter => *target.kind() == TargetKind::AdapterFactors,
            };
            let own = *target.model() == self.model && target.release() <= self.release;
            require(
                fits && own,
                field("artifacts"),
                format_args!("{target} is not a file of this variant for {role:?}"),
            )?;
            require(
                artifact.length > 0,
                field("artifacts"),
                format_args!("{target} is empty"),
            )?;
        }
        loss(&field("figures.held_out_loss"), variant.figures.held_out_loss)?;
        require(
            variant.figures.context_tokens > 0,
            field("figures.context_tokens"),
            "must be above 0",
        )?;
        require(
            variant.requirements.memory_bytes > 0,
            field("requirements.memory_bytes"),
            "must be above 0",
        )
    }

    fn validate_base(&self) -> Result<(), ManifestError> {
        let Some(base) = &self.base else {
            let needed = matches!(self.provenance, Provenance::Federated { .. });
            return require(!needed, "base", "a federated job has a base release");
        };
        let manifest = matches!(base.manifest.kind(), TargetKind::Release | TargetKind::AdapterRelease);
        let earlier = *base.manifest.model() == self.model && base.manifest.release() < self.release;
        require(
            manifest && earlier,
            "base",
            format_args!("{} is not an earlier release of this model", base.manifest),
        )
    }

    fn validate_provenance(&self) -> Result<(), ManifestError> {
        match &self.provenance {
            Provenance::Import { source, .. } => line("provenance.source", source),
            Provenance::Federated {
                job,
                cohorts,
                privacy,
                evaluation,
                ..
            } => {
                line("provenance.job", job)?;
                length("provenance.cohorts", cohorts.len(), MAX_ROUNDS)?;
                require(
                    !cohorts.is_empty(),
                    "provenance.cohorts",
                    "at least one round is needed",
                )?;
                privacy.as_ref().map_or(Ok(()), validate_privacy)?;
                length("provenance.evaluation", evaluation.len(), MAX_VARIANTS)?;
                evaluation.iter().try_for_each(|entry| self.validate_evaluation(entry))
            }
        }
    }

    fn validate_evaluation(&self, entry: &VariantEvaluation) -> Result<(), ManifestError> {
        let name: &VariantName = &entry.variant;
        let field = format!("provenance.evaluation.{name}");
        require(self.variant(name).is_some(), &field, "is no variant of this release")?;
        for side in [&entry.before, &entry.after] {
            loss(&field, side.loss)?;
            let rate = side.exact_match.unwrap_or(0.0);
            require((0.0..=1.0).contains(&rate), &field, "exact_match must be in [0, 1]")?;
        }
        Ok(())
    }
}

fn validate_privacy(statement: &PrivacyStatement) -> Result<(), ManifestError> {
    let mechanism = &statement.mechanism;
    let positive = |value: f64| value > 0.0 && value.is_finite();
    let at = "provenance.privacy";
    require(positive(statement.epsilon), at, "epsilon must be above 0 and finite")?;
    require(
        statement.delta > 0.0 && statement.delta < 1.0,
        at,
        "delta must be between 0 and 1",
    )?;
    let rate = mechanism.sampling_rate > 0.0 && mechanism.sampling_rate <= 1.0;
    require(rate, at, "sampling_rate must be in (0, 1]")?;
    require(
        positive(mechanism.noise_multiplier),
        at,
        "noise_multiplier must be above 0 and finite",
    )?;
    require(
        positive(mechanism.clip_norm),
        at,
        "clip_norm must be above 0 and finite",
    )?;
    require(mechanism.steps > 0, at, "steps must be above 0")
}

fn validate_probe(probe: &Probe) -> Result<(), ManifestError> {
    length("probes.prompt", probe.prompt.len(), MAX_PROBE_TEXT_BYTES)?;
    length("probes.expected", probe.expected.len(), MAX_PROBE_TEXT_BYTES)?;
    require(!probe.prompt.is_empty(), "probes.prompt", "is empty")?;
    require(
        !probe.expected.is_empty(),
        "probes.expected",
        "is empty, so that any answer would pass",
    )?;
    let tokens = (1..=MAX_PROBE_TOKENS).contains(&probe.max_tokens);
    require(
        tokens,
        "probes.max_tokens",
        format_args!("must be 1 to {MAX_PROBE_TOKENS}"),
    )
}

fn require(holds: bool, field: impl ToString, reason: impl ToString) -> Result<(), ManifestError> {
    if holds {
        Ok(())
    } else {
        Err(ManifestError::Field {
            field: field.to_string(),
            reason: reason.to_string(),
        })
    }
}

fn length(field: &str, found: usize, limit: usize) -> Result<(), ManifestError> {
    require(
        found <= limit,
        field,
        format_args!("has {found}, more than the limit of {limit}"),
    )
}

fn line(field: &str, text: &str) -> Result<(), ManifestError> {
    length(field, text.len(), MAX_LINE_BYTES)?;
    let one_line = !text.is_empty() && !text.chars().any(char::is_control);
    require(one_line, field, "must be one line of text")
}

fn loss(field: &str, value: f64) -> Result<(), ManifestError> {
    require(
        value.is_finite() && value >= 0.0,
        field,
        "a loss must be finite and not negative",
    )
}
