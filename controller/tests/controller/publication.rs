//! What the controller lets into the release repository, and what clients then see.

use std::collections::BTreeMap;

use bytes::Bytes;
use fieldfare_controller_peers::release::{MODEL, Signer, release, target, upload};
use fieldfare_controller_peers::{Fleet, refusal};
use fieldfare_proto::v1::{
    GetReleaseRequest, GetRepositoryRequest, InstallRootRequest, PublishTargetsRequest, ReleaseStanding, TokenRole,
};
use fieldfare_release::UnixSeconds;
use fieldfare_release::tuf::{Purpose, TrustedState, Update};
use http::{Request, StatusCode};
use tonic::Code;

fn get(path: &str) -> Request<Bytes> {
    Request::builder().uri(path).body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn a_device_verifies_and_downloads_what_was_published() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    let first = release(1);
    assert_eq!(signer.publish(&fleet, &first).await.unwrap(), 1);
    assert_eq!(signer.publish(&fleet, &release(2)).await.unwrap(), 2);

    let device = fleet.join(TokenRole::Device, "north").await;
    let root = fleet.http(&device, get("/metadata/1.root.json")).await.into_body();
    let now = UnixSeconds::new(fleet.time.now().unix_ms() / 1000);
    let mut update = Update::begin(TrustedState::from_root(&root).unwrap(), now, Purpose::Install);
    while let Some(file) = update.next_file() {
        let answer = fleet.http(&device, get(&format!("/metadata/{}", file.name))).await;
        match answer.status() {
            StatusCode::OK => update.supply(answer.body()).unwrap(),
            _ => update.missing().unwrap(),
        }
    }
    let verified = update.finish().unwrap_or_else(|_| panic!("the update is not complete"));
    assert_eq!(verified.targets().targets.len(), 4);
    let path = format!(
        "/targets/{}",
        first
            .name
            .stored_as(&fieldfare_release::Sha256Digest::of(&first.manifest))
    );
    assert_eq!(
        fleet.http(&device, get(&path)).await.body().as_ref(),
        first.manifest.as_slice()
    );
    // A blob that no metadata lists is no target, whatever it is called.
    let stray = upload(&fleet, b"stray").await;
    let path = format!("/targets/{}", first.name.stored_as(&stray));
    assert_eq!(fleet.http(&device, get(&path)).await.status(), StatusCode::NOT_FOUND);
    fleet.stop().await;
}

#[tokio::test]
async fn a_publication_that_does_not_hold_together_is_refused_and_changes_nothing() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    let first = release(1);
    let publish = async |targets: Vec<u8>, manifests: BTreeMap<String, Vec<u8>>| {
        refusal(
            fleet
                .operator()
                .await
                .publish_targets(PublishTargetsRequest { targets, manifests })
                .await,
        )
    };
    let with = |bytes: &[u8]| BTreeMap::from([(first.name.to_string(), bytes.to_vec())]);

    signer.list(&first);
    let targets = signer.sign();
    let (code, text) = publish(targets.clone(), with(&first.manifest)).await;
    assert!(
        code == Code::FailedPrecondition && text.contains("no root"),
        "{code:?} {text}"
    );

    signer.install_root(&fleet).await;
    let (code, text) = publish(targets.clone(), with(&first.manifest)).await;
    assert!(
        code == Code::InvalidArgument && text.contains("not in the store"),
        "{code:?} {text}"
    );

    upload(&fleet, &first.artifacts[0]).await;
    let (code, text) = publish(targets.clone(), BTreeMap::new()).await;
    assert!(
        code == Code::InvalidArgument && text.contains("missing in `manifests`"),
        "{code:?} {text}"
    );
    let (code, text) = publish(targets.clone(), with(b"{}")).await;
    assert!(
        code == Code::InvalidArgument && text.contains("differ"),
        "{code:?} {text}"
    );

    let mut tampered = targets.clone();
    let at = tampered.len() / 2;
    tampered[at] ^= 1;
    let (code, _) = publish(tampered, with(&first.manifest)).await;
    assert_eq!(code, Code::InvalidArgument);

    // A manifest whose artifact is listed with other bytes.
    let mut mixed = Signer::new(&fleet);
    std::mem::swap(&mut mixed, &mut signer);
    let decoded = fieldfare_release::ReleaseManifest::decode(&first.name, &first.manifest).unwrap();
    let artifact = decoded.variants[0].weights().unwrap().target.clone();
    upload(&fleet, b"other weights").await;
    mixed.listed.list(&artifact, target(b"other weights"));
    let (code, text) = publish(mixed.sign(), with(&first.manifest)).await;
    // The list was signed twice: this is version 2, and none was accepted yet.
    assert!(code == Code::Aborted && text.contains("version"), "{code:?} {text}");

    let repository = fleet
        .operator()
        .await
        .get_repository(GetRepositoryRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(repository.targets.is_empty() && repository.timestamp.is_empty());

    fleet
        .operator()
        .await
        .publish_targets(PublishTargetsRequest {
            targets,
            manifests: with(&first.manifest),
        })
        .await
        .unwrap();
    let newest = GetReleaseRequest { release: MODEL.into() };
    let found = fleet.operator().await.get_release(newest).await.unwrap().into_inner();
    assert_eq!((found.number, found.standing()), (1, ReleaseStanding::Published));
    // Now it is the next version, and it changes the bytes of a release that is out.
    let (code, text) = publish(mixed_again(&mut mixed), BTreeMap::new()).await;
    assert!(
        code == Code::InvalidArgument && text.contains("immutable"),
        "{code:?} {text}"
    );
    fleet.stop().await;
}

/// The same list once more, as the version that the repository waits for.
fn mixed_again(signer: &mut Signer) -> Vec<u8> {
    signer.listed.header.version = fieldfare_release::tuf::Version::FIRST;
    signer.sign()
}

#[tokio::test]
async fn a_root_that_would_lock_the_controller_out_is_refused() {
    let fleet = Fleet::start().await;
    let signer = Signer::new(&fleet);
    let root = signer.root(&fleet).await;
    fleet
        .operator()
        .await
        .install_root(InstallRootRequest { root: root.clone() })
        .await
        .unwrap();
    // Saying it again changes nothing; a root that does not follow is refused.
    fleet
        .operator()
        .await
        .install_root(InstallRootRequest { root })
        .await
        .unwrap();
    let other = Signer::new(&fleet).root(&fleet).await;
    let (code, _) = refusal(
        fleet
            .operator()
            .await
            .install_root(InstallRootRequest { root: other })
            .await,
    );
    assert_eq!(code, Code::InvalidArgument);
    fleet.stop().await;
}

#[tokio::test]
async fn the_timestamp_is_signed_again_before_it_expires() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let before = fleet.http(&fleet.operator, get("/metadata/timestamp.json")).await;
    assert!(!fleet.plane.releases.refresh().await.unwrap());
    fleet.pass(std::time::Duration::from_secs(17 * 3600));
    assert!(fleet.plane.releases.refresh().await.unwrap());
    let after = fleet.http(&fleet.operator, get("/metadata/timestamp.json")).await;
    assert_ne!(before.body(), after.body());
    fleet.stop().await;
}
