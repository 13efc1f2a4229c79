//! A fleet that is lost, and restored from its backup.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use fieldfare_controller_peers::device::{Obedient, Session, hello};
use fieldfare_controller_peers::release::{Signer, release, updated, upload};
use fieldfare_controller_peers::{Fleet, TestStore, refusal, restore};
use fieldfare_etcd_process::EtcdProcess;
use fieldfare_fleet::Generation;
use fieldfare_proto::v1::{
    DesiredState, ExportRecordsRequest, ListDevicesRequest, ListReleasesRequest, RolloutPhase, TokenRole,
    gateway_message,
};
use fieldfare_release::tuf::{Signed, Timestamp};
use fieldfare_tls::Identity;
use tonic::Code;

use crate::rollouts::{apply, outcome, spec};

/// What a device is told to run.
async fn told(fleet: &Fleet, device: &Identity, name: &str) -> DesiredState {
    let mut session = Session::open(fleet, device, hello(name)).await.unwrap();
    loop {
        if let Some(gateway_message::Message::Desired(desired)) = session.next().await.unwrap()
            && !desired.models.is_empty()
        {
            return desired;
        }
    }
}

fn generation(desired: &DesiredState) -> Generation {
    desired.models[0].generation.unwrap().into()
}

/// A fleet with two releases, of which its one device has the first.
async fn settled() -> (Fleet, Signer, Identity) {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    signer.publish(&fleet, &release(2)).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    Obedient::default().run(&fleet, &device, hello("north")).await;
    apply(&fleet, spec(1)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    (fleet, signer, device)
}

/// The names and bytes in a tar archive; nothing where it is none.
fn members(file: &Path) -> Option<Vec<(String, Vec<u8>)>> {
    let mut archive = tar::Archive::new(std::fs::File::open(file).unwrap());
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.ok()?;
        let name = entry.path().ok()?.display().to_string();
        let (length, mut bytes) = (entry.size(), Vec::new());
        entry.read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 == length).then_some((name, bytes))
    };
    archive.entries().ok()?.map(read).collect()
}

