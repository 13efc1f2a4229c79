//! Federated jobs by the real process: what it publishes verifies, what did not gain is refused, and a killed one goes on.

use std::path::Path;

use fieldfare_privacy::{Accountant, Delta, Epsilon, Mechanism, SamplingRate, calibrate_sigma};
use fieldfare_proto::v1::{EvaluationGate, FederatedJobSpec, FederatedWork, claim, finish_request, work_checkpoint};
use fieldfare_release::manifest::{
    Architecture, Artifact, ArtifactRole, Figures, Probe, Provenance, ReleaseManifest, Requirements, Runtime,
    SCHEMA_VERSION, Variant,
};
use fieldfare_release::tuf::{
    Extra, Lookup, OnlineRoles, PublicKey, Purpose, Repository, RoleHolders, Roles, Root, Signed, SigningKey, Target,
    Targets, TrustedState, Update, adapter_role,
};
use fieldfare_release::{Sha256Digest, TargetName, UnixSeconds};
use fieldfare_trainer::farm::datasets::{DatasetSizes, FarmDatasets, to_jsonl};
use ring::rand::SystemRandom;

use crate::controller::{Controller, Stage};
use crate::devices::Device;
use crate::fleet::device_id;
use crate::import::{model, start};

fn base_manifest(controller: &Controller, weights: &[u8]) -> (TargetName, Vec<u8>) {
    let uploaded = controller.upload("weights", weights);
    let target: TargetName = "farm-alert.r1.release.json".parse().unwrap();
    let artifact = Artifact {
        target: "farm-alert.r1.f16.gguf".parse().unwrap(),
        sha256: Sha256Digest::from_bytes(uploaded.sha256.try_into().unwrap()),
        length: uploaded.length_bytes,
    };
    let manifest = ReleaseManifest {
        schema: SCHEMA_VERSION,
        model: "farm-alert".parse().unwrap(),
        release: fieldfare_release::ReleaseNumber::FIRST,
        title: "Farm alerts".to_owned(),
        created: UnixSeconds::new(1_800_000_000),
        base: None,
        architecture: Architecture {
            family: "llama".to_owned(),
            parameters: 500_000,
            context_tokens: 256,
            vocabulary: 1024,
            layers: 4,
            hidden: 96,
        },
        variants: vec![Variant {
            name: "f16".parse().unwrap(),
            runtime: Runtime::CandleGguf,
            artifacts: [(ArtifactRole::Weights, artifact)].into(),
            figures: Figures {
                weight_bytes: 1_000_000,
                parameters: 500_000,
                flops_per_token: 1_000_000,
                kv_bytes_per_token: 3072,
                context_tokens: 256,
                held_out_loss: 1.0,
            },
            requirements: Requirements {
                memory_bytes: 20_000_000,
            },
        }],
        probes: vec![Probe {
            prompt: "north-paddock".to_owned(),
            expected: "x".to_owned(),
            max_tokens: 8,
        }],
        chat_template: None,
        provenance: Provenance::Import {
            source: "test".to_owned(),
            sha256: Sha256Digest::of(weights),
        },
    };
    (target, manifest.encode().unwrap())
}

pub(crate) fn work(controller: &Controller, data: &FarmDatasets, spec: FederatedJobSpec) -> claim::Work {
    let (target, manifest) = base_manifest(controller, &model());
    let uploaded = controller.upload("manifest", &manifest);
    let evaluation = controller.upload("evaluation.jsonl", to_jsonl(&data.evaluation).as_bytes());
    claim::Work::Federated(FederatedWork {
        spec: Some(FederatedJobSpec {
            evaluation: Some(evaluation),
            ..spec
        }),
        base_manifest_target: target.to_string(),
        base_manifest_sha256: uploaded.sha256,
        variants_in_use: vec!["f16".to_owned()],
        release_number: 2,
    })
}

