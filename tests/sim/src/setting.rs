//! What a life is made of, drawn from its seed before it begins: the fleet, its releases, and its troubles.

use std::collections::BTreeMap;
use std::time::Duration;

use fieldfare_fleet::install::InstallPolicy;
use fieldfare_fleet::placement::{Requirements, VariantSpec};
use fieldfare_fleet::rollout::{Bound, DeadlineRule, Gate, Metric, MinimumEvidence, RolloutPolicy, WaveSize};
use fieldfare_fleet::{
    ByteSize, CapabilityProfile, DeploymentName, DeviceId, Digest, JobName, ModelName, ReleaseId, ReleaseNumber,
    Timestamp, TokensPerSecond, known_model, reference_profiles,
};

use fieldfare_privacy::{Budget, DpSgdParameters, RingCodec, RingParameters};

use crate::device::Private;
use crate::dice::{Dice, digest, mixed};
use crate::round::JobMade;

/// When every life begins.
pub(crate) const BEGINNING: Timestamp = Timestamp::from_unix_ms(1_000_000_000_000);

/// Fewest devices of a large life: its devices speak less often, so that it takes seconds and not minutes.
const LARGE: u32 = 500;

/// How a release does on the devices that it does badly on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Good,
    FailsToLoad,
    CrashesSoon,
    CrashesLater,
    Slow,
    Empty,
}

/// A release of the model.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) id: ReleaseId,
    pub(crate) manifest: Digest,
    pub(crate) nature: Nature,
    /// Share of devices that it does badly on.
    pub(crate) afflicted: f64,
}

impl Release {
    /// How it does on a device: always the same.
    pub(crate) fn nature_on(&self, device: DeviceId) -> Nature {
        let draw = digest(&[device.as_bytes().as_slice(), &self.id.number.0.to_le_bytes()].concat());
        let share = f64::from(u16::from_le_bytes([draw[0], draw[1]])) / 65_536.0;
        if share < self.afflicted {
            self.nature
        } else {
            Nature::Good
        }
    }
}

/// How often things go wrong before the quiet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Troubles {
    /// A message in so many breaks the connection that carries it.
    pub(crate) loss: f64,
    /// Mean time on the way.
    pub(crate) latency: Duration,
    /// What devices say comes in any order, and some messages come twice. TLS never does that; the deciders must not mind. What they
    /// are told comes in order: of one generation the later word counts.
    pub(crate) unordered: bool,
    /// A process in so many dies where it has decided and before, or while, it does what it decided.
    pub(crate) crash_at_step: f64,
    /// Mean time between two crashes of devices, of the fleet together.
    pub(crate) device_crash: Duration,
    /// Mean time between two devices that are switched off for long.
    pub(crate) power_off: Duration,
    /// Mean time between two partitions.
    pub(crate) cut: Duration,
    /// Mean time between two crashes of the controller.
    pub(crate) controller_crash: Duration,
    /// Mean time between two crashes of trainers.
    pub(crate) trainer_crash: Duration,
    /// Mean time between two owners who change their mind.
    pub(crate) owner: Duration,
    /// Mean time between two lies of a server.
    pub(crate) server_lies: Duration,
    /// Mean time between two devices whose installed bytes change on the disk.
    pub(crate) damage: Duration,
    /// Share of devices that lie.
    pub(crate) liars: f64,
    /// Mean time between two orders of the operator that nobody expects.
    pub(crate) whim: Duration,
}

/// What a life is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) devices: u32,
    pub(crate) deployment: DeploymentName,
    pub(crate) releases: Vec<Release>,
    pub(crate) variants: Vec<VariantSpec>,
    pub(crate) requirements: Requirements,
    pub(crate) install: InstallPolicy,
    pub(crate) troubles: Troubles,
    /// Between two heartbeats of a device.
    pub(crate) heartbeat: Duration,
    /// Between two looks of the controller at what is new.
    pub(crate) look: Duration,
    /// From when on nothing goes wrong any more.
    pub(crate) quiet_at: Timestamp,
    /// By when all must have settled.
    pub(crate) settled_by: Timestamp,
}

