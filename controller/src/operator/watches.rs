//! Watches: the state now, and again after each change, until it is final.

use std::sync::Arc;

use fieldfare_fleet::{DeploymentName, JobName};
use fieldfare_proto::v1::{Job, RolloutPhase, RolloutStatus};
use futures_util::Stream;
use tokio::sync::watch;
use tonic::Status;

use crate::jobs;
use crate::limits::TICK;
use crate::mirror::Topic;
use crate::plane::ControlPlane;
use crate::refusal::Refusal;
use crate::rollout::Rollouts;

/// Where a watch is: what it last told, and whether that was the last thing to tell.
struct Watching<T> {
    plane: Arc<ControlPlane>,
    news: [watch::Receiver<u64>; 2],
    told: Option<T>,
    over: bool,
}

impl<T: PartialEq + Clone> Watching<T> {
    fn new(plane: Arc<ControlPlane>, topics: [Topic; 2]) -> Self {
        let news = topics.map(|topic| plane.mirror.subscribe(topic));
        Self {
            plane,
            news,
            told: None,
            over: false,
        }
    }

    /// Ends at news, or after a while: some things change by time alone.
    async fn news(&mut self) -> Result<(), Status> {
        let [first, second] = &mut self.news;
        tokio::select! {
            () = self.plane.shutdown.cancelled() => return Err(Refusal::ShuttingDown.into()),
            _ = first.changed() => {}
            _ = second.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        Ok(())
    }

    /// Takes what there is now; gives it when it differs from what was told.
    fn offer(&mut self, now: T, over: bool) -> Option<T> {
        self.over = over;
        let new = self.told.as_ref() != Some(&now);
        self.told = Some(now.clone());
        new.then_some(now)
    }
}

/// A rollout until it ends.
pub(super) fn rollout(
    plane: Arc<ControlPlane>,
    rollouts: Rollouts,
    name: DeploymentName,
) -> impl Stream<Item = Result<RolloutStatus, Status>> + Send {
    let watching = Watching::<RolloutStatus>::new(plane, [Topic::Desired, Topic::Devices]);
    futures_util::stream::try_unfold(watching, move |mut watching| {
        let (rollouts, name) = (rollouts.clone(), name.clone());
        async move {
            while !watching.over {
                if watching.told.is_some() {
                    watching.news().await?;
                }
                let now = rollouts.status(name.clone()).await?;
                let going = [RolloutPhase::Running, RolloutPhase::Paused, RolloutPhase::RollingBack];
                let over = !going.contains(&now.phase());
                if let Some(now) = watching.offer(now, over) {
                    return Ok(Some((now, watching)));
                }
            }
            Ok(None)
        }
    })
}

/// A job until it ends.
pub(super) fn job(plane: Arc<ControlPlane>, name: JobName) -> impl Stream<Item = Result<Job, Status>> + Send {
    let watching = Watching::<Job>::new(plane, [Topic::Jobs, Topic::Rounds]);
    futures_util::stream::try_unfold(watching, move |mut watching| {
        let name = name.clone();
        async move {
            while !watching.over {
                if watching.told.is_some() {
                    watching.news().await?;
                }
                let now = jobs::get(&watching.plane, &name)?;
                let over = jobs::is_over(now.stage());
                if let Some(now) = watching.offer(now, over) {
                    return Ok(Some((now, watching)));
                }
            }
            Ok(None)
        }
    })
}
