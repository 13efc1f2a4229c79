//! Releases for tests, with every kind of field in them.

#![allow(
    clippy::unwrap_used,
    reason = "the samples are constants, and only tests have this module"
)]

use std::collections::BTreeMap;

use crate::manifest::{
    Accountant, AggregationRule, Architecture, Artifact, ArtifactRole, BaseRelease, Evaluation, Figures, Mechanism,
    PrivacyStatement, PrivacyUnit, Probe, Provenance, Requirements, Runtime, SCHEMA_VERSION, Variant,
    VariantEvaluation,
};
use crate::{ReleaseManifest, ReleaseNumber, Sha256Digest, UnixSeconds};

/// An artifact of 1,000 bytes under this name; its digest is the name's.
pub fn artifact(target: &str) -> Artifact {
    Artifact {
        target: target.parse().unwrap(),
        sha256: Sha256Digest::of(target.as_bytes()),
        length: 1000,
    }
}

/// A variant of [`imported`].
pub fn variant(text: &str) -> Variant {
    Variant {
        name: text.parse().unwrap(),
        runtime: Runtime::CandleGguf,
        artifacts: BTreeMap::from([(ArtifactRole::Weights, artifact(&format!("farm.r1.{text}.gguf")))]),
        figures: Figures {
            weight_bytes: 1000,
            parameters: 600_000,
            flops_per_token: 1_200_000,
            kv_bytes_per_token: 512,
            context_tokens: 256,
            held_out_loss: 0.734_951_203_871,
        },
        requirements: Requirements {
            memory_bytes: 5_000_000,
        },
    }
}

/// A release that was imported, `farm.r1`.
pub fn imported() -> ReleaseManifest {
    ReleaseManifest {
        schema: SCHEMA_VERSION,
        model: "farm".parse().unwrap(),
        release: ReleaseNumber::FIRST,
        title: "Farm gateway".to_owned(),
        created: UnixSeconds::new(1_800_000_000),
        base: None,
        architecture: Architecture {
            family: "llama".to_owned(),
            parameters: 600_000,
            context_tokens: 256,
            vocabulary: 512,
            layers: 4,
            hidden: 96,
        },
        variants: vec![variant("f16"), variant("q4-0")],
        probes: vec![Probe {
            prompt: "soil 12 %".to_owned(),
            expected: " dry".to_owned(),
            max_tokens: 8,
        }],
        chat_template: None,
        provenance: Provenance::Import {
            source: "farm.gguf".to_owned(),
            sha256: Sha256Digest::of(b"gguf"),
        },
    }
}

/// A release of a federated job, `farm.r2`, which is adapters to [`imported`].
pub fn federated() -> ReleaseManifest {
    let base = imported();
    let bytes = base.encode().unwrap();
    let mut release = ReleaseManifest {
        release: ReleaseNumber::new(2).unwrap(),
        base: Some(BaseRelease {
            manifest: base.target_name(),
            sha256: Sha256Digest::of(&bytes),
        }),
        ..base
    };
    for variant in &mut release.variants {
        variant
            .artifacts
            .insert(ArtifactRole::Adapter, artifact("adapter.farm.r2.safetensors"));
    }
    let side = |loss, rate| Evaluation {
        loss,
        exact_match: Some(rate),
    };
    release.provenance = Provenance::Federated {
        job: "better-alerts".to_owned(),
        cohorts: vec![5, 4, 5],
        aggregation: AggregationRule::Mean,
        privacy: Some(PrivacyStatement {
            unit: PrivacyUnit::Example,
            epsilon: 7.98,
            delta: 1e-5,
            accountant: Accountant::Rdp,
            mechanism: Mechanism {
                sampling_rate: 0.16,
                noise_multiplier: 0.9,
                steps: 40,
                clip_norm: 0.5,
            },
        }),
        evaluation_tokens: 4096,
        evaluation: vec![VariantEvaluation {
            variant: "q4-0".parse().unwrap(),
            before: side(1.2, 0.4),
            after: side(0.9, 0.8),
        }],
    };
    release
}