pub(crate) fn spec() -> FederatedJobSpec {
    FederatedJobSpec {
        job: "job-1".to_owned(),
        deployment: "farm".to_owned(),
        rounds: 2,
        rank: 4,
        alpha: 8.0,
        steps_per_round: 8,
        sampling_rate: 0.16,
        clip_norm: 0.5,
        examples_per_device: 200,
        epsilon: 8.0,
        delta: 1e-5,
        learning_rate: 0.02,
        max_sequence_tokens: 160,
        cohort: 2,
        quorum: 2,
        round_deadline_ms: 120_000,
        seed: 7,
        gate: Some(EvaluationGate {
            min_loss_gain: 0.05,
            min_exact_match_gain: 0.0,
        }),
        attempts_per_round: 2,
        ..FederatedJobSpec::default()
    }
}

/// What a device has spent after so many attempts at a round of this job, whose noise is the least that its rounds allow.
fn spent(spec: &FederatedJobSpec, attempts: u64) -> f64 {
    let (rate, delta) = (
        SamplingRate::new(spec.sampling_rate).unwrap(),
        Delta::new(spec.delta).unwrap(),
    );
    let steps = u64::from(spec.steps_per_round);
    let budget = Epsilon::new(spec.epsilon).unwrap();
    let all = u64::from(spec.rounds) * steps;
    let noise_multiplier = calibrate_sigma(Accountant::Rdp, budget, delta, rate, all).unwrap();
    let mechanism = Mechanism {
        sampling_rate: rate,
        noise_multiplier,
        steps: attempts * steps,
    };
    Accountant::Rdp.epsilon(&[mechanism], delta).get().min(spec.epsilon)
}

pub(crate) fn data() -> FarmDatasets {
    FarmDatasets::generate(
        5,
        DatasetSizes {
            training: 64,
            held_out: 1,
            evaluation: 10,
        },
    )
}

pub(crate) fn devices(stage: &Stage, data: &FarmDatasets) -> Vec<Device> {
    let weights = model();
    let device = |number: u8| {
        Device::new(
            stage.fleet.device(number),
            &weights,
            &data.devices[usize::from(number)].training,
        )
    };
    stage.controller.state().cohort = [1, 2].map(|number| device_id(number).to_string()).to_vec();
    [1, 2].map(device).into()
}

/// Lets the devices take part in every round that the controller opens.
fn follow(stage: &Stage, folder: &Path, devices: Vec<Device>) -> tokio::task::JoinHandle<()> {
    let mut rounds = stage.controller.rounds();
    let (controller, folder) = (stage.identity.clone(), folder.to_owned());
    tokio::spawn(async move {
        while let Ok(configuration) = rounds.recv().await {
            let endpoints: serde_json::Value =
                serde_json::from_slice(&std::fs::read(folder.join("endpoints.json")).unwrap()).unwrap();
            let trainer = fieldfare_tls::Identity::load(&folder.join("identity"))
                .unwrap()
                .unwrap();
            for device in &devices {
                let endpoint = endpoints["rounds"].as_str().unwrap();
                device
                    .take_part(&configuration, endpoint, trainer.principal(), &controller)
                    .await;
            }
        }
    })
}

