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

/// A fractional series is cut where its terms fall below `exp` of this, relative to its largest.
const NEGLIGIBLE_LOG: f64 = -32.0;

/// Terms after which a fractional series is cut even where they fall slowly (little noise, or q near a half). The bound
/// that stands for the rest is then within 1e-10 of it; a loss that small never decides an epsilon.
const MAX_TERMS: u32 = 2_000;

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
/// Beyond `a` the terms alternate in sign, and without it they are `|C(a, i)|` (a Beta integral in i) times erfcx of a
/// rising argument: products of completely monotone functions, hence falling and convex. The rest of such a series is
/// at least half its first term, so cutting it before a negative term and subtracting half of that term leaves an upper
/// bound.
fn log_a_fractional(q: f64, sigma: f64, order: f64) -> f64 {
    let mut sum = SignedLogSum::default();
    let series = Series::new(q, sigma, order);
    let (mut log_coefficient, mut positive) = (0.0f64, true);
    for index in 0u32.. {
        let i = f64::from(index);
        let term = log_coefficient + log_add(series.left(i), series.right(i));
        let may_cut = i > order + 1.0 && !positive;
        if may_cut && (term < sum.largest + NEGLIGIBLE_LOG || index >= MAX_TERMS) {
            sum.add(term - std::f64::consts::LN_2, false);
            break;
        }
        sum.add(term, positive);
        let factor = (order - i) / (i + 1.0);
        log_coefficient += libm::log(factor.abs());
        positive ^= factor < 0.0;
    }
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
mod tests;
