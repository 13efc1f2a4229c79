//! Rényi differential privacy of the Poisson-sampled Gaussian mechanism.
//!
//! Mironov, Talwar and Zhang 2019, "Rényi differential privacy of the sampled Gaussian mechanism", section 3.3; the
//! same series as Opacus. With A = E[(mixture / base)^a], one step costs `ln(A) / (a - 1)` at order a; composition
//! adds at each order; the conversion to epsilon is Balle et al. 2020, "Hypothesis testing interpretations".

use std::sync::LazyLock;

use super::special::{log_add, log_erfc, log_erfcx, log_expm1};
use crate::quantity::{Delta, Epsilon, NoiseMultiplier, SamplingRate};

/// Orders of Opacus (1.1 to 10.9 by 0.1, then 12 to 63), and powers of two for tiny losses at tiny deltas.
static ORDERS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let fractional = (1..100).map(|tenth| 1.0 + f64::from(tenth) / 10.0);
    let integral = (12..64).chain([64, 128, 256, 512]).map(f64::from);
    fractional.chain(integral).collect()
});

/// Added to ln(A) of every step, so that rounding in its sums never understates a loss. It costs 1e-6 of epsilon
/// after a million steps at order 1.1, and less at the orders which matter.
const ROUNDING_MARGIN: f64 = 1e-13;

/// Terms of a fractional series below `exp` of this, relative to its largest, are bounded rather than added.
const NEGLIGIBLE_LOG: f64 = -32.0;

/// Most terms of a fractional series: the remainder of the alternating tail is bounded wherever it is cut.
const MAX_TERMS: u32 = 20_000;

/// The Rényi losses of a composition, one for each of the accountant's orders.
#[derive(Clone, Debug, PartialEq)]
pub struct RdpCurve {
    losses: Vec<f64>,
}

impl RdpCurve {
    /// The curve of no release at all.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            losses: vec![0.0; ORDERS.len()],
        }
    }

    /// The curve of one step.
    #[must_use]
    pub fn of_step(sampling_rate: SamplingRate, noise_multiplier: NoiseMultiplier) -> Self {
        let (q, sigma) = (sampling_rate.get(), noise_multiplier.get());
        Self {
            losses: ORDERS.iter().map(|&order| step_loss(q, sigma, order)).collect(),
        }
    }

    /// Composes with `steps` repetitions of `step`.
    pub fn add_steps(&mut self, step: &Self, steps: u64) {
        for (total, loss) in self.losses.iter_mut().zip(&step.losses) {
            *total += loss * steps as f64;
        }
    }

    /// The smallest epsilon that any order proves at `delta`.
    #[must_use]
    pub fn epsilon(&self, delta: Delta) -> Epsilon {
        // The conversion's bound stays positive at every finite order, but no release costs nothing.
        if self.losses.iter().all(|&loss| loss == 0.0) {
            return Epsilon::ZERO;
        }
        let smallest = smallest_epsilon(&ORDERS, &self.losses, delta.get());
        Epsilon::new(smallest).expect("losses are finite and not negative, and so is the bound from the largest order")
    }
}

/// Balle et al. 2020, theorem 21: `loss + ln(1 - 1/a) - (ln(delta) + ln(a)) / (a - 1)`, smallest over the orders.
fn smallest_epsilon(orders: &[f64], losses: &[f64], delta: f64) -> f64 {
    let bounds = orders.iter().zip(losses).map(|(&order, &loss)| {
        loss + libm::log1p(-1.0 / order) - (libm::log(delta) + libm::log(order)) / (order - 1.0)
    });
    bounds.fold(f64::INFINITY, f64::min).max(0.0)
}

/// The Rényi loss of one step at one order above 1.
fn step_loss(q: f64, sigma: f64, order: f64) -> f64 {
    if q == 1.0 {
        return order / (2.0 * sigma * sigma);
    }
    let log_a = if order.fract() == 0.0 {
        log_a_integral(q, sigma, order as u32)
    } else {
        log_a_fractional(q, sigma, order)
    };
    // A is at least 1 (Jensen), whatever the rounding says.
    (log_a.max(0.0) + ROUNDING_MARGIN) / (order - 1.0)
}

/// `ln(A)` at an integral order: `A = sum_k C(a, k) (1-q)^(a-k) q^k exp((k^2 - k) / 2 sigma^2)`.
///
/// The binomial weights add up to 1, so `A - 1` is the same sum over `exp(..) - 1`: every term is positive and
/// nothing cancels, however small the loss.
fn log_a_integral(q: f64, sigma: f64, order: u32) -> f64 {
    let (log_q, log_rest) = (libm::log(q), libm::log1p(-q));
    let mut log_binomial = 0.0;
    let mut log_excess = f64::NEG_INFINITY;
    for k in 1..=order {
        log_binomial += libm::log(f64::from(order - k + 1)) - libm::log(f64::from(k));
        if k >= 2 {
            let exponent = f64::from(k) * f64::from(k - 1) / (2.0 * sigma * sigma);
            let weight = log_binomial + f64::from(k) * log_q + f64::from(order - k) * log_rest;
            log_excess = log_add(log_excess, weight + log_expm1(exponent));
        }
    }
    log_add(0.0, log_excess)
}

