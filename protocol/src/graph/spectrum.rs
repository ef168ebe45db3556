//! How fast a graph mixes: the norm by which one round, or one period of rounds, shrinks what members differ by.
//! It says nothing of learning, whose accuracy the gap alone does not predict (Vogels, Hendrikx & Jaggi 2022, NeurIPS).
//!
//! With J = 11ᵀ/n the contraction of a matrix W that keeps the mean is ‖W − J‖₂: for symmetric W the second largest
//! modulus of an eigenvalue. It is found as the root of the largest eigenvalue of (W − J)ᵀ(W − J), by the Lanczos method
//! with full reorthogonalisation (Golub & Van Loan, Matrix Computations, §10.1) and bisection by Sturm sequences: for
//! up to [`STEPS`] members exact to rounding, above an estimate from below (a ring of 2,048 is 5 % off, other graphs less).

use super::{Graph, GraphConfig, GraphError, GraphSeed, Weighting, Weights, shapes};

/// The most Lanczos steps: 512 vectors of 2,048 members are 8 MB.
pub const STEPS: usize = 512;

/// How much a graph shrinks the distance from consensus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contraction {
    /// Rounds that the factor is for: 1, or the period of a graph that repeats.
    pub rounds: u64,
    /// What remains of the distance ‖x − x̄‖ after that many rounds, at worst.
    pub factor: f64,
}

impl Contraction {
    /// The spectral gap over [`rounds`](Self::rounds): 1 mixes at once, 0 need not mix at all.
    pub fn gap(&self) -> f64 {
        1.0 - self.factor
    }
}

impl GraphConfig {
    /// The contraction of the graph under this weighting, over one period. None for a graph that is drawn anew each
    /// round (see [`mean_square_contraction`](Self::mean_square_contraction)), and for weights that do not keep the mean.
    pub fn contraction(
        &self,
        members: usize,
        weighting: Weighting,
        seed: &GraphSeed,
    ) -> Result<Option<Contraction>, GraphError> {
        self.check(members)?;
        let rounds = match self {
            Self::RandomPush { .. } => return Ok(None),
            Self::OnePeerExponential => shapes::one_peer_period(members),
            _ => 1,
        };
        let graphs: Result<Vec<Graph>, _> = (0..rounds).map(|round| self.build(members, round, seed)).collect();
        let weights: Vec<Weights> = graphs?.iter().map(|graph| Weights::of(graph, weighting)).collect();
        let keeps_mean = |w: &Weights| w.row_error() < KEEPS_MEAN && w.column_error() < KEEPS_MEAN;
        if !weights.iter().all(keeps_mean) {
            return Ok(None);
        }
        let factor = norm_beside_mean(&weights);
        Ok(Some(Contraction { rounds, factor }))
    }

    /// What one round leaves of the squared distance from consensus on average, over `rounds` rounds and over all
    /// directions in which members may differ: the mean of ‖(I − J) W (I − J)‖²_F / (n − 1).
    pub fn mean_square_contraction(
        &self,
        members: usize,
        weighting: Weighting,
        seed: &GraphSeed,
        rounds: u64,
    ) -> Result<f64, GraphError> {
        self.check(members)?;
        let mut total = 0.0;
        for round in 0..rounds.max(1) {
            total += frobenius_beside_mean(&Weights::of(&self.build(members, round, seed)?, weighting));
        }
        Ok(total / (rounds.max(1) as f64 * (members as f64 - 1.0)))
    }
}

/// Sums of rows and columns may be off by this for rounding.
const KEEPS_MEAN: f64 = 1e-9;

/// ‖(I − J) W (I − J)‖²_F, column by column.
fn frobenius_beside_mean(weights: &Weights) -> f64 {
    let members = weights.members();
    (0..members).fold(0.0, |sum, column| {
        let mut unit = vec![0.0; members];
        unit[column] = 1.0;
        remove_mean(&mut unit);
        let mut image = weights.apply(&unit);
        remove_mean(&mut image);
        sum + dot(&image, &image)
    })
}

