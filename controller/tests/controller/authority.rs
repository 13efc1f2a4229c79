//! The fleet's authority is replaced while devices, trainers and operators go on, over real TLS.

use clap::Parser;
use fieldfare_controller::authority::{Authorities, step};
use fieldfare_controller::config::{Command, CommandLine};
use fieldfare_controller::folder::Folder;
use fieldfare_controller_peers::device::{Session, hello};
use fieldfare_controller_peers::trainer::{claimed, connected};
use fieldfare_controller_peers::{Fleet, TestStore};
use fieldfare_proto::v1::{ListDevicesRequest, TokenRole};
use fieldfare_tls::{Endpoint, ExpectedServer, Identity, IdentityHandle, PrivateKey, ServerTrust};

use crate::enrolment::renew;

/// Takes a step as `fieldfare-controller authority` does.
pub(crate) fn take(fleet: &Fleet, name: &str, early: bool) -> anyhow::Result<String> {
    let dir = fleet.folder().to_str().unwrap();
    let words = ["fieldfare-controller", "authority", name, "--dir", dir].into_iter();
    let line = CommandLine::try_parse_from(words.chain(early.then_some("--early"))).unwrap();
    let Command::Authority(options) = line.command else {
        unreachable!("the words say authority")
    };
    step(&options, &fleet.time)
}

async fn stepped(fleet: Fleet, name: &str) -> Fleet {
    take(&fleet, name, true).unwrap();
    fleet.restart().await
}

/// Whether somebody with this identity can open a session, as a device does.
async fn is_served(fleet: &Fleet, identity: &Identity) -> bool {
    let trust = ServerTrust::by(identity, ExpectedServer::Controller);
    let handle = IdentityHandle::new(identity.clone());
    let endpoint: Endpoint = fleet.endpoints.grpc.parse().unwrap();
    match fieldfare_tls::connect(&endpoint, Some(&handle), &trust, &fleet.time).await {
        // The controller is not genuine to it.
        Err(_) => false,
        // Or it is not genuine to the controller, which says so at the first call.
        Ok(_) => Session::open(fleet, identity, hello("north")).await.is_ok(),
    }
}

async fn renewed(fleet: &Fleet, identity: &Identity) -> Identity {
    renew(fleet, identity, &PrivateKey::generate().unwrap()).await.unwrap()
}

fn refused(outcome: anyhow::Result<String>, words: &str) {
    let said = format!("{:#}", outcome.unwrap_err());
    assert!(said.contains(words), "{said}");
}

#[tokio::test]
async fn whoever_renews_meanwhile_never_notices_that_the_authority_was_replaced() {
    let fleet = Fleet::start().await;
    let first = fleet.join(TokenRole::Device, "north").await;
    let trainer = fleet.join(TokenRole::Trainer, "kiln").await;
    refused(take(&fleet, "switch", true), "`authority announce` makes one");
    refused(take(&fleet, "retire", true), "`authority switch` comes first");

    let fleet = stepped(fleet, "announce").await;
    assert!(is_served(&fleet, &first).await);
    let second = renewed(&fleet, &first).await;
    let trainer = renewed(&fleet, &trainer).await;
    assert_eq!(
        (first.bundle().authorities().len(), second.bundle().authorities().len()),
        (1, 2)
    );
    refused(take(&fleet, "switch", false), "less than a day ago");

    let fleet = stepped(fleet, "switch").await;
    refused(take(&fleet, "announce", true), "`authority retire` comes first");
    assert!(is_served(&fleet, &second).await, "it trusts both, and is trusted still");
    assert!(
        !is_served(&fleet, &first).await,
        "it knows nothing of the one that vouches now"
    );
    let third = renewed(&fleet, &second).await;
    let trainer = renewed(&fleet, &trainer).await;
    // A newcomer pins the one that issues.
    let newcomer = fleet.join(TokenRole::Device, "south").await;
    refused(take(&fleet, "retire", false), "less than a day ago");

    let fleet = stepped(fleet, "retire").await;
    assert!(is_served(&fleet, &third).await && is_served(&fleet, &newcomer).await);
    assert!(
        !is_served(&fleet, &second).await,
        "the one that vouched for it is retired"
    );
    assert_eq!(renewed(&fleet, &third).await.bundle().authorities().len(), 1);
    claimed(&mut connected(&fleet, &trainer).await).await;
    let mut operator = fleet.operator().await;
    let devices = operator.list_devices(ListDevicesRequest::default()).await.unwrap();
    assert_eq!(devices.into_inner().devices.len(), 2);
    // And again.
    stepped(fleet, "announce").await.stop().await;
}

#[tokio::test]
async fn a_switch_that_was_interrupted_is_finished_at_the_next_start() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let fleet = stepped(fleet, "announce").await;
    let device = renewed(&fleet, &device).await;
    let folder = Folder::at(fleet.folder());
    let before = Authorities::load(&folder).unwrap();
    // Killed after the first of two renames.
    std::fs::copy(folder.authority_certificate(), folder.previous_authority()).unwrap();
    std::fs::rename(folder.next_authority_key(), folder.authority_key()).unwrap();
    let fleet = fleet.restart().await;
    let after = Authorities::load(&folder).unwrap();
    assert_ne!(after.issuing().certificate(), before.issuing().certificate());
    assert_eq!(after.trusted().authorities().len(), 2);
    assert!(is_served(&fleet, &device).await);
    fleet.stop().await;
}

#[tokio::test]
async fn a_replacement_under_way_is_in_the_backup() {
    let place = tempfile::tempdir().unwrap();
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let fleet = stepped(fleet, "announce").await;
    let device = renewed(&fleet, &device).await;
    let file = place.path().join("fleet.tar");
    fleet.backup(&file).await.unwrap();
    let (fleet, _) = fleet.restored_on(&file, TestStore::start()).await;
    let fleet = stepped(fleet, "switch").await;
    assert!(is_served(&fleet, &device).await);
    fleet.stop().await;
}