impl Setting {
    pub(crate) fn draw(devices: u32, dice: &mut Dice) -> Self {
        let large = devices >= LARGE;
        let quiet_at = BEGINNING.saturating_add(dice.seconds(if large { 1800..=3600 } else { 1800..=5400 }));
        Self {
            devices,
            deployment: name("fields"),
            releases: (1..=8).map(|number| release(number, dice)).collect(),
            variants: known_model("tinyllama-1.1b")
                .map(|m| m.architecture.variants())
                .unwrap_or_default(),
            requirements: Requirements {
                min_tokens_per_second: TokensPerSecond::clamped(1.0),
                context: 256,
                max_memory: None,
                max_loss: None,
            },
            install: InstallPolicy {
                confirm_window: dice.seconds(10..=60),
                crash_window: dice.seconds(60..=600),
                max_crashes: 3,
                max_attempts: 5,
                retry_after: Duration::from_secs(2),
                disk_reserve: ByteSize::from_mib(64),
            },
            troubles: troubles(devices, dice),
            heartbeat: Duration::from_secs(if large { 60 } else { 15 }),
            look: Duration::from_secs(if large { 15 } else { 5 }),
            quiet_at,
            settled_by: quiet_at.saturating_add(Duration::from_secs(4 * 3600)),
        }
    }

    /// When the operator ends what has not ended by itself.
    pub(crate) fn last_order_at(&self) -> Timestamp {
        self.quiet_at.saturating_add(Duration::from_secs(2 * 3600))
    }

    pub(crate) fn release(&self, id: &ReleaseId) -> Option<&Release> {
        let index = usize::try_from(id.number.0).ok()?.checked_sub(1)?;
        self.releases.get(index)
    }

    /// A federated job with this number on a release. Without subsampling the accountant has a closed form, which a thousand lives
    /// need; its rules are the same.
    pub(crate) fn job(&self, number: u64, base: ReleaseId) -> JobMade {
        let mut dice = Dice::new(number);
        let cohort = u32::try_from(dice.within(4..=20)).unwrap_or(4);
        let steps = dice.within(1..=4);
        let dp = DpSgdParameters::from_numbers(1.0, steps, 1.0, dice.one_of(&[2.0, 4.0, 8.0]), 10);
        let ring = RingParameters {
            length: 4,
            range: 1.0,
            ring_bits: 32,
            cohort_limit: 1024,
        };
        JobMade {
            name: JobName::new(format!("job-{number:x}")).expect("a name of the simulation"),
            base,
            rounds: u32::try_from(dice.within(1..=3)).unwrap_or(1),
            cohort,
            quorum: u32::try_from(dice.within(2..=u64::from(cohort / 2))).unwrap_or(2),
            max_attempts: 3,
            collect_ms: dice.within(60_000..=400_000),
            seed: dice.number(),
            mechanism: dp.expect("parameters of the simulation").mechanism(),
            budget: Budget::from_numbers(dice.one_of(&[1.0, 3.0, 1e4]), 1e-5).expect("a budget of the simulation"),
            codec: RingCodec::new(ring).expect("a ring of the simulation"),
        }
    }

    /// How a rollout may move through this fleet. The first one has nothing to compare with.
    pub(crate) fn policy(&self, is_first: bool, dice: &mut Dice) -> RolloutPolicy {
        let small = u32::try_from(dice.within(2..=6)).unwrap_or(2);
        let waves = match dice.below(4) {
            0 => vec![WaveSize::Percent(100)],
            1 => vec![WaveSize::Count(small), WaveSize::Percent(100)],
            2 => vec![WaveSize::Count(small), WaveSize::Percent(25), WaveSize::Percent(100)],
            _ => vec![
                WaveSize::Count(small),
                WaveSize::Count(small + 4),
                WaveSize::Percent(50),
                WaveSize::Percent(100),
            ],
        };
        let most = u64::from(self.devices);
        RolloutPolicy {
            waves,
            gates: gates(is_first, dice),
            max_unavailable: u32::try_from(dice.within(most.div_ceil(20)..=most.div_ceil(3))).unwrap_or(1),
            minimum_evidence: MinimumEvidence {
                devices: u32::try_from(dice.within(1..=3)).unwrap_or(1),
                probes: u32::try_from(dice.within(0..=8)).unwrap_or(0),
                requests: 4,
            },
            observation: dice.seconds(0..=90),
            wave_deadline: dice.seconds(900..=3600),
            on_deadline: dice.one_of(&[DeadlineRule::Hold, DeadlineRule::RollBack]),
            offline_after: self.heartbeat * u32::try_from(dice.within(3..=8)).unwrap_or(3),
        }
    }
}

fn name(text: &str) -> DeploymentName {
    DeploymentName::new(text).expect("a name of the simulation")
}

