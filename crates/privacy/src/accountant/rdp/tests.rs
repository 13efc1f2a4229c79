//! The Rényi losses against other programs, and against the integral that defines them.

use super::*;

/// dp-accounting's series at fractional orders: the terms by absolute value, where we (as Opacus and the integral
/// below) keep their alternating signs. Safe, and looser by up to a few per cent at low orders.
fn step_loss_of_dp_accounting(q: f64, sigma: f64, order: f64) -> f64 {
    if order.fract() == 0.0 || q == 1.0 {
        return step_loss(q, sigma, order);
    }
    let series = Series::new(q, sigma, order);
    let (mut log_coefficient, mut log_a) = (0.0f64, f64::NEG_INFINITY);
    for i in (0..5_000).map(f64::from) {
        log_a = log_add(log_a, log_coefficient + log_add(series.left(i), series.right(i)));
        log_coefficient += libm::log(((order - i) / (i + 1.0)).abs());
    }
    log_a / (order - 1.0)
}

/// google/differential-privacy, `rdp_privacy_accountant_test.py`: q 0.01, sigma 2.5, 50 steps; rtol 1e-4 there.
/// At order 1.5 its series is 3 % above the integral, which is 6.50070897188e-4 (mpmath 1.3.0).
#[test]
fn losses_are_those_of_google_where_its_series_is_exact() {
    let table = [
        (1.5, 6.70579741e-4, 6.50070897188e-4),
        (2.5, 1.08548710e-3, 1.08541805692e-3),
        (5.0, 2.18075656e-3, 2.18075656e-3),
        (50.0, 2.38460375e-2, 2.38460375e-2),
        (100.0, 1.67416308e2, 1.67416308e2),
    ];
    for (order, google, integral) in table {
        let loss = 50.0 * step_loss(0.01, 2.5, order);
        assert!(
            (loss / integral - 1.0).abs() < 1e-7,
            "order {order}: {loss}, not {integral}"
        );
        let loose = 50.0 * step_loss_of_dp_accounting(0.01, 2.5, order);
        assert!(
            (loose / google - 1.0).abs() < 1e-7,
            "order {order}: {loose}, not {google}"
        );
    }
}

/// dp-accounting 0.6.0, RDP: (q, sigma, steps, delta, epsilon). Its own series gives its values to the printed digits;
/// ours are never larger, and smaller by at most 0.5 % (mpmath's integral confirms one of the largest differences:
/// 14.311950 at order 2.3 where dp-accounting says 14.361076).
#[test]
fn epsilon_is_that_of_dp_accounting_but_for_its_looser_fractional_orders() {
    // dp-accounting's default orders.
    let fractional = (1..100).map(|tenth| 1.0 + f64::from(tenth) / 10.0);
    let orders: Vec<f64> = fractional
        .chain((11..64).chain([128, 256, 512, 1024]).map(f64::from))
        .collect();
    for (q, sigma, steps, at, expected) in DP_ACCOUNTING {
        let losses: Vec<f64> = orders
            .iter()
            .map(|&order| steps * step_loss_of_dp_accounting(q, sigma, order))
            .collect();
        let theirs = smallest_epsilon(&orders, &losses, at);
        assert!(
            (theirs - expected).abs() < 1.5e-6,
            "({q}, {sigma}, {steps}, {at}): {theirs}, not {expected}"
        );
        let losses: Vec<f64> = ORDERS.iter().map(|&order| steps * step_loss(q, sigma, order)).collect();
        let ours = smallest_epsilon(&ORDERS, &losses, at);
        assert!(
            ours <= expected + 1e-6,
            "({q}, {sigma}, {steps}, {at}): {ours} above {expected}"
        );
        assert!(
            ours >= expected * 0.995,
            "({q}, {sigma}, {steps}, {at}): {ours} below {expected}"
        );
    }
    let worst = RdpCurve::of_step(
        SamplingRate::new(0.05).expect("rate"),
        NoiseMultiplier::new(0.7).expect("sigma"),
    );
    let mut composed = RdpCurve::nothing();
    composed.add_steps(&worst, 300);
    let epsilon = composed.epsilon(Delta::new(1e-5).expect("delta")).get();
    assert!((epsilon - 14.311_949_615_33).abs() < 1e-8, "{epsilon}");
}

const DP_ACCOUNTING: [(f64, f64, f64, f64, f64); 20] = [
    (0.01, 1.0, 1000.0, 1e-5, 2.101367),
    (0.01, 0.8, 1000.0, 1e-5, 3.695613),
    (0.004, 1.1, 15000.0, 1e-5, 2.502871),
    (0.02, 2.0, 500.0, 1e-6, 1.154468),
    (0.1, 1.5, 100.0, 1e-5, 3.923544),
    (0.1, 5.0, 200.0, 1e-5, 1.203454),
    (1.0, 10.0, 50.0, 1e-5, 3.188992),
    (0.001, 0.6, 10000.0, 1e-6, 3.999186),
    (0.05, 0.7, 300.0, 1e-5, 14.361076),
    (0.01, 1.1, 10000.0, 1e-5, 5.632011),
    (256.0 / 60000.0, 1.1, 14062.0, 1e-5, 2.596556),
    (0.1, 1.0, 100.0, 1e-5, 7.903850),
    (0.1, 2.0, 50.0, 1e-5, 1.843952),
    (0.02, 0.7, 500.0, 1e-5, 7.664088),
    (0.25, 1.0, 20.0, 1e-3, 6.484269),
    (0.5, 1.0, 10.0, 1e-3, 8.554755),
    (0.001, 2.0, 20000.0, 1e-6, 0.322721),
    (1.0, 1.0, 1.0, 1e-5, 4.728507),
    (1.0, 5.0, 1.0, 1e-5, 0.794522),
    (0.04, 1.5, 2250.0, 1e-5, 7.329335),
];

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
