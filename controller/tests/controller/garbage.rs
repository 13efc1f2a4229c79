//! Collecting artifacts: what anything names never goes, what nothing names goes after a day.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fieldfare_controller_peers::release::{Release, Signer, release, upload};
use fieldfare_controller_peers::trainer::{import_once, trainer};
use fieldfare_controller_peers::{Fleet, refusal};
use fieldfare_proto::v1::{CollectArtifactsRequest, CollectArtifactsResponse, TokenRole};
use fieldfare_release::tuf::adapter_role;
use fieldfare_release::{ReleaseManifest, Sha256Digest};
use tonic::Code;

use crate::jobs::start_import;

/// The files of blobs, and of uploads that were never finished.
fn files(fleet: &Fleet) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let parts = list(&fleet.folder().join("blobs/sha256"));
    parts.iter().flat_map(|part| list(part)).collect()
}

fn blobs(fleet: &Fleet) -> BTreeSet<Sha256Digest> {
    let name = |file: PathBuf| file.file_name().unwrap().to_str().unwrap().parse().ok();
    files(fleet).into_iter().filter_map(name).collect()
}

/// More than a day passes, as the files have it.
fn age(fleet: &Fleet) {
    let before = Duration::from_millis(fleet.time.now().unix_ms()) - Duration::from_secs(25 * 3600);
    for file in files(fleet) {
        let file = std::fs::File::open(file).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + before).unwrap();
    }
}

async fn collect(fleet: &Fleet, dry_run: bool) -> CollectArtifactsResponse {
    let mut operator = fleet.operator().await;
    let request = CollectArtifactsRequest { dry_run };
    operator.collect_artifacts(request).await.unwrap().into_inner()
}

/// Everything that a device may ask for now: metadata, and what they list.
async fn listed(fleet: &Fleet) -> BTreeSet<Sha256Digest> {
    let releases = &fleet.plane.releases;
    let pointer = releases.pointer().await.unwrap();
    let files = pointer.current.iter().chain(&pointer.retired);
    let mut listed: BTreeSet<Sha256Digest> = files
        .map(|file| Sha256Digest::from_bytes(file.sha256.as_slice().try_into().unwrap()))
        .collect();
    let Some(repository) = releases.current().await.unwrap() else {
        return listed;
    };
    let model = fieldfare_controller_peers::release::MODEL.parse().unwrap();
    let roles = [repository.targets(), repository.delegated(&adapter_role(&model))];
    for role in roles.into_iter().flatten() {
        let targets = role.payload().targets.values().filter(|target| !target.is_withdrawn());
        listed.extend(targets.filter_map(|target| target.hashes.sha256));
    }
    listed
}

/// What a release proposed needs until it is signed.
fn proposed(number: u32) -> Vec<Sha256Digest> {
    let release = release(number);
    let decoded = ReleaseManifest::decode(&release.name, &release.manifest).unwrap();
    let artifacts = decoded.artifacts();
    let artifacts = artifacts.values().map(|artifact| artifact.sha256);
    artifacts.chain([Sha256Digest::of(&release.manifest)]).collect()
}

