//! Logarithms of sums, of tails of the normal distribution and of binomial coefficients.
//! Nothing here knows what is accounted for.

/// ln(eᵃ + eᵇ).
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// ln Σ eˣ.
pub(super) fn log_sum(terms: &[f64]) -> f64 {
    let greatest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !greatest.is_finite() {
        return greatest;
    }
    greatest + terms.iter().map(|term| (term - greatest).exp()).sum::<f64>().ln()
}

/// ln(1 + eˣ).
pub(super) fn softplus(x: f64) -> f64 {
    if x > 0.0 {
        x + (-x).exp().ln_1p()
    } else {
        x.exp().ln_1p()
    }
}

/// ln(eˣ − 1) for x > 0.
pub(super) fn log_exp_minus_one(x: f64) -> f64 {
    if x > 1.0 {
        x + (-(-x).exp()).ln_1p()
    } else {
        x.exp_m1().ln()
    }
}

/// ln Φ(x) of the normal distribution: by erfc, and where that underflows by its asymptotic series, cut after the term
/// that keeps it an upper bound.
pub(super) fn log_normal_cdf(x: f64) -> f64 {
    if x > -25.0 {
        (0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)).ln()
    } else {
        let inverse = 1.0 / (x * x);
        let series = 1.0 - inverse * (1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse * (1.0 - 7.0 * inverse)));
        -0.5 * x * x - 0.5 * (2.0 * std::f64::consts::PI).ln() - (-x).ln() + series.ln()
    }
}

/// ln C(n, k) for k = 0..=n.
pub(super) fn log_binomials(n: u32) -> Vec<f64> {
    let mut row = Vec::with_capacity(n as usize + 1);
    let mut last = 0.0;
    row.push(last);
    for k in 1..=n {
        last += (f64::from(n - k + 1) / f64::from(k)).ln();
        row.push(last);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert!((log_add(2f64.ln(), 3f64.ln()) - 5f64.ln()).abs() < 1e-15);
        assert_eq!(log_add(f64::NEG_INFINITY, 1.0), 1.0);
        assert!((log_sum(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-12);
        assert_eq!(log_sum(&[]), f64::NEG_INFINITY);
        assert!((softplus(800.0) - 800.0).abs() < 1e-12 && (softplus(-800.0)).abs() < 1e-300);
        assert!((log_exp_minus_one(1e-9) - 1e-9f64.ln()).abs() < 1e-8);
        let row = log_binomials(5);
        for (found, expected) in row.iter().zip([1.0f64, 5.0, 10.0, 10.0, 5.0, 1.0]) {
            assert!((found - expected.ln()).abs() < 1e-14);
        }
    }

    #[test]
    fn normal_tails() {
        // Φ(−1), Φ(−10) as tables have them; both branches meet at −25.
        assert!((log_normal_cdf(-1.0) - 0.158_655_253_931_457_05f64.ln()).abs() < 1e-14);
        assert!((log_normal_cdf(-10.0) - 7.619_853_024_160_527e-24f64.ln()).abs() < 1e-13);
        assert!((log_normal_cdf(-25.0 + 1e-12) - log_normal_cdf(-25.0 - 1e-12)).abs() < 1e-8);
        assert!(log_normal_cdf(9.0).abs() < 1e-15);
    }
}
