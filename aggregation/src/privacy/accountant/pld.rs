//! Privacy loss distributions: the tight account of Gaussian releases under Poisson sampling (Koskela et al. 2020).
//! It rounds on the safe side only, and it samples nothing.
//!
//! For neighbours P and Q, one release's loss is ln P/Q under P; losses of independent releases add, so that their
//! distributions are convolved, and δ(ε) = E [1 − e^(ε − loss)]⁺. Both neighbours are tried, one record more and one less.
//!
//! **Discretisation** ("connecting the dots", Doroshenko et al. 2022): the mass between two grid points goes to these two,
//! so that both its probability under P and that under Q are kept. This can only raise δ, and for T releases on a
//! grid of step h it adds less than T h²/4 to the variance of the loss. The step is chosen so that this is 10⁻⁴ of it: ε is
//! then within 10⁻⁴, and never below the truth. Masses are integrals of positive functions by Gauss's rule; no difference of
//! nearly equal numbers occurs.
//!
//! **Convolution**: T-fold by the discrete Fourier transform, both neighbours at once as real and imaginary part. What lies
//! outside the window, by Chernoff's bound less than 10⁻⁵ δ, is added to δ.

use super::fft::{Complex, transform};
use super::special::log_add;
use super::{AccountantError, MIN_PLD_DELTA, as_one_gaussian, gaussian};
use crate::privacy::ledger::{Event, Mechanism, Sampling};

/// Of δ: the mass that may lie outside the window, and that of single releases' far tails.
const OUTSIDE: f64 = 1e-5;

/// The largest transform: 2²² complex numbers, 64 MiB. A finer grid is made coarser, still on the safe side.
const MAX_LENGTH: usize = 1 << 22;

/// ε at δ of all events; the caller has excluded fixed-size sampling.
pub(super) fn epsilon(events: &[Event], delta: f64) -> Result<f64, AccountantError> {
    // Releases of all records are one Gaussian together.
    let precision: f64 = events
        .iter()
        .filter_map(as_one_gaussian)
        .map(|sigma| sigma.powi(-2))
        .sum();
    let mut releases: Vec<Release> = events
        .iter()
        .filter(|event| as_one_gaussian(event).is_none())
        .filter_map(|event| match (event.mechanism, event.sampling) {
            (
                Mechanism::Gaussian {
                    noise_multiplier: sigma,
                },
                Sampling::Poisson { rate: q },
            ) => Some(Release {
                q,
                sigma,
                count: event.count,
            }),
            _ => None,
        })
        .collect();
    if releases.is_empty() {
        return Ok(gaussian::epsilon(precision.sqrt().recip(), delta));
    }
    if delta < MIN_PLD_DELTA {
        return Err(AccountantError::DeltaTooSmall { got: delta });
    }
    if precision > 0.0 {
        releases.push(Release {
            q: 1.0,
            sigma: precision.sqrt().recip(),
            count: 1,
        });
    }
    let total: f64 = releases.iter().map(|release| f64::from(release.count)).sum();
    let tail = delta * OUTSIDE / total;
    let variance: f64 = releases
        .iter()
        .map(|r| f64::from(r.count) * r.loss_variance(tail))
        .sum();
    let mut step = (4e-4 * variance / total).sqrt().clamp(1e-7, 0.05);
    loop {
        if let Some(epsilon) = composed(&releases, step, tail, delta) {
            return Ok(epsilon);
        }
        step *= 2.0;
    }
}

/// Like releases: rate, noise multiplier, how many.
struct Release {
    q: f64,
    sigma: f64,
    count: u32,
}

/// Which neighbour the data are.
#[derive(Clone, Copy, PartialEq)]
enum Neighbour {
    /// P has the record: the sampled mixture; loss ln(mixture/plain), increasing in z.
    With,
    /// P lacks it: the plain Gaussian; loss ln(plain/mixture), decreasing in z.
    Without,
}

/// A distribution of losses on a grid: mass i lies at (first + i) · step.
struct Losses {
    first: i64,
    masses: Vec<f64>,
    /// Mass at +∞.
    infinite: f64,
}

impl Release {
    /// ln((1 − q) + q e^w) at z: the mixture over the plain Gaussian.
    fn log_ratio(&self, z: f64) -> f64 {
        let w = (2.0 * z - 1.0) / (2.0 * self.sigma * self.sigma);
        if self.by_logarithms(w) {
            log_add((-self.q).ln_1p(), self.q.ln() + w)
        } else {
            (self.q * w.exp_m1()).ln_1p()
        }
    }

    /// Where 1 + q (e^w − 1) would overflow or cancel.
    fn by_logarithms(&self, w: f64) -> bool {
        w > 30.0 || self.q > 0.5 && w < 0.0
    }

