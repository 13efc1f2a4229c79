//! Who gets in, as whom, and who is cut off.

use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::service::{Running, Scene, acceptor, describe, serve, who_am_i};
use crate::limits::{FIRST_BYTES_TIMEOUT, RENEWAL_GRACE};
use crate::test_fleet::{DAY, Fleet, HOUR, tenant, window};
use crate::{
    AcceptorSettings, ClientCertificates, ConnectError, Denial, Endpoint, ExpectedServer, Identity, IdentityHandle,
    PeerIdentity, PeerRefused, ServerTrust, alert_in, connect, https_config, serve_http,
};

/// The alert with which the server refuses this client.
async fn refusal(scene: &Scene, running: &Running, identity: Option<&Identity>) -> Option<AlertDescription> {
    let link = scene.link(running, identity).await;
    who_am_i(&link).await.expect_err("the server should refuse this client");
    link.alert()
}

#[tokio::test]
async fn a_grpc_service_sees_the_principal_and_the_same_channel_binding_as_the_client() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let device = scene.fleet.device(7);
    let link = scene.link(&running, Some(&device)).await;
    let (peer, binding) = who_am_i(&link).await.unwrap();
    assert_eq!(peer, device.principal().to_string());
    assert_eq!(binding, format!("{:02x?}", link.server().binding.as_bytes()));
    let other = scene.link(&running, Some(&device)).await;
    assert_ne!(
        who_am_i(&other).await.unwrap().1,
        binding,
        "each connection has a binding of its own"
    );
    assert_eq!(
        link.server().server.certificate.principal.to_string(),
        "spiffe://farm.example/controller/c0"
    );
}

#[tokio::test]
async fn an_axum_service_sees_the_principal_and_stops_when_told() {
    let scene = Scene::new();
    let acceptor = acceptor(scene.settings()).await;
    let url = format!("https://{}/who", acceptor.local_addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let who = |axum::Extension(peer): axum::Extension<PeerIdentity>| async move { describe(&peer) };
    let router = axum::Router::new().route("/who", axum::routing::get(who));
    let server = tokio::spawn(serve_http(acceptor, router, async { drop(stopped.await) }));
    let device = scene.fleet.device(7);
    let get = async |identity: Option<&IdentityHandle>| {
        let tls = https_config(identity, &scene.trust(), &scene.clock.source()).unwrap();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()
            .unwrap();
        client.get(&url).send().await
    };
    let handle = IdentityHandle::new(device.clone());
    assert_eq!(
        get(Some(&handle)).await.unwrap().text().await.unwrap(),
        device.principal().to_string()
    );
    assert_eq!(
        get(None).await.unwrap().text().await.unwrap(),
        "this needs a client certificate"
    );
    scene.deny.deny(Denial::Key(device.certificate().key_digest));
    let refused = get(Some(&handle)).await.unwrap_err();
    assert_eq!(alert_in(&refused), Some(AlertDescription::CertificateRevoked));
    stop.send(()).unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn a_client_without_certificate_is_anonymous_or_refused_where_one_is_required() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let link = scene.link(&running, None).await;
    assert_eq!(who_am_i(&link).await.unwrap().0, "this needs a client certificate");
    let strict = serve(AcceptorSettings {
        clients: ClientCertificates::Required,
        ..scene.settings()
    })
    .await;
    assert_eq!(
        refusal(&scene, &strict, None).await,
        Some(AlertDescription::CertificateRequired)
    );
}

#[tokio::test]
async fn a_client_of_another_authority_of_the_same_name_is_refused() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let impostor = Fleet::new().device(7);
    assert_eq!(
        refusal(&scene, &running, Some(&impostor)).await,
        Some(AlertDescription::UnknownCA)
    );
    assert_eq!(running.counters.completed(), 0);
}

#[tokio::test]
async fn an_expired_client_can_only_renew_and_only_within_the_grace() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let device = scene.fleet.device(7);
    let second = Duration::from_secs(1);
    let see = async |at: Duration| {
        scene.clock.set(at);
        who_am_i(&scene.link(&running, Some(&device)).await)
            .await
            .map(|(peer, _)| peer)
    };
    let valid = device.principal().to_string();
    let renew_only = format!("the certificate of {valid} has expired and can only be renewed");
    assert_eq!(
        see(DAY).await.unwrap(),
        valid,
        "the last second belongs to the certificate"
    );
    assert_eq!(see(DAY + second).await.unwrap(), renew_only);
    assert_eq!(see(DAY + RENEWAL_GRACE).await.unwrap(), renew_only);
    scene.clock.set(DAY + RENEWAL_GRACE + second);
    assert_eq!(
        refusal(&scene, &running, Some(&device)).await,
        Some(AlertDescription::CertificateExpired)
    );
}

