//! Release manifests.

use fieldfare_release::samples::{federated, imported};
use fieldfare_release::{ReleaseManifest, TargetName};

use super::failed;
use crate::{Bound, Target};

pub(super) const TARGET: Target = Target {
    name: "manifest",
    seeds: || vec![imported().encode().unwrap(), federated().encode().unwrap()],
    invent: None,
    take,
    bound: Bound {
        base: 64 << 10,
        per_byte: 64,
    },
    words: &[
        b"\"schema\": 1",
        b"\"model\": \"farm\"",
        b"\"probes\": []",
        b"\"variants\": [",
        b"1e308",
        b"-1",
        b"\\u0000",
        b"../",
        b"\"base\": null",
    ],
    inputs: 30_000,
};

fn take(bytes: &[u8]) -> String {
    let mut outcome = String::new();
    for name in ["farm.r1.release.json", "adapter.farm.r2.release.json"] {
        let name: TargetName = name.parse().unwrap();
        match ReleaseManifest::decode(&name, bytes) {
            Ok(manifest) => {
                let written = manifest.encode().unwrap();
                let again = ReleaseManifest::decode(&name, &written).unwrap();
                assert_eq!(again, manifest);
                assert_eq!(again.encode().unwrap(), written);
                outcome.push_str("a manifest");
            }
            Err(error) => outcome.push_str(&failed(&error)),
        }
    }
    outcome
}
