//! `release import|publish|list|show|verify|withdraw`, with a trainer that proposes what it is asked for.

use std::path::Path;

use fieldfare_controller_peers::Fleet;
use fieldfare_controller_peers::release::{MODEL, Signer, release};
use fieldfare_controller_peers::trainer::{self, awaited, connected, finish, import_once};
use fieldfare_proto::v1::{JobFailed, claim, finish_request, import_spec};

use crate::binary::{Farm, MODEL_FILE, column};

const HELD_OUT: &str = "{\"prompt\": \"dry\", \"completion\": \"water\"}\n";

/// An import of the small model.
fn import(source: &str, evaluation: &str, more: &str) -> String {
    format!("release import {source} --model {MODEL} --evaluation {evaluation} {more}")
}

#[tokio::test]
async fn a_release_is_imported_published_verified_and_withdrawn() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let mut kiln = connected(&farm.fleet, &farm.join("trainer", "kiln").await).await;
    let evaluation = home.write("held-out.jsonl", HELD_OUT);
    let probes = home.write("probes.jsonl", "{\"prompt\": \"dry\"}\n");
    let command = format!("--probes {probes} --variants q8_0 --job first");
    let command = import(MODEL_FILE, &evaluation, &command);
    let (job, ()) = tokio::join!(home.json(&command), import_once(&farm.fleet, &mut kiln));
    let target = release(1).name.to_string();
    assert_eq!(
        (&job["stage"], &job["manifest_target"]),
        (&"succeeded".into(), &target.as_str().into())
    );
    assert_eq!(column(&home.json("trainers list").await, "name"), ["kiln"]);
    assert_eq!(column(&home.json("job list").await, "name"), ["first"]);

    // Proposed is not published: nothing is signed yet.
    let listed = home.json("release list").await;
    assert_eq!(column(&listed, "standing"), ["proposed"]);
    home.fails(1, &format!("release show {MODEL}"), &["release", "does not exist"])
        .await;
    home.fails(1, "release verify farm-alert:1", &["because:"]).await;
    home.fails(1, "deploy soil --release farm-alert:1 --detach", &["publish it first"])
        .await;

    let published = home.json("release publish farm-alert:1").await;
    let expected = serde_json::json!({"manifest_target": target, "standing": "published", "targets_version": 1});
    assert_eq!(published, expected);
    home.fails(1, "release publish farm-alert:1", &["published already"])
        .await;
    let shown = home.json(&format!("release show {MODEL}")).await;
    assert_eq!((&shown["standing"], &shown["number"]), (&"published".into(), &1.into()));
    assert_eq!(shown["manifest"]["variants"][0]["name"], "q8-0");
    let text = home.ok("release show farm-alert:1").await;
    assert!(
        text.contains("1.5000 nats/token") && text.contains("farm.gguf"),
        "{text}"
    );
    assert!(home.ok(&format!("release list {MODEL}")).await.contains("farm-alert:1"));
    assert_eq!(home.ok("release list other").await, "none\n");

    let verified = home.json(&format!("release verify {MODEL}")).await;
    assert_eq!((&verified["role"], &verified["files"]), (&"targets".into(), &2.into()));
    assert_eq!(verified["manifest_sha256"], shown["manifest_sha256"]);
    assert!(home.ok(&format!("release verify {MODEL}")).await.contains("is genuine"));

    let withdrawn = home.json("release withdraw farm-alert:1").await;
    assert_eq!(
        (&withdrawn["standing"], &withdrawn["targets_version"]),
        (&"withdrawn".into(), &2.into())
    );
    assert_eq!(column(&home.json("release list").await, "standing"), ["withdrawn"]);
    home.fails(1, "release verify farm-alert:1", &["not listed"]).await;
    home.fails(1, "release withdraw farm-alert:1", &["not listed"]).await;
    home.fails(1, "deploy soil --release farm-alert:1 --detach", &["withdrawn"])
        .await;
    farm.fleet.stop().await;
}

/// A copy of the repository, as somebody without a network is handed it.
async fn copied(fleet: &Fleet, folder: &Path, number: u32) {
    let made = release(number);
    let stored = |name: &fieldfare_release::TargetName, bytes: &[u8]| {
        name.stored_as(&fieldfare_release::Sha256Digest::of(bytes))
    };
    let decoded = fieldfare_release::ReleaseManifest::decode(&made.name, &made.manifest).unwrap();
    let weights = &decoded.variants[0].weights().unwrap().target;
    let mut files = vec![
        format!("targets/{}", stored(&made.name, &made.manifest)),
        format!("targets/{}", stored(weights, &made.artifacts[0])),
    ];
    let metadata = ["timestamp.json", "1.root.json", "1.snapshot.json", "1.targets.json"];
    files.extend(metadata.map(|name| format!("metadata/{name}")));
    for file in files {
        let request = http::Request::builder()
            .uri(format!("/{file}"))
            .body(bytes::Bytes::new());
        let answer = fleet.http(&fleet.operator, request.unwrap()).await;
        assert!(answer.status().is_success(), "{file}: {}", answer.status());
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, answer.body()).unwrap();
    }
}