#[tokio::test]
async fn a_grace_helps_nobody_who_is_denied_or_of_another_authority() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let (device, impostor) = (scene.fleet.device(7), Fleet::new().device(8));
    scene.clock.set(DAY + HOUR);
    scene.deny.deny(Denial::Principal(device.principal().clone()));
    assert_eq!(
        refusal(&scene, &running, Some(&device)).await,
        Some(AlertDescription::CertificateRevoked)
    );
    assert_eq!(
        refusal(&scene, &running, Some(&impostor)).await,
        Some(AlertDescription::UnknownCA)
    );
}

#[tokio::test]
async fn a_data_plane_for_enrolled_peers_gives_no_grace() {
    let scene = Scene::new();
    let identity = IdentityHandle::new(scene.fleet.controller());
    let running = serve(AcceptorSettings::enrolled_only(
        identity,
        scene.deny.clone(),
        scene.clock.source(),
    ))
    .await;
    scene.clock.set(DAY + Duration::from_secs(1));
    let device = scene.fleet.device(7);
    assert_eq!(
        refusal(&scene, &running, Some(&device)).await,
        Some(AlertDescription::CertificateExpired)
    );
}

#[tokio::test]
async fn a_certificate_from_the_future_is_refused() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let early = scene
        .fleet
        .identity(&scene.fleet.device_principal(7), window(2 * HOUR, DAY));
    assert_eq!(
        refusal(&scene, &running, Some(&early)).await,
        Some(AlertDescription::CertificateExpired)
    );
}

#[tokio::test]
async fn every_kind_of_denial_refuses_the_handshake_and_can_be_taken_back() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let (device, other) = (scene.fleet.device(7), scene.fleet.device(8));
    for denial in [
        Denial::Principal(device.principal().clone()),
        Denial::Key(device.certificate().key_digest),
        Denial::Serial(device.certificate().serial),
    ] {
        scene.deny.deny(denial.clone());
        let alert = refusal(&scene, &running, Some(&device)).await;
        assert_eq!(alert, Some(AlertDescription::CertificateRevoked), "{denial:?}");
        assert!(
            who_am_i(&scene.link(&running, Some(&other)).await).await.is_ok(),
            "{denial:?} concerns one device"
        );
        scene.deny.allow(&denial);
        assert!(who_am_i(&scene.link(&running, Some(&device)).await).await.is_ok());
    }
}

#[tokio::test]
async fn a_live_stream_of_a_denied_device_is_cut_and_the_link_comes_back_when_allowed() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let (device, other) = (scene.fleet.device(7), scene.fleet.device(8));
    let (link, bystander) = (
        scene.link(&running, Some(&device)).await,
        scene.link(&running, Some(&other)).await,
    );
    let watch = async |link: &crate::Link| {
        let mut health = HealthClient::new(link.channel());
        let mut stream = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        stream
    };
    let (mut cut, mut kept) = (watch(&link).await, watch(&bystander).await);
    let denial = Denial::Principal(device.principal().clone());
    scene.deny.deny(denial.clone());
    let ended = tokio::time::timeout(Duration::from_secs(5), cut.message()).await;
    assert!(ended.expect("the stream should be cut").is_err());
    assert!(who_am_i(&bystander).await.is_ok());
    let silence = tokio::time::timeout(Duration::from_millis(1), kept.message()).await;
    assert!(silence.is_err(), "the bystander's stream is still open");
    scene.deny.allow(&denial);
    // The first call may still find the broken connection.
    let _ = who_am_i(&link).await;
    assert_eq!(who_am_i(&link).await.unwrap().0, device.principal().to_string());
}