/// `ln(A)` at a fractional order: two series in erfc, for the halves of the line where either density is larger.
///
/// Beyond `a` the binomial coefficients alternate in sign and the terms decrease, so the first term left out bounds
/// the rest; it is added, so that the result is not below the truth.
fn log_a_fractional(q: f64, sigma: f64, order: f64) -> f64 {
    let mut sum = SignedLogSum::default();
    let series = Series::new(q, sigma, order);
    let (mut log_coefficient, mut positive) = (0.0f64, true);
    for i in 0..MAX_TERMS {
        let i = f64::from(i);
        let term = log_coefficient + log_add(series.left(i), series.right(i));
        let alternating = i > order + 1.0;
        if alternating && (term < sum.largest + NEGLIGIBLE_LOG) {
            sum.add(term, true);
            return sum.log();
        }
        sum.add(term, positive);
        let factor = (order - i) / (i + 1.0);
        log_coefficient += libm::log(factor.abs());
        positive ^= factor < 0.0;
    }
    let bound = log_coefficient + log_add(series.left(f64::from(MAX_TERMS)), series.right(f64::from(MAX_TERMS)));
    sum.add(bound, true);
    sum.log()
}

/// The terms of the two fractional series without their binomial coefficient, in logarithms.
struct Series {
    sigma: f64,
    order: f64,
    log_q: f64,
    log_rest: f64,
    /// Where the two mixture components are equally likely.
    crossing: f64,
    /// What remains of a term when `exp(-x^2)` is taken out of erfc and cancelled against the rest by hand.
    log_common: f64,
}

impl Series {
    fn new(q: f64, sigma: f64, order: f64) -> Self {
        let (log_q, log_rest) = (libm::log(q), libm::log1p(-q));
        let crossing = sigma * sigma * (log_rest - log_q) + 0.5;
        let log_common = order * log_rest - crossing * crossing / (2.0 * sigma * sigma);
        Self {
            sigma,
            order,
            log_q,
            log_rest,
            crossing,
            log_common,
        }
    }

    /// `ln(q^i (1-q)^(a-i) exp((i^2 - i) / 2 sigma^2) erfc((i - z) / sqrt(2) sigma) / 2)`.
    fn left(&self, i: f64) -> f64 {
        let argument = (i - self.crossing) / (std::f64::consts::SQRT_2 * self.sigma);
        self.term(i, argument)
    }

    /// The same with `j = a - i` in place of `i`, and the other tail.
    fn right(&self, i: f64) -> f64 {
        let j = self.order - i;
        let argument = (self.crossing - j) / (std::f64::consts::SQRT_2 * self.sigma);
        self.term(j, argument)
    }

    fn term(&self, power: f64, argument: f64) -> f64 {
        let half = -std::f64::consts::LN_2;
        if argument > 0.0 {
            // q^p (1-q)^(a-p) exp((p^2-p)/2s^2) exp(-x^2) = (1-q)^a exp(-z^2/2s^2), exactly: no huge terms cancel.
            return half + self.log_common + log_erfcx(argument);
        }
        let gaussian = (power * power - power) / (2.0 * self.sigma * self.sigma);
        half + power * self.log_q + (self.order - power) * self.log_rest + gaussian + log_erfc(argument)
    }
}

/// A sum of positive and negative terms given by their logarithms.
struct SignedLogSum {
    largest: f64,
    positive: f64,
    negative: f64,
}

impl Default for SignedLogSum {
    fn default() -> Self {
        Self {
            largest: f64::NEG_INFINITY,
            positive: f64::NEG_INFINITY,
            negative: f64::NEG_INFINITY,
        }
    }
}

impl SignedLogSum {
    fn add(&mut self, log_term: f64, positive: bool) {
        self.largest = self.largest.max(log_term);
        let side = if positive {
            &mut self.positive
        } else {
            &mut self.negative
        };
        *side = log_add(*side, log_term);
    }

