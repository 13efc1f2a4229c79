//! `token create|list|revoke`: what is made with the binary lets in whom it should, and nobody else.

use fieldfare_controller_peers::Enrolled;
use fieldfare_tls::{JoinToken, PrivateKey};
use tonic::Code;

use crate::binary::{Farm, column};

#[tokio::test]
async fn a_token_is_made_listed_used_and_revoked() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let token = farm.token("--name north --labels kind=gateway").await;
    assert_eq!(token.endpoints[0].to_string(), farm.fleet.endpoints.grpc);
    let listed = home.json("token list").await;
    assert_eq!(column(&listed, "name"), ["north"]);
    assert_eq!(listed[0]["role"], "device");
    assert_eq!(listed[0]["labels"]["kind"], "gateway");
    assert!(listed[0].get("token").is_none(), "a list holds no secret: {listed}");
    assert!(home.ok("token list").await.contains("valid"));
    assert!(matches!(farm.enrol(&token, "gate").await, Enrolled::Issued(_)));
    assert!(home.ok("token list").await.contains("used"));

    let made = home.json("token create --role trainer --uses 2 --hours 1").await;
    assert_eq!((&made["role"], &made["uses_left"]), (&"trainer".into(), &2.into()));
    let secret = JoinToken::parse(made["token"].as_str().unwrap()).unwrap().secret;
    let id = made["id"].as_str().unwrap();
    let revoked = home.json(&format!("token revoke {id}")).await;
    assert_eq!(revoked, serde_json::json!({"id": id, "revoked": true}));
    let listed = home.json("token list").await;
    let found = listed.as_array().unwrap().iter().find(|token| token["id"] == id);
    assert_eq!(found.unwrap()["revoked"], true);
    let refused = farm
        .fleet
        .enrol(&secret, &PrivateKey::generate().unwrap(), "kiln")
        .await;
    let status = refused.unwrap_err();
    assert!(
        status.code() == Code::PermissionDenied && status.message().contains("revoked"),
        "{status:?}"
    );
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_is_refused() {
    let farm = Farm::without_root().await;
    let home = &farm.home;
    home.fails(1, "token create", &["no release root", "release init"])
        .await;
    home.ok("release init").await;
    let again = home.json("release init").await;
    assert_eq!(again, serde_json::json!({"new": false}));
    home.fails(1, "token create --hours 100000", &["lifetime"]).await;
    home.fails(1, "token create --role trainer --labels a=b", &["labels"])
        .await;
    home.fails(1, "token create --name 'No Name'", &["name"]).await;
    home.fails(2, "token create --labels site", &["KEY=VALUE"]).await;
    home.fails(1, "token revoke 0123456789abcdef", &["32 hexadecimal digits"])
        .await;
    let unknown = "0".repeat(32);
    home.fails(1, &format!("token revoke {unknown}"), &[&unknown, "does not exist"])
        .await;
    farm.fleet.stop().await;
}
