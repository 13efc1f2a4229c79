//! What a job costs its participants: the noise that follows from the budget, and the epsilon after each round: an upper bound for every device.

use fieldfare_privacy::limits::MAX_BUDGET_EPSILON;
use fieldfare_privacy::{
    Accountant, Delta, DpSgdParameters, Epsilon, Mechanism, NoiseMultiplier, SamplingRate, calibrate_sigma,
};
use fieldfare_proto::v1::{FederatedJobSpec, RoundSummary};

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
        let spent = privacy.cost(spec.rounds);
        if spent > spec.epsilon {
            return Err(format!(
                "{} rounds with a noise multiplier of {sigma} spend epsilon {spent:.3}, above the budget of {}",
                spec.rounds, spec.epsilon
            ));
        }
        Ok(privacy)
    }

    /// The mechanisms of so many attempts.
    pub(super) fn mechanism(&self, attempts: u32) -> Mechanism {
        let round = self.round.mechanism();
        Mechanism {
            steps: round.steps * u64::from(attempts),
            ..round
        }
    }

    /// Epsilon of so many attempts, whatever the budget.
    fn cost(&self, attempts: u32) -> f64 {
        if attempts == 0 {
            0.0
        } else {
            ACCOUNTANT.epsilon(&[self.mechanism(attempts)], self.delta).get()
        }
    }

    /// The most that any device has spent when so many attempts were opened. A device pays for an attempt at most once, for all
    /// of it or not at all, and may have paid also for one that was abandoned afterwards; but it pays for none that would take it
    /// beyond the job's budget, which it checks in its own ledger.
    pub(super) fn spent(&self, attempts: u32) -> f64 {
        self.cost(attempts).min(self.epsilon.get())
    }

    /// The most attempts of those opened that any device has paid for: as many as the job's budget allows. [`Self::spent`] says
    /// why none has paid for more.
    pub(super) fn payable(&self, opened: u32) -> u32 {
        let (mut payable, mut most) = (0, opened);
        while payable < most {
            let middle = most - (most - payable) / 2;
            if self.cost(middle) <= self.epsilon.get() {
                payable = middle;
            } else {
                most = middle - 1;
            }
        }
        payable
    }
}

/// How many attempts were opened: those at committed rounds, each numbered from 1, and those at the round under way.
pub(super) fn opened(committed: &[RoundSummary], under_way: u32) -> u32 {
    let attempts = committed.iter().map(|round| round.attempt);
    attempts.fold(under_way, u32::saturating_add)
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
    fn an_abandoned_attempt_is_counted_since_devices_may_have_paid_for_it() {
        let privacy = Privacy::of(&spec()).unwrap();
        let round = |round, attempt| RoundSummary {
            round,
            attempt,
            ..RoundSummary::default()
        };
        // The first round took two attempts, the second one, and a first attempt at the third is under way.
        let attempts = opened(&[round(1, 2), round(2, 1)], 1);
        assert_eq!(attempts, 4);
        let four_attempts = Mechanism {
            steps: 4 * 8,
            ..privacy.round.mechanism()
        };
        let expected = Accountant::Rdp.epsilon(&[four_attempts], privacy.delta).get();
        assert_eq!(privacy.spent(attempts), expected);
        assert_eq!(privacy.mechanism(privacy.payable(attempts)), four_attempts);
    }

    #[test]
    fn no_device_pays_beyond_the_jobs_budget_however_many_attempts_are_abandoned() {
        let privacy = Privacy::of(&spec()).unwrap();
        assert!(privacy.cost(6) > 8.0, "the noise is calibrated to five rounds");
        for opened in [6, 7, 1000] {
            assert_eq!((privacy.spent(opened), privacy.payable(opened)), (8.0, 5));
        }
        assert_eq!((privacy.payable(0), privacy.payable(1), privacy.payable(5)), (0, 1, 5));
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
