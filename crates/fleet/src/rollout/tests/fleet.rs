//! A fleet that a rollout moves through.

use super::*;

/// How a simulated device behaves with the new release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Nature {
    Good,
    WrongAnswers,
    Crashes,
    Offline,
    Stuck,
}

/// A fleet that always does what its desired state says, as far as its nature lets it.
pub(super) struct Fleet {
    pub(super) rollout: Rollout,
    pub(super) natures: BTreeMap<DeviceId, Nature>,
    pub(super) milestones: Vec<Milestone>,
}

impl Fleet {
    pub(super) fn new(policy: RolloutPolicy, natures: &[Nature]) -> Self {
        let mut fleet = Self {
            rollout: Rollout::resume(start(policy), at(0)),
            natures: BTreeMap::new(),
            milestones: vec![],
        };
        for (n, nature) in (1u8..).zip(natures) {
            fleet.natures.insert(device(n), *nature);
            fleet
                .tell(
                    0,
                    Event::Joined {
                        device: device(n),
                        class: class(n),
                        joined_at: at(0),
                    },
                )
                .unwrap();
        }
        fleet
    }

    pub(super) fn tell(&mut self, second: u64, event: Event) -> Result<(), Refused> {
        let mut actions = Vec::new();
        let told = self.rollout.handle(at(second), event, &mut actions);
        self.milestones
            .extend(actions.into_iter().filter_map(|action| match action {
                Action::Announce(milestone) => Some(milestone),
                Action::PublishTargets { .. } => None,
            }));
        told
    }

    pub(super) fn target(&self, device: DeviceId) -> Option<ReleaseId> {
        self.rollout
            .state()
            .target_for(self.rollout.state().slot_of(device, at(0)))
            .release
    }

    pub(super) fn report(&mut self, second: u64, device: DeviceId, nature: Nature) {
        let target = self.target(device);
        let is_new = target == Some(release(2));
        let (running, progress, matched) = match nature {
            Nature::Offline => return,
            Nature::Good => (target.clone(), Progress::Converged, 4),
            Nature::WrongAnswers => (target.clone(), Progress::Converged, if is_new { 0 } else { 4 }),
            Nature::Crashes if is_new => {
                let obstacle = Obstacle::CrashLoop {
                    crashes: 3,
                    within: Duration::from_secs(60),
                };
                (Some(release(1)), Progress::CannotConverge(obstacle), 4)
            }
            Nature::Stuck if is_new => (Some(release(1)), Progress::Working(Stage::Fetch), 4),
            Nature::Crashes | Nature::Stuck => (target.clone(), Progress::Converged, 4),
        };
        let evidence = Evidence {
            probes_run: 4,
            probes_matched: matched,
            tokens_per_second: Some(TokensPerSecond::clamped(if is_new { 9.0 } else { 10.0 })),
            confidence: Some(Fraction::clamped(0.8)),
            ..Evidence::default()
        };
        let generation = self.rollout.state().generation;
        let observation = Observation {
            generation,
            target,
            running,
            progress,
            evidence,
        };
        self.tell(second, Event::Observed { device, observation }).unwrap();
    }

    /// One second: every device reports, and time passes. Returns how many devices have the new release as target.
    pub(super) fn second(&mut self, second: u64) -> usize {
        for (device, nature) in self.natures.clone() {
            self.report(second, device, nature);
        }
        self.tell(second, Event::Tick).unwrap();
        self.offered()
    }

    pub(super) fn offered(&self) -> usize {
        self.natures
            .keys()
            .filter(|device| self.target(**device) == Some(release(2)))
            .count()
    }

    pub(super) fn run(&mut self, seconds: std::ops::Range<u64>) {
        seconds.for_each(|second| {
            self.second(second);
        });
    }

    pub(super) fn canary(&self) -> DeviceId {
        *self.natures.keys().min_by_key(|device| Rank::of(**device, 7)).unwrap()
    }
}
