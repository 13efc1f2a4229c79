//! Who gets in, and who does not.

use std::time::Duration;

use fieldfare_controller_peers::device::profile;
use fieldfare_controller_peers::fleet::enrol_with;
use fieldfare_controller_peers::{Enrolled, Fleet, PATIENCE, refusal};
use fieldfare_proto::v1::device_gateway_client::DeviceGatewayClient;
use fieldfare_proto::v1::enrolment_client::EnrolmentClient;
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_proto::v1::trainer_gateway_client::TrainerGatewayClient;
use fieldfare_proto::v1::{
    ApproveDeviceRequest, ClaimRequest, CreateTokenRequest, EnrolStart, Evidence, ListDevicesRequest,
    ListTokensRequest, NoEvidence, RenewRequest, RenewStart, RevokeDeviceRequest, RevokeTokenRequest, TokenRole,
    evidence, renew_request, renew_response,
};
use fieldfare_tls::{Identity, PrivateKey, TrustBundle};
use tonic::{Code, Status};

fn device_token() -> CreateTokenRequest {
    CreateTokenRequest {
        role: TokenRole::Device.into(),
        ..CreateTokenRequest::default()
    }
}

fn issued(outcome: Result<Enrolled, Status>) -> Identity {
    match outcome.unwrap() {
        Enrolled::Issued(identity) => *identity,
        Enrolled::Pending => panic!("still pending"),
    }
}

#[tokio::test]
async fn a_token_enrols_once_and_the_same_key_again() {
    let fleet = Fleet::start().await;
    let (secret, token) = fleet.token(device_token()).await;
    let key = PrivateKey::generate().unwrap();
    let first = issued(fleet.enrol(&secret, &key, "north").await);
    // The answer was lost; the device asks again with the same key and is the same device.
    let again = issued(fleet.enrol(&secret, &key, "north").await);
    assert_eq!(first.principal(), again.principal());
    let (code, text) = refusal(fleet.enrol(&secret, &PrivateKey::generate().unwrap(), "south").await);
    assert!(
        code == Code::PermissionDenied && text.contains("used up"),
        "{code:?} {text}"
    );
    let tokens = fleet
        .operator()
        .await
        .list_tokens(ListTokensRequest {})
        .await
        .unwrap()
        .into_inner()
        .tokens;
    assert_eq!(
        tokens.iter().map(|t| (t.id.as_str(), t.uses_left)).collect::<Vec<_>>(),
        [(token.id.as_str(), 0)]
    );
    let devices = fleet
        .operator()
        .await
        .list_devices(ListDevicesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .devices;
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].labels["site"], "north");
    fleet.stop().await;
}

#[tokio::test]
async fn a_token_that_is_expired_revoked_or_guessed_enrols_nobody() {
    let fleet = Fleet::start().await;
    let short = CreateTokenRequest {
        lifetime_ms: 60_000,
        ..device_token()
    };
    let (expired, _) = fleet.token(short).await;
    let (revoked, token) = fleet.token(device_token()).await;
    fleet
        .operator()
        .await
        .revoke_token(RevokeTokenRequest { id: token.id })
        .await
        .unwrap();
    fleet.pass(Duration::from_secs(61));
    let guessed = fieldfare_tls::JoinSecret::from_random([7; 32]);
    for (secret, why) in [(&expired, "expired"), (&revoked, "revoked"), (&guessed, "unknown")] {
        let (code, text) = refusal(fleet.enrol(secret, &PrivateKey::generate().unwrap(), "north").await);
        assert!(
            code == Code::PermissionDenied && text.contains(why),
            "{why}: {code:?} {text}"
        );
    }
    fleet.stop().await;
}