    /// The z of a log ratio; −∞ below the least.
    fn inverse_log_ratio(&self, ratio: f64) -> f64 {
        let w = if self.q == 1.0 {
            ratio
        } else {
            let (factor, offset) = if self.by_logarithms(ratio) {
                (-(1.0 - self.q) * (-ratio).exp(), ratio - self.q.ln())
            } else {
                (ratio.exp_m1() / self.q, 0.0)
            };
            if factor <= -1.0 {
                return f64::NEG_INFINITY;
            }
            factor.ln_1p() + offset
        };
        self.sigma * self.sigma * w + 0.5
    }

    /// P's density at z.
    fn density(&self, neighbour: Neighbour, z: f64) -> f64 {
        let plain = (-z * z / (2.0 * self.sigma * self.sigma)).exp();
        let value = match neighbour {
            Neighbour::Without => plain,
            Neighbour::With => {
                let shifted = (-(z - 1.0) * (z - 1.0) / (2.0 * self.sigma * self.sigma)).exp();
                (1.0 - self.q) * plain + self.q * shifted
            }
        };
        value / (self.sigma * (2.0 * std::f64::consts::PI).sqrt())
    }

    /// Bounds of z outside which either P has less mass than `tail`.
    fn range(&self, tail: f64) -> (f64, f64) {
        let reach = self.sigma * (-2.0 * tail.ln()).sqrt();
        (-reach, 1.0 + reach)
    }

    /// The variance of one release's loss, roughly: for the choice of the grid only.
    fn loss_variance(&self, tail: f64) -> f64 {
        let (from, to) = self.range(tail);
        let step = self.sigma / 8.0;
        let (mut first, mut second) = (0.0, 0.0);
        for i in 0..((to - from) / step) as u64 {
            let z = from + (i as f64 + 0.5) * step;
            let (loss, mass) = (self.log_ratio(z), self.density(Neighbour::With, z) * step);
            first += mass * loss;
            second += mass * loss * loss;
        }
        (second - first * first).max(0.0)
    }

    /// The grid's distribution of one release's loss; `None` when the grid would be too fine.
    fn losses(&self, neighbour: Neighbour, step: f64, tail: f64) -> Option<Losses> {
        let (from, to) = self.range(tail);
        let (least, greatest) = (self.log_ratio(from), self.log_ratio(to));
        if (greatest - least) / step > MAX_LENGTH as f64 {
            return None;
        }
        // Cell c of the log ratio lies between c · step and (c + 1) · step.
        let first_cell = (least / step).floor() as i64;
        let cells = ((greatest / step).floor() as i64 - first_cell) as usize + 2;
        let mut masses = vec![0.0f64; cells + 1];
        let spread = -(-step).exp_m1();
        let (mut cell, mut z) = (0usize, from);
        while z < to && cell < cells {
            let low = (first_cell + cell as i64) as f64 * step;
            let edge = self.inverse_log_ratio(low + step);
            let end = edge.min(z + self.sigma / 4.0).min(to);
            if end > z {
                let (middle, half) = (0.5 * (z + end), 0.5 * (end - z));
                for (node, weight) in GAUSS {
                    let at = middle + half * node;
                    let mass = weight * half * self.density(neighbour, at);
                    let above = (self.log_ratio(at) - low).clamp(0.0, step);
                    // The share of the point that lies farther along the loss keeps Q's mass as well as P's.
                    let (near, distance) = match neighbour {
                        Neighbour::With => (cell, above),
                        Neighbour::Without => (cell + 1, step - above),
                    };
                    let far = if neighbour == Neighbour::With { cell + 1 } else { cell };
                    let share = -(-distance).exp_m1() / spread;
                    masses[far] += mass * share;
                    masses[near] += mass * (1.0 - share);
                }
                z = end;
            }
            if z >= edge {
                cell += 1;
            }
        }
        Some(self.finish(neighbour, first_cell, masses, tail))
    }

    /// Turns log ratios into losses and puts what is missing from one where it weighs most.
    fn finish(&self, neighbour: Neighbour, first_cell: i64, mut masses: Vec<f64>, tail: f64) -> Losses {
        let first = match neighbour {
            Neighbour::With => first_cell,
            Neighbour::Without => {
                masses.reverse();
                -(first_cell + masses.len() as i64 - 1)
            }
        };
        // Both tails beyond the range, the lesser losses included, count as infinite: at most twice the tail.
        Losses {
            first,
            masses,
            infinite: 2.0 * tail,
        }
    }
}

