//! The store from outside: which one is named, which fleet is in it, and what its outage does.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fieldfare_controller_peers::device::{Obedient, hello};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::trainer::{Trainer, claimed, finish, trainer};
use fieldfare_controller_peers::{Fleet, PATIENCE, TestStore, refusal};
use fieldfare_etcd_process::EtcdProcess;
use fieldfare_proto::v1::{
    GetDeviceRequest, JobFailed, ListDevicesRequest, RenewClaimRequest, TokenRole, finish_request,
};
use tonic::Code;

use crate::jobs::start_import;
use crate::plain::get;
use crate::rollouts::{apply, outcome, spec};

fn etcd() -> Option<EtcdProcess> {
    fieldfare_etcd_process::is_installed(std::thread::current().name().unwrap_or_default()).then(EtcdProcess::start)
}

/// Runs the binary to its end.
fn controller(command: &str, dir: &Path, store: Option<&str>) -> Output {
    let mut controller = Command::new(env!("CARGO_BIN_EXE_fieldfare-controller"));
    controller.arg(command).arg("--dir").arg(dir).stdin(Stdio::null());
    controller.args(store.iter().flat_map(|store| ["--store", store]));
    controller.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn init(dir: &Path, store: &str) {
    let made = controller("init", dir, Some(store));
    assert!(made.status.success(), "{}", said(&made));
}

fn refused(output: &Output, words: &[&str]) {
    let said = said(output);
    assert!(!output.status.success());
    assert!(words.iter().all(|words| said.contains(words)), "{said}");
}

#[test]
fn a_store_that_does_not_answer_is_named_with_what_to_do_and_init_goes_on_later() {
    let Some(mut server) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (dir, store) = (folder.path().join("fleet"), format!("etcd:{}", server.url()));
    server.kill();
    for command in ["init", "run"] {
        refused(
            &controller(command, &dir, Some(&store)),
            &[
                "error: --store: etcd:http://127.",
                " does not answer: check that etcd runs there",
                "refused",
            ],
        );
        if command == "init" {
            server.start_again();
            init(&dir, &store);
            server.kill();
        }
    }
}

#[test]
fn a_store_of_another_fleet_is_refused() {
    let Some(server) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let store = format!("etcd:{}", server.url());
    init(&one, &store);
    refused(
        &controller("init", &two, Some(&store)),
        &[
            "error: --store: the store holds a fleet that `init` made from another folder",
            "prefix=",
        ],
    );
    init(&two, &format!("{store}?prefix=/two"));
    // The embedded one was not made by `init`.
    refused(
        &controller("run", &one, None),
        &[
            "error: --store: redb:",
            "store.redb holds another fleet, or none: name the one that `init` made",
        ],
    );
}

/// `init` dies before it has written that all is there, and is called again.
#[test]
fn an_interrupted_init_goes_on_with_the_operators_key() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("fleet");
    let store = format!("redb:{}", folder.path().join("state.redb").display());
    init(&dir, &store);
    let key = std::fs::read(dir.join("operator/key.pem")).unwrap();
    std::fs::remove_file(dir.join("fleet.json")).unwrap();
    init(&dir, &store);
    assert_eq!(std::fs::read(dir.join("operator/key.pem")).unwrap(), key);
    // A key that the store does not know would be worth nothing.
    std::fs::remove_file(dir.join("fleet.json")).unwrap();
    std::fs::remove_dir_all(dir.join("operator")).unwrap();
    refused(&controller("init", &dir, Some(&store)), &["made from another folder"]);
}

async fn renew(trainer: &mut Trainer, fence: Option<fieldfare_proto::v1::Fence>) -> Result<(), tonic::Status> {
    trainer.renew_claim(RenewClaimRequest { fence }).await.map(drop)
}

/// etcd is killed and comes back under a controller that serves: calls fail as passing, and then everything goes on where it was,
/// the claim of a trainer and the sessions of devices among it.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_ends_nothing() {
    let Some(server) = etcd() else { return };
    let mut fleet = Fleet::start_on(TestStore::Etcd(server)).await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    Obedient::default().run(&fleet, &device, hello("north")).await;
    let mut worker = trainer(&fleet, "kiln").await;
    start_import(&fleet, "import-1").await;
    let claim = claimed(&mut worker).await.unwrap();
    let mut operator = fleet.operator().await;

    assert_eq!(get(&fleet, "/readyz").await.status(), 200);
    with_server(&mut fleet, EtcdProcess::kill).await;
    let probed = tokio::time::timeout(Duration::from_secs(5), get(&fleet, "/readyz")).await;
    assert_eq!(probed.expect("a probe is answered soon").status(), 503);
    let cut_off = tokio::join!(
        operator.list_devices(ListDevicesRequest::default()),
        renew(&mut worker, claim.fence.clone())
    );
    assert_eq!(refusal(cut_off.0).0, Code::Unavailable);
    assert_eq!(
        refusal(cut_off.1).0,
        Code::Unavailable,
        "a claim was lost with an answer"
    );
    with_server(&mut fleet, EtcdProcess::start_again).await;

    assert_eq!(get(&fleet, "/readyz").await.status(), 200);
    // A lease that was live when its server died has its full time again.
    renew(&mut worker, claim.fence.clone()).await.unwrap();
    apply(&fleet, spec(1)).await.unwrap();
    tokio::time::timeout(PATIENCE, outcome(&fleet)).await.unwrap();
    let connected = async {
        let device = GetDeviceRequest { device: "north".into() };
        let mut operator = fleet.operator().await;
        while !operator
            .get_device(device.clone())
            .await
            .unwrap()
            .into_inner()
            .connected
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected)
        .await
        .expect("the session is seen as open");
    let failed = finish_request::Outcome::Failed(JobFailed::default());
    worker.finish(finish(&claim, failed)).await.unwrap();
    fleet.stop().await;
}

async fn with_server(fleet: &mut Fleet, act: impl FnOnce(&mut EtcdProcess) + Send) {
    let TestStore::Etcd(server) = fleet.store() else {
        panic!("a fleet on etcd");
    };
    tokio::task::block_in_place(|| act(server));
}