    /// The logarithm of the sum; minus infinity when rounding leaves nothing positive.
    fn log(&self) -> f64 {
        let difference = self.negative - self.positive;
        if difference >= 0.0 {
            f64::NEG_INFINITY
        } else {
            self.positive + libm::log1p(-libm::exp(difference))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// google/differential-privacy, `rdp_privacy_accountant_test.py`: q 0.01, sigma 2.5, 50 steps; rtol 1e-4.
    #[test]
    fn losses_are_those_of_google() {
        let table = [
            (1.5, 6.70579741e-4),
            (2.5, 1.08548710e-3),
            (5.0, 2.18075656e-3),
            (50.0, 2.38460375e-2),
            (100.0, 1.67416308e2),
        ];
        for (order, expected) in table {
            let loss = 50.0 * step_loss(0.01, 2.5, order);
            assert!(
                (loss / expected - 1.0).abs() < 1e-4,
                "order {order}: {loss}, not {expected}"
            );
        }
    }

    /// mpmath 1.3.0, 40 digits: numerical integration of E[(mixture / base)^a] itself, not of a series.
    #[test]
    fn log_a_is_the_integral_that_defines_it() {
        for (q, sigma, order, expected) in MPMATH_LOG_A {
            let log_a = if order.fract() == 0.0 {
                log_a_integral(q, sigma, order as u32)
            } else {
                log_a_fractional(q, sigma, order)
            };
            let error = log_a - expected;
            assert!(
                error.abs() < 2e-10 * expected + 2e-13,
                "({q}, {sigma}, {order}): {log_a}, not {expected}"
            );
            assert!(
                error + ROUNDING_MARGIN >= -1e-12 * expected,
                "({q}, {sigma}, {order}): {log_a} is below {expected}"
            );
        }
    }

    const MPMATH_LOG_A: [(f64, f64, f64, f64); 17] = [
        (0.04, 1.5, 3.9, 0.0053162863787931895),
        (0.04, 1.5, 4.0, 0.005656020193337339),
        (0.01, 1.0, 1.1, 9.241471084686968e-06),
        (0.01, 1.0, 7.3, 0.004778204174462006),
        (0.16, 0.66, 2.5, 0.6338993668501801),
        (0.16, 1.14, 10.9, 21.570011987734986),
        (0.001, 0.6, 1.5, 5.482335331407746e-06),
        (0.001, 0.6, 5.7, 0.11011571110868813),
        (0.5, 1.0, 1.3, 0.058135710707566644),
        (0.9, 0.8, 3.3, 5.592201253606842),
        (0.9, 5.0, 2.2, 0.04295946802364642),
        (0.3, 0.3, 1.2, 0.4500498013300848),
        (0.3, 0.3, 4.5, 82.08212238053329),
        (0.05, 0.05, 1.1, 18.704694506205225),
        (0.001, 50.0, 6.6, 7.3934921906164385e-09),
        (0.2, 2.0, 32.0, 72.55349800553444),
        (1e-06, 1.0, 1.7, 1.0223768590629734e-12),
    ];

    /// google/differential-privacy, `rdp_privacy_accountant_test.py`: a loss of 1.1 at orders 2 to 32, delta 1e-5.
    #[test]
    fn conversion_is_that_of_google() {
        let orders: Vec<f64> = (2..=32).map(f64::from).collect();
        let epsilon = smallest_epsilon(&orders, &vec![1.1; orders.len()], 1e-5);
        assert!((epsilon - 1.327_838_061_76).abs() < 1e-10, "{epsilon}");
        let best = smallest_epsilon(&orders[30..], &[1.1], 1e-5);
        assert_eq!(epsilon, best, "the best order is 32");
    }

    /// The same file: with dense orders, a Gaussian of sigma 4.530877117 is (1, 1e-6).
    #[test]
    fn a_gaussian_at_dense_orders_is_one_and_one_in_a_million() {
        let orders: Vec<f64> = (1..=100_000).map(|step| 1.0 + f64::from(step) * 1e-3).collect();
        let losses: Vec<f64> = orders
            .iter()
            .map(|order| order / (2.0 * 4.530_877_117f64.powi(2)))
            .collect();
        let epsilon = smallest_epsilon(&orders, &losses, 1e-6);
        assert!((epsilon - 1.0).abs() < 1e-6, "{epsilon}");
    }

    #[test]
    fn the_orders_are_those_of_opacus_and_four_more() {
        assert_eq!(ORDERS.len(), 99 + 52 + 4);
        assert_eq!(
            (ORDERS[0], ORDERS[98], ORDERS[99], ORDERS[150]),
            (1.1, 10.9, 12.0, 63.0)
        );
        assert!(ORDERS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn losses_are_finite_and_grow_with_the_order_over_the_whole_range() {
        for q in [1e-9, 1e-6, 1e-3, 0.16, 0.5, 0.9, 0.999_999, 1.0] {
            for sigma in [0.01, 0.05, 0.3, 0.66, 1.14, 5.0, 50.0, 1e4] {
                let losses: Vec<f64> = ORDERS.iter().map(|&order| step_loss(q, sigma, order)).collect();
                assert!(
                    losses.iter().all(|loss| loss.is_finite() && *loss >= 0.0),
                    "({q}, {sigma})"
                );
                for (index, pair) in losses.windows(2).enumerate() {
                    // The margin is divided by a - 1, so where it dominates the loss falls by at most that.
                    let slack = 1e-9 * pair[0] + 2e-12;
                    assert!(
                        pair[1] >= pair[0] - slack,
                        "({q}, {sigma}) falls after order {}",
                        ORDERS[index]
                    );
                }
                // The sampled mechanism never costs more than the mechanism without sampling.
                for (loss, order) in losses.iter().zip(ORDERS.iter()) {
                    let plain = order / (2.0 * sigma * sigma);
                    assert!(
                        *loss <= plain * (1.0 + 1e-9) + 2e-12,
                        "({q}, {sigma}, {order}): {loss} above {plain}"
                    );
                }
            }
        }
    }
}
