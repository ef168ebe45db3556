//! The orthogonal factor of a matrix by a quintic Newton–Schulz iteration (Bernstein and Newhouse, 2024; coefficients of
//! Jordan, "Muon", 2024): `X ← X/‖X‖`, then `A = XXᵀ`, `X ← aX + (bA + cA²)X`. It does not converge: singular values end
//! between about 0.7 and 1.2, which is what the optimizers are tuned with.
//!
//! All in f32; the reference implementations round to bf16 for a GPU's sake. Tall matrices use `XᵀX`, which is the same
//! iteration on the transpose.

use super::matrix::{matrix, product};
use super::run::norm;

/// Coefficients a, b, c that make the slope at zero steepest.
pub const MUON: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// The orthogonal factor of a row-major matrix after `steps` iterations.
pub fn newton_schulz(values: &[f32], rows: usize, columns: usize, [a, b, c]: [f32; 3], steps: u32) -> Vec<f32> {
    let scale = (1.0 / (norm(values) + 1e-7)) as f32;
    let mut x: Vec<f32> = values.iter().map(|value| value * scale).collect();
    let side = rows.min(columns);
    let mut gram = vec![0.0; side * side];
    let mut mixed = vec![0.0; side * side];
    let mut next = vec![0.0; x.len()];
    for _ in 0..steps {
        let now = matrix(&x, rows, columns);
        let (left, right) = match rows <= columns {
            true => (now, now.transposed()),
            false => (now.transposed(), now),
        };
        product(&mut gram, side, None, 1.0, left, right);
        mixed.copy_from_slice(&gram);
        let square = matrix(&gram, side, side);
        product(&mut mixed, side, Some(b), c, square, square);
        next.copy_from_slice(&x);
        let polynomial = matrix(&mixed, side, side);
        match rows <= columns {
            true => product(&mut next, columns, Some(a), 1.0, polynomial, now),
            false => product(&mut next, columns, Some(a), 1.0, now, polynomial),
        }
        std::mem::swap(&mut x, &mut next);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizers::eigen::symmetric_eigenvectors;

    fn random(count: usize, mut seed: u64) -> Vec<f32> {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Singular values of a row-major matrix, from the eigenvalues of its smaller Gram matrix.
    fn singular_values(x: &[f32], rows: usize, columns: usize) -> Vec<f64> {
        let side = rows.min(columns);
        let mut gram = vec![0.0; side * side];
        let now = matrix(x, rows, columns);
        match rows <= columns {
            true => product(&mut gram, side, None, 1.0, now, now.transposed()),
            false => product(&mut gram, side, None, 1.0, now.transposed(), now),
        }
        let (values, _) = symmetric_eigenvectors(&gram, side);
        values.iter().map(|value| value.max(0.0).sqrt()).collect()
    }

    #[test]
    fn singular_values_come_near_one_for_wide_tall_and_square_matrices() {
        for (rows, columns) in [(24, 60), (60, 24), (32, 32), (1, 7), (200, 130)] {
            let out = newton_schulz(&random(rows * columns, 7), rows, columns, MUON, 5);
            let values = singular_values(&out, rows, columns);
            // A square random matrix has a few singular values so small that five steps do not lift them.
            let lifted = values.iter().filter(|value| **value > 0.65).count();
            assert!(
                values.iter().all(|value| *value < 1.25),
                "{rows} × {columns}: {values:?}"
            );
            let all = if rows == columns {
                values.len() - 2
            } else {
                values.len()
            };
            assert!(lifted >= all, "{rows} × {columns}: {values:?}");
        }
    }

    #[test]
    fn a_transpose_gives_the_transpose() {
        let (rows, columns) = (5, 9);
        let x = random(rows * columns, 3);
        let transposed: Vec<f32> = (0..x.len()).map(|at| x[at % rows * columns + at / rows]).collect();
        let wide = newton_schulz(&x, rows, columns, MUON, 5);
        let tall = newton_schulz(&transposed, columns, rows, MUON, 5);
        for (at, value) in tall.iter().enumerate() {
            assert!((value - wide[at % rows * columns + at / rows]).abs() < 1e-5);
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        assert_eq!(newton_schulz(&[0.0; 6], 2, 3, MUON, 5), [0.0; 6]);
    }
}