#[tokio::test]
async fn a_copy_of_the_repository_verifies_without_a_controller_and_a_changed_byte_does_not() {
    let Farm { fleet, home } = Farm::without_root().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let folder = home.path("copy");
    copied(&fleet, &folder, 1).await;
    fleet.stop().await;
    let target = release(1).name.to_string();
    let root = folder.join("metadata/1.root.json").to_str().unwrap().to_owned();
    let shown = folder.to_str().unwrap().to_owned();
    let unrooted = format!("release verify {target} --folder {shown}");
    let verify = format!("{unrooted} --root {root}");
    let verified = home.json(&verify).await;
    assert_eq!((&verified["role"], &verified["files"]), (&"targets".into(), &2.into()));

    let by_number = verify.replace(&target, "farm-alert:1");
    home.fails(1, &by_number, &["should be a target name"]).await;
    home.fails(1, &unrooted, &["no release root yet"]).await;
    for file in std::fs::read_dir(folder.join("targets")).unwrap() {
        let path = file.unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[20] ^= 1;
        std::fs::write(&path, changed).unwrap();
        home.fails(1, &verify, &["because: digest", "is listed"]).await;
        std::fs::write(&path, &whole[..10]).unwrap();
        home.fails(1, &verify, &["because:"]).await;
        std::fs::write(&path, whole).unwrap();
    }
    home.ok(&verify).await;
}

#[tokio::test]
async fn an_import_from_a_hub_reaches_the_trainer_as_it_was_asked_for() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let evaluation = home.write("held-out.jsonl", HELD_OUT);
    let uri = "hf://karpathy/tinyllamas/stories260K/stories260K.gguf";
    let command = import(uri, &evaluation, "--job hub --detach");
    let waiting = home.json(&command).await;
    assert_eq!(
        (&waiting["kind"], &waiting["stage"]),
        (&"import".into(), &"waiting".into())
    );
    let mut kiln = connected(&farm.fleet, &farm.join("trainer", "kiln").await).await;
    let mut hints = kiln.watch(trainer::hello()).await.unwrap().into_inner();
    let claim = awaited(&mut kiln, &mut hints).await;
    let Some(claim::Work::Import(work)) = &claim.work else {
        panic!("{claim:?}")
    };
    let source = work.spec.as_ref().and_then(|spec| spec.source.clone());
    assert_eq!(source, Some(import_spec::Source::HubUri(uri.to_owned())));
    let reason = "the hub has no such file".to_owned();
    let failed = finish_request::Outcome::Failed(JobFailed { reason });
    kiln.finish(finish(&claim, failed)).await.unwrap();
    let watched = home.run("job watch hub").await;
    assert_eq!(watched.code, Some(1));
    assert!(watched.stderr.contains("the hub has no such file"), "{watched:?}");

    for wrong in ["hf://karpathy", "hf://karpathy/tinyllamas", "hf:///a/b/c/"] {
        let command = import(wrong, &evaluation, "--detach");
        home.fails(1, &command, &[wrong, "hf://OWNER/REPOSITORY/FILE.gguf"])
            .await;
    }
    farm.fleet.stop().await;
}

#[tokio::test]
async fn an_import_that_cannot_work_is_refused_before_anything_is_uploaded() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let evaluation = home.write("held-out.jsonl", HELD_OUT);
    let cut = home.write("cut.gguf", b"GGUF");
    home.fails(
        1,
        &import(&cut, &evaluation, ""),
        &["cut.gguf", "GGUF: the version is cut off"],
    )
    .await;
    home.fails(1, &import("gone.gguf", &evaluation, ""), &["gone.gguf"])
        .await;
    let broken = home.write("broken.jsonl", "{\"text\": \"fine\"}\nnot json\n");
    home.fails(
        1,
        &import(MODEL_FILE, &broken, ""),
        &["broken.jsonl line 2", "it is not JSON"],
    )
    .await;
    let other = home.write("other.jsonl", "{\"question\": \"dry\"}\n");
    home.fails(
        1,
        &import(MODEL_FILE, &other, ""),
        &["other.jsonl line 1", "expected an object of the form {\"messages\""],
    )
    .await;
    let command = import(MODEL_FILE, &evaluation, &format!("--probes {other}"));
    home.fails(1, &command, &["other.jsonl line 1", "expected {\"prompt\""])
        .await;
    let empty = home.write("empty.jsonl", "\n");
    home.fails(1, &import(MODEL_FILE, &empty, ""), &["empty.jsonl is empty"])
        .await;
    assert_eq!(home.ok("job list").await, "none\n");

    for (release, says) in [
        ("none", "does not exist"),
        ("farm-alert:x", "no release number"),
        ("Farm Alert", "release"),
    ] {
        for command in ["show", "publish", "verify", "withdraw"] {
            home.fails(1, &format!("release {command} '{release}'"), &[says]).await;
        }
    }
    home.fails(
        1,
        &format!("release delegate {MODEL} --trainer kiln"),
        &["no trainer \"kiln\""],
    )
    .await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_trainer_is_let_sign_adapters_once_it_said_its_key() {
    let farm = Farm::start().await;
    let mut kiln = connected(&farm.fleet, &farm.join("trainer", "kiln").await).await;
    let delegate = format!("release delegate {MODEL} --trainer kiln");
    farm.home.fails(1, &delegate, &["has not said its key yet"]).await;
    let mut hints = kiln.watch(trainer::hello()).await.unwrap().into_inner();
    hints.message().await.unwrap();
    let delegated = farm.home.json(&delegate).await;
    assert_eq!(
        delegated,
        serde_json::json!({"model": MODEL, "trainer": "kiln", "targets_version": 1})
    );
    farm.fleet.stop().await;
}
