//! Rényi differential privacy: divergences of single releases at many orders, added, then turned into ε (Mironov 2017).
//! It takes divergences from formulas and integrals only, never from samples.
//!
//! **Poisson sampling** (Mironov, Talwar, Zhang 2019), σ the noise multiplier, q the rate, α the order:
//!
//! ```text
//! (α − 1) RDP(α) = ln E_{z~N(0,σ²)} [(1 + q (r − 1))^α],    r = exp((2z − 1)/2σ²),  E r = 1
//! ```
//! Since E (r − 1) = 0, what is computed is E [(1 + x)^α − 1 − αx] with x = q (r − 1), whose integrand is never negative: no
//! cancellation, however small q is. Whole orders have a finite sum; the others are integrated with the trapezoidal rule, whose
//! error for this analytic integrand falls as exp(−2π²σ²/h) and is below rounding at the step taken.
//!
//! **Fixed-size sampling**: the upper bound of Wang, Balle and Kasiviswanathan 2019 (theorem 27 for whole orders,
//! interpolated between them), with Gaussian noise over the change that exchanging one record can cause.
//!
//! **To ε**: min over α of RDP + ln((α − 1)/α) − (ln δ + ln α)/(α − 1) (Balle et al. 2020; Canonne, Kamath, Steinke 2020).

use super::as_one_gaussian;
use super::special::{log_add, log_binomials, log_exp_minus_one, log_sum, softplus};
use crate::privacy::ledger::{Event, Mechanism, Sampling};

/// 1.1 to 10.9 by tenths, 11 to 64, and four more for very small ε: the orders that others use too, so that figures compare.
fn orders() -> impl Iterator<Item = f64> {
    let tenths = (11..110).map(|tenths| f64::from(tenths) / 10.0);
    let whole = (11..=64).map(f64::from);
    tenths.chain(whole).chain([128.0, 256.0, 512.0, 1024.0])
}

/// ε at δ of all events.
pub(super) fn epsilon(events: &[Event], delta: f64) -> f64 {
    let orders: Vec<f64> = orders().collect();
    let mut totals = vec![0.0f64; orders.len()];
    for event in events {
        for (total, divergence) in totals.iter_mut().zip(divergences(event, &orders)) {
            *total += divergence;
        }
    }
    let converted = orders
        .iter()
        .zip(&totals)
        .map(|(&order, &total)| total + (-1.0 / order).ln_1p() - (delta.ln() + order.ln()) / (order - 1.0));
    // An order that is no number is left out, which can only raise the least of the others.
    converted
        .filter(|epsilon| !epsilon.is_nan())
        .fold(f64::INFINITY, f64::min)
        .max(0.0)
}

/// The divergences of all releases of one event.
fn divergences(event: &Event, orders: &[f64]) -> Vec<f64> {
    if let Some(sigma) = as_one_gaussian(event) {
        return orders.iter().map(|order| order / (2.0 * sigma * sigma)).collect();
    }
    let (Mechanism::Gaussian {
        noise_multiplier: sigma,
    }
    | Mechanism::Tree {
        noise_multiplier: sigma,
    }) = event.mechanism;
    let times = f64::from(event.count);
    let one: Vec<f64> = match event.sampling {
        Sampling::All => unreachable!("all records are one Gaussian"),
        Sampling::Poisson { rate } => orders.iter().map(|&order| poisson(rate, sigma, order)).collect(),
        Sampling::WithoutReplacement { population, sample } => {
            let rate = f64::from(sample) / f64::from(population);
            let bound = FixedSize::new(rate, sigma);
            orders.iter().map(|&order| bound.divergence(order)).collect()
        }
    };
    one.into_iter().map(|divergence| times * divergence).collect()
}

/// RDP of one release under Poisson sampling.
fn poisson(q: f64, sigma: f64, order: f64) -> f64 {
    let log_excess = if order.fract() == 0.0 {
        whole_order(q, sigma, order as u32)
    } else {
        other_order(q, sigma, order)
    };
    softplus(log_excess) / (order - 1.0)
}