/// Publishes the trainer's metadata in a repository whose targets delegate to its key, and looks the manifest up as a device
/// does: from the pinned root.
fn verify(controller: &Controller) -> ReleaseManifest {
    let state = controller.state();
    let published = state.published.as_ref().unwrap();
    let rng = SystemRandom::new();
    let key = || SigningKey::generate(&rng).unwrap();
    let (root, targets, snapshot, timestamp) = (key(), key(), key(), key());
    let holders = Roles {
        root: RoleHolders::one(root.public()),
        targets: RoleHolders::one(targets.public()),
        snapshot: RoleHolders::one(snapshot.public()),
        timestamp: RoleHolders::one(timestamp.public()),
        extra: Extra::new(),
    };
    let now = UnixSeconds::new(crate::fleet::now().unix_ms() / 1000);
    let expires = now.plus(86_400);
    let root = Signed::sign(Root::first(holders, now, expires), &[&root], &rng).unwrap();
    let model = "farm-alert".parse().unwrap();
    let trainer = PublicKey::from_pem(&state.hello.as_ref().unwrap().delegation_public_key_pem).unwrap();
    let mut top = Targets::first(expires);
    top.list(
        &"farm-alert.r1.f16.gguf".parse().unwrap(),
        Target::new(model_length(), Sha256Digest::of(&crate::import::model())),
    );
    top.delegate_adapters(&model, RoleHolders::one(&trainer));
    let mut repository = Repository::new(root.bytes()).unwrap();
    repository
        .accept_targets(Signed::sign(top, &[&targets], &rng).unwrap().bytes())
        .unwrap();
    repository
        .accept_delegated(&adapter_role(&model), &published.delegated_targets)
        .unwrap();
    let online = OnlineRoles {
        snapshot_key: &snapshot,
        snapshot_seconds: 86_400,
        timestamp_key: &timestamp,
        timestamp_seconds: 86_400,
        least_version: fieldfare_release::tuf::Version::FIRST,
    };
    let files: std::collections::BTreeMap<_, _> = repository
        .publish(now, online, &rng)
        .unwrap()
        .into_iter()
        .map(|file| (file.name, file.bytes))
        .collect();
    let mut update = Update::begin(TrustedState::from_root(root.bytes()).unwrap(), now, Purpose::Install);
    while let Some(request) = update.next_file() {
        match files.get(&request.name) {
            Some(bytes) => update.supply(bytes).unwrap(),
            None => update.missing().unwrap(),
        }
    }
    let mut verified = update.finish().unwrap();
    let mut listed = |target: &TargetName| loop {
        match verified.look_up(target).unwrap() {
            Lookup::Listed(listed) => return listed,
            Lookup::NotListed => panic!("{target} is not listed"),
            Lookup::Needs(request) => verified.supply(&request, &files[&request.file.name]).unwrap(),
        }
    };
    let target: TargetName = published.manifest_target.parse().unwrap();
    let entry = listed(&target);
    assert_eq!(
        (entry.length, entry.sha256),
        (published.manifest.len() as u64, Sha256Digest::of(&published.manifest))
    );
    let manifest = ReleaseManifest::decode(&target, &published.manifest).unwrap();
    for variant in &manifest.variants {
        let adapter = variant.adapter().unwrap();
        adapter.agrees_with(&listed(&adapter.target)).unwrap();
        assert_eq!(state.blobs[&adapter.sha256.to_string()].len() as u64, adapter.length);
    }
    manifest
}

