//! Clients that are slow, speak no TLS, come in crowds, or send too much.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::service::{Running, Scene, serve, who_am_i};
use crate::limits::MAX_CERTIFICATE_BYTES;
use crate::test_fleet::{Fleet, HOUR, after};
use crate::verify::ClientPolicy;
use crate::{
    AcceptorSettings, CertificateError, Identity, IdentityHandle, LeafCertificate, PeerRefused, ServerTrust,
    StrangersMax,
};

const LONG: Duration = Duration::from_secs(30);

async fn open(running: &Running) -> TcpStream {
    TcpStream::connect((running.endpoint.host(), running.endpoint.port()))
        .await
        .unwrap()
}

/// Reads until the server closes, and fails if it does not.
async fn until_closed(mut stream: TcpStream) {
    let mut sink = Vec::new();
    // A reset is also an end.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut sink))
        .await
        .expect("the server should close");
}

#[tokio::test]
async fn a_silent_client_is_dropped_in_time_and_holds_nobody_up() {
    let scene = Scene::new();
    let settings = AcceptorSettings {
        handshake_timeout: Duration::from_millis(300),
        ..scene.settings()
    };
    let running = serve(settings).await;
    let silent = open(&running).await;
    assert!(who_am_i(&scene.link(&running, None).await).await.is_ok());
    until_closed(silent).await;
    assert_eq!(running.counters.timed_out(), 1);
}

#[tokio::test]
async fn a_crowd_of_silent_clients_does_not_keep_an_honest_one_out() {
    let scene = Scene::new();
    let settings = AcceptorSettings {
        handshake_timeout: LONG,
        max_handshakes: 2,
        ..scene.settings()
    };
    let running = serve(settings).await;
    let mut crowd = Vec::new();
    for _ in 0..8 {
        crowd.push(open(&running).await);
    }
    assert!(who_am_i(&scene.link(&running, None).await).await.is_ok());
    assert!(running.counters.displaced() >= 6, "{:?}", running.counters);
    until_closed(crowd.remove(0)).await;
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_is_refused_and_the_next_is_served() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0; 3],
        &[0x16, 0x03, 0x01, 0xff, 0xff, 0, 0, 0, 0],
    ] {
        let mut plain = open(&running).await;
        plain.write_all(bytes).await.unwrap();
        plain.shutdown().await.unwrap();
        until_closed(plain).await;
    }
    assert!(who_am_i(&scene.link(&running, None).await).await.is_ok());
    assert_eq!((running.counters.refused(), running.counters.completed()), (3, 1));
}

/// An HTTP/2 connection that asks for nothing and answers pings, from this address of the machine; its end.
async fn idle(scene: &Scene, running: &Running, from: &str, identity: Option<&Identity>) -> JoinHandle<()> {
    let handle = identity.cloned().map(IdentityHandle::new);
    let tls = crate::config::client(
        handle.as_ref(),
        &scene.trust(),
        &scene.clock.source(),
        crate::config::HTTP2,
    );
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let address = format!("127.0.0.1:{}", running.endpoint.port()).parse().unwrap();
    let stream = socket.connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls.unwrap()));
    let stream = TokioIo::new(connector.connect(name, stream).await.unwrap());
    let opened =
        hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<&[u8]>>(TokioExecutor::new(), stream);
    let (sender, connection) = opened.await.unwrap();
    tokio::spawn(async move {
        // However it ends.
        let _ = connection.await;
        drop(sender);
    })
}

async fn ends(connection: JoinHandle<()>) {
    tokio::time::timeout(LONG, connection)
        .await
        .expect("it is cut off")
        .unwrap();
}

#[tokio::test]
async fn a_stranger_that_answers_pings_does_not_stay_and_an_enrolled_peer_does() {
    let scene = Scene::new();
    let running = serve(AcceptorSettings {
        stranger_lifetime: Duration::from_millis(300),
        ..scene.settings()
    })
    .await;
    let device = scene.fleet.device(7);
    let enrolled = idle(&scene, &running, "127.0.0.1", Some(&device)).await;
    let stranger = idle(&scene, &running, "127.0.0.1", None).await;
    ends(stranger).await;
    ends(idle(&scene, &running, "127.0.0.1", None).await).await;
    assert!(!enrolled.is_finished());
}

