//! A store of an earlier version goes on with this one; one of a later version is left alone.

use clap::Parser;
use fieldfare_controller::config::{Command, CommandLine};
use fieldfare_controller::keys::Keys;
use fieldfare_controller::rollout::state_of;
use fieldfare_controller::schema::RECORDS;
use fieldfare_controller::server::Server;
use fieldfare_controller_peers::Fleet;
use fieldfare_controller_peers::device::{Obedient, hello};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_fleet::TenantName;
use fieldfare_proto::v1::{FleetRecord, RolloutPhase, RolloutRecord, TokenRole};
use fieldfare_store::{Commit, Store};
use prost::Message;

use crate::rollouts::{apply, outcome, spec};

fn keys() -> Keys {
    Keys::of(&TenantName::new("default").unwrap())
}

async fn fleet_record(store: &Store) -> FleetRecord {
    FleetRecord::decode(store.get(&keys().fleet()).await.unwrap().unwrap().value).unwrap()
}

async fn rollout_record(store: &Store) -> RolloutRecord {
    let key = keys().rollout(&crate::rollouts::DEPLOYMENT.parse().unwrap());
    RolloutRecord::decode(store.get(&key).await.unwrap().unwrap().value).unwrap()
}

async fn put_fleet(store: &Store, record: &FleetRecord) {
    let commit = Commit::new().put(keys().fleet(), record.encode_to_vec());
    store.commit(commit).await.unwrap().committed().unwrap();
}

/// Writes what a build of version 0 would have written.
async fn put_back_to_0(store: &Store) {
    let mut record = rollout_record(store).await;
    record.json_state = serde_json::to_vec(&state_of(&record).unwrap()).unwrap();
    record.state = None;
    let key = keys().rollout(&crate::rollouts::DEPLOYMENT.parse().unwrap());
    let commit = Commit::new().put(key, record.encode_to_vec());
    store.commit(commit).await.unwrap().committed().unwrap();
    let fleet = FleetRecord {
        schema: 0,
        ..fleet_record(store).await
    };
    put_fleet(store, &fleet).await;
}

#[tokio::test]
async fn a_store_of_the_first_version_is_migrated_and_its_rollouts_go_on() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    Obedient::default().run(&fleet, &device, hello("north")).await;
    apply(&fleet, spec(1)).await.unwrap();
    let before = outcome(&fleet).await;
    assert_eq!(before.phase(), RolloutPhase::Completed);

    let fleet = fleet.restart_after(put_back_to_0).await;
    let store = fleet.plane.records.store();
    assert_eq!(fleet_record(store).await.schema, RECORDS);
    let record = rollout_record(store).await;
    assert!(record.json_state.is_empty());
    assert_eq!(record.rollout_id, before.rollout_id);
    Obedient::default().run(&fleet, &device, hello("north")).await;
    signer.publish(&fleet, &release(2)).await.unwrap();
    apply(&fleet, spec(2)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);

    // Interrupted before the version was written: what is done already is seen to be done.
    let stamp_missing = async |store: &Store| {
        let fleet = FleetRecord {
            schema: 0,
            ..fleet_record(store).await
        };
        put_fleet(store, &fleet).await;
    };
    let fleet = fleet.restart_after(stamp_missing).await;
    assert_eq!(fleet_record(fleet.plane.records.store()).await.schema, RECORDS);
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    fleet.stop().await;
}

#[tokio::test]
async fn a_store_of_a_later_version_is_refused_and_left_alone() {
    let mut fleet = Fleet::start().await;
    fleet.stand_still().await;
    let location = fleet.shared_store().location(fleet.folder());
    let store = Store::open(&location).await.unwrap();
    let later = FleetRecord {
        schema: RECORDS + 1,
        ..fleet_record(&store).await
    };
    put_fleet(&store, &later).await;
    store.close().await.unwrap();

    let free = "127.0.0.1:0";
    let (dir, named) = (fleet.folder().to_str().unwrap(), fleet.shared_store().arguments());
    let words = ["fieldfare-controller", "run", "--dir", dir, "--grpc-listen", free];
    let words = words
        .into_iter()
        .chain(["--artifact-listen", free, "--metrics-listen", free]);
    let line = CommandLine::try_parse_from(words.chain(named.iter().map(String::as_str))).unwrap();
    let Command::Run(options) = line.command else {
        unreachable!("the words say run")
    };
    let error = Server::start(&options, fleet.time.clone()).await.unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.contains("--store: the records have schema version 2, newer than 1"),
        "{said}"
    );
    let store = Store::open(&location).await.unwrap();
    assert_eq!(fleet_record(&store).await, later);
    store.close().await.unwrap();
}
