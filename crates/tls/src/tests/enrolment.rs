//! Connecting with nothing but the digest of the authority.

use fieldfare_fleet::Digest;

use super::service::{Scene, serve, who_am_i};
use crate::test_fleet::Fleet;
use crate::{
    AcceptorSettings, ConnectError, ExpectedServer, Identity, IdentityHandle, PeerRefused, ServerTrust, connect,
};

async fn refused(scene: &Scene, server: Identity, pin: Digest) -> PeerRefused {
    let running = serve(AcceptorSettings {
        identity: IdentityHandle::new(server),
        ..scene.settings()
    })
    .await;
    let trust = ServerTrust::PinnedAuthority(pin);
    match connect(&running.endpoint, None, &trust, &scene.clock.source()).await {
        Err(ConnectError::Server { source, .. }) => source,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_newcomer_learns_the_authority_that_its_token_pins() {
    let scene = Scene::new();
    let running = serve(scene.settings()).await;
    let trust = ServerTrust::PinnedAuthority(scene.fleet.authority.certificate().digest());
    let link = connect(&running.endpoint, None, &trust, &scene.clock.source())
        .await
        .unwrap();
    assert!(who_am_i(&link).await.is_ok());
    let learnt = link.server().server.bundle;
    assert_eq!(learnt, scene.fleet.bundle());
    // What was learnt is enough for the mutual TLS that follows.
    let trust = ServerTrust::Authorities {
        bundle: learnt,
        expected: ExpectedServer::Controller,
    };
    let device = IdentityHandle::new(scene.fleet.device(7));
    let link = connect(&running.endpoint, Some(&device), &trust, &scene.clock.source())
        .await
        .unwrap();
    assert_eq!(
        who_am_i(&link).await.unwrap().0,
        scene.fleet.device_principal(7).to_string()
    );
}

#[tokio::test]
async fn a_controller_of_another_fleet_is_refused() {
    let scene = Scene::new();
    let pin = Fleet::new().authority.certificate().digest();
    assert_eq!(
        refused(&scene, scene.fleet.controller(), pin).await,
        PeerRefused::WrongPin { pin }
    );
}

#[tokio::test]
async fn a_trainer_cannot_pose_as_the_controller_to_newcomers() {
    let scene = Scene::new();
    let pin = scene.fleet.authority.certificate().digest();
    let wrong = refused(&scene, scene.fleet.trainer("t1"), pin).await;
    assert!(matches!(wrong, PeerRefused::WrongRole { .. }), "{wrong:?}");
}

/// The genuine authority's certificate is public: showing it beside a leaf of one's own proves nothing.
#[test]
fn a_forged_leaf_beside_the_genuine_authority_is_refused() {
    let (genuine, attacker) = (Fleet::new(), Fleet::new());
    let authority = genuine.authority.certificate();
    let forged = attacker.controller();
    let chain = [forged.chain()[0].clone(), authority.der().clone()];
    let trust = ServerTrust::PinnedAuthority(authority.digest());
    let refused = trust
        .judge(&chain, crate::test_fleet::after(crate::test_fleet::HOUR))
        .unwrap_err();
    assert!(matches!(refused, PeerRefused::UnknownAuthority { .. }), "{refused:?}");
}
