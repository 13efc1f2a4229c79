//! The shell around an installation: steps take time and fail, processes start and die.

use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::install::{Assignment, Event, Installed, Stage, StepFailure};
use fieldfare_fleet::rollout::{Evidence, Observation};
use fieldfare_fleet::{ByteSize, Digest, Fraction, TokensPerSecond};

use super::{Bytes, Device, Unresolved};
use crate::ground::Ground;
use crate::message::Doing;
use crate::setting::Nature;

/// How often what cannot be looked up is looked up again.
const RESOLVE_RETRY: Duration = Duration::from_secs(5);

/// Probes of every release.
const PROBES: u32 = 4;

impl Device {
    /// Takes in what the controller wants, which may be what it wanted before.
    pub(super) fn hear_desired(&mut self, ground: &mut Ground) {
        let Some(process) = &mut self.process else { return };
        process.look_up = process.number();
        let Some(entry) = process.desired.as_ref().and_then(|desired| desired.entry.clone()) else {
            return;
        };
        let kept = &mut self.disk.kept;
        if !kept.deployed {
            kept.deployed = true;
            kept.install.change_deployment();
        }
        let Some((release, variant)) = entry.named else {
            process.unresolved = None;
            kept.target = None;
            let assignment = entry.assignment;
            return self.tell(
                ground,
                Event::Unassigned {
                    assignment,
                    obstacle: None,
                },
            );
        };
        if !kept
            .install
            .asks_for(entry.assignment, Some(&release), variant.as_str())
        {
            return;
        }
        process.unresolved = Some(Unresolved {
            generation: entry.assignment,
            release,
            variant,
            obstacle: None,
        });
        let number = process.look_up;
        let assignment = entry.assignment;
        self.tell(ground, Event::Superseded { assignment });
        let wait = ground.dice.millis(50..=1000);
        self.plan(ground, wait, Doing::Resolved { number });
    }

    /// The signed metadata say what the assigned release is, if they can be had.
    pub(super) fn hear_of_release(&mut self, ground: &mut Ground, number: u64) {
        let Some(process) = &mut self.process else { return };
        if process.look_up != number {
            return;
        }
        if ground.is_cut(self.number) {
            process.look_up = process.number();
            let number = process.look_up;
            return self.plan(ground, RESOLVE_RETRY, Doing::LookUp { number });
        }
        let Some(unresolved) = process.unresolved.take() else {
            return;
        };
        let Unresolved {
            generation,
            release,
            variant,
            ..
        } = unresolved;
        let manifest = ground
            .setting
            .release(&release)
            .map_or(Digest::from_bytes([0; 32]), |release| release.manifest);
        let here = self.disk.shelf.of(&release, &variant).is_some();
        let assignment = Assignment {
            install: Installed {
                release: release.clone(),
                variant,
                manifest,
                assignment: generation,
            },
            bytes_missing: if here { ByteSize::ZERO } else { ByteSize::from_mib(600) },
            probes_required: 0,
        };
        let disk_free = ByteSize::from_gib(8);
        self.tell_with(ground, Event::Assigned { assignment, disk_free }, |kept| {
            kept.target = Some(release)
        });
    }

    fn nature(&self, ground: &Ground, installed: &Installed) -> Nature {
        let release = ground.setting.release(&installed.release);
        release.map_or(Nature::Good, |release| release.nature_on(self.id))
    }

    pub(super) fn begin_step(&mut self, ground: &mut Ground, stage: Stage, install: Rc<Installed>) {
        let Some(process) = &mut self.process else { return };
        if stage <= Stage::WarmUp {
            process.candidate = None;
        }
        process.step = process.number();
        let number = process.step;
        let takes = match stage {
            Stage::Fetch if self.disk.shelf.bytes(&install).is_some() => ground.dice.millis(1..=50),
            Stage::Fetch => ground.dice.millis(3000..=40_000),
            Stage::Verify => ground.dice.millis(200..=3000),
            Stage::Stage | Stage::Switch | Stage::Confirm => Duration::from_millis(1),
            Stage::WarmUp => ground.dice.millis(1000..=8000),
            Stage::Probe => ground.dice.millis(1000..=8000),
        };
        self.plan(ground, takes, Doing::StepEnds { number, stage, install });
    }