/// ln (E[(1 + x)^α] − 1) for whole α: the binomial sum without its first two terms, less their probability.
fn whole_order(q: f64, sigma: f64, order: u32) -> f64 {
    let binomials = log_binomials(order);
    let (log_q, log_rest) = (q.ln(), (-q).ln_1p());
    let terms: Vec<f64> = (2..=order)
        .map(|k| {
            let (k_real, rest) = (f64::from(k), f64::from(order - k));
            binomials[k as usize]
                + k_real * log_q
                + rest * log_rest
                + log_exp_minus_one(k_real * (k_real - 1.0) / (2.0 * sigma * sigma))
        })
        .collect();
    log_sum(&terms)
}

/// The same for any α > 1, by the trapezoidal rule.
fn other_order(q: f64, sigma: f64, order: f64) -> f64 {
    // The integrand's factor (…)^α branches at a distance of πσ² from the real line; the Gaussian alone asks for σ/8.
    let step = (sigma / 8.0).min(0.4 * sigma * sigma);
    let (from, to) = (-14.0 * sigma, order + 14.0 * sigma);
    let count = ((to - from) / step).ceil() as u64;
    let log_density = (step / (sigma * (2.0 * std::f64::consts::PI).sqrt())).ln();
    let terms: Vec<f64> = (0..=count)
        .map(|i| {
            let z = from + i as f64 * step;
            log_density - z * z / (2.0 * sigma * sigma)
                + log_integrand(q, (2.0 * z - 1.0) / (2.0 * sigma * sigma), order)
        })
        .collect();
    log_sum(&terms)
}

/// ln((1 + x)^α − 1 − αx) with x = q (e^w − 1); never negative inside, −∞ where it is zero.
fn log_integrand(q: f64, w: f64, order: f64) -> f64 {
    let log_base = if w > 30.0 {
        w + q.ln() + ((1.0 - q) / q * (-w).exp()).ln_1p()
    } else {
        (q * w.exp_m1()).ln_1p()
    };
    if order * log_base > 600.0 {
        // The power is near an f64's limit, and 1 + αx far below its last bit.
        return order * log_base;
    }
    let x = q * w.exp_m1();
    let value = if x.abs() < 0.01 {
        // α(α−1)/2 x² (1 + (α−2)/3 x (1 + (α−3)/4 x (…))): 40 terms are below rounding for orders below 100.
        let mut series = 1.0;
        for k in (3..=40).rev() {
            series = 1.0 + (order - f64::from(k - 1)) / f64::from(k) * x * series;
        }
        order * (order - 1.0) / 2.0 * x * x * series
    } else {
        (order * log_base).exp_m1() - order * x
    };
    value.max(0.0).ln()
}

/// The bound for fixed-size sampling at one rate and noise.
struct FixedSize {
    q: f64,
    sigma: f64,
    /// ln B(l) for even l: the l-th central moment of r, the likelihood ratio of the unsampled mechanism.
    moments: Vec<f64>,
}

/// Up to this order the moments are used; above it only the looser bound, as in the reference implementation.
const MAX_MOMENT: u32 = 256;

impl FixedSize {
    fn new(q: f64, sigma: f64) -> Self {
        let moments = (0..=MAX_MOMENT / 2 + 1)
            .map(|half| log_even_moment(sigma, 2 * half))
            .collect();
        Self { q, sigma, moments }
    }

    fn divergence(&self, order: f64) -> f64 {
        let (below, above) = (order.floor(), order.ceil());
        if below == above {
            return self.cumulant(order as u32) / (order - 1.0);
        }
        // The cumulant function is convex: a chord lies above it.
        let part = order - below;
        ((1.0 - part) * self.cumulant(below as u32) + part * self.cumulant(above as u32)) / (order - 1.0)
    }

    /// A bound of (α − 1) RDP(α), zero at one.
    fn cumulant(&self, order: u32) -> f64 {
        let variance = 2.0 * self.sigma * self.sigma;
        let binomials = log_binomials(order);
        let log_q = self.q.ln();
        let terms: Vec<f64> = (2..=order)
            .map(|i| {
                let real = f64::from(i);
                let plain = 2f64.ln() + real * (real - 1.0) / variance;
                let tighter = match i {
                    2 => 4f64.ln() + log_exp_minus_one(2.0 / variance),
                    _ if order > MAX_MOMENT => f64::INFINITY,
                    _ => {
                        let (low, high) = (self.moments[(i / 2) as usize], self.moments[i.div_ceil(2) as usize]);
                        4f64.ln() + 0.5 * (low + high)
                    }
                };
                plain.min(tighter) + real * log_q + binomials[i as usize]
            })
            .collect();
        log_add(0.0, log_sum(&terms))
    }
}

