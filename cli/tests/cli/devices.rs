//! `devices list|show|explain|approve|revoke`.

use fieldfare_controller_peers::{Enrolled, PATIENCE};
use fieldfare_tls::PrivateKey;

use crate::binary::{Farm, column};

#[tokio::test]
async fn a_device_is_approved_shown_explained_and_revoked() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let token = farm.token("--require-approval --labels kind=gateway").await;
    let key = PrivateKey::generate().unwrap();
    let enrol = async || farm.fleet.enrol(&token.secret, &key, "north").await;
    assert!(matches!(enrol().await.unwrap(), Enrolled::Pending));
    let listed = home.json("devices list").await;
    assert_eq!(
        (column(&listed, "name"), column(&listed, "standing")),
        (vec!["north"], vec!["pending"])
    );
    let approved = home.json("devices approve north").await;
    assert_eq!(approved["standing"], "enrolled");
    assert_eq!(approved["key_digest"], key.digest().to_string());
    assert!(matches!(enrol().await.unwrap(), Enrolled::Issued(_)));

    let shown = home.json("devices show north").await;
    assert_eq!(shown["labels"], serde_json::json!({"kind": "gateway", "site": "north"}));
    assert_eq!(shown["profile"]["cores"], 4);
    let by_id = home
        .json(&format!("devices show {}", shown["id"].as_str().unwrap()))
        .await;
    assert_eq!(by_id["name"], "north");
    assert!(home.ok("devices show north").await.contains("raspberry-pi-5"));
    assert!(home.ok("devices list").await.contains("raspberry-pi-5"));
    let why = home.json("devices explain north").await;
    assert_eq!(why["deployments"], serde_json::json!([]));
    assert_eq!(
        home.ok("devices explain north").await,
        "north: no deployment selects it\n"
    );

    let revoked = home.json("devices revoke north --reason stolen").await;
    assert_eq!(revoked["standing"], "revoked");
    let status = enrol().await.unwrap_err();
    assert!(status.message().contains("revoked"), "{status:?}");
    home.fails(1, "devices approve north", &["revoked"]).await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn selectors_choose_devices_and_bad_ones_are_refused() {
    let farm = Farm::start().await;
    let home = &farm.home;
    for name in ["north", "south"] {
        farm.device(name, 0).await;
    }
    let named = async |selector: &str| {
        let listed = home.json(&format!("devices list -l '{selector}'")).await;
        let mut names = column(&listed, "name");
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(named("site=north").await, "north");
    assert_eq!(named("site in (north,south),!kind").await, "north south");
    assert_eq!(named("site=nowhere").await, "");
    assert_eq!(home.ok("devices list -l site=nowhere").await, "none\n");
    for (selector, says) in [
        ("site in (", "parenthesis"),
        ("site ~ north", "site ~ north"),
        ("a b=c", "a b"),
    ] {
        home.fails(1, &format!("devices list -l '{selector}'"), &["selector", says])
            .await;
    }
    for command in ["show", "explain", "approve", "revoke"] {
        home.fails(
            1,
            &format!("devices {command} west"),
            &["device \"west\" does not exist"],
        )
        .await;
    }
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_revoked_device_loses_its_session() {
    let farm = Farm::start().await;
    farm.device("north", 0).await;
    let mut news = farm.fleet.plane.presence.subscribe();
    assert_eq!(farm.home.json("devices show north").await["connected"], true);
    farm.home.ok("devices revoke north").await;
    let gone = async {
        while farm.fleet.plane.presence.connected() > 0 {
            news.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its session is cut");
    let shown = farm.home.json("devices show north").await;
    assert_eq!(
        (&shown["connected"], &shown["standing"]),
        (&false.into(), &"revoked".into())
    );
    farm.fleet.stop().await;
}