    pub(super) fn end_step(&mut self, ground: &mut Ground, number: u64, stage: Stage, install: Rc<Installed>) {
        let Some(process) = &self.process else { return };
        // A step that was given up is told of all the same where its end was on its way already.
        if process.step != number && !ground.dice.chance(0.2) {
            return;
        }
        let assignment = install.assignment;
        if !self.disk.kept.install.is_under_way(assignment, stage) {
            return;
        }
        // An outage is nobody's failure: these steps wait it out.
        if matches!(stage, Stage::Fetch | Stage::Verify) && ground.is_cut(self.number) {
            let wait = ground.dice.seconds(1..=60);
            return self.plan(ground, wait, Doing::StepEnds { number, stage, install });
        }
        if let Some(failure) = self.failure(ground, stage, &install) {
            let event = Event::Failed {
                assignment,
                stage,
                failure,
            };
            return self.tell(ground, event);
        }
        match stage {
            Stage::Fetch => self.disk.shelf.put(&install),
            Stage::WarmUp => {
                if let Some(process) = &mut self.process {
                    process.candidate = Some((Rc::clone(&install), Evidence::default()));
                }
            }
            Stage::Probe => return self.probed(ground, &install),
            Stage::Switch => return self.switch(ground, &install),
            Stage::Verify | Stage::Stage | Stage::Confirm => {}
        }
        self.tell(ground, Event::Done { assignment, stage });
    }

    /// What goes wrong with a step.
    fn failure(&mut self, ground: &mut Ground, stage: Stage, install: &Installed) -> Option<StepFailure> {
        let bytes = self.disk.shelf.bytes(install);
        let candidate = self.process.as_ref().and_then(|process| process.candidate.as_ref());
        let transient = |text: &str| Some(StepFailure::Transient(text.to_owned()));
        match stage {
            Stage::Verify | Stage::WarmUp if bytes != Some(Bytes::Whole) => {
                self.disk.shelf.remove(install);
                transient("other bytes")
            }
            Stage::WarmUp if self.nature(ground, install) == Nature::FailsToLoad => {
                Some(StepFailure::Permanent("the model does not load".to_owned()))
            }
            Stage::Probe | Stage::Switch if candidate.is_none_or(|(loaded, _)| !loaded.same_bytes(install)) => {
                transient("the serving process is gone")
            }
            Stage::Probe if self.nature(ground, install) == Nature::CrashesSoon && ground.dice.chance(0.3) => {
                transient("probes got no answer")
            }
            _ if !ground.is_quiet() && ground.dice.chance(0.01) => transient("bad luck"),
            _ => None,
        }
    }

    fn probed(&mut self, ground: &mut Ground, install: &Installed) {
        let nature = self.nature(ground, install);
        let evidence = evidence(nature, ground);
        let (matched, run) = (evidence.probes_matched, evidence.probes_run);
        if let Some((_, known)) = self.process.as_mut().and_then(|process| process.candidate.as_mut()) {
            *known = evidence;
        }
        let assignment = install.assignment;
        self.tell(
            ground,
            Event::Probed {
                assignment,
                matched,
                run,
            },
        );
    }

    fn switch(&mut self, ground: &mut Ground, install: &Installed) {
        let (assignment, stage) = (install.assignment, Stage::Switch);
        let Some(process) = &mut self.process else { return };
        let mut evidence = None;
        if let Some((candidate, shown)) = process.candidate.take() {
            evidence = Some(shown);
            process.restarts = 0;
            process.start = process.number();
            self.serve(ground, candidate);
        }
        self.tell_with(ground, Event::Done { assignment, stage }, |kept| {
            if let Some(evidence) = evidence {
                kept.evidence = evidence;
            }
        });
    }

    /// A process serves this release from now on.
    fn serve(&mut self, ground: &mut Ground, installed: Rc<Installed>) {
        let dies = match self.nature(ground, &installed) {
            Nature::CrashesSoon => Some(ground.dice.until_next(Duration::from_secs(3))),
            Nature::CrashesLater => Some(ground.dice.until_next(Duration::from_secs(120))),
            Nature::Good | Nature::FailsToLoad | Nature::Slow | Nature::Empty => None,
        };
        self.touched = true;
        let Some(process) = &mut self.process else { return };
        let number = process.number();
        process.serving = Some((installed, number));
        if let Some(wait) = dies {
            self.plan(ground, wait, Doing::ServingDies { number });
        }
    }

