//! What a lying device says instead of what is.

use fieldfare_fleet::rollout::{Evidence, Observation, Progress};
use fieldfare_fleet::{ByteSize, BytesPerSecond, CapabilityProfile, Fraction, Generation, Obstacle, TokensPerSecond};

use super::Device;
use crate::ground::Ground;

impl Device {
    /// What it says of itself.
    pub(super) fn said(&self, ground: &mut Ground) -> Option<Observation> {
        let honest = self.observation()?;
        Some(if self.lies(ground) {
            self.lie(ground, honest)
        } else {
            honest
        })
    }

    /// Each of these can be written in a message: what cannot is refused where messages are read.
    fn lie(&self, ground: &mut Ground, honest: Observation) -> Observation {
        let wanted = self
            .process
            .as_ref()
            .and_then(|process| process.desired.as_ref())
            .and_then(|desired| desired.entry.as_ref());
        let named = wanted
            .and_then(|entry| entry.named.as_ref())
            .map(|(release, _)| release.clone());
        let assigned = wanted.map_or(honest.generation, |entry| entry.assignment);
        let pretended = Observation {
            generation: assigned,
            target: named.clone(),
            running: named,
            progress: Progress::Converged,
            evidence: flawless(),
        };
        match ground.dice.below(8) {
            // Garbage generations: of the future, of another epoch, of the past.
            0 => Observation {
                generation: Generation {
                    counter: honest.generation.counter + ground.dice.within(1..=1000),
                    ..honest.generation
                },
                ..pretended
            },
            1 => Observation {
                generation: Generation { epoch: 7, counter: 0 },
                ..pretended
            },
            2 => Observation {
                generation: Generation::ZERO,
                ..honest
            },
            // It has done nothing, and says that all is well.
            3 => pretended,
            // It cannot, for a reason that it makes up.
            4 => Observation {
                progress: Progress::CannotConverge(Obstacle::WarmUp { detail: "no".into() }),
                ..pretended
            },
            // Figures beyond every counter.
            5 => Observation {
                evidence: Evidence {
                    crashes: u32::MAX,
                    probes_run: u32::MAX,
                    probes_matched: u32::MAX,
                    requests: u64::MAX,
                    errors: u64::MAX,
                    latency_p95_ms: Some(u64::MAX),
                    tokens_per_second: Some(TokensPerSecond::clamped(0.0)),
                    ..flawless()
                },
                ..pretended
            },
            // It runs what nobody gave it.
            6 => Observation {
                running: ground.setting.releases.last().map(|release| release.id.clone()),
                ..honest
            },
            _ => honest,
        }
    }

    pub(super) fn impossible_profile(&self, ground: &mut Ground) -> CapabilityProfile {
        let mut profile = CapabilityProfile::clone(&self.profile);
        match ground.dice.below(3) {
            0 => profile.memory_bandwidth = BytesPerSecond::new(u64::MAX),
            1 => profile.model_memory = ByteSize::from_gib(1 << 20),
            _ => profile.cores = 0,
        }
        profile
    }
}

fn flawless() -> Evidence {
    Evidence {
        probes_run: 1000,
        probes_matched: 1000,
        requests: 1000,
        latency_p95_ms: Some(1),
        tokens_per_second: Some(TokensPerSecond::clamped(1e5)),
        confidence: Fraction::new(1.0).ok(),
        ..Evidence::default()
    }
}