/// SplitMix64 (Steele et al. 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[tokio::test]
async fn nothing_that_is_listed_in_work_or_new_is_collected_and_everything_else_is() {
    for seed in 1..=3_u64 {
        let mut dice = Dice(seed);
        let fleet = Fleet::start().await;
        let mut signer = Signer::new(&fleet);
        signer.install_root(&fleet).await;
        let mut importer = trainer(&fleet, "north").await;
        let mut published: Vec<Release> = Vec::new();
        let (mut next, mut strays, mut removed) = (1, 0, 0);
        let (mut recent, mut waiting) = (BTreeSet::new(), BTreeSet::new());
        let mut running = None;
        for step in 0..40 {
            let at = format!("seed {seed}, step {step}");
            let before = blobs(&fleet);
            match dice.roll(8) {
                0 | 1 => {
                    strays += 1;
                    upload(&fleet, format!("stray {strays}").as_bytes()).await;
                }
                2 => {
                    let made = release(next);
                    next += 1;
                    signer.publish(&fleet, &made).await.unwrap();
                    published.push(made);
                }
                3 if !published.is_empty() => {
                    let which = dice.roll(published.len() as u64);
                    let gone = published.remove(usize::try_from(which).unwrap());
                    signer.withdraw(&fleet, &gone).await;
                }
                4 if running.is_none() => {
                    start_import(&fleet, &format!("import-{step}")).await;
                    running = Some(next);
                    next += 1;
                }
                5 if running.is_some() => {
                    import_once(&fleet, &mut importer).await;
                    waiting.extend(running.take().iter().flat_map(|number| proposed(*number)));
                }
                6 => {
                    age(&fleet);
                    recent.clear();
                }
                _ => {
                    let promised = collect(&fleet, true).await;
                    assert_eq!(blobs(&fleet), before, "{at}: a dry run");
                    let told = collect(&fleet, false).await;
                    assert_eq!(told, promised, "{at}");
                    let gone: BTreeSet<_> = before.difference(&blobs(&fleet)).copied().collect();
                    assert_eq!(gone.len() as u64, told.removed_count, "{at}");
                    removed += told.removed_count;
                }
            }
            let now = blobs(&fleet);
            recent.extend(now.difference(&before).copied());
            let missing = |wanted: &BTreeSet<Sha256Digest>| wanted.difference(&now).count();
            assert_eq!(missing(&listed(&fleet).await), 0, "{at}: listed");
            assert_eq!(missing(&waiting), 0, "{at}: proposed");
            assert_eq!(missing(&recent), 0, "{at}: stored within the day");
            if running.is_some() {
                assert!(now.contains(&Sha256Digest::of(b"GGUF")), "{at}: of a running import");
            }
        }
        assert!(removed > 0, "seed {seed} removed nothing");
        fleet.stop().await;
    }
}

#[tokio::test]
async fn what_a_finished_import_and_a_broken_upload_left_goes() {
    let fleet = Fleet::start().await;
    let mut importer = trainer(&fleet, "north").await;
    start_import(&fleet, "one").await;
    let source = Sha256Digest::of(b"GGUF");
    age(&fleet);
    collect(&fleet, false).await;
    assert!(blobs(&fleet).contains(&source), "the import runs");
    import_once(&fleet, &mut importer).await;
    let hex = source.to_string();
    let broken = fleet.folder().join(format!("blobs/sha256/{}/{hex}#1", &hex[..2]));
    std::fs::write(&broken, "half").unwrap();
    collect(&fleet, false).await;
    assert!(broken.exists(), "it may be under way");
    age(&fleet);
    let told = collect(&fleet, false).await;
    assert!(!blobs(&fleet).contains(&source) && !broken.exists(), "{told:?}");
    for sha256 in proposed(1) {
        assert!(blobs(&fleet).contains(&sha256), "it waits for its signature");
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_blob_that_is_uploaded_again_is_new() {
    let fleet = Fleet::start().await;
    let again = upload(&fleet, b"uploaded twice").await;
    let once = upload(&fleet, b"uploaded once").await;
    age(&fleet);
    upload(&fleet, b"uploaded twice").await;
    let told = collect(&fleet, false).await;
    assert_eq!(told.removed, [once.as_bytes().to_vec()]);
    assert!(blobs(&fleet).contains(&again));
    fleet.stop().await;
}

#[tokio::test]
async fn only_operators_collect() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let channel = fleet.channel(&device).await;
    let mut api = fieldfare_proto::v1::operator_client::OperatorClient::new(channel);
    let (code, _) = refusal(api.collect_artifacts(CollectArtifactsRequest::default()).await);
    assert_eq!(code, Code::PermissionDenied);
    fleet.stop().await;
}