/// Nodes and weights of Gauss and Legendre's rule of four points on [−1, 1].
const GAUSS: [(f64, f64); 4] = [
    (-0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
    (-0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
    (0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
    (0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
];

impl Losses {
    /// ln E e^{λ · loss}, the infinite mass aside.
    fn log_moment(&self, step: f64, lambda: f64) -> f64 {
        let terms = self.masses.iter().enumerate().map(|(i, mass)| {
            let loss = (self.first + i as i64) as f64 * step;
            mass * (lambda * loss).exp()
        });
        terms.sum::<f64>().ln()
    }

    fn last(&self) -> i64 {
        self.first + self.masses.len() as i64 - 1
    }
}

/// Least and greatest index of the sum of all losses, but for a mass of `outside` at each end (Chernoff).
fn window(parts: &[(Losses, u32)], step: f64, outside: f64) -> (i64, i64) {
    let sum = |end: fn(&Losses) -> i64| {
        parts
            .iter()
            .map(|(losses, count)| end(losses) * i64::from(*count))
            .sum::<i64>()
    };
    let (mut low, mut high) = (sum(|losses| losses.first), sum(Losses::last));
    for exponent in -2..=11 {
        let lambda = 2f64.powi(exponent);
        for sign in [1.0, -1.0] {
            let moment: f64 = parts
                .iter()
                .map(|(losses, count)| f64::from(*count) * losses.log_moment(step, sign * lambda))
                .sum();
            let bound = (moment - outside.ln()) / lambda / step;
            if !(bound.is_finite() && bound.abs() < 1e15) {
                continue;
            }
            if sign > 0.0 {
                high = high.min(bound.ceil() as i64);
            } else {
                low = low.max(-bound.ceil() as i64);
            }
        }
    }
    (low, high.max(low))
}

/// ε of all releases on one grid; `None` when it is too fine for the largest transform.
fn composed(releases: &[Release], step: f64, tail: f64, delta: f64) -> Option<f64> {
    let mut sides = Vec::new();
    for neighbour in [Neighbour::With, Neighbour::Without] {
        let losses = releases
            .iter()
            .map(|r| Some((r.losses(neighbour, step, tail)?, r.count)));
        sides.push(losses.collect::<Option<Vec<_>>>()?);
    }
    let outside = delta * OUTSIDE;
    let windows: Vec<(i64, i64)> = sides.iter().map(|parts| window(parts, step, outside)).collect();
    let widest = windows.iter().map(|(low, high)| high - low + 1).max()?;
    let length = usize::try_from(widest).ok()?.checked_next_power_of_two()?.max(2);
    if length > MAX_LENGTH {
        return None;
    }
    let sums = convolve(&sides, length);
    let of_side = |side: usize| {
        let (low, _) = windows[side];
        // P(no infinite loss) of all releases, and what may lie outside of the window at either end.
        let log_finite: f64 = sides[side]
            .iter()
            .map(|(l, count)| f64::from(*count) * (-l.infinite).ln_1p())
            .sum();
        let extra = -log_finite.exp_m1() + 2.0 * outside;
        let mass = |index: i64| {
            let at = &sums[index.rem_euclid(length as i64) as usize];
            (if side == 0 { at.re } else { at.im }).max(0.0)
        };
        solve(low, length, step, mass, delta - extra)
    };
    Some(of_side(0).max(of_side(1)))
}

/// The distributions of both sides' sums, as real and imaginary part, by index modulo the length.
fn convolve(sides: &[Vec<(Losses, u32)>], length: usize) -> Vec<Complex> {
    let mut product = vec![[Complex { re: 1.0, im: 0.0 }; 2]; length / 2 + 1];
    for ((with, count), (without, _)) in sides[0].iter().zip(&sides[1]) {
        let mut packed = vec![Complex::default(); length];
        for (i, mass) in with.masses.iter().enumerate() {
            packed[(with.first + i as i64).rem_euclid(length as i64) as usize].re += mass;
        }
        for (i, mass) in without.masses.iter().enumerate() {
            packed[(without.first + i as i64).rem_euclid(length as i64) as usize].im += mass;
        }
        transform(&mut packed, false);
        for (k, product) in product.iter_mut().enumerate() {
            let (a, b) = (packed[k], packed[(length - k) % length]);
            // The transforms of two real sequences, from that of one complex one.
            let first = Complex {
                re: 0.5 * (a.re + b.re),
                im: 0.5 * (a.im - b.im),
            };
            let second = Complex {
                re: 0.5 * (a.im + b.im),
                im: 0.5 * (b.re - a.re),
            };
            product[0] = product[0].times(first.power(*count));
            product[1] = product[1].times(second.power(*count));
        }
    }
    let mut packed = vec![Complex::default(); length];
    for (k, [first, second]) in product.into_iter().enumerate() {
        packed[k] = Complex {
            re: first.re - second.im,
            im: first.im + second.re,
        };
        let mirror = (length - k) % length;
        packed[mirror] = if mirror == k {
            packed[k]
        } else {
            Complex {
                re: first.re + second.im,
                im: second.re - first.im,
            }
        };
    }
    transform(&mut packed, true);
    let scale = 1.0 / length as f64;
    packed.iter_mut().for_each(|value| {
        *value = Complex {
            re: value.re * scale,
            im: value.im * scale,
        }
    });
    packed
}

/// The least ε ≥ 0 with Σ_{loss > ε} mass · (1 − e^(ε − loss)) ≤ `allowed`, walking down from the greatest loss.
fn solve(low: i64, length: usize, step: f64, mass: impl Fn(i64) -> f64, allowed: f64) -> f64 {
    if allowed <= 0.0 {
        return f64::INFINITY;
    }
    // Masses above the current point, and the same each times e^(−loss): from here to the next point up,
    // δ(ε) = above − e^ε · discounted.
    let (mut above, mut discounted) = (0.0f64, 0.0f64);
    let mut ceiling = f64::INFINITY;
    for index in (low..low + length as i64).rev() {
        let loss = index as f64 * step;
        if loss < 0.0 || above - loss.exp() * discounted > allowed {
            break;
        }
        let here = mass(index);
        above += here;
        discounted += here * (-loss).exp();
        ceiling = loss;
    }
    // A logarithm of a negative number says that δ is below what is allowed for every ε.
    ((above - allowed) / discounted).ln().max(0.0).min(ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(q: f64, sigma: f64, count: u32) -> Release {
        Release { q, sigma, count }
    }

    #[test]
    fn log_ratio_and_its_inverse_meet() {
        for (q, sigma) in [(0.01, 1.0), (1.0, 2.0), (0.5, 0.3), (1e-6, 0.8)] {
            let release = release(q, sigma, 1);
            for z in [-1.0, 0.0, 0.5, 1.0, 3.0, 9.0] {
                let back = release.inverse_log_ratio(release.log_ratio(z));
                assert!((back - z).abs() < 1e-4 * sigma, "{q} {sigma} {z}: {back}");
            }
            assert_eq!(release.inverse_log_ratio(-800.0).is_finite(), q == 1.0);
        }
    }

    /// Both masses of each side are kept: P sums to one, and so does Q, which is P's mass times e^(−loss).
    #[test]
    fn a_grid_keeps_the_masses_of_both_neighbours() {
        for (q, sigma) in [(0.01, 1.1), (0.5, 3.0), (1.0, 2.0), (0.02, 0.6)] {
            for neighbour in [Neighbour::With, Neighbour::Without] {
                let losses = release(q, sigma, 1).losses(neighbour, 1e-3, 1e-14).unwrap();
                let p: f64 = losses.masses.iter().sum();
                let q_mass: f64 = (losses.first..)
                    .zip(&losses.masses)
                    .map(|(i, m)| m * (-(i as f64) * 1e-3).exp())
                    .sum();
                assert!((p - 1.0).abs() < 1e-9, "{q} {sigma}: {p}");
                assert!((q_mass - 1.0).abs() < 1e-6, "{q} {sigma}: {q_mass}");
            }
        }
    }

    /// The general road, given releases of all records, arrives at the analytic answer from above.
    #[test]
    fn unsampled_releases_meet_the_analytic_gaussian() {
        for (sigma, count, delta) in [(5.0, 50, 1e-5), (20.0, 500, 1e-5), (1.0, 1, 1e-5), (2.0, 1, 1e-3)] {
            let releases = [release(1.0, sigma, count)];
            let variance = releases[0].loss_variance(1e-12);
            let found = composed(
                &releases,
                (4e-4 * variance).sqrt(),
                delta * OUTSIDE / f64::from(count),
                delta,
            )
            .unwrap();
            let exact = gaussian::epsilon(sigma / f64::from(count).sqrt(), delta);
            assert!(
                found >= exact && found < exact * (1.0 + 1e-3),
                "{sigma} {count}: {found} {exact}"
            );
        }
    }

    #[test]
    fn a_finer_grid_changes_little_and_lowers() {
        let releases = [release(0.05, 1.0, 200), release(0.01, 0.8, 100)];
        let [coarse, fine] = [4e-3, 1e-3].map(|step| composed(&releases, step, 1e-13, 1e-5).unwrap());
        assert!(fine <= coarse && coarse < fine * 1.001, "{coarse} {fine}");
    }
}