    /// Starts a release that serves already as far as the state says.
    pub(super) fn start(&mut self, ground: &mut Ground, installed: Rc<Installed>) {
        let Some(process) = &mut self.process else { return };
        if process
            .serving
            .as_ref()
            .is_some_and(|(serving, _)| serving.same_bytes(&installed))
        {
            return;
        }
        process.serving = None;
        process.start = process.number();
        let number = process.start;
        let doublings = process.restarts.min(8);
        process.restarts += 1;
        let wait = Duration::from_millis(200 << doublings).saturating_add(ground.dice.millis(500..=4000));
        let install = installed;
        self.plan(ground, wait, Doing::Started { number, install });
    }

    pub(super) fn hear_of_start(&mut self, ground: &mut Ground, number: u64, install: Rc<Installed>) {
        let Some(process) = &self.process else { return };
        if process.start != number && !ground.dice.chance(0.2) {
            return;
        }
        let active = self.disk.kept.install.active.as_ref();
        if process.serving.is_some() || !active.is_some_and(|active| active.same_bytes(&install)) {
            return;
        }
        if self.disk.shelf.bytes(&install) != Some(Bytes::Whole) {
            self.disk.shelf.remove(&install);
            let install = Installed::clone(&install);
            self.tell(ground, Event::Damaged { install });
            return self.hear_desired(ground);
        }
        if self.nature(ground, &install) == Nature::FailsToLoad {
            return self.crashed(ground);
        }
        self.serve(ground, install);
    }

    pub(super) fn hear_of_end(&mut self, ground: &mut Ground, number: u64) {
        let Some(process) = &mut self.process else { return };
        if process.serving.as_ref().is_some_and(|(_, serving)| *serving == number) {
            process.serving = None;
            self.crashed(ground);
        }
    }

    fn crashed(&mut self, ground: &mut Ground) {
        self.tell_with(ground, Event::Crashed, |kept| {
            kept.evidence.crashes = kept.evidence.crashes.saturating_add(1);
        });
    }

    /// Throws away all bytes but those that the state says must stay.
    pub(super) fn keep_only(&mut self) {
        let install = &self.disk.kept.install;
        let kept: Vec<&Installed> = install.kept().collect();
        self.disk.shelf.keep_only(&kept);
        if install.candidate.is_none()
            && let Some(process) = &mut self.process
        {
            process.candidate = None;
            process.step = process.number();
        }
    }

    /// What it says of itself, when it is honest.
    pub(super) fn observation(&self) -> Option<Observation> {
        let kept = &self.disk.kept;
        if !kept.deployed {
            return None;
        }
        let unresolved = self.process.as_ref().and_then(|process| process.unresolved.as_ref());
        let (generation, progress) = kept
            .install
            .report(unresolved.map(|u| (u.generation, u.obstacle.as_ref())));
        Some(Observation {
            generation,
            target: unresolved.map_or_else(|| kept.target.clone(), |u| Some(u.release.clone())),
            running: kept.install.active.as_ref().map(|active| active.release.clone()),
            progress,
            evidence: kept.evidence.clone(),
        })
    }
}

/// What probing a release of this nature shows.
fn evidence(nature: Nature, ground: &mut Ground) -> Evidence {
    let wrong = u32::from(ground.dice.chance(0.1));
    let (matched, errors) = match nature {
        Nature::Empty => (0, 0),
        _ => (PROBES - wrong, 0),
    };
    let slower = if nature == Nature::Slow {
        6.0
    } else {
        0.9 + ground.dice.share() / 5.0
    };
    Evidence {
        crashes: 0,
        probes_run: PROBES,
        probes_matched: matched,
        probe_loss: None,
        requests: u64::from(PROBES),
        errors,
        latency_p95_ms: Some((200.0 * slower) as u64),
        tokens_per_second: Some(TokensPerSecond::clamped(20.0 / slower)),
        confidence: Fraction::new(if nature == Nature::Empty { 0.1 } else { 0.8 }).ok(),
    }
}
