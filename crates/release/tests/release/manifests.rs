//! Manifests read back as written, and nothing else is read.

use fieldfare_release::samples::{artifact, federated, imported, variant};
use fieldfare_release::tuf::ListedTarget;
use fieldfare_release::{ManifestError, ReleaseManifest, Sha256Digest, limits};
use serde_json::{Value, json};

use crate::fixture::name;

#[test]
fn manifests_read_back_as_written() {
    for (manifest, listed) in [
        (imported(), "farm.r1.release.json"),
        (federated(), "adapter.farm.r2.release.json"),
    ] {
        let bytes = manifest.encode().unwrap();
        assert_eq!(manifest.target_name(), name(listed));
        let read = ReleaseManifest::decode(&name(listed), &bytes).unwrap();
        assert_eq!(read, manifest);
        assert_eq!(read.encode().unwrap(), bytes);
    }
    let release = federated();
    let targets: Vec<_> = release.artifacts().into_keys().map(ToString::to_string).collect();
    assert_eq!(
        targets,
        ["adapter.farm.r2.safetensors", "farm.r1.f16.gguf", "farm.r1.q4-0.gguf"]
    );
}

#[test]
fn a_genuine_manifest_under_the_name_of_another() {
    let bytes = imported().encode().unwrap();
    for listed in [
        "farm.r2.release.json",
        "orchard.r1.release.json",
        "adapter.farm.r1.release.json",
    ] {
        let error = ReleaseManifest::decode(&name(listed), &bytes).unwrap_err();
        assert!(matches!(error, ManifestError::WrongName { .. }), "{error}");
    }
    let bytes = federated().encode().unwrap();
    let error = ReleaseManifest::decode(&name("farm.r2.release.json"), &bytes).unwrap_err();
    assert!(matches!(error, ManifestError::WrongName { .. }), "{error}");
}

#[test]
fn an_unknown_schema_version_is_named() {
    let mut document: Value = serde_json::from_slice(&imported().encode().unwrap()).unwrap();
    document["schema"] = json!(2);
    document["a field of version 2"] = json!({});
    let error = ReleaseManifest::decode(&name("farm.r1.release.json"), document.to_string().as_bytes()).unwrap_err();
    assert!(matches!(error, ManifestError::UnknownSchema { found: 2 }), "{error}");
}

#[test]
fn an_oversize_manifest_is_not_parsed() {
    let bytes = vec![b'['; limits::MAX_MANIFEST_BYTES + 1];
    let error = ReleaseManifest::decode(&name("farm.r1.release.json"), &bytes).unwrap_err();
    assert!(matches!(error, ManifestError::TooLong { .. }), "{error}");
}

/// A change of a manifest's JSON at a pointer, and a part of the error that it must cause.
fn check(manifest: &ReleaseManifest, pointer: &str, value: Value, expected: &str) {
    let mut document: Value = serde_json::from_slice(&manifest.encode().unwrap()).unwrap();
    match pointer.rsplit_once('/') {
        Some((parent, added)) if document.pointer(pointer).is_none() => {
            document.pointer_mut(parent).unwrap()[added] = value
        }
        _ => *document.pointer_mut(pointer).unwrap() = value,
    }
    let error = ReleaseManifest::decode(&manifest.target_name(), document.to_string().as_bytes()).unwrap_err();
    let text = format!(
        "{error}: {}",
        std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default()
    );
    assert!(text.contains(expected), "{pointer}: {text}");
}