#[tokio::test]
async fn a_renewed_identity_is_what_later_connections_show_and_serve() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let handle = IdentityHandle::new(scene.fleet.device(7));
    let shown = async || {
        let link = connect(&running.endpoint, Some(&handle), &scene.trust(), &scene.clock.source())
            .await
            .unwrap();
        who_am_i(&link).await.unwrap().0
    };
    assert_eq!(shown().await, scene.fleet.device_principal(7).to_string());
    handle.replace(scene.fleet.device(8));
    assert_eq!(shown().await, scene.fleet.device_principal(8).to_string());
}

/// The error of connecting to a server that is `identity`, with `trust`.
async fn distrust(scene: &Scene, identity: Identity, trust: &ServerTrust) -> PeerRefused {
    let settings = AcceptorSettings {
        identity: IdentityHandle::new(identity),
        ..scene.settings()
    };
    let running = serve(settings).await;
    match connect(&running.endpoint, None, trust, &scene.clock.source()).await {
        Err(ConnectError::Server { source, .. }) => source,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused_by_the_client() {
    let scene = Scene::new();
    let bundle = scene.fleet.bundle();
    let trainer = ServerTrust::Authorities {
        bundle,
        expected: ExpectedServer::Trainer(tenant()),
    };
    let wrong = distrust(&scene, scene.fleet.controller(), &trainer).await;
    assert!(matches!(wrong, PeerRefused::WrongRole { .. }), "{wrong:?}");
    let wrong = distrust(&scene, scene.fleet.trainer("t1"), &scene.trust()).await;
    assert!(matches!(wrong, PeerRefused::WrongRole { .. }), "{wrong:?}");
    let foreign = distrust(&scene, Fleet::new().controller(), &scene.trust()).await;
    assert!(matches!(foreign, PeerRefused::UnknownAuthority { .. }), "{foreign:?}");
    // A device's certificate lacks the usage of a server, whatever the client expects.
    let device = scene.fleet.device(7);
    let exactly = ServerTrust::by(&device, ExpectedServer::Exactly(device.principal().clone()));
    let usage = distrust(&scene, device, &exactly).await;
    assert!(matches!(usage, PeerRefused::Path { .. }), "{usage:?}");
}

#[tokio::test]
async fn an_expired_server_gets_no_grace() {
    let scene = Scene::new();
    let bundle = scene.fleet.bundle();
    let trainer = ServerTrust::Authorities {
        bundle,
        expected: ExpectedServer::Trainer(tenant()),
    };
    scene.clock.set(DAY + Duration::from_secs(1));
    let expired = distrust(&scene, scene.fleet.trainer("t1"), &trainer).await;
    assert!(matches!(expired, PeerRefused::Expired { .. }), "{expired:?}");
}

#[tokio::test]
async fn connecting_to_nobody_says_where() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::from(listener.local_addr().unwrap());
    drop(listener);
    let error = connect(&endpoint, None, &scene.trust(), &scene.clock.source())
        .await
        .unwrap_err();
    assert!(matches!(&error, ConnectError::Tcp { .. }), "{error:?}");
    assert!(error.to_string().contains(&endpoint.to_string()));
}

#[tokio::test]
async fn a_client_that_says_nothing_after_its_handshake_is_let_go_and_one_that_has_spoken_may_be_silent() {
    let scene = Scene::new();
    let mut acceptor = acceptor(scene.settings()).await;
    let endpoint = Endpoint::from(acceptor.local_addr());
    let device = IdentityHandle::new(scene.fleet.device(7));
    let tls = https_config(Some(&device), &scene.trust(), &scene.clock.source()).unwrap();
    let tls = TlsConnector::from(Arc::new(tls));
    let mut connections = async || {
        let connecting = async {
            let stream = TcpStream::connect(endpoint.authority()).await.unwrap();
            tls.connect(endpoint.server_name(), stream).await.unwrap()
        };
        let (client, server) = tokio::join!(connecting, acceptor.accept());
        (client, server.unwrap())
    };
    let (_mute, mut unheard) = connections().await;
    let (mut speaker, mut heard) = connections().await;
    speaker.write_all(b"h").await.unwrap();
    assert_eq!(heard.read_u8().await.unwrap(), b'h');
    // From here on time passes as soon as nobody has anything to do.
    tokio::time::pause();
    let error = unheard.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(
        tokio::time::timeout(10 * FIRST_BYTES_TIMEOUT, heard.read_u8())
            .await
            .is_err()
    );
}
