//! Contexts: none, damaged, of a controller that is gone or silent.

use std::time::Instant;

use tokio::net::TcpListener;

use crate::binary::{Farm, Home};

#[tokio::test]
async fn without_a_fleet_every_command_says_how_to_get_one() {
    let home = Home::new();
    let commands = [
        "token list",
        "devices list",
        "trainers list",
        "release list",
        "plan --release farm-alert",
        "deploy soil --release farm-alert",
        "rollout status soil",
        "job list",
        "context show",
    ];
    for command in commands {
        home.fails(
            1,
            command,
            &["no fleet is known yet", "next:", "context add", "quickstart"],
        )
        .await;
    }
    let elsewhere = "token list --context elsewhere";
    home.fails(1, elsewhere, &["no context \"elsewhere\"", "context list"])
        .await;
    home.fails(1, "token list --context ../x", &["\"../x\""]).await;
    let empty = home.path("").to_str().unwrap().to_owned();
    home.fails(
        1,
        &format!("context add farm --from {empty}"),
        &["holds no operator's credential", "init"],
    )
    .await;
}

#[tokio::test]
async fn contexts_are_added_shown_and_chosen() {
    let farm = Farm::without_root().await;
    let (home, from) = (&farm.home, farm.operator_folder());
    let added = home.json(&format!("context add barn --from {from}")).await;
    assert_eq!((&added["name"], &added["current"]), (&"barn".into(), &false.into()));
    assert_eq!(added["endpoint"], farm.fleet.endpoints.grpc.as_str());
    let used = home.json("context use barn").await;
    assert_eq!((&used["name"], &used["current"]), (&"barn".into(), &true.into()));
    assert_eq!(home.json("context show").await, used);
    std::fs::write(home.context(".DS_Store"), "of a desktop").unwrap();
    std::fs::create_dir(home.context("Not A Name")).unwrap();
    let listed = home.json("context list").await;
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert!(home.ok("context list").await.contains("farm"));
    assert_eq!(home.ok("context use farm").await, "farm is the current context\n");
    home.fails(1, "context use attic", &["no context \"attic\""]).await;
    // A name is not taken over by another fleet.
    let other = Farm::without_root().await;
    let theirs = other.operator_folder();
    let folder = home.context("farm").join("ca.pem");
    std::fs::copy(other.fleet.folder().join("operator/ca.pem"), &folder).unwrap();
    home.fails(1, "token list", &["farm"]).await;
    home.ok(&format!("context add theirs --from {theirs}")).await;
    other.fleet.stop().await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_damaged_file_of_a_context_is_named() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let cases: [(&str, &[u8], &str); 7] = [
        ("endpoints.json", b"{", "token list"),
        (
            "endpoints.json",
            b"{\"grpc\": \"nowhere\", \"artifacts\": \"\"}",
            "token list",
        ),
        ("key.pem", b"-----BEGIN", "token list"),
        ("chain.pem", b"", "token list"),
        ("ca.pem", b"\xff\xff", "token list"),
        ("trust.json", b"[]", "token create"),
        ("targets-key.pem", b"no key", "context list"),
    ];
    for (name, bytes, command) in cases {
        let path = home.context("farm").join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let says = if name == "endpoints.json" && bytes != b"{" {
            "nowhere"
        } else {
            name
        };
        home.fails(1, command, &[says]).await;
        std::fs::write(&path, whole).unwrap();
        home.ok("token list").await;
    }
    let current = home.path(".config/fieldfare/current");
    std::fs::write(&current, "attic\n").unwrap();
    home.fails(1, "token list", &["no context \"attic\"", "context list"])
        .await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_controller_that_is_gone_or_silent_is_told_from_an_answer() {
    let Farm { fleet, home } = Farm::start().await;
    fleet.stop().await;
    home.fails(
        1,
        "token list",
        &["no controller answers at", "because:", "next:", "run --dir DIR"],
    )
    .await;

    // Somebody listens and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", silent.local_addr().unwrap());
    let endpoints = serde_json::json!({"grpc": address, "artifacts": address});
    std::fs::write(home.context("farm").join("endpoints.json"), endpoints.to_string()).unwrap();
    let began = Instant::now();
    let says = ["no controller answered at", &address, "within 0.5 s", "--timeout"];
    home.fails(1, "token list --timeout 0.5", &says).await;
    assert!(
        began.elapsed().as_secs() < 8,
        "the limit of one's own counts: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn somebody_elses_controller_is_not_trusted() {
    let (ours, theirs) = (Farm::without_root().await, Farm::without_root().await);
    let file = |farm: &Farm| farm.home.context("farm").join("endpoints.json");
    std::fs::copy(file(&theirs), file(&ours)).unwrap();
    ours.home
        .fails(1, "token list", &["no controller answers at", "because:"])
        .await;
    ours.fleet.stop().await;
    theirs.fleet.stop().await;
}
