//! Eigenvalues and eigenvectors of small symmetric matrices, by Jacobi's rotations in a fixed order.
//! It is no library for large ones: n is a number of members.
//!
//! Golub & Van Loan, Matrix Computations, §8.5: cyclic sweeps over all pairs until what is off the diagonal is below
//! rounding. Only + − × ÷ and the square root, so every machine gets the same bits.

/// A symmetric matrix's eigenvalues, greatest first, and the unit eigenvector of the greatest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spectrum {
    pub(crate) values: Vec<f64>,
    pub(crate) top: Vec<f64>,
}

/// Sweeps at most; convergence is quadratic, and six do for the sizes in use.
const SWEEPS: usize = 60;

/// The spectrum of the symmetric n × n matrix `a`, given row by row.
pub(crate) fn spectrum(n: usize, mut a: Vec<f64>) -> Spectrum {
    assert_eq!(a.len(), n * n, "a square matrix");
    let mut vectors = vec![0.0; n * n];
    for i in 0..n {
        vectors[i * n + i] = 1.0;
    }
    let scale = a.iter().fold(
        0.0f64,
        |most, entry| if entry.abs() > most { entry.abs() } else { most },
    );
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q].abs() > scale * 1e-17 {
                    rotate(n, &mut a, &mut vectors, p, q);
                    rotated = true;
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let order = crate::gram::order_by(n, |i| -a[i * n + i]);
    Spectrum {
        values: order.iter().map(|&i| a[i * n + i]).collect(),
        top: order
            .first()
            .map_or_else(Vec::new, |&i| (0..n).map(|k| vectors[k * n + i]).collect()),
    }
}

/// One rotation: makes a_pq zero.
fn rotate(n: usize, a: &mut [f64], vectors: &mut [f64], p: usize, q: usize) {
    let ratio = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
    let root = (ratio * ratio + 1.0).sqrt();
    let tangent = if ratio >= 0.0 {
        1.0 / (ratio + root)
    } else {
        -1.0 / (root - ratio)
    };
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    for k in 0..n {
        let (kp, kq) = (a[k * n + p], a[k * n + q]);
        a[k * n + p] = cosine * kp - sine * kq;
        a[k * n + q] = sine * kp + cosine * kq;
    }
    for k in 0..n {
        let (pk, qk) = (a[p * n + k], a[q * n + k]);
        a[p * n + k] = cosine * pk - sine * qk;
        a[q * n + k] = sine * pk + cosine * qk;
        let (vp, vq) = (vectors[k * n + p], vectors[k * n + q]);
        vectors[k * n + p] = cosine * vp - sine * vq;
        vectors[k * n + q] = sine * vp + cosine * vq;
    }
    (a[p * n + q], a[q * n + p]) = (0.0, 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_with_known_eigenvalues() {
        // 2 on the diagonal, −1 beside it: 2 − 2 cos(k π / 4).
        let found = spectrum(3, vec![2.0, -1.0, 0.0, -1.0, 2.0, -1.0, 0.0, -1.0, 2.0]);
        for (value, expected) in found.values.iter().zip([2.0 + 2f64.sqrt(), 2.0, 2.0 - 2f64.sqrt()]) {
            assert!((value - expected).abs() < 1e-14);
        }
        assert!(
            (found.top[0] - found.top[2]).abs() < 1e-14 && (found.top[1] / found.top[0] + 2f64.sqrt()).abs() < 1e-14
        );
    }

    #[test]
    fn the_vector_belongs_to_the_value_at_any_scale() {
        let n = 13;
        for scale in [1e-80, 1.0, 1e80] {
            let a: Vec<f64> = (0..n * n)
                .map(|k| scale * (((k / n) * (k % n) + k / n + k % n) % 7) as f64)
                .collect();
            let found = spectrum(n, a.clone());
            assert!(found.values.is_sorted_by(|a, b| a >= b));
            for i in 0..n {
                let image: f64 = (0..n).map(|k| a[i * n + k] * found.top[k]).sum();
                assert!((image - found.values[0] * found.top[i]).abs() <= 1e-12 * scale * 50.0);
            }
        }
        assert_eq!(spectrum(2, vec![0.0; 4]).values, [0.0, 0.0]);
    }
}