#[tokio::test]
async fn a_lost_fleet_goes_on_where_its_backup_was_made_and_newer_than_all_that_was_said() {
    let place = tempfile::tempdir().unwrap();
    let (fleet, mut signer, device) = settled().await;
    let file = place.path().join("fleet.tar");
    let made = fleet.backup(&file).await.unwrap();
    assert_eq!(made.bytes, file.metadata().unwrap().len());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let kept: Vec<String> = members(&file).unwrap().into_iter().map(|(name, _)| name).collect();
    for name in [
        "backup.json",
        "fleet.json",
        "authority/key.pem",
        "online/timestamp.pem",
        "records/000000.pb",
    ] {
        assert!(kept.iter().any(|kept| kept == name), "{name} is missing in {kept:?}");
    }
    assert!(kept.iter().all(|name| !name.contains("audit")), "{kept:?}");

    // After the backup the fleet goes on; what the device hears and sees then is lost with it.
    apply(&fleet, spec(2)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    let heard = generation(&told(&fleet, &device, "north").await);
    fleet.pass(Duration::from_secs(17 * 3600));
    assert!(fleet.plane.releases.refresh().await.unwrap());
    let seen = updated(&fleet, &device, None).await;

    let (fleet, restored) = fleet.restored_on(&file, TestStore::start()).await;
    assert_eq!((restored.records, restored.blobs), (made.records, made.blobs));
    let desired = told(&fleet, &device, "north").await;
    assert_eq!(desired.models[0].manifest_target, release(1).name.to_string());
    assert!(generation(&desired) > heard, "{desired:?} after {heard}");
    assert_eq!(generation(&desired).epoch, restored.epoch);
    let desired = Generation::from(desired.generation.unwrap());
    assert!(desired > heard, "{desired:?} after {heard}");
    // Its metadata are no rollback, however many were signed since, and further releases come as before.
    let request = http::Request::builder().uri("/metadata/timestamp.json");
    let timestamp = fleet.http(&device, request.body(bytes::Bytes::new()).unwrap()).await;
    let timestamp = Signed::<Timestamp>::read(timestamp.body()).unwrap();
    let epoch = u64::from(restored.epoch);
    assert!(timestamp.version().get() >= 1000 * epoch, "{}", timestamp.version());
    assert!(timestamp.payload().snapshot().unwrap().version.get() >= 1000 * epoch);
    let seen = updated(&fleet, &device, Some(seen)).await;
    Obedient::default().run(&fleet, &device, hello("north")).await;
    signer.publish(&fleet, &release(3)).await.unwrap();
    apply(&fleet, spec(3)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    updated(&fleet, &device, Some(seen)).await;
    let mut operator = fleet.operator().await;
    let devices = operator.list_devices(ListDevicesRequest::default()).await.unwrap();
    assert_eq!(devices.into_inner().devices.len(), 1);
    fleet.stop().await;
}

#[tokio::test]
async fn a_deployment_that_the_backup_does_not_know_begins_beyond_the_lost_one() {
    let place = tempfile::tempdir().unwrap();
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    let file = place.path().join("fleet.tar");
    fleet.backup(&file).await.unwrap();
    Obedient::default().run(&fleet, &device, hello("north")).await;
    apply(&fleet, spec(1)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    let heard = generation(&told(&fleet, &device, "north").await);

    let (fleet, _) = fleet.restored_on(&file, TestStore::start()).await;
    Obedient::default().run(&fleet, &device, hello("north")).await;
    apply(&fleet, spec(1)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    let again = generation(&told(&fleet, &device, "north").await);
    assert!(again > heard, "{again} after {heard}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_backup_that_was_cut_or_changed_is_refused_and_nothing_is_made() {
    let place = tempfile::tempdir().unwrap();
    let (fleet, ..) = settled().await;
    let file = place.path().join("fleet.tar");
    fleet.backup(&file).await.unwrap();
    let (good, whole) = (members(&file).unwrap(), std::fs::read(&file).unwrap());
    let bad = place.path().join("bad.tar");
    let into = place.path().join("restored");
    let mut tried = 0;
    // Without its two last blocks it is still whole.
    for length in (0..whole.len() - 1024).step_by(whole.len() / 97) {
        std::fs::write(&bad, &whole[..length]).unwrap();
        let error = restore(&bad, &into, &TestStore::InFolder, &fleet.time)
            .await
            .unwrap_err();
        assert!(
            format!("{error:#}").contains("bad.tar: the backup is"),
            "{length}: {error:#}"
        );
        assert!(!into.exists(), "{length}");
        tried += 1;
    }
    for at in (0..whole.len()).step_by(whole.len() / 211) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&bad, &bytes).unwrap();
        let Err(error) = restore(&bad, &into, &TestStore::InFolder, &fleet.time).await else {
            // Between two files.
            assert_eq!(members(&bad).as_ref(), Some(&good), "{at}");
            std::fs::remove_dir_all(&into).unwrap();
            continue;
        };
        assert!(!into.exists(), "{at}: {error:#}");
        tried += 1;
    }
    assert!(tried > 250, "{tried}");
    fleet.stop().await;
}

/// A backup with another text in its first file, and sums that agree.
fn altered(from: &Path, to: &Path, old: &str, new: &str) {
    let mut out = tar::Builder::new(std::fs::File::create(to).unwrap());
    let mut sums = String::new();
    for (name, mut bytes) in members(from).unwrap() {
        if name == "backup.json" {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(old), "{text}");
            bytes = text.replace(old, new).into_bytes();
        }
        if name == "SHA256SUMS" {
            bytes = sums.clone().into_bytes();
        }
        let digest = fieldfare_release::Sha256Digest::of(&bytes);
        sums.push_str(&format!("{digest}  {name}\n"));
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        out.append_data(&mut header, &name, bytes.as_slice()).unwrap();
    }
    out.finish().unwrap();
}

#[tokio::test]
async fn what_cannot_be_restored_is_refused_with_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let fleet = Fleet::start().await;
    let file = place.path().join("fleet.tar");
    fleet.backup(&file).await.unwrap();
    let said = |error: anyhow::Error| format!("{error:#}");
    let again = said(fleet.backup(&file).await.unwrap_err());
    assert!(again.contains("fleet.tar: the file exists already"), "{again}");

    let store = TestStore::InFolder;
    let into = place.path().join("restored");
    std::fs::create_dir(&into).unwrap();
    std::fs::write(into.join("something"), "else").unwrap();
    let full = said(restore(&file, &into, &store, &fleet.time).await.unwrap_err());
    assert!(full.contains("the folder is not empty"), "{full}");

    let newer = place.path().join("newer.tar");
    altered(&file, &newer, "\"schema\": 1", "\"schema\": 2");
    let into = place.path().join("another");
    let refused = said(restore(&newer, &into, &store, &fleet.time).await.unwrap_err());
    assert!(refused.contains("has schema 2, and this version reads 1"), "{refused}");

    let early = fieldfare_tls::TimeSource::new(|| fieldfare_fleet::Timestamp::from_unix_ms(0));
    let refused = said(restore(&file, &into, &store, &early).await.unwrap_err());
    assert!(refused.contains("set the clock"), "{refused}");
    assert!(!into.exists());
    let lost = said(
        restore(&place.path().join("none"), &into, &store, &fleet.time)
            .await
            .unwrap_err(),
    );
    assert!(lost.contains("--from"), "{lost}");
    fleet.stop().await;
}

#[tokio::test]
async fn either_store_is_restored_from_a_backup_of_the_other() {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if !fieldfare_etcd_process::is_installed(&name) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (fleet, _, device) = settled().await;
    let one = place.path().join("one.tar");
    fleet.backup(&one).await.unwrap();
    let etcd = TestStore::Etcd(EtcdProcess::start());
    let (fleet, first) = fleet.restored_on(&one, etcd).await;
    let desired = told(&fleet, &device, "north").await;
    assert_eq!(generation(&desired).epoch, first.epoch);

    // The etcd is shared: no controller is asked, and what is there is not overwritten.
    let two = place.path().join("two.tar");
    fleet.backup(&two).await.unwrap();
    let url = match fleet.shared_store() {
        TestStore::Etcd(server) => server.url(),
        TestStore::InFolder => unreachable!("it was restored on etcd"),
    };
    let store = format!("etcd:{url}");
    let words = [
        "fieldfare-controller",
        "restore",
        "--from",
        two.to_str().unwrap(),
        "--store",
        &store,
        "--into",
    ];
    let into = place.path().join("restored");
    let options = clap::Parser::try_parse_from(words.into_iter().chain([into.to_str().unwrap()])).unwrap();
    let fieldfare_controller::config::CommandLine {
        command: fieldfare_controller::config::Command::Restore(options),
    } = options
    else {
        unreachable!("the words say restore")
    };
    let error = fieldfare_controller::backup::restore(&options, &fleet.time)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("is not empty: name another one, or, in etcd, another prefix="));

    fleet.pass(Duration::from_secs(1));
    let (fleet, second) = fleet.restored_on(&two, TestStore::InFolder).await;
    assert!(second.epoch > first.epoch);
    assert_eq!(second.records, first.records);
    let desired = told(&fleet, &device, "north").await;
    assert_eq!(generation(&desired).epoch, second.epoch);
    fleet.stop().await;
}