#[test]
fn wrong_fields_are_named() {
    let long = "x".repeat(limits::MAX_PROBE_TEXT_BYTES + 1);
    let f16 = json!(variant("f16"));
    for (pointer, value, expected) in [
        ("/surprise", json!(1), "surprise"),
        ("/title", json!("two\nlines"), "title"),
        ("/title", json!(""), "title"),
        ("/model", json!("Farm"), "model name"),
        ("/release", json!(0), "nonzero"),
        ("/variants", json!([]), "variants"),
        ("/variants", json!([f16, f16]), "f16 is listed twice"),
        (
            "/variants",
            json!(vec![f16.clone(); limits::MAX_VARIANTS + 1]),
            "limit of 32",
        ),
        ("/variants/0/runtime", json!("onnx"), "onnx"),
        ("/variants/0/surprise", json!(1), "surprise"),
        ("/variants/0/artifacts", json!({}), "weights are missing"),
        (
            "/variants/0/artifacts/weights/target",
            json!("farm.r1.q4-0.gguf"),
            "not a file of this variant",
        ),
        (
            "/variants/0/artifacts/weights/target",
            json!("farm.r2.f16.gguf"),
            "not a file of this variant",
        ),
        (
            "/variants/0/artifacts/weights/target",
            json!("orchard.r1.f16.gguf"),
            "not a file of this variant",
        ),
        (
            "/variants/0/artifacts/weights/target",
            json!("../../etc/passwd"),
            "target name",
        ),
        ("/variants/0/artifacts/weights/sha256", json!("00"), "64 lower-case"),
        ("/variants/0/artifacts/weights/length", json!(0), "empty"),
        ("/variants/0/figures/held_out_loss", json!(-1.0), "held_out_loss"),
        ("/variants/0/figures/held_out_loss", json!(null), "null"),
        ("/variants/0/figures/context_tokens", json!(0), "context_tokens"),
        ("/variants/0/requirements/memory_bytes", json!(0), "memory_bytes"),
        ("/probes/0/prompt", json!(long), "probes.prompt"),
        ("/probes/0/expected", json!(""), "any answer would pass"),
        ("/probes/0/max_tokens", json!(0), "probes.max_tokens"),
        ("/provenance/kind", json!("magic"), "magic"),
        ("/provenance/source", json!(""), "provenance.source"),
        (
            "/base",
            json!({"manifest": "farm.r1.release.json", "sha256": Sha256Digest::of(b"")}),
            "not an earlier release",
        ),
    ] {
        check(&imported(), pointer, value, expected);
    }
}

#[test]
fn wrong_fields_of_a_federated_release_are_named() {
    for (pointer, value, expected) in [
        ("/base", json!(null), "a federated job has a base release"),
        ("/base/manifest", json!("farm.r1.f16.gguf"), "not an earlier release"),
        (
            "/base/manifest",
            json!("orchard.r1.release.json"),
            "not an earlier release",
        ),
        ("/provenance/cohorts", json!([]), "at least one round"),
        ("/provenance/privacy/epsilon", json!(0.0), "epsilon"),
        ("/provenance/privacy/delta", json!(1.0), "delta"),
        ("/provenance/privacy/unit", json!("nobody"), "nobody"),
        (
            "/provenance/privacy/mechanism/sampling_rate",
            json!(1.5),
            "sampling_rate",
        ),
        (
            "/provenance/privacy/mechanism/noise_multiplier",
            json!(0.0),
            "noise_multiplier",
        ),
        ("/provenance/privacy/mechanism/clip_norm", json!(-0.5), "clip_norm"),
        ("/provenance/privacy/mechanism/steps", json!(0), "steps"),
        (
            "/provenance/evaluation/0/variant",
            json!("q8-0"),
            "no variant of this release",
        ),
        ("/provenance/evaluation/0/after/exact_match", json!(1.1), "exact_match"),
    ] {
        check(&federated(), pointer, value, expected);
    }
}

#[test]
fn nothing_is_written_that_would_not_be_read() {
    let mut manifest = imported();
    manifest.variants[0].figures.held_out_loss = f64::NAN;
    assert!(matches!(manifest.encode(), Err(ManifestError::Field { .. })));
    manifest = imported();
    manifest.schema = 7;
    assert!(matches!(
        manifest.encode(),
        Err(ManifestError::UnknownSchema { found: 7 })
    ));
}

#[test]
fn the_metadata_and_the_manifest_must_agree() {
    let artifact = artifact("farm.r1.f16.gguf");
    let listed = |length, sha256| ListedTarget {
        length,
        sha256,
        custom: Default::default(),
        role: "targets".to_owned(),
    };
    assert!(artifact.agrees_with(&listed(1000, artifact.sha256)).is_ok());
    assert!(artifact.agrees_with(&listed(1001, artifact.sha256)).is_err());
    assert!(artifact.agrees_with(&listed(1000, Sha256Digest::of(b"other"))).is_err());
}
