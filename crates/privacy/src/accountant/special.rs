//! Special functions in logarithms, stable where the plain ones under- or overflow.

use std::f64::consts::PI;

/// Above this, the asymptotic series of erfc is exact to an f64; below, `libm::erfc` is far from underflow.
const ASYMPTOTIC_FROM: f64 = 10.0;

/// `ln(exp(a) + exp(b))`.
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + libm::log1p(libm::exp(low - high))
    }
}

/// `ln(exp(x) - 1)` for x > 0.
pub(super) fn log_expm1(x: f64) -> f64 {
    // Above 40 the subtraction is below an ulp.
    if x > 40.0 { x } else { libm::log(libm::expm1(x)) }
}

/// `ln(erfc(x))` for any x.
pub(super) fn log_erfc(x: f64) -> f64 {
    if x < ASYMPTOTIC_FROM {
        libm::log(libm::erfc(x))
    } else {
        log_erfcx(x) - x * x
    }
}

/// `ln(exp(x^2) erfc(x))` for x >= 0, where it falls slowly from 0.
pub(super) fn log_erfcx(x: f64) -> f64 {
    if x < ASYMPTOTIC_FROM {
        return libm::log(libm::erfc(x)) + x * x;
    }
    // 1 - 1/(2x^2) + 3/(2x^2)^2 - 15/(2x^2)^3 + ...: at x = 10 the 12th term is below 1e-16.
    let inverse = 1.0 / (2.0 * x * x);
    let (mut term, mut series) = (1.0, 1.0);
    for odd in (1..24).step_by(2) {
        term *= -f64::from(odd) * inverse;
        series += term;
    }
    libm::log(series) - libm::log(x) - 0.5 * libm::log(PI)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mpmath 1.3.0 with 50 digits: `log(erfc(x))`.
    #[test]
    fn log_erfc_agrees_with_fifty_digits() {
        for (x, expected) in MPMATH_LOG_ERFC {
            let value = log_erfc(x);
            assert!(
                (value - expected).abs() <= 4e-15 * expected.abs() + 1e-16,
                "ln erfc({x}) = {value}, not {expected}"
            );
        }
    }

    const MPMATH_LOG_ERFC: [(f64, f64); 10] = [
        (-30.0, std::f64::consts::LN_2),
        (-5.0, 0.6931471805591766),
        (-0.5, 0.41903914777555956),
        (0.0, 0.0),
        (0.25, -0.32341480339361944),
        (1.0, -1.8496055099332482),
        (5.0, -27.200889545537436),
        (9.75, -97.91732449459924),
        (12.5, -159.35126838238233),
        (250.0, -62506.09383386063),
    ];

    #[test]
    fn the_asymptotic_series_joins_the_direct_one() {
        let below = log_erfcx(ASYMPTOTIC_FROM * (1.0 - 1e-15));
        assert!((below - log_erfcx(ASYMPTOTIC_FROM)).abs() < 1e-13);
    }

    #[test]
    fn logarithms_of_sums_and_differences_keep_small_terms() {
        assert_eq!(log_add(f64::NEG_INFINITY, f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert_eq!(log_add(f64::NEG_INFINITY, 3.0), 3.0);
        assert!((log_add(0.0, -40.0) - (-40.0f64).exp()).abs() < 1e-32);
        assert!((log_add(1000.0, 1000.0) - (1000.0 + 2f64.ln())).abs() < 1e-12);
        assert!((log_expm1(1e-12) - (1e-12f64).ln()).abs() < 1e-11);
        assert_eq!(log_expm1(1e4), 1e4);
    }
}
