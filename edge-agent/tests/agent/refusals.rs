//! What leaves a device that does not take part: a reason, and nothing that is private.

use std::process::Command;
use std::sync::Arc;

use fieldfare_agent::clock;
use fieldfare_agent::config::{Consent, IdlePolicy, Settings};
use fieldfare_agent::process::Binary;
use fieldfare_agent::rounds::told;
use fieldfare_fleet::ByteSize;
use fieldfare_lm::example::Example;
use fieldfare_lm::gguf::{Gguf, GgufWriter, TensorSpec, Value};
use fieldfare_lm::quantize::Precision;
use fieldfare_lm::tokenizer::ChatMessage;
use fieldfare_privacy::Budget;
use fieldfare_proto::v1::invitation_reply::Reply;
use fieldfare_proto::v1::{InvitationAccepted, RefusalReason, RoundInvitation};
use tokio::time::timeout;
use tonic::Status;

use crate::device::{Device, Installation, PATIENCE, impatient};
use crate::fleet::Fleet;
use crate::releases::{Release, Releases, release, weights};
use crate::rounds::{Training, entries, round};
use crate::trainer::{Fate, Meanwhile, Trainer};
use crate::{binary, script};

const SECRET: &str = "the barn door code is 4711";

/// Enough for everything here.
const MEMORY: ByteSize = ByteSize::from_mib(4096);

/// A device that serves a release, and a trainer that invites it.
struct Scene {
    device: Device,
    installed: Installation,
    trainer: Trainer,
    base: Release,
    _releases: Releases,
}

impl Scene {
    async fn new(base: Release) -> Self {
        let fleet = Fleet::new();
        let mut releases = Releases::start(&fleet).await;
        releases.publish(&base);
        let device = Device::new(&fleet, &releases);
        let installed = device.start(impatient());
        installed.assign(&releases, &base, 1);
        installed.serving(&base).await;
        Self {
            device,
            installed,
            trainer: Trainer::start(&fleet).await,
            base,
            _releases: releases,
        }
    }

    fn invitation(&self) -> RoundInvitation {
        let entries = entries(&self.base.weights);
        self.trainer.invite(&self.device, &self.base, round(1), entries)
    }

    fn training(&self, binary: Binary, memory: ByteSize) -> Training {
        Training::on(&self.device, &self.installed.view.serving, binary, memory)
    }

    /// Invites the device under these settings on a machine with this memory: it must refuse for this reason, say nothing else,
    /// and pay nothing.
    async fn refuses(
        &mut self,
        invitation: &RoundInvitation,
        settings: Settings,
        memory: ByteSize,
        reason: RefusalReason,
    ) {
        self.device.settings = settings;
        let mut training = self.training(binary(), memory);
        training.invite(invitation).await;
        assert_eq!(training.reply().await, Reply::Refused(told(reason)));
        let outcome = training.ended().await;
        assert_eq!(training.charges(&self.device), 0, "{outcome}");
        training.stop().await;
    }
}

fn completions(count: u32) -> Vec<Example> {
    let example = |number| Example::Completion {
        prompt: format!("zone {number}"),
        completion: " is dry".into(),
    };
    (0..count).map(example).collect()
}

/// A conversation in which the owner says something private.
fn confidence() -> Example {
    let message = |role: &str, content: &str| ChatMessage {
        role: role.into(),
        content: content.into(),
    };
    Example::Messages {
        messages: vec![message("user", SECRET), message("assistant", "Noted.")],
    }
}

