//! Watches: the state now, and again after each change, until it is final. Nothing here looks at a clock: what time alone changes
//! of a rollout is told by the task that owns it, and a job changes by its records only.

use std::sync::Arc;

use fieldfare_fleet::JobName;
use fieldfare_proto::v1::{Job, RolloutPhase, RolloutStatus};
use futures_util::Stream;
use tokio::sync::watch;
use tonic::Status;

use crate::jobs;
use crate::mirror::Topic;
use crate::plane::ControlPlane;
use crate::refusal::Refusal;

/// Where a watch is.
struct Watching<N> {
    plane: Arc<ControlPlane>,
    news: watch::Receiver<N>,
    begun: bool,
    over: bool,
}

impl<N> Watching<N> {
    fn new(plane: Arc<ControlPlane>, news: watch::Receiver<N>) -> Self {
        Self {
            plane,
            news,
            begun: false,
            over: false,
        }
    }

    /// Ends at once the first time, and then at news.
    async fn news(&mut self) -> Result<(), Status> {
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        tokio::select! {
            () = self.plane.shutdown.cancelled() => Err(Refusal::ShuttingDown.into()),
            changed = self.news.changed() => changed.map_err(|_| Refusal::ShuttingDown.into()),
        }
    }
}

/// A rollout until it ends.
pub(super) fn rollout(
    plane: Arc<ControlPlane>,
    changes: watch::Receiver<RolloutStatus>,
) -> impl Stream<Item = Result<RolloutStatus, Status>> + Send {
    let watching = Watching::new(plane, changes);
    futures_util::stream::try_unfold(watching, |mut watching| async move {
        if watching.over {
            return Ok(None);
        }
        watching.news().await?;
        let now = watching.news.borrow_and_update().clone();
        let going = [RolloutPhase::Running, RolloutPhase::Paused, RolloutPhase::RollingBack];
        watching.over = !going.contains(&now.phase());
        Ok(Some((now, watching)))
    })
}

/// A job until it ends.
pub(super) fn job(plane: Arc<ControlPlane>, name: JobName) -> impl Stream<Item = Result<Job, Status>> + Send {
    let news = plane.mirror.subscribe(Topic::Jobs);
    let watching = (Watching::new(plane, news), None::<Job>);
    futures_util::stream::try_unfold(watching, move |(mut watching, mut told)| {
        let name = name.clone();
        async move {
            while !watching.over {
                watching.news().await?;
                // The news are of all jobs.
                let now = jobs::get(&watching.plane, &name)?;
                watching.over = jobs::is_over(now.stage());
                if told.as_ref() != Some(&now) {
                    told = Some(now.clone());
                    return Ok(Some((now, (watching, told))));
                }
            }
            Ok(None)
        }
    })
}