fn model_length() -> u64 {
    model().len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_gains_is_published_and_its_release_verifies_as_a_device_verifies_it() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    let data = data();
    let folder = tempfile::tempdir().unwrap();
    stage.enrol("t1", folder.path());
    let following = follow(&stage, folder.path(), devices(&stage, &data));
    controller.change(|state| state.moved_to = Some("q8-0".to_owned()));
    controller.offer(work(controller, &data, spec()));
    let _child = start(folder.path()).await;
    let outcome = controller.until(|state| state.finished.clone()).await;
    assert_eq!(
        controller.state().token,
        2,
        "what devices moved to was not here: the job is claimed anew"
    );
    let finish_request::Outcome::Succeeded(succeeded) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(succeeded.manifest_target, "adapter.farm-alert.r2.release.json");
    following.abort();
    {
        let state = controller.state();
        assert_eq!(state.closed.len(), 2);
        let summaries: Vec<_> = state
            .closed
            .iter()
            .map(|closed| closed.summary.clone().unwrap())
            .collect();
        let epsilons: Vec<f64> = summaries.iter().map(|summary| summary.epsilon).collect();
        assert_eq!(epsilons, [spent(&spec(), 1), spent(&spec(), 2)]);
        assert!(
            summaries
                .iter()
                .all(|summary| summary.accepted == 2 && summary.attempt == 1)
        );
        // The second round starts from the state that the first one committed.
        let checkpoint = state.closed[0].checkpoint.clone().unwrap();
        assert_eq!(state.opened[1].state_sha256, checkpoint.state_sha256);
        assert_ne!(state.opened[0].state_sha256, checkpoint.state_sha256);
    }
    let manifest = verify(controller);
    let Provenance::Federated {
        job,
        cohorts,
        privacy,
        evaluation,
        ..
    } = &manifest.provenance
    else {
        panic!("import")
    };
    assert_eq!((job.as_str(), cohorts.as_slice()), ("job-1", &[2, 2][..]));
    let privacy = privacy.as_ref().unwrap();
    assert_eq!(privacy.epsilon, spent(&spec(), 2));
    assert!(privacy.mechanism.steps == 16 && privacy.mechanism.sampling_rate == 0.16);
    assert!(evaluation[0].after.loss < evaluation[0].before.loss - 0.05);
    assert_eq!(
        manifest.base.as_ref().unwrap().manifest.as_str(),
        "farm-alert.r1.release.json"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_learns_nothing_is_refused_with_the_numbers_and_publishes_nothing() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    let data = data();
    let folder = tempfile::tempdir().unwrap();
    stage.enrol("t1", folder.path());
    let following = follow(&stage, folder.path(), devices(&stage, &data));
    controller.offer(work(
        controller,
        &data,
        FederatedJobSpec {
            learning_rate: 0.0,
            rounds: 1,
            ..spec()
        },
    ));
    let _child = start(folder.path()).await;
    let outcome = controller.until(|state| state.finished.clone()).await;
    following.abort();
    let finish_request::Outcome::Refused(refused) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        refused.reasons[0].starts_with("f16: the loss went from"),
        "{:?}",
        refused.reasons
    );
    assert!(!refused.evaluations[0].passed && refused.evaluations[0].loss_before > 0.0);
    assert!(controller.state().published.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_trainers_job_goes_on_in_another_folder_after_the_last_committed_round() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    let data = data();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    stage.enrol("t1", folders[0].path());
    stage.enrol("t2", folders[1].path());
    let following = follow(&stage, folders[0].path(), devices(&stage, &data));
    let spec = FederatedJobSpec {
        rounds: 2,
        steps_per_round: 2,
        ..spec()
    };
    controller.offer(work(controller, &data, spec.clone()));
    let mut first = start(folders[0].path()).await;
    controller.until(|state| (state.closed.len() == 1).then_some(())).await;
    following.abort();
    first.start_kill().unwrap();
    first.wait().await.unwrap();
    let committed = match controller.state().checkpoint.clone() {
        Some(work_checkpoint::Work::Federated(checkpoint)) => checkpoint,
        other => panic!("{other:?}"),
    };
    assert_eq!(committed.committed_round, 1);

    let following = follow(&stage, folders[1].path(), devices(&stage, &data));
    controller.expire_claim();
    let _second = start(folders[1].path()).await;
    controller.until(|state| state.finished.clone()).await;
    following.abort();
    let state = controller.state();
    let rounds: Vec<u32> = state
        .closed
        .iter()
        .map(|closed| closed.round.clone().unwrap().round)
        .collect();
    assert_eq!(rounds, [1, 2], "no round is committed twice");
    assert_eq!(state.opened.last().unwrap().state_sha256, committed.state_sha256);
    let last = state.closed[1].checkpoint.clone().unwrap();
    assert_eq!(last.rounds.len(), 2);
    // The killed trainer may have opened an attempt at the second round: devices may have paid for it.
    let attempts = u64::from(last.rounds[0].attempt + last.rounds[1].attempt);
    assert_eq!(last.rounds[1].epsilon, spent(&spec, attempts));
    assert_eq!(
        last.before, committed.before,
        "the losses before the job are measured once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_budget_fails_before_any_device_is_asked() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    let folder = tempfile::tempdir().unwrap();
    stage.enrol("t1", folder.path());
    controller.offer(work(controller, &data(), FederatedJobSpec { epsilon: 0.0, ..spec() }));
    let _child = start(folder.path()).await;
    let outcome = controller.until(|state| state.finished.clone()).await;
    let finish_request::Outcome::Failed(failed) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(failed.reason.contains("privacy budget"), "{}", failed.reason);
    assert!(controller.state().opened.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_release_could_not_be_signed_fails_before_any_device_pays() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    let folder = tempfile::tempdir().unwrap();
    stage.enrol("t1", folder.path());
    controller.state().delegates_nothing = true;
    controller.offer(work(controller, &data(), spec()));
    let _child = start(folder.path()).await;
    let outcome = controller.until(|state| state.finished.clone()).await;
    let finish_request::Outcome::Failed(failed) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(failed.reason.contains("delegate nothing"), "{}", failed.reason);
    assert!(controller.state().opened.is_empty());
}
