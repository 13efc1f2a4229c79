//! A controller, a release repository or a trainer in the hands of an attacker, against the real agent as a process of its own. Each
//! attack is refused with a reason in the device's own log, the release before serves on, and the ledger pays no more than its budget.

use std::sync::atomic::{AtomicBool, Ordering};

use fieldfare_agent::limits::{LOCAL_API_TIMEOUT, LOCAL_CONNECTIONS_MAX};
use fieldfare_agent::private::PrivateStore;
use fieldfare_lm::quantize::Precision;
use fieldfare_privacy::limits::MAX_BUDGET_EPSILON;
use fieldfare_proto::v1::{RefusalReason, RoundConfiguration, RoundInvitation, RoundRef};
use fieldfare_release::limits::MAX_TIMESTAMP_BYTES;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::device::Device;
use crate::fleet::Fleet;
use crate::gateway::Gateway;
use crate::process::Running;
use crate::releases::{Release, Releases, release, weights};
use crate::rounds::{entries, round};
use crate::trainer::Trainer;

/// What a flood may add to the memory of the agent: queues that are full, and the allocator's reserve.
const FLOOD_MEMORY_KIB: u64 = 32 * 1024;

/// A device that serves release 1 and has examples, and everybody whom it talks to.
struct Scene {
    releases: Releases,
    gateway: Gateway,
    trainer: Trainer,
    device: Device,
    agent: Running,
    first: Release,
}

impl Scene {
    async fn new() -> Self {
        let fleet = Fleet::new();
        let mut releases = Releases::start(&fleet).await;
        let first = release(1, weights(Precision::F16));
        releases.publish(&first);
        let gateway = Gateway::start(&fleet, &releases).await;
        let device = Device::of(&fleet, &releases, &gateway.endpoint);
        let agent = Running::start(&device.folder).await;
        gateway.assign(&first, 1).await;
        agent.serves(&first.text()).await;
        let line = |zone| format!("{{\"prompt\": \"zone {zone}\", \"completion\": \" is dry\"}}\n");
        let examples: String = (0..40).map(line).collect();
        agent.owner().granted(Method::POST, "examples", examples).await;
        Self {
            releases,
            gateway,
            trainer: Trainer::start(&fleet).await,
            device,
            agent,
            first,
        }
    }

    /// The next release, published.
    fn publish_second(&mut self) -> Release {
        let second = release(2, weights(Precision::Q8_0));
        self.releases.publish(&second);
        second
    }

    /// An invitation to an attempt whose configuration was changed.
    fn invitation(&self, round: RoundRef, change: impl FnOnce(&mut RoundConfiguration)) -> RoundInvitation {
        let entries = entries(&self.first.weights);
        self.trainer
            .invite_to(&self.device, &self.first, round, entries, change)
    }

    /// What the ledger has paid, in rounds and as epsilon: never more than the budget.
    async fn paid(&self) -> (u64, f64) {
        let said = self.agent.status().await;
        let epsilon = said["training"]["spent"]["epsilon"].as_f64().unwrap();
        assert!(epsilon <= self.device.settings.budget.epsilon().get(), "{said}");
        (said["training"]["spent"]["contributions"].as_u64().unwrap(), epsilon)
    }