fn release(number: u64, dice: &mut Dice) -> Release {
    let natures = [
        Nature::FailsToLoad,
        Nature::CrashesSoon,
        Nature::CrashesLater,
        Nature::Slow,
        Nature::Empty,
    ];
    let bad = dice.chance(if number == 1 { 0.1 } else { 0.4 });
    Release {
        id: ReleaseId {
            model: ModelName::new("soil").expect("a name of the simulation"),
            number: ReleaseNumber(number),
        },
        manifest: Digest::from_bytes(digest(&number.to_le_bytes())),
        nature: if bad { dice.one_of(&natures) } else { Nature::Good },
        afflicted: dice.one_of(&[1.0, 1.0, 0.3]),
    }
}

fn gates(is_first: bool, dice: &mut Dice) -> Vec<Gate> {
    let all = [
        (Metric::CrashingDevices, Bound::AtMost(0.2)),
        (Metric::CannotConverge, Bound::AtMost(0.25)),
        (Metric::ProbeExactMatch, Bound::AtLeast(0.5)),
        (Metric::TokensPerSecond, Bound::AtLeastTimesPrevious(0.5)),
        (Metric::LatencyP95, Bound::AtMostTimesPrevious(2.0)),
        (Metric::Confidence, Bound::AtLeast(0.4)),
        (Metric::ErrorRate, Bound::AtMost(0.3)),
    ];
    all.into_iter()
        .filter(|(_, bound)| dice.chance(0.6) && !(is_first && bound.is_relative()))
        .map(|(metric, bound)| Gate { metric, bound })
        .collect()
}

/// Some lives have little trouble, and some have every kind of it.
fn troubles(devices: u32, dice: &mut Dice) -> Troubles {
    const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);
    let mut sometimes = |often: Duration| {
        if dice.chance(0.6) {
            often.mul_f64(0.3 + dice.share() * 2.0)
        } else {
            NEVER
        }
    };
    let each = |mean: u64| Duration::from_secs(mean) / devices.max(1);
    let (device_crash, power_off, damage) = (sometimes(each(3000)), sometimes(each(6000)), sometimes(each(30_000)));
    let (cut, controller_crash) = (sometimes(Duration::from_secs(600)), sometimes(Duration::from_secs(900)));
    let (trainer_crash, whim) = (
        sometimes(Duration::from_secs(600)),
        sometimes(Duration::from_secs(1800)),
    );
    let (owner, server_lies) = (sometimes(each(10_000)), sometimes(Duration::from_secs(120)));
    Troubles {
        loss: dice.one_of(&[0.0, 0.001, 0.02]),
        latency: Duration::from_millis(dice.one_of(&[5, 80, 1500])),
        unordered: dice.chance(0.3),
        crash_at_step: dice.one_of(&[0.0, 0.002, 0.01]),
        device_crash,
        power_off,
        cut,
        controller_crash,
        trainer_crash,
        owner,
        server_lies,
        damage,
        liars: dice.one_of(&[0.0, 0.0, 0.0, 0.05, 0.25]),
        whim,
    }
}

/// The identity of the device with this number; every life has other ones.
pub(crate) fn device_id(number: u32, seed: u64) -> DeviceId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[4..12].copy_from_slice(&mixed(seed ^ u64::from(number)).to_be_bytes());
    DeviceId::from_bytes(bytes)
}

/// The number of a device.
pub(crate) fn number_of(id: DeviceId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// What a device is: one of the reference devices, with more or less memory for the model. A few cannot run any variant.
pub(crate) fn profile(dice: &mut Dice) -> CapabilityProfile {
    let profiles = reference_profiles();
    let mut profile = profiles[dice.index(profiles.len())].clone();
    if dice.chance(0.02) {
        profile.model_memory = ByteSize::from_mib(64);
    } else {
        profile.model_memory = ByteSize::new(profile.model_memory.get() / dice.within(1..=3));
    }
    profile
}

/// What the owner of a device lets its data pay, and whether at all.
pub(crate) fn private(dice: &mut Dice) -> Private {
    let epsilon = dice.one_of(&[0.0, 1.0, 2.0, 4.0, 8.0]);
    Private {
        budget: Budget::from_numbers(epsilon, 1e-5).expect("a budget of the simulation"),
        consent: dice.chance(0.9),
        removals: 0,
        records: Vec::new(),
        contributions: BTreeMap::new(),
    }
}