#[tokio::test]
async fn an_application_that_lacks_something_names_the_field() {
    let fleet = Fleet::start().await;
    let (secret, _) = fleet.token(device_token()).await;
    let key = PrivateKey::generate().unwrap();
    let valid = || EnrolStart {
        token_secret: secret.as_bytes().to_vec(),
        csr_der: key.certificate_request().unwrap(),
        display_name: "north".into(),
        ..EnrolStart::default()
    };
    let mut huge = profile("pi", 8 << 30);
    huge.model_memory_bytes = 16 << 30;
    let cases = [
        (
            "token_secret",
            EnrolStart {
                token_secret: vec![1; 31],
                ..valid()
            },
        ),
        (
            "csr_der",
            EnrolStart {
                csr_der: vec![1; 31],
                ..valid()
            },
        ),
        (
            "display_name",
            EnrolStart {
                display_name: "../north".into(),
                ..valid()
            },
        ),
        ("profile", valid()),
        (
            "model_memory",
            EnrolStart {
                profile: Some(huge),
                ..valid()
            },
        ),
        (
            "labels",
            EnrolStart {
                labels: [("a b".to_owned(), String::new())].into(),
                ..valid()
            },
        ),
    ];
    for (field, start) in cases {
        let (code, text) = refusal(enrol_with(fleet.stranger().await, start, &key).await);
        assert!(
            code == Code::InvalidArgument && text.contains(field),
            "{field}: {code:?} {text}"
        );
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_device_that_needs_approval_waits_for_it() {
    let fleet = Fleet::start().await;
    let (secret, _) = fleet
        .token(CreateTokenRequest {
            require_approval: true,
            ..device_token()
        })
        .await;
    let key = PrivateKey::generate().unwrap();
    for _ in 0..2 {
        assert!(matches!(
            fleet.enrol(&secret, &key, "north").await.unwrap(),
            Enrolled::Pending
        ));
    }
    fleet
        .operator()
        .await
        .approve_device(ApproveDeviceRequest { device: "north".into() })
        .await
        .unwrap();
    issued(fleet.enrol(&secret, &key, "north").await);
    fleet.stop().await;
}

#[tokio::test]
async fn a_revoked_device_is_cut_off_and_its_key_never_enrols_again() {
    let fleet = Fleet::start().await;
    let (secret, _) = fleet
        .token(CreateTokenRequest {
            uses: 5,
            ..device_token()
        })
        .await;
    let key = PrivateKey::generate().unwrap();
    let device = issued(fleet.enrol(&secret, &key, "north").await);
    let revoke = RevokeDeviceRequest {
        device: "north".into(),
        reason: "stolen".into(),
    };
    fleet.operator().await.revoke_device(revoke).await.unwrap();
    let (code, _) = refusal(fleet.enrol(&secret, &key, "north").await);
    assert_eq!(code, Code::PermissionDenied);
    // The deny-list follows the registry; once it has, the handshake itself is refused and the call fails as unavailable.
    let leaf = device.certificate().clone();
    tokio::time::timeout(PATIENCE, fleet.plane.deny.denied(&leaf))
        .await
        .unwrap();
    let channel = fleet.channel(&device).await;
    assert!(
        DeviceGatewayClient::new(channel)
            .session(tokio_stream::empty())
            .await
            .is_err()
    );
    fleet.stop().await;
}

#[tokio::test]
async fn each_role_reaches_its_own_service_and_no_other() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let trainer = fleet.join(TokenRole::Trainer, "kiln").await;
    for (who, expected) in [
        (Some(&device), Code::PermissionDenied),
        (Some(&trainer), Code::PermissionDenied),
        (None, Code::Unauthenticated),
    ] {
        let channel = match who {
            Some(identity) => fleet.channel(identity).await,
            None => fleet.stranger().await,
        };
        let (code, text) = refusal(OperatorClient::new(channel).list_tokens(ListTokensRequest {}).await);
        assert_eq!(code, expected, "{text}");
    }
    let operator = fleet.channel(&fleet.operator).await;
    let (code, _) = refusal(TrainerGatewayClient::new(operator.clone()).claim(ClaimRequest {}).await);
    assert_eq!(code, Code::PermissionDenied);
    let (code, _) = refusal(DeviceGatewayClient::new(operator).session(tokio_stream::empty()).await);
    assert_eq!(code, Code::PermissionDenied);
    TrainerGatewayClient::new(fleet.channel(&trainer).await)
        .claim(ClaimRequest {})
        .await
        .unwrap();
    fleet.stop().await;
}

pub(crate) async fn renew(fleet: &Fleet, identity: &Identity, key: &PrivateKey) -> Result<Identity, Status> {
    let step = |step| RenewRequest { step: Some(step) };
    let start = RenewStart {
        csr_der: key.certificate_request().unwrap(),
    };
    let none = Evidence {
        kind: Some(evidence::Kind::None(NoEvidence {})),
    };
    let steps = [
        step(renew_request::Step::Start(start)),
        step(renew_request::Step::Evidence(none)),
    ];
    let channel = fleet.channel(identity).await;
    let mut answers = EnrolmentClient::new(channel)
        .renew(tokio_stream::iter(steps))
        .await?
        .into_inner();
    answers.message().await?;
    let Some(renew_response::Step::Issued(issued)) = answers.message().await?.and_then(|answer| answer.step) else {
        panic!("no certificate")
    };
    let chain = issued.chain_der.into_iter().map(Into::into).collect();
    let key = PrivateKey::from_pem(&key.to_pem()).unwrap();
    Ok(Identity::new(key, chain, TrustBundle::from_der(issued.authorities_der).unwrap()).unwrap())
}

#[tokio::test]
async fn an_expired_certificate_renews_and_does_nothing_else() {
    let fleet = Fleet::start().await;
    let trainer = fleet.join(TokenRole::Trainer, "kiln").await;
    fleet.pass(Duration::from_secs(25 * 3600));
    // The controller's own certificate is renewed by its own task; here that task has not come round yet.
    let authority = fleet.plane.authority.issuing();
    let own = fleet.plane.identity.current();
    let request = fieldfare_tls::CertificateRequest::parse(&own.key().certificate_request().unwrap()).unwrap();
    let now = fleet.time.now();
    let window = fieldfare_tls::ValidityWindow::new(now, now.saturating_add(Duration::from_secs(3600))).unwrap();
    let serial = fieldfare_tls::SerialNumber::from_random([9; 16]);
    let leaf = authority.issue(&request, own.principal(), window, serial).unwrap();
    let key = PrivateKey::from_pem(&own.key().to_pem()).unwrap();
    fleet
        .plane
        .identity
        .replace(Identity::new(key, vec![leaf], own.bundle().clone()).unwrap());

    let (code, text) = refusal(
        TrainerGatewayClient::new(fleet.channel(&trainer).await)
            .claim(ClaimRequest {})
            .await,
    );
    assert!(
        code == Code::Unauthenticated && text.contains("expired"),
        "{code:?} {text}"
    );
    // With another key: the old one loses its name.
    let next = PrivateKey::generate().unwrap();
    let renewed = renew(&fleet, &trainer, &next).await.unwrap();
    assert_eq!(renewed.principal(), trainer.principal());
    TrainerGatewayClient::new(fleet.channel(&renewed).await)
        .claim(ClaimRequest {})
        .await
        .unwrap();
    fleet.stop().await;
}

#[tokio::test]
async fn init_changes_nothing_where_a_fleet_is() {
    use clap::Parser;
    use fieldfare_controller::config::{Command, CommandLine};
    use fieldfare_controller::init::{Outcome, init};
    let folder = tempfile::tempdir().unwrap();
    let words = [
        "fieldfare-controller",
        "init",
        "--dir",
        folder.path().to_str().unwrap(),
        "--tenant",
        "acme",
    ];
    let Command::Init(options) = CommandLine::try_parse_from(words).unwrap().command else {
        panic!("init")
    };
    let clock = fieldfare_controller::clock::system();
    assert_eq!(init(&options, &clock).await.unwrap(), Outcome::Created);
    let before = std::fs::read(folder.path().join("operator/key.pem")).unwrap();
    let Outcome::Present(file) = init(&options, &clock).await.unwrap() else {
        panic!("a second fleet was made")
    };
    assert_eq!(file.tenant, "acme");
    assert_eq!(std::fs::read(folder.path().join("operator/key.pem")).unwrap(), before);
}
