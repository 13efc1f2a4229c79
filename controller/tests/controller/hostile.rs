//! Peers that ask for more than they may: messages without end, another's key, and devices that are not let in any more.

use bytes::Bytes;
use fieldfare_controller_peers::device::{Session, hello};
use fieldfare_controller_peers::fleet::enrol_with;
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::{Enrolled, Fleet, PATIENCE, refusal, trainer};
use fieldfare_proto::v1::{
    CreateTokenRequest, DeviceRecord, DeviceStanding, EnrolStart, Hello, ProposeReleaseRequest, RevokeDeviceRequest,
    TokenRole,
};
use fieldfare_tls::{Identity, PrivateKey, Role};
use http::{Method, Request, StatusCode};
use tonic::Code;

use crate::enrolment::renew;

#[tokio::test]
async fn a_message_beyond_its_limit_is_not_read() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let mut maker = trainer::trainer(&fleet, "kiln").await;
    // A device says little, so that a megabyte is too much; an operator and a trainer send manifests.
    let (small, large) = (1 << 20, 9 << 20);
    let greeting = Hello {
        agent_version: "1".repeat(small),
        ..hello("north")
    };
    let application = EnrolStart {
        display_name: "n".repeat(small),
        ..EnrolStart::default()
    };
    let key = PrivateKey::generate().unwrap();
    let token = CreateTokenRequest {
        name: "n".repeat(large),
        ..CreateTokenRequest::default()
    };
    let proposal = ProposeReleaseRequest {
        manifest: vec![0; large],
        ..ProposeReleaseRequest::default()
    };
    let refused = [
        refusal(Session::open(&fleet, &device, greeting).await),
        refusal(enrol_with(fleet.stranger().await, application, &key).await),
        refusal(fleet.operator().await.create_token(token).await),
        refusal(maker.propose_release(proposal).await),
    ];
    for (code, text) in refused {
        assert!(text.contains("message length too large"), "{code:?} {text}");
    }
    fleet.stop().await;
}

/// Puts a device back among those that wait for approval: its certificate and its key are as good as before.
async fn set_aside(fleet: &Fleet, device: &Identity) {
    let Role::Device(_, id) = &device.principal().role else {
        panic!("a device")
    };
    let key = fleet.plane.keys.device(*id);
    let mut change = fleet.plane.records.change();
    let mut record: DeviceRecord = change.read(&key).await.unwrap().unwrap();
    record.set_standing(DeviceStanding::Pending);
    change.put(key, &mut record);
    assert!(change.commit().await.unwrap());
    fleet.plane.catch_up().await.unwrap();
}

#[tokio::test]
async fn only_an_enrolled_device_renews_and_never_with_a_revoked_key() {
    let fleet = Fleet::start().await;
    let lost = PrivateKey::generate().unwrap();
    let token = CreateTokenRequest {
        role: TokenRole::Device.into(),
        ..CreateTokenRequest::default()
    };
    let (secret, _) = fleet.token(token).await;
    let Enrolled::Issued(stolen) = fleet.enrol(&secret, &lost, "south").await.unwrap() else {
        panic!("south must wait for approval")
    };
    let north = fleet.join(TokenRole::Device, "north").await;
    let revoke = RevokeDeviceRequest {
        device: "south".into(),
        reason: "stolen".into(),
    };
    fleet.operator().await.revoke_device(revoke).await.unwrap();
    let leaf = stolen.certificate().clone();
    tokio::time::timeout(PATIENCE, fleet.plane.deny.denied(&leaf))
        .await
        .unwrap();
    assert!(renew(&fleet, &stolen, &lost).await.is_err());
    assert!(renew(&fleet, &stolen, &PrivateKey::generate().unwrap()).await.is_err());
    let (code, text) = refusal(renew(&fleet, &north, &lost).await);
    assert!(
        code == Code::PermissionDenied && text.contains("revoked"),
        "{code:?} {text}"
    );

    let next = PrivateKey::generate().unwrap();
    let north = renew(&fleet, &north, &next).await.unwrap();
    set_aside(&fleet, &north).await;
    let (code, text) = refusal(renew(&fleet, &north, &next).await);
    assert!(
        code == Code::PermissionDenied && text.contains("not enrolled"),
        "{code:?} {text}"
    );
    fleet.stop().await;
}

#[tokio::test]
async fn the_artifact_server_serves_enrolled_devices_only() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    let made = release(1);
    signer.publish(&fleet, &made).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    let manifest = fieldfare_release::Sha256Digest::of(&made.manifest);
    let paths = [
        "/metadata/timestamp.json".to_owned(),
        format!("/targets/{manifest}.{}", made.name),
    ];
    let get = async |path: &str| {
        let request = Request::builder().method(Method::GET).uri(path).body(Bytes::new());
        fleet.http(&device, request.unwrap()).await.status()
    };
    for path in &paths {
        assert_eq!(get(path).await, StatusCode::OK, "{path}");
    }
    set_aside(&fleet, &device).await;
    for path in &paths {
        assert_eq!(get(path).await, StatusCode::FORBIDDEN, "{path}");
    }
    fleet.stop().await;
}
