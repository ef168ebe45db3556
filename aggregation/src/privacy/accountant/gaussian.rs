//! The analytic Gaussian mechanism: ε at δ without approximation (Balle and Wang 2018).
//! It serves releases of all records only; any number of them are together one Gaussian.

use super::special::log_normal_cdf;

/// ln δ(ε) of a Gaussian of this noise multiplier; −∞ where δ underflows to nothing.
fn log_delta(sigma: f64, epsilon: f64) -> f64 {
    let (half, shift) = (0.5 / sigma, epsilon * sigma);
    let first = log_normal_cdf(half - shift);
    let second = epsilon + log_normal_cdf(-half - shift);
    // δ = e^first − e^second, and the second is the smaller.
    first + (-(second - first).min(0.0).exp()).ln_1p()
}

/// The least ε ≥ 0 whose δ is at most this; found by halving, from above.
pub(super) fn epsilon(sigma: f64, delta: f64) -> f64 {
    let target = delta.ln();
    if log_delta(sigma, 0.0) <= target {
        return 0.0;
    }
    // Zero-concentration bounds it: ε ≤ ρ + 2 √(ρ ln 1/δ), ρ = 1/2σ².
    let rho = 0.5 / (sigma * sigma);
    let (mut low, mut high) = (0.0, rho + 2.0 * (rho * -target).sqrt());
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if log_delta(sigma, middle) <= target {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_and_tiny_noise_have_an_epsilon() {
        assert_eq!(epsilon(1e6, 1e-5), 0.0);
        // μ = 100: ε is near μ²/2 + μ Φ⁻¹(1 − δ).
        let large = epsilon(0.01, 1e-5);
        assert!((large - (5000.0 + 100.0 * 4.264_890_793_922_8)).abs() < 1.0, "{large}");
        assert!(epsilon(1.0, 1e-5) < epsilon(0.99, 1e-5));
        assert!(epsilon(1.0, 1e-5) < epsilon(1.0, 1e-6));
    }
}