/// ‖W_r … W_1 − J‖₂ of matrices that keep the mean.
pub fn norm_beside_mean(rounds: &[Weights]) -> f64 {
    let Some(members) = rounds.first().map(Weights::members) else {
        return 1.0;
    };
    let gram = |x: &[f64]| {
        let forth = rounds.iter().fold(x.to_vec(), |x, weights| weights.apply(&x));
        let mut back = rounds
            .iter()
            .rev()
            .fold(forth, |x, weights| weights.apply_transposed(&x));
        remove_mean(&mut back);
        back
    };
    let (diagonal, beside) = lanczos(members, gram);
    largest_eigenvalue(&diagonal, &beside).max(0.0).sqrt()
}

fn remove_mean(x: &mut [f64]) {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    x.iter_mut().for_each(|x| *x -= mean);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

/// Below this, relative to the operator's norm of at most one, nothing is left of a vector but rounding.
const NOTHING: f64 = 1e-13;

/// The tridiagonal matrix of a symmetric operator on the vectors without mean: its diagonal and what is beside it.
fn lanczos(members: usize, operator: impl Fn(&[f64]) -> Vec<f64>) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let mut fresh = 0;
    while basis.len() < STEPS.min(members.saturating_sub(1)) {
        // An invariant subspace is exhausted at the start, and whenever nothing was left: go on from a new direction.
        let Some(next) = new_direction(members, &basis, &mut fresh) else {
            break;
        };
        if !basis.is_empty() {
            beside.push(0.0);
        }
        basis.push(next);
        while let Some(last) = basis.last() {
            let mut image = operator(last);
            diagonal.push(dot(&image, last));
            orthogonalise(&mut image, &basis);
            let length = dot(&image, &image).sqrt();
            if length < NOTHING || basis.len() == STEPS.min(members - 1) {
                break;
            }
            image.iter_mut().for_each(|x| *x /= length);
            beside.push(length);
            basis.push(image);
        }
    }
    (diagonal, beside)
}

/// Takes away what lies along the basis, twice, since once leaves rounding behind.
fn orthogonalise(x: &mut [f64], basis: &[Vec<f64>]) {
    for _ in 0..2 {
        for b in basis {
            let along = dot(x, b);
            x.iter_mut().zip(b).for_each(|(x, b)| *x -= along * b);
        }
        remove_mean(x);
    }
}

/// A unit vector without mean beside the basis: a fixed sequence of numbers without pattern, then the next ones.
fn new_direction(members: usize, basis: &[Vec<f64>], fresh: &mut u64) -> Option<Vec<f64>> {
    for _ in 0..4 {
        let mut x: Vec<f64> = (0..members)
            .map(|_| {
                *fresh = fresh
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (*fresh >> 11) as f64 / (1u64 << 53) as f64 - 0.5
            })
            .collect();
        remove_mean(&mut x);
        orthogonalise(&mut x, basis);
        let length = dot(&x, &x).sqrt();
        if length > 1e-6 {
            x.iter_mut().for_each(|x| *x /= length);
            return Some(x);
        }
    }
    None
}

/// The largest eigenvalue of a symmetric tridiagonal matrix, by bisection.
fn largest_eigenvalue(diagonal: &[f64], beside: &[f64]) -> f64 {
    let at = |beside: &[f64], index: usize| beside.get(index).copied().unwrap_or(0.0).abs();
    let radius = |index: usize| at(beside, index) + if index > 0 { at(beside, index - 1) } else { 0.0 };
    let bound = |sign: f64| {
        (0..diagonal.len()).fold(f64::NEG_INFINITY, |most, index| {
            most.max(sign * diagonal[index] + radius(index))
        })
    };
    if diagonal.is_empty() {
        return 0.0;
    }
    let (mut low, mut high) = (-bound(-1.0), bound(1.0));
    for _ in 0..200 {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if all_below(diagonal, beside, middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// Whether all eigenvalues lie below `value`: whether all pivots of the matrix minus `value` are negative.
fn all_below(diagonal: &[f64], beside: &[f64], value: f64) -> bool {
    let mut pivot = -1.0;
    for (index, diagonal) in diagonal.iter().enumerate() {
        let off = if index == 0 { 0.0 } else { beside[index - 1] };
        pivot = diagonal - value - off * off / pivot;
        if pivot >= 0.0 {
            return false;
        }
    }
    true
}
