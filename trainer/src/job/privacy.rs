//! What a job costs its participants: the noise that follows from the budget, and the epsilon after each round.

use fieldfare_privacy::limits::MAX_BUDGET_EPSILON;
use fieldfare_privacy::{
    Accountant, Delta, DpSgdParameters, Epsilon, Mechanism, NoiseMultiplier, SamplingRate, calibrate_sigma,
};
use fieldfare_proto::v1::FederatedJobSpec;

/// The private training of a job, decided: parameters of one round, and the budget of all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Privacy {
    pub(super) round: DpSgdParameters,
    pub(super) epsilon: Epsilon,
    pub(super) delta: Delta,
}

/// How epsilon is computed.
const ACCOUNTANT: Accountant = Accountant::Rdp;

impl Privacy {
    /// Decides the noise: what the job says, or the least that keeps all rounds within its budget. A job without a budget, or
    /// one that its own noise would overdraw, is refused.
    pub(super) fn of(spec: &FederatedJobSpec) -> Result<Self, String> {
        if !(spec.epsilon > 0.0 && spec.epsilon <= MAX_BUDGET_EPSILON) {
            return Err(format!(
                "field `epsilon` is {}, expected a privacy budget above 0 and at most {MAX_BUDGET_EPSILON}",
                spec.epsilon
            ));
        }
        let epsilon = Epsilon::new(spec.epsilon).map_err(|error| error.to_string())?;
        let delta = Delta::new(spec.delta).map_err(|error| error.to_string())?;
        let rate = SamplingRate::new(spec.sampling_rate).map_err(|error| error.to_string())?;
        let steps = u64::from(spec.rounds) * u64::from(spec.steps_per_round);
        let sigma = if spec.noise_multiplier == 0.0 {
            calibrate_sigma(ACCOUNTANT, epsilon, delta, rate, steps).map_err(|error| error.to_string())?
        } else {
            NoiseMultiplier::new(spec.noise_multiplier).map_err(|error| error.to_string())?
        };
        let round = DpSgdParameters::from_numbers(
            spec.sampling_rate,
            u64::from(spec.steps_per_round),
            spec.clip_norm,
            sigma.get(),
            u64::from(spec.examples_per_device),
        );
        let privacy = Self {
            round: round.map_err(|error| error.to_string())?,
            epsilon,
            delta,
        };
        let spent = privacy.spent(spec.rounds);
        if spent > spec.epsilon {
            return Err(format!(
                "{} rounds with a noise multiplier of {sigma} spend epsilon {spent:.3}, above the budget of {}",
                spec.rounds, spec.epsilon
            ));
        }
        Ok(privacy)
    }

    /// The mechanisms of so many rounds.
    pub(super) fn mechanism(&self, rounds: u32) -> Mechanism {
        let round = self.round.mechanism();
        Mechanism {
            steps: round.steps * u64::from(rounds),
            ..round
        }
    }

    /// What a device has spent that took part in all of so many rounds.
    pub(super) fn spent(&self, rounds: u32) -> f64 {
        if rounds == 0 {
            0.0
        } else {
            ACCOUNTANT.epsilon(&[self.mechanism(rounds)], self.delta).get()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> FederatedJobSpec {
        FederatedJobSpec {
            rounds: 5,
            steps_per_round: 8,
            sampling_rate: 0.16,
            clip_norm: 0.5,
            examples_per_device: 200,
            epsilon: 8.0,
            delta: 1e-5,
            ..FederatedJobSpec::default()
        }
    }

    #[test]
    fn the_noise_is_the_least_that_keeps_all_rounds_within_the_budget() {
        let privacy = Privacy::of(&spec()).unwrap();
        let spent = privacy.spent(5);
        assert!(spent <= 8.0 && spent > 7.99, "{spent}");
        assert!(privacy.spent(1) < privacy.spent(2));
        assert_eq!(privacy.spent(0), 0.0);
        let stricter = Privacy::of(&FederatedJobSpec { epsilon: 4.0, ..spec() }).unwrap();
        assert!(stricter.round.noise_multiplier() > privacy.round.noise_multiplier());
    }

    #[test]
    fn a_job_without_a_budget_or_beyond_it_is_refused_with_the_numbers() {
        for (spec, reason) in [
            (FederatedJobSpec { epsilon: 0.0, ..spec() }, "`epsilon` is 0"),
            (
                FederatedJobSpec {
                    epsilon: f64::NAN,
                    ..spec()
                },
                "`epsilon` is NaN",
            ),
            (FederatedJobSpec { epsilon: 1e9, ..spec() }, "at most"),
            (FederatedJobSpec { delta: 0.0, ..spec() }, "delta is 0"),
            (
                FederatedJobSpec {
                    sampling_rate: 0.0,
                    ..spec()
                },
                "sampling rate is 0",
            ),
            (
                FederatedJobSpec {
                    sampling_rate: 0.001,
                    ..spec()
                },
                "examples a batch",
            ),
            (
                FederatedJobSpec {
                    clip_norm: -1.0,
                    ..spec()
                },
                "clip norm is -1",
            ),
            (FederatedJobSpec { rounds: 0, ..spec() }, "steps is 0"),
            (
                FederatedJobSpec {
                    noise_multiplier: -1.0,
                    ..spec()
                },
                "noise multiplier is -1",
            ),
            (
                FederatedJobSpec {
                    noise_multiplier: 0.5,
                    ..spec()
                },
                "above the budget of 8",
            ),
        ] {
            let error = Privacy::of(&spec).unwrap_err();
            assert!(error.contains(reason), "{error} does not say {reason}");
        }
        assert!(
            Privacy::of(&FederatedJobSpec {
                noise_multiplier: 50.0,
                ..spec()
            })
            .is_ok()
        );
    }
}