/// A model with another chat template.
fn with_template(weights: &[u8], template: &str) -> Vec<u8> {
    let gguf = Gguf::parse(weights).unwrap();
    let mut metadata = gguf.metadata.clone();
    metadata.set("tokenizer.chat_template", Value::String(template.into()));
    let spec = |tensor: &fieldfare_lm::gguf::TensorInfo| TensorSpec {
        name: tensor.name.clone(),
        dimensions: tensor.dimensions.clone(),
        tensor_type: tensor.tensor_type,
    };
    let specs: Vec<TensorSpec> = gguf.tensors.iter().map(spec).collect();
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &specs).unwrap();
    for tensor in &gguf.tensors {
        writer.tensor(gguf.tensor_bytes(weights, tensor).unwrap()).unwrap();
    }
    writer.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_a_template_that_raises_with_an_examples_content_learns_nothing_and_stops_nothing() {
    let template = "{% for message in messages %}{% if 'barn' in message.content %}\
        {{ raise_exception('LEAK: ' ~ message.content) }}{% endif %}{{ message.content }}\n{% endfor %}";
    let hostile = with_template(&weights(Precision::F16), template);
    let scene = Scene::new(release(1, hostile)).await;
    let mut training = scene.training(binary(), MEMORY);
    training.store.add(&completions(39)).unwrap().unwrap();
    training.store.add(&[confidence()]).unwrap().unwrap();
    training.invite(&scene.invitation()).await;
    let outcome = training.ended().await;
    assert!(outcome.contains("contributed"), "{outcome}");
    assert_eq!(training.reply().await, Reply::Accepted(InvitationAccepted {}));
    assert_eq!(training.charges(&scene.device), 1);
    training.stop().await;
    scene.installed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_an_example_in_the_training_processs_error_is_read_by_the_owner_alone() {
    let scene = Scene::new(release(1, weights(Precision::F16))).await;
    let said = format!(r#"{{"is":"failed","reason":"LEAK: {SECRET}"}}"#);
    let gossip = script(
        scene.device.folder.path(),
        &format!("read -r _order\nprintf '%s\\n' '{said}'"),
    );
    let mut training = scene.training(gossip, MEMORY);
    training.store.add(&completions(40)).unwrap().unwrap();
    training.invite(&scene.invitation()).await;
    assert_eq!(training.reply().await, Reply::Accepted(InvitationAccepted {}));
    let left = training.reply().await;
    assert!(!format!("{left:?}").contains("barn"), "{left:?}");
    assert_eq!(left, Reply::Refused(told(RefusalReason::Failed)));
    let outcome = training.ended().await;
    assert!(outcome.contains(SECRET), "the owner is told why: {outcome}");
    assert_eq!(training.charges(&scene.device), 0);
    training.stop().await;
    scene.installed.stop().await;
}

/// Whatever comes to nothing while the device trains is not paid for.
async fn trains_in_vain(meanwhile: impl FnOnce(&Training) -> Meanwhile, expected: &str) {
    let scene = Scene::new(release(1, weights(Precision::F16))).await;
    let mut training = scene.training(binary(), MEMORY);
    training.store.add(&completions(40)).unwrap().unwrap();
    scene.trainer.meanwhile(meanwhile(&training));
    training.invite(&scene.invitation()).await;
    assert_eq!(training.reply().await, Reply::Accepted(InvitationAccepted {}));
    let outcome = training.ended().await;
    assert!(outcome.contains(expected), "{outcome}");
    assert_eq!(training.charges(&scene.device), 0);
    training.stop().await;
    scene.installed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_was_given_up_while_the_device_trained_costs_nothing() {
    let given_up = || Err(Status::failed_precondition("the round was given up"));
    trains_in_vain(|_| Box::new(given_up), "given up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_that_were_erased_while_the_device_trained_do_not_leave_it() {
    let erase = |training: &Training| -> Meanwhile {
        let store = Arc::clone(&training.store);
        Box::new(move || {
            assert_eq!(store.erase_all().unwrap(), 40);
            Ok(())
        })
    };
    trains_in_vain(erase, "erased or corrected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_other_bytes_is_none() {
    let scene = Scene::new(release(1, weights(Precision::F16))).await;
    let mut training = scene.training(binary(), MEMORY);
    training.store.add(&completions(40)).unwrap().unwrap();
    scene.trainer.fates(&[Fate::Confused]);
    training.invite(&scene.invitation()).await;
    let outcome = training.ended().await;
    assert!(outcome.contains("acknowledged other bytes"), "{outcome}");
    training.stop().await;
    scene.installed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_refuses_what_its_owner_its_memory_or_its_release_do_not_allow() {
    let mut scene = Scene::new(release(1, weights(Precision::F16))).await;
    let (invitation, willing) = (scene.invitation(), scene.device.settings.clone());
    let too_few = RefusalReason::TooFewExamples;
    scene.refuses(&invitation, willing.clone(), MEMORY, too_few).await;
    let training = scene.training(binary(), MEMORY);
    training.store.add(&completions(40)).unwrap().unwrap();
    training.stop().await;

    let unwilling = Settings {
        consent: Consent::Withheld,
        ..willing.clone()
    };
    let no_consent = RefusalReason::NoConsent;
    scene.refuses(&invitation, unwilling, MEMORY, no_consent).await;

    // An hour that is neither this one nor, should it end just now, the next one.
    let from = u8::try_from((clock::now().unix_ms() / 3_600_000 + 12) % 24).unwrap();
    let at_work = Settings {
        idle: IdlePolicy::When {
            max_load_per_core: None,
            hours_utc: Some((from, from + 1)),
        },
        ..willing.clone()
    };
    scene
        .refuses(&invitation, at_work, MEMORY, RefusalReason::NotIdle)
        .await;

    let spent = Settings {
        budget: Budget::from_numbers(0.01, 1e-5).unwrap(),
        ..willing.clone()
    };
    scene
        .refuses(&invitation, spent, MEMORY, RefusalReason::BudgetSpent)
        .await;

    let little = ByteSize::from_mib(1);
    let reason = RefusalReason::TooLittleMemory;
    scene.refuses(&invitation, willing.clone(), little, reason).await;

    let other = release(2, weights(Precision::F16));
    let elsewhere = scene
        .trainer
        .invite(&scene.device, &other, round(1), entries(&other.weights));
    scene
        .refuses(&elsewhere, willing, MEMORY, RefusalReason::WrongBase)
        .await;
    scene.installed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_that_is_withdrawn_while_the_device_trains_keeps_the_contribution_from_leaving() {
    let scene = Scene::new(release(1, weights(Precision::F16))).await;
    let folder = scene.device.folder.path();
    let gate = folder.join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    // The training process begins when somebody opens the gate.
    let real = env!("CARGO_BIN_EXE_fieldfare-agent");
    let gated = format!("read -r _ < '{}'\nexec '{real}' \"$@\"", gate.display());
    let mut training = scene.training(script(folder, &gated), MEMORY);
    training.store.add(&completions(40)).unwrap().unwrap();
    training.invite(&scene.invitation()).await;
    assert_eq!(training.reply().await, Reply::Accepted(InvitationAccepted {}));
    training
        .settings
        .send_modify(|settings| settings.consent = Consent::Withheld);
    let opening = tokio::task::spawn_blocking(move || std::fs::write(gate, "\n"));
    timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
    assert_eq!(training.reply().await, Reply::Refused(told(RefusalReason::NoConsent)));
    training.ended().await;
    assert_eq!(training.charges(&scene.device), 0);
    training.stop().await;
    scene.installed.stop().await;
}
