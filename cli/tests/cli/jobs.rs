//! `job start|status|watch|cancel|list`, with a trainer that judges at once.

use fieldfare_controller_peers::trainer::{self, awaited, connected, finish, import_once};
use fieldfare_proto::v1::{JobRefused, claim, finish_request};

use crate::binary::{Farm, MODEL_FILE, column};

#[tokio::test]
async fn a_job_is_started_watched_refused_and_cancelled() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let evaluation = home.write("held-out.jsonl", "{\"text\": \"dry\"}\n");
    let start = |deployment: &str, name: &str, more: &str| {
        format!("job start --deployment {deployment} --evaluation {evaluation} --epsilon 4 --name {name} {more}")
    };
    home.fails(1, &start("soil", "night", ""), &["deployment \"soil\" does not exist"])
        .await;

    let mut kiln = connected(&farm.fleet, &farm.join("trainer", "kiln").await).await;
    let import = format!("release import {MODEL_FILE} --model farm-alert --evaluation {evaluation}");
    let (_, ()) = tokio::join!(home.ok(&import), import_once(&farm.fleet, &mut kiln));
    home.ok("release publish farm-alert:1").await;
    farm.device("north", 0).await;
    let deploy = "deploy --release farm-alert --context-tokens 128 --observe 0.05";
    let declared = home.json(&format!("{deploy} empty -l site=x --detach")).await;
    assert_eq!(declared["phase"], "running");
    home.fails(1, &start("empty", "early", ""), &["runs no release yet"])
        .await;
    home.ok(&format!("{deploy} soil -l site=north")).await;

    home.fails(
        1,
        &start("soil", "night", ""),
        &["fieldfare release delegate farm-alert"],
    )
    .await;
    home.ok("release delegate farm-alert --trainer kiln").await;
    let waiting = start("soil", "night", "--detach --rounds 2 --sampling-rate 0.5");
    let waiting = home.json(&waiting).await;
    assert_eq!(
        (&waiting["kind"], &waiting["stage"]),
        (&"federated".into(), &"waiting".into())
    );
    assert_eq!(home.json("job status night").await["stage"], "waiting");
    let judged = async {
        let mut hints = kiln.watch(trainer::hello()).await.unwrap().into_inner();
        let claim = awaited(&mut kiln, &mut hints).await;
        let Some(claim::Work::Federated(work)) = &claim.work else {
            panic!("{claim:?}")
        };
        let spec = work.spec.clone().unwrap();
        assert_eq!((spec.epsilon, spec.rounds, spec.sampling_rate), (4.0, 2, 0.5));
        let reasons = vec!["the loss did not fall".to_owned()];
        let refused = finish_request::Outcome::Refused(JobRefused {
            reasons,
            ..JobRefused::default()
        });
        kiln.finish(finish(&claim, refused)).await.unwrap();
    };
    let (watched, ()) = tokio::join!(home.run("job watch night --output json"), judged);
    assert_eq!(watched.code, Some(3), "{watched:?}");
    let result: serde_json::Value = serde_json::from_str(&watched.stdout).unwrap();
    assert_eq!(result["stage"], "refused");
    assert!(watched.stderr.contains("the loss did not fall"), "{watched:?}");

    home.ok(&start("soil", "dawn", "--detach")).await;
    assert_eq!(home.json("job cancel dawn").await["stage"], "cancelled");
    assert!(home.ok("job status dawn").await.contains("cancelled"));
    let watched = home.run("job watch dawn").await;
    assert_eq!(watched.code, Some(1), "{watched:?}");
    let listed = home.json("job list").await;
    assert!(
        column(&listed, "name").contains(&"night") && column(&listed, "name").contains(&"dawn"),
        "{listed}"
    );
    assert!(home.ok("job list").await.contains("refused"));
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_job_that_cannot_work_is_refused_by_name() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let start = async |file: &str, says: &[&str]| {
        let start = format!("job start --deployment soil --epsilon 8 --evaluation {file}");
        home.fails(1, &start, says).await;
    };
    start("gone.jsonl", &["gone.jsonl"]).await;
    let broken = home.write("broken.jsonl", "{\"text\": \"fine\"}\n\n{\"text\": \"no end}\n");
    start(
        &broken,
        &["broken.jsonl line 3", "it is not JSON", "expected {\"messages\""],
    )
    .await;
    let other = home.write("other.jsonl", "{\"prompt\": \"dry\"}\n");
    start(&other, &["other.jsonl line 1", "`completion` is missing"]).await;
    let noise = home.write("noise.jsonl", b"\xff\xfe");
    start(&noise, &["noise.jsonl is not UTF-8"]).await;
    for command in ["status", "watch", "cancel"] {
        home.fails(1, &format!("job {command} night"), &["job \"night\" does not exist"])
            .await;
    }
    home.fails(1, "job status 'No Job'", &["name: ", "a-z"]).await;
    assert_eq!(home.ok("job list").await, "none\n");
    farm.fleet.stop().await;
}