#[tokio::test]
async fn a_crowd_of_strangers_displaces_the_oldest_of_its_own_address_and_then_of_all() {
    let scene = Scene::new();
    let running = serve(AcceptorSettings {
        max_strangers: StrangersMax {
            connected: 3,
            of_one_address: 2,
        },
        ..scene.settings()
    })
    .await;
    let device = scene.fleet.device(7);
    let enrolled = idle(&scene, &running, "127.0.0.1", Some(&device)).await;
    let honest = idle(&scene, &running, "127.0.0.2", None).await;
    let mut crowd = Vec::new();
    for _ in 0..8 {
        crowd.push(idle(&scene, &running, "127.0.0.1", None).await);
    }
    for displaced in crowd.drain(..6) {
        ends(displaced).await;
    }
    assert_eq!(running.counters.displaced(), 6);
    assert!(!honest.is_finished() && crowd.iter().all(|stays| !stays.is_finished()));
    // One more address than there is room for.
    let newest = idle(&scene, &running, "127.0.0.3", None).await;
    ends(honest).await;
    assert!(!newest.is_finished() && !enrolled.is_finished());
    assert!(who_am_i(&scene.link(&running, None).await).await.is_ok());
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_at_once() {
    let scene = Scene::new();
    let running = serve(AcceptorSettings {
        max_connections: 1,
        ..scene.settings()
    })
    .await;
    let link = scene.link(&running, None).await;
    assert!(who_am_i(&link).await.is_ok());
    until_closed(open(&running).await).await;
    assert_eq!(running.counters.over_capacity(), 1);
    assert!(who_am_i(&link).await.is_ok(), "the open connection is not disturbed");
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_refused() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let verifier = crate::verify::ServerVerifier {
        trust: scene.trust(),
        time: scene.clock.source(),
    };
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(verifier))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let error = connector.connect(name, open(&running).await).await.unwrap_err();
    assert_eq!(crate::alert_in(&error), Some(rustls::AlertDescription::ProtocolVersion));
}

#[test]
fn an_oversized_certificate_and_an_endless_chain_are_refused() {
    let scene = Scene::new();
    let policy = ClientPolicy {
        identity: IdentityHandle::new(scene.fleet.controller()),
        deny: scene.deny.clone(),
        grace: HOUR,
        time: scene.clock.source(),
        required: false,
    };
    let device = scene.fleet.device(7);
    let long = vec![device.chain()[0].clone(); 5];
    assert_eq!(policy.judge(&long).unwrap_err(), PeerRefused::LongChain { found: 5 });
    let trust = ServerTrust::PinnedAuthority(scene.fleet.authority.certificate().digest());
    let mut server = vec![scene.fleet.controller().chain()[0].clone(); 5];
    server.push(scene.fleet.authority.certificate().der().clone());
    assert_eq!(
        trust.judge(&server, after(HOUR)).unwrap_err(),
        PeerRefused::LongChain { found: 5 }
    );
    let found = MAX_CERTIFICATE_BYTES + 1;
    assert_eq!(
        LeafCertificate::parse(&vec![0x30; found]),
        Err(CertificateError::TooLarge { found })
    );
    assert_eq!(
        policy.judge(&[]).unwrap_err(),
        PeerRefused::Form(CertificateError::Malformed)
    );
}

#[test]
fn a_p384_certificate_of_the_genuine_authority_is_refused() {
    let fleet = Fleet::new();
    let issuer_key = rcgen::KeyPair::from_pem(fleet.authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(fleet.authority.certificate().der(), issuer_key).unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = fleet.device_principal(7).to_string();
    params.subject_alt_names = vec![rcgen::SanType::URI(name.as_str().try_into().unwrap())];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    assert_eq!(
        LeafCertificate::parse(certificate.der()),
        Err(CertificateError::NotP256)
    );
}
