//! What desired state asks of an installation, and what the installation says of itself.

use super::state::{InstallState, Installed, Stage};
use crate::rollout::Progress;
use crate::{Generation, Obstacle, ReleaseId};

/// Whether desired state of this generation was overtaken on its way by a newer one. Of one generation the later word counts:
/// assignments are added to it as classes of devices appear.
pub fn is_overtaken(told: Generation, newest: Option<Generation>) -> bool {
    newest.is_some_and(|newest| told < newest)
}

impl InstallState {
    /// Whether desired state that names a release under this assignment says nothing that was not answered before. Only a full
    /// disk is looked at again under the same assignment, and what may have been withdrawn goes on then; another variant under it
    /// (not `same`) is what a device whose profile has changed gets.
    pub(super) fn has_answered(&self, told: Generation, same: bool) -> bool {
        let full_disk = matches!(self.obstacle, Some(Obstacle::DiskTooSmall { .. }));
        let in_doubt = self.candidate.as_ref().is_some_and(|candidate| candidate.in_doubt);
        told == self.assignment && told != Generation::ZERO && same && !full_disk && !in_doubt
    }

    /// Whether this variant of a release is to be looked up and told under this assignment: it is neither older than what is known,
    /// nor answered.
    pub fn asks_for(&self, told: Generation, release: Option<&ReleaseId>, variant: &str) -> bool {
        let known = self.assigned.as_ref();
        let same = known.is_some_and(|known| Some(&known.release) == release && known.variant.as_str() == variant);
        told >= self.assignment && !self.has_answered(told, same)
    }

    /// The device belongs to another deployment from now on. Generations of different deployments do not compare.
    pub const fn change_deployment(&mut self) {
        self.assignment = Generation::ZERO;
    }

    /// Whether this step is under way for this assignment. The end of any other one is of no use, and what it brought forth is thrown
    /// away before it touches what serves.
    pub fn is_under_way(&self, assignment: Generation, stage: Stage) -> bool {
        self.candidate.as_ref().is_some_and(|candidate| {
            let current = candidate.assignment.install.assignment == assignment;
            current && candidate.stage == stage && candidate.retry_at.is_none() && !candidate.in_doubt
        })
    }

    /// What has bytes on the disk that must stay.
    pub fn kept(&self) -> impl Iterator<Item = &Installed> {
        let candidate = self.candidate.as_ref().map(|candidate| &candidate.assignment.install);
        [self.active.as_ref(), self.previous.as_ref(), candidate]
            .into_iter()
            .flatten()
    }

    /// What the device says of itself: the assignment that it has seen, and how far it is with it. While the newest one is being
    /// looked up, it is `unresolved`: its assignment, and why it cannot be had where that is known.
    pub fn report(&self, unresolved: Option<(Generation, Option<&Obstacle>)>) -> (Generation, Progress) {
        match unresolved {
            Some((generation, Some(obstacle))) => (generation, Progress::CannotConverge(obstacle.clone())),
            Some((generation, None)) => (generation, Progress::Working(Stage::Fetch)),
            None => (self.assignment, self.progress()),
        }
    }
}
