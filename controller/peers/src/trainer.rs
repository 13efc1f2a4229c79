//! A trainer that claims work and says what became of it.

use fieldfare_proto::PROTOCOL_VERSION;
use fieldfare_proto::v1::trainer_gateway_client::TrainerGatewayClient;
use fieldfare_proto::v1::{
    Claim, ClaimRequest, FinishRequest, JobSucceeded, ProposeReleaseRequest, TokenRole, TrainerHello, WorkHint, claim,
    finish_request,
};
use fieldfare_tls::Identity;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::fleet::{Fleet, PATIENCE};
use crate::release::{key, release, upload};

/// A trainer's connection.
pub type Trainer = TrainerGatewayClient<Channel>;

/// Enrols a trainer and connects it.
pub async fn trainer(fleet: &Fleet, name: &str) -> Trainer {
    let identity = fleet.join(TokenRole::Trainer, name).await;
    connected(fleet, &identity).await
}

/// Connects a trainer that is enrolled.
pub async fn connected(fleet: &Fleet, identity: &Identity) -> Trainer {
    TrainerGatewayClient::new(fleet.channel(identity).await)
}

/// What a trainer says when it begins to watch for work.
pub fn hello() -> TrainerHello {
    TrainerHello {
        protocol_version: PROTOCOL_VERSION,
        rounds_endpoint: "https://127.0.0.1:9443".into(),
        delegation_public_key_pem: key().public().to_pem().to_owned(),
        ..TrainerHello::default()
    }
}

/// Asks for work once.
pub async fn claimed(trainer: &mut Trainer) -> Option<Claim> {
    trainer.claim(ClaimRequest {}).await.unwrap().into_inner().claim
}

/// Waits for work.
pub async fn awaited(trainer: &mut Trainer, hints: &mut Streaming<WorkHint>) -> Claim {
    loop {
        let hint = tokio::time::timeout(PATIENCE, hints.message()).await;
        assert!(hint.expect("the gateway hints at work").unwrap().is_some());
        if let Some(claim) = claimed(trainer).await {
            return claim;
        }
    }
}

/// The end of a job.
pub fn finish(claim: &Claim, outcome: finish_request::Outcome) -> FinishRequest {
    FinishRequest {
        fence: claim.fence.clone(),
        outcome: Some(outcome),
    }
}

/// Waits for one import, and proposes the release with the number that it was given.
pub async fn import_once(fleet: &Fleet, trainer: &mut Trainer) {
    let mut hints = trainer.watch(hello()).await.unwrap().into_inner();
    let claim = awaited(trainer, &mut hints).await;
    let Some(claim::Work::Import(work)) = &claim.work else {
        panic!("an import: {claim:?}")
    };
    let made = release(u32::try_from(work.release_number).unwrap());
    for artifact in &made.artifacts {
        upload(fleet, artifact).await;
    }
    let manifest_target = made.name.to_string();
    let proposal = ProposeReleaseRequest {
        fence: claim.fence.clone(),
        manifest_target: manifest_target.clone(),
        manifest: made.manifest,
    };
    trainer.propose_release(proposal).await.unwrap();
    let success = finish_request::Outcome::Succeeded(JobSucceeded {
        manifest_target,
        ..JobSucceeded::default()
    });
    trainer.finish(finish(&claim, success)).await.unwrap();
}