    /// The first release serves on, the ledger has paid for so many rounds, and says the same when the agent is gone.
    async fn ends(self, rounds: u64) {
        assert_eq!(self.agent.owner().is_answered().await, self.first.text());
        let (paid, epsilon) = self.paid().await;
        assert_eq!(paid, rounds);
        self.agent.kill().await;
        let store = PrivateStore::open(&self.device.folder.private_store()).unwrap();
        let budget = self.device.settings.budget;
        let spent = store.spending(budget.delta()).unwrap();
        assert_eq!((spent.charges as u64, spent.epsilon.get()), (rounds, epsilon));
        assert!(spent.epsilon <= budget.epsilon());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_other_bytes_under_a_listed_name_are_refused_and_none_of_them_stays() {
    let mut scene = Scene::new().await;
    let second = scene.publish_second();
    scene.releases.tamper(&second.path());
    scene.gateway.assign(&second, 2).await;
    let failed = ["a step of the installation failed", "stage=fetch"];
    let line = scene.agent.says(&failed).await;
    assert!(line.contains("are not what the signed metadata list"), "{line}");
    let blob = scene.device.blob(&second);
    assert!(!blob.exists() && !blob.with_extension("part").exists());
    scene.ends(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_an_older_release_from_an_older_repository_is_refused() {
    let mut scene = Scene::new().await;
    let second = scene.publish_second();
    let old = scene.releases.files();
    let third = release(3, weights(Precision::Q4_0));
    scene.releases.publish(&third);
    // The device looks the newest metadata up for a release that it has: that is how it learns of them.
    scene.gateway.assign(&third, 2).await;
    scene.agent.serves(&third.text()).await;
    scene.releases.serve_instead(old);
    scene.gateway.assign(&second, 3).await;
    let line = scene.agent.says(&["an assigned release may not be installed"]).await;
    assert!(line.contains("timestamp.json"), "{line}");
    assert!(
        scene.releases.asked(&second.path()).is_empty(),
        "not a byte of it was fetched"
    );
    scene.first = third;
    scene.ends(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_expired_metadata_install_nothing() {
    let mut scene = Scene::new().await;
    let second = scene.publish_second();
    scene.releases.expire();
    scene.gateway.assign(&second, 2).await;
    let line = scene.agent.says(&["an assigned release may not be installed"]).await;
    assert!(line.contains("timestamp.json: expired"), "{line}");
    assert!(
        scene.releases.asked(&second.path()).is_empty(),
        "not a byte of it was fetched"
    );
    scene.ends(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_an_endless_download_is_given_up_at_the_first_byte_too_many() {
    let mut scene = Scene::new().await;
    let second = scene.publish_second();
    // An artifact whose bytes are right, and never end.
    scene.releases.never_end(&second.path());
    scene.gateway.assign(&second, 2).await;
    let line = scene
        .agent
        .says(&["a step of the installation failed", "stage=fetch"])
        .await;
    assert!(line.contains("are not what the signed metadata list"), "{line}");
    let blob = scene.device.blob(&second);
    assert!(!blob.exists() && !blob.with_extension("part").exists());
    // And metadata.
    scene.releases.never_end("metadata/timestamp.json");
    scene.gateway.assign(&second, 3).await;
    let line = scene.agent.says(&["an assigned release may not be installed"]).await;
    assert!(
        line.contains(&format!("timestamp.json is longer than {MAX_TIMESTAMP_BYTES} bytes")),
        "{line}"
    );
    scene.ends(0).await;
}

/// Most memory that a process had so far.
fn peak_kib(agent: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_ten_thousand_rounds_a_minute_are_not_looked_at_and_starve_nobody() {
    let scene = Scene::new().await;
    // Genuine tickets to rounds that are not what their trainer describes.
    let (agent, most) = (&scene.agent, fieldfare_agent::limits::INVITATIONS_PER_MINUTE);
    let begun = Instant::now();
    let before = peak_kib(agent);
    let answered = AtomicBool::new(false);
    // Ten thousand, and as many more as come until the owner has been answered five times.
    let flood = async {
        for number in 1.. {
            if number > 10_000 && answered.load(Ordering::SeqCst) {
                return number - 1;
            }
            let invitation = scene.trainer.ticket_to(
                &scene.device,
                RoundRef {
                    round: number,
                    ..round(1)
                },
            );
            scene.gateway.invite(invitation).await;
        }
        unreachable!("it goes on until it is told to stop")
    };
    let asks = async {
        for _ in 0..5 {
            assert_eq!(agent.owner().is_answered().await, scene.first.text());
        }
        answered.store(true, Ordering::SeqCst);
    };
    let (sent, ()) = tokio::join!(flood, asks);
    let took = begun.elapsed();
    println!("{sent} invitations in {took:?}");
    let line = agent.says(&["refused unseen"]).await;
    assert!(line.contains(&format!("more than {most} came in a minute")), "{line}");
    let refused = scene.gateway.refused(most as usize).await;
    assert!(refused.contains(&RefusalReason::Busy), "{refused:?}");
    let looked_at = u64::from(most) + took.as_secs() * u64::from(most) / 60 + 1;
    let asked = u64::from(scene.trainer.configured());
    assert!(
        asked <= looked_at,
        "the trainer was asked {asked} times, and {looked_at} may be looked at"
    );
    let lines = agent.said(&["invitation"]).len() as u64;
    assert!(lines <= looked_at + took.as_secs() / 60 + 1, "{lines} lines of log");
    let grown = peak_kib(agent).saturating_sub(before);
    assert!(grown < FLOOD_MEMORY_KIB, "the agent took {grown} KiB more");
    scene.ends(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_ten_thousand_assignments_a_minute_are_looked_up_one_at_a_time() {
    let mut scene = Scene::new().await;
    let second = scene.publish_second();
    // The repository is silent, and the controller is not.
    let timestamp = "metadata/timestamp.json";
    scene.releases.keep_silent(timestamp);
    let before = peak_kib(&scene.agent);
    let last = 10_001;
    for counter in 2..=last {
        scene.gateway.assign(&second, counter).await;
    }
    scene.gateway.is_heard(last).await;
    assert_eq!(scene.agent.owner().is_answered().await, scene.first.text());
    let grown = peak_kib(&scene.agent).saturating_sub(before);
    assert!(grown < FLOOD_MEMORY_KIB, "the agent took {grown} KiB more");
    let asked = scene.releases.asked(timestamp).len();
    scene.releases.speak();
    // The last one is followed.
    scene.agent.serves(&second.text()).await;
    // Once to look it up, and once before its bytes are used: nothing else had piled up.
    let more = scene.releases.asked(timestamp).len() - asked;
    assert!(more <= 3, "{more} look-ups followed the last assignment");
    scene.first = second;
    scene.ends(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_a_job_whose_budget_is_more_than_the_ledger_allows_is_refused_at_the_devices_own() {
    let mut scene = Scene::new().await;
    let generous = |configuration: &mut RoundConfiguration, sigma| {
        configuration.budget.as_mut().unwrap().epsilon = MAX_BUDGET_EPSILON;
        configuration.dp.as_mut().unwrap().noise_multiplier = sigma;
    };
    // More than any budget may say.
    let beyond = scene.invitation(round(9), |configuration| {
        configuration.budget.as_mut().unwrap().epsilon = 2.0 * MAX_BUDGET_EPSILON;
    });
    scene.gateway.invite(beyond).await;
    let line = scene
        .agent
        .says(&["the round is over for this device", "gain/1/9"])
        .await;
    assert!(
        line.contains("bad_configuration") && line.contains("`budget`"),
        "{line}"
    );

    // One round that costs more than the device's whole life may.
    let invitation = scene.invitation(round(1), |configuration| generous(configuration, 0.2));
    scene.gateway.invite(invitation).await;
    let line = scene
        .agent
        .says(&["the round is over for this device", "budget_spent"])
        .await;
    assert!(line.contains("gain/1/1"), "{line}");
    let reasons = [RefusalReason::BadConfiguration, RefusalReason::BudgetSpent];
    assert_eq!(scene.gateway.refused(2).await, reasons);
    assert_eq!(scene.paid().await, (0, 0.0));

    // Rounds that each cost a part of it, one after the other: it ends before the budget does.
    let mut contributed = 0;
    for number in 2.. {
        let wanted = RoundRef {
            round: number,
            ..round(1)
        };
        let invitation = scene.invitation(wanted, |configuration| generous(configuration, 0.7));
        scene.gateway.invite(invitation).await;
        let line = scene
            .agent
            .says(&["the round is over for this device", &format!("gain/{number}/1")])
            .await;
        let (charges, epsilon) = scene.paid().await;
        if line.contains("budget_spent") {
            println!("{contributed} rounds for epsilon {epsilon}");
            break;
        }
        assert!(line.contains("contributed"), "{line}");
        scene.trainer.contribution().await;
        contributed += 1;
        assert_eq!(charges, contributed);
    }
    assert!(contributed > 0);
    scene.ends(contributed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_a_round_replayed_with_other_parameters_is_neither_trained_for_nor_paid() {
    let mut scene = Scene::new().await;
    let genuine = scene.invitation(round(1), |_| {});
    scene.gateway.invite(genuine).await;
    scene
        .agent
        .says(&["the round is over for this device", "contributed"])
        .await;
    let bytes = scene.trainer.contribution().await;
    let (_, epsilon) = scene.paid().await;
    // The same round again with less noise: what it gave then would come back with less hidden.
    let replayed = scene.invitation(round(1), |configuration| {
        configuration.dp.as_mut().unwrap().noise_multiplier = 1.0;
    });
    scene.gateway.invite(replayed).await;
    let line = scene
        .agent
        .says(&["the round is over for this device", "bad_configuration"])
        .await;
    assert!(
        line.contains("another configuration was contributed to under the same job, round and attempt"),
        "{line}"
    );
    assert_eq!(scene.gateway.refused(1).await, [RefusalReason::BadConfiguration]);
    assert_eq!(scene.paid().await, (1, epsilon));
    // As it was, it is answered with the bytes of then.
    let again = scene.invitation(round(1), |_| {});
    scene.gateway.invite(again).await;
    assert_eq!(scene.trainer.contribution().await, bytes);
    scene.ends(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_an_invitation_without_a_ticket_or_with_a_forged_one_is_not_followed() {
    let scene = Scene::new().await;
    let genuine = scene.invitation(round(1), |_| {});
    let bare = RoundInvitation {
        ticket: None,
        ..genuine.clone()
    };
    scene.gateway.invite(bare).await;
    scene
        .agent
        .says(&["an invitation without a readable ticket was passed over"])
        .await;
    let mut forged = genuine.clone();
    forged.ticket.as_mut().unwrap().signature[10] ^= 1;
    scene.gateway.invite(forged).await;
    let line = scene
        .agent
        .says(&["the round is over for this device", "bad_ticket"])
        .await;
    assert!(line.contains("the ticket is not genuine"), "{line}");
    let mut unsigned = genuine;
    unsigned.ticket.as_mut().unwrap().chain_der.clear();
    scene.gateway.invite(unsigned).await;
    // A device says nothing of one that names no round, and of the others only that they are not good.
    assert_eq!(scene.gateway.refused(2).await, [RefusalReason::BadTicket; 2]);
    assert_eq!(
        scene.trainer.configured(),
        0,
        "the trainer that they named was never spoken to"
    );
    scene.ends(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_half_requests_without_the_token_keep_no_application_from_its_answer() {
    let scene = Scene::new().await;
    let owner = scene.agent.owner();
    let address = owner.api.trim_start_matches("http://").to_owned();
    let mut crowd = Vec::new();
    for _ in 0..2 * LOCAL_CONNECTIONS_MAX {
        let mut half = TcpStream::connect(&address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        crowd.push(half);
    }
    assert_eq!(owner.is_answered().await, scene.first.text());
    // The first of them made room.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LOCAL_API_TIMEOUT, crowd[0].read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.is_empty(), "{rest:?}");
    scene.agent.kill().await;
}