#[tokio::test]
async fn without_artifacts_everything_else_is_there() {
    let place = tempfile::tempdir().unwrap();
    let (fleet, ..) = settled().await;
    let file = place.path().join("small.tar");
    let all = fleet.backup(&place.path().join("all.tar")).await.unwrap();
    let small = fleet.backup_with(&file, &["--without-artifacts"]).await.unwrap();
    assert_eq!(all.blobs - small.blobs, 2);
    let (fleet, restored) = fleet.restored_on(&file, TestStore::start()).await;
    assert!(!restored.artifacts);
    let mut operator = fleet.operator().await;
    let request = ListReleasesRequest { model: String::new() };
    let releases = operator.list_releases(request).await.unwrap().into_inner().releases;
    assert!(
        releases.iter().all(|release| !release.manifest.is_empty()),
        "{releases:?}"
    );
    // Whoever copied them otherwise puts them back.
    for bytes in release(1).artifacts {
        upload(&fleet, &bytes).await;
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_stopped_controllers_fleet_is_backed_up_from_its_store() {
    let place = tempfile::tempdir().unwrap();
    let (mut fleet, ..) = settled().await;
    let running = fleet.backup(&place.path().join("one.tar")).await.unwrap();
    fleet.stand_still().await;
    let stopped = fleet.backup(&place.path().join("two.tar")).await.unwrap();
    assert_eq!((running.records, running.blobs), (stopped.records, stopped.blobs));
}

#[tokio::test]
async fn records_are_for_operators_and_each_copy_is_logged() {
    let (fleet, _, device) = settled().await;
    let mut channel = fieldfare_proto::v1::operator_client::OperatorClient::new(fleet.channel(&device).await);
    let first = ExportRecordsRequest::default();
    let (code, _) = refusal(channel.export_records(first.clone()).await);
    assert_eq!(code, Code::PermissionDenied);
    let logged = fleet.plane.audit.written();
    let mut operator = fleet.operator().await;
    let page = operator.export_records(first).await.unwrap().into_inner();
    assert!(page.next_page_token.is_empty() && page.records.len() > 5);
    assert_eq!(fleet.plane.audit.written(), logged + 2);
    assert!(page.records.iter().all(|record| !record.key.contains("/replicas/")));
    for forged in ["x", "1.ffffffff/v1/default/fleet", "1.1/v1/other/fleet"] {
        let request = ExportRecordsRequest {
            page_token: forged.into(),
        };
        let (code, text) = refusal(operator.export_records(request).await);
        assert_eq!(code, Code::InvalidArgument, "{forged}: {text}");
    }
    fleet.stop().await;
}