/// ln E_{z~N(0,σ²)} [(r − 1)^l] for even l, by the trapezoidal rule: an entire integrand, never negative.
fn log_even_moment(sigma: f64, l: u32) -> f64 {
    let l = f64::from(l);
    let step = (sigma / 8.0).min(0.4 * sigma * sigma);
    let (from, to) = (-14.0 * sigma, l + 14.0 * sigma);
    let count = ((to - from) / step).ceil() as u64;
    let log_density = (step / (sigma * (2.0 * std::f64::consts::PI).sqrt())).ln();
    let terms: Vec<f64> = (0..=count)
        .map(|i| {
            let z = from + i as f64 * step;
            let w = (2.0 * z - 1.0) / (2.0 * sigma * sigma);
            let log_distance = if w > 0.0 {
                log_exp_minus_one(w)
            } else {
                (-w.exp_m1()).ln()
            };
            let power = if l == 0.0 { 0.0 } else { l * log_distance };
            log_density - z * z / (2.0 * sigma * sigma) + power
        })
        .collect();
    log_sum(&terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integral_meets_the_sum_at_whole_orders() {
        for (q, sigma) in [(0.01, 1.1), (0.5, 3.0), (1e-6, 1.0), (0.001, 0.5), (0.3, 20.0)] {
            for order in [2u32, 3, 5, 11, 32] {
                let (sum, integral) = (whole_order(q, sigma, order), other_order(q, sigma, f64::from(order)));
                assert!((sum - integral).abs() < 1e-9, "{q} {sigma} {order}: {sum} {integral}");
            }
        }
    }

    /// Single orders against 30-digit quadrature, fractional ones included: to 10⁻⁸ and better.
    #[test]
    fn single_orders_meet_exact_values() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/dp_accounting.json")).unwrap();
        for row in file["per_order_rdp_one_step"].as_array().unwrap() {
            let (q, sigma) = (row["q"].as_f64().unwrap(), row["sigma"].as_f64().unwrap());
            let values = row["rdp_exact_mpmath"].as_array().unwrap();
            for (order, exact) in row["orders"].as_array().unwrap().iter().zip(values) {
                let (order, exact) = (order.as_f64().unwrap(), exact.as_f64().unwrap());
                let found = if q == 1.0 {
                    order / (2.0 * sigma * sigma)
                } else {
                    poisson(q, sigma, order)
                };
                assert!(
                    (found / exact - 1.0).abs() < 1e-8,
                    "{q} {sigma} {order}: {found} {exact}"
                );
            }
        }
    }

    #[test]
    fn all_records_with_sampling_are_all_records() {
        for order in [1.1, 2.0, 3.5, 64.0] {
            let sampled = poisson(1.0 - 1e-12, 2.0, order);
            assert!((sampled - order / 8.0).abs() < 1e-9, "{order}: {sampled}");
        }
    }

    /// E[(r − 1)²] = e^(1/σ²) − 1, and the fourth central moment from the raw ones e^(k(k−1)/2σ²).
    #[test]
    fn even_moments_have_their_closed_forms() {
        for sigma in [0.7f64, 2.0, 5.0] {
            let raw = |k: f64| (k * (k - 1.0) / (2.0 * sigma * sigma)).exp();
            let second = raw(2.0) - 1.0;
            let fourth = raw(4.0) - 4.0 * raw(3.0) + 6.0 * raw(2.0) - 3.0;
            assert!((log_even_moment(sigma, 0)).abs() < 1e-12);
            assert!((log_even_moment(sigma, 2) - second.ln()).abs() < 1e-10);
            assert!((log_even_moment(sigma, 4) - fourth.ln()).abs() < 1e-8);
        }
    }
}
