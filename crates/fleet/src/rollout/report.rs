//! What counts as the report of a device that is heard from.

use super::event::{Observation, Progress};
use super::gate::Evidence;
use super::state::Target;
use crate::{Generation, Obstacle};

impl Observation {
    /// The report of a device that is connected: what it said, if it said anything about the deployment that can be read.
    ///
    /// A class of devices without a variant (`unplaced`) is never sent its target, so that its devices cannot report on it
    /// themselves: it is said for them that they cannot converge.
    #[must_use]
    pub fn of_connected(said: Option<Self>, target: Target, unplaced: bool) -> Self {
        if unplaced && target.release.is_some() {
            let (running, evidence) = said.map_or((None, Evidence::default()), |said| (said.running, said.evidence));
            return Self {
                generation: target.assignment,
                target: target.release,
                running,
                progress: Progress::CannotConverge(Obstacle::NoVariant),
                evidence,
            };
        }
        said.unwrap_or(Self {
            generation: Generation::ZERO,
            target: None,
            running: None,
            progress: Progress::Converged,
            evidence: Evidence::default(),
        })
    }
}
