//! Claims that come to nothing: a job that ends whoever works on it is failed, and holds nobody up.

use fieldfare_controller::limits::FRUITLESS_CLAIMS_MAX;
use fieldfare_controller_peers::Fleet;
use fieldfare_controller_peers::trainer::{claimed, trainer};
use fieldfare_proto::v1::{
    BuiltVariant, CheckpointRequest, Claim, GetJobRequest, HandBackRequest, ImportCheckpoint, ImportStage, Job,
    JobStage, WorkCheckpoint, work_checkpoint,
};

use crate::jobs::start_import;

async fn job(fleet: &Fleet, name: &str) -> Job {
    let asked = GetJobRequest { name: name.into() };
    fleet.operator().await.get_job(asked).await.unwrap().into_inner()
}

fn reached(claim: &Claim, stage: ImportStage, built: usize) -> CheckpointRequest {
    let import = ImportCheckpoint {
        stage: stage.into(),
        built: vec![BuiltVariant::default(); built],
        ..ImportCheckpoint::default()
    };
    CheckpointRequest {
        fence: claim.fence.clone(),
        checkpoint: Some(WorkCheckpoint {
            work: Some(work_checkpoint::Work::Import(import)),
        }),
    }
}

#[tokio::test]
async fn attack_a_job_that_ends_whatever_works_on_it_is_failed_and_the_next_one_is_claimed() {
    let fleet = Fleet::start().await;
    let mut kiln = trainer(&fleet, "kiln").await;
    start_import(&fleet, "poison").await;
    start_import(&fleet, "sound").await;
    // Each life gets as far as the one before, tells it, and ends.
    for life in 0..FRUITLESS_CLAIMS_MAX + 1 {
        let claim = claimed(&mut kiln).await.unwrap();
        assert_eq!(claim.fence.as_ref().unwrap().job, "poison", "life {life}");
        for stage in [ImportStage::Building, ImportStage::Evaluating] {
            kiln.checkpoint(reached(&claim, stage, 0)).await.unwrap();
        }
    }
    let next = claimed(&mut kiln).await.unwrap();
    assert_eq!(next.fence.as_ref().unwrap().job, "sound");
    let failed = job(&fleet, "poison").await;
    assert_eq!(failed.stage(), JobStage::Failed);
    assert!(
        failed.reason.contains("without progress") && failed.reason.contains("kiln"),
        "{}",
        failed.reason
    );
    fleet.stop().await;
}

#[tokio::test]
async fn a_job_that_gets_further_or_is_handed_back_is_claimed_as_often_as_it_takes() {
    let fleet = Fleet::start().await;
    let mut kiln = trainer(&fleet, "kiln").await;
    start_import(&fleet, "long").await;
    for life in 0..3 * FRUITLESS_CLAIMS_MAX {
        let claim = claimed(&mut kiln).await.unwrap();
        kiln.checkpoint(reached(&claim, ImportStage::Building, life as usize / 4))
            .await
            .unwrap();
    }
    for _ in 0..3 * FRUITLESS_CLAIMS_MAX {
        let fence = claimed(&mut kiln).await.unwrap().fence;
        kiln.hand_back(HandBackRequest { fence }).await.unwrap();
    }
    assert_eq!(job(&fleet, "long").await.stage(), JobStage::Running);
    fleet.stop().await;
}
