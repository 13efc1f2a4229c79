//! Imports by the real process: killed, resumed by another, and refused.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use fieldfare_proto::v1::{ImportSpec, ImportStage, ImportWork, claim, finish_request, import_spec, work_checkpoint};
use fieldfare_release::manifest::Provenance;
use fieldfare_release::{ReleaseManifest, Sha256Digest, TargetName};
use fieldfare_trainer::farm::corpus;
use fieldfare_trainer::farm::datasets::to_jsonl;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::controller::{Controller, Stage};

/// The shipped model.
pub(crate) fn model() -> Vec<u8> {
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "..",
        "models",
        "farm-alert",
        "farm-alert-f16.gguf",
    ]
    .iter()
    .collect();
    std::fs::read(path).unwrap()
}

/// Starts the real binary in a folder, and waits until it says that it is ready.
pub(crate) async fn start(folder: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fieldfare-trainer"))
        .args(["run", "--log", "warn", "--dir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.starts_with("ready rounds=https://127.0.0.1:"), "{line}");
    assert!(folder.join("endpoints.json").exists());
    child
}

async fn terminate(child: &Child) {
    let pid = child.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status().await;
    assert!(told.unwrap().success());
}

fn work(controller: &Controller, source: &[u8]) -> claim::Work {
    let held_out = to_jsonl(&corpus::held_out(6, 11));
    claim::Work::Import(ImportWork {
        spec: Some(ImportSpec {
            job: "job-1".to_owned(),
            model: "farm-alert".to_owned(),
            source: Some(import_spec::Source::Uploaded(
                controller.upload("farm-alert-f16.gguf", source),
            )),
            variants: Vec::new(),
            evaluation: Some(controller.upload("held-out.jsonl", held_out.as_bytes())),
            probes: None,
        }),
        release_number: 1,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_survives_kill_minus_nine_and_goes_on_in_another_folder_after_the_last_variant() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    controller.offer(work(controller, &model()));
    controller.state().hold_after_built = Some(1);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    stage.enrol("t1", folders[0].path());
    stage.enrol("t2", folders[1].path());

    let mut first = start(folders[0].path()).await;
    let built = controller
        .until(|state| match &state.checkpoint {
            Some(work_checkpoint::Work::Import(import)) if import.built.len() == 1 => Some(import.built[0].clone()),
            _ => None,
        })
        .await;
    first.start_kill().unwrap();
    assert!(!first.wait().await.unwrap().success());
    let digest = Sha256Digest::from_bytes(built.sha256.clone().try_into().unwrap()).to_string();
    assert_eq!(controller.state().uploads[&digest], 1);

    controller.state().hold_after_built = None;
    controller.expire_claim();
    let mut second = start(folders[1].path()).await;
    let outcome = controller.until(|state| state.finished.clone()).await;
    let finish_request::Outcome::Succeeded(succeeded) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(succeeded.manifest_target, "farm-alert.r1.release.json");
    {
        let state = controller.state();
        assert_eq!(state.token, 2, "the second claim has a fence of its own");
        assert_eq!(state.uploads[&digest], 1, "the first variant was not built again");
        let Some(work_checkpoint::Work::Import(checkpoint)) = &state.checkpoint else {
            panic!("no checkpoint")
        };
        assert_eq!(checkpoint.stage(), ImportStage::Proposed);
        assert_eq!(checkpoint.built[0], built);
        let proposed = state.proposed.as_ref().unwrap();
        let target: TargetName = proposed.manifest_target.parse().unwrap();
        let manifest = ReleaseManifest::decode(&target, &proposed.manifest).unwrap();
        let names: Vec<_> = manifest
            .variants
            .iter()
            .map(|variant| variant.name.to_string())
            .collect();
        assert_eq!(names, ["f16", "q8-0", "q4-0"]);
        for variant in &manifest.variants {
            let weights = variant.weights().unwrap();
            assert_eq!(state.blobs[&weights.sha256.to_string()].len() as u64, weights.length);
            assert!(variant.figures.held_out_loss > 0.0 && variant.figures.held_out_loss < 8.0);
        }
        let sizes: Vec<u64> = manifest
            .variants
            .iter()
            .map(|variant| variant.figures.weight_bytes)
            .collect();
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
        assert!(
            !manifest.probes.is_empty(),
            "probes come from the held-out text where none are given"
        );
        assert!(matches!(&manifest.provenance, Provenance::Import { source, .. } if source == "farm-alert-f16.gguf"));
    }
    // SIGTERM: it drains and ends by itself.
    terminate(&second).await;
    assert!(second.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_is_told_to_stop_hands_its_job_to_the_next() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    controller.offer(work(controller, &model()));
    // Held at its first checkpoint, it is in the middle of the job for as long as nobody tells it otherwise.
    controller.state().hold_after_built = Some(1);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    stage.enrol("t1", folders[0].path());
    stage.enrol("t2", folders[1].path());
    let mut first = start(folders[0].path()).await;
    controller
        .until(|state| {
            matches!(&state.checkpoint, Some(work_checkpoint::Work::Import(import)) if import.built.len() == 1)
                .then_some(())
        })
        .await;
    controller.state().hold_after_built = None;
    let mut second = start(folders[1].path()).await;
    assert!(controller.state().finished.is_none(), "the first still holds it");
    let told = std::time::Instant::now();
    terminate(&first).await;
    // No lease has to end: it would have taken half a minute.
    controller.until(|state| state.finished.clone()).await;
    assert!(first.wait().await.unwrap().success());
    assert!(
        told.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(controller.state().token, 2);
    terminate(&second).await;
    assert!(second.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_or_truncated_source_ends_the_job_with_what_is_wrong() {
    let whole = model();
    let mut hostile = whole.clone();
    // The number of tensors, right after magic and version.
    hostile[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    for (source, reason) in [
        (&whole[..whole.len() / 2], "cannot be imported"),
        (&hostile[..], "cannot be imported"),
        (b"PK\x03\x04", "cannot be imported"),
    ] {
        let stage = Stage::new().await;
        let controller = &stage.controller;
        controller.offer(work(controller, source));
        let folder = tempfile::tempdir().unwrap();
        stage.enrol("t1", folder.path());
        let _child = start(folder.path()).await;
        let outcome = controller.until(|state| state.finished.clone()).await;
        let finish_request::Outcome::Failed(failed) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(failed.reason.contains(reason), "{}", failed.reason);
        assert!(controller.state().proposed.is_none());
    }
}
