//! Two dense decompositions in f64: eigenvectors of a symmetric matrix (Householder's tridiagonal form, then QL with implicit
//! shifts) and the orthonormal factor of a square one (Householder). See Golub and Van Loan, *Matrix Computations*, 5.2
//! and 8.3. They are made for sides up to some thousands, and order what they return; signs are not normalised.

use rayon::prelude::*;

/// QL sweeps that one eigenvalue is given; two or three are usual.
const MOST_SWEEPS: usize = 60;

/// A matrix of this side or less is one thread's.
const SMALL: usize = 64;

/// Eigenvalues of a symmetric row-major matrix, greatest first, and its eigenvectors as columns of a row-major matrix.
pub(super) fn symmetric_eigenvectors(matrix: &[f32], side: usize) -> (Vec<f64>, Vec<f32>) {
    let mut a: Vec<f64> = matrix.iter().map(|value| f64::from(*value)).collect();
    let (mut diagonal, mut beside, mut rows) = tridiagonal(&mut a, side);
    diagonalise(&mut diagonal, &mut beside, &mut rows);
    let mut order: Vec<usize> = (0..side).collect();
    order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
    let mut vectors = vec![0.0; side * side];
    for (column, from) in order.iter().enumerate() {
        for (row, value) in rows[*from].iter().enumerate() {
            vectors[row * side + column] = *value as f32;
        }
    }
    (order.iter().map(|from| diagonal[*from]).collect(), vectors)
}

/// The unit vector that mirrors `x` onto its first axis, and the first element after the mirror. None where `x` is zero.
fn mirror(x: &[f64]) -> Option<(Vec<f64>, f64)> {
    let size = dot(x, x).sqrt();
    if size == 0.0 || !size.is_finite() {
        return None;
    }
    let first = if x[0] > 0.0 { -size } else { size };
    let mut v = x.to_vec();
    v[0] -= first;
    let length = dot(&v, &v).sqrt();
    v.iter_mut().for_each(|value| *value /= length);
    Some((v, first))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y ← y + scale · x`.
fn add(y: &mut [f64], scale: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
}

/// Diagonal, off-diagonal (its last element is unused) and the transposed orthogonal matrix, by rows.
fn tridiagonal(a: &mut [f64], side: usize) -> (Vec<f64>, Vec<f64>, Vec<Vec<f64>>) {
    let mut beside = vec![0.0; side];
    let mut rows: Vec<Vec<f64>> = (0..side)
        .map(|row| (0..side).map(|column| f64::from(u8::from(row == column))).collect())
        .collect();
    for k in 0..side.saturating_sub(1) {
        let below: Vec<f64> = (k + 1..side).map(|row| a[row * side + k]).collect();
        let Some((v, first)) = mirror(&below) else {
            continue;
        };
        beside[k] = first;
        let block = |row: usize| row * side + k + 1..(row + 1) * side;
        let product: Vec<f64> = (k + 1..side).map(|row| dot(&a[block(row)], &v)).collect();
        let mut w = product.clone();
        add(&mut w, -dot(&v, &product), &v);
        for (at, row) in (k + 1..side).enumerate() {
            add(&mut a[block(row)], -2.0 * v[at], &w);
            add(&mut a[block(row)], -2.0 * w[at], &v);
        }
        let mut combined = vec![0.0; side];
        for (at, row) in (k + 1..side).enumerate() {
            add(&mut combined, v[at], &rows[row]);
        }
        for (at, row) in (k + 1..side).enumerate() {
            add(&mut rows[row], -2.0 * v[at], &combined);
        }
    }
    ((0..side).map(|k| a[k * side + k]).collect(), beside, rows)
}

/// Turns a tridiagonal matrix into its eigenvalues, and `rows` along with it.
fn diagonalise(diagonal: &mut [f64], beside: &mut [f64], rows: &mut [Vec<f64>]) {
    let side = diagonal.len();
    for low in 0..side {
        for _ in 0..MOST_SWEEPS {
            let negligible = |k: usize| beside[k].abs() <= f64::EPSILON * (diagonal[k].abs() + diagonal[k + 1].abs());
            let high = (low..side - 1).find(|k| negligible(*k)).unwrap_or(side - 1);
            if high == low {
                break;
            }
            sweep(diagonal, beside, rows, low, high);
        }
    }
}

/// One implicit QL sweep over `low..=high`, with Wilkinson's shift.
fn sweep(diagonal: &mut [f64], beside: &mut [f64], rows: &mut [Vec<f64>], low: usize, high: usize) {
    let slope = (diagonal[low + 1] - diagonal[low]) / (2.0 * beside[low]);
    let root = (slope * slope + 1.0).sqrt();
    let shift = diagonal[low] - beside[low] / (slope + if slope >= 0.0 { root } else { -root });
    let mut bulge = diagonal[high] - shift;
    let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
    for k in (low..high).rev() {
        let (far, near) = (sine * beside[k], cosine * beside[k]);
        let length = (far * far + bulge * bulge).sqrt();
        beside[k + 1] = length;
        if length == 0.0 {
            diagonal[k + 1] -= moved;
            beside[high] = 0.0;
            return;
        }
        (sine, cosine) = (far / length, bulge / length);
        let before = diagonal[k + 1] - moved;
        let turned = (diagonal[k] - before) * sine + 2.0 * cosine * near;
        moved = sine * turned;
        diagonal[k + 1] = before + moved;
        bulge = cosine * turned - near;
        let (upper, lower) = rows.split_at_mut(k + 1);
        for (x, y) in upper[k].iter_mut().zip(&mut lower[0]) {
            (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
        }
    }
    diagonal[low] -= moved;
    beside[low] = bulge;
    beside[high] = 0.0;
}

/// The orthonormal factor Q of a square row-major matrix, also where its columns depend on each other.
pub(super) fn orthonormal_factor(matrix: &[f32], side: usize) -> Vec<f32> {
    let mut columns: Vec<Vec<f64>> = (0..side)
        .map(|column| (0..side).map(|row| f64::from(matrix[row * side + column])).collect())
        .collect();
    let mut mirrors: Vec<Option<Vec<f64>>> = Vec::with_capacity(side);
    for k in 0..side {
        let (done, rest) = columns.split_at_mut(k + 1);
        let v = mirror(&done[k][k..]).map(|(v, _)| v);
        if let Some(v) = &v {
            let reflect = |column: &mut Vec<f64>| {
                let column = &mut column[k..];
                let along = dot(v, column);
                add(column, -2.0 * along, v);
            };
            match side <= SMALL {
                true => rest.iter_mut().for_each(reflect),
                false => rest.par_iter_mut().with_min_len(16).for_each(reflect),
            }
        }
        mirrors.push(v);
    }
    let unit = |column: usize| {
        let mut q = vec![0.0; side];
        q[column] = 1.0;
        for (k, v) in mirrors[..=column].iter().enumerate().rev() {
            if let Some(v) = v {
                let along = dot(v, &q[k..]);
                add(&mut q[k..], -2.0 * along, v);
            }
        }
        q
    };
    let q: Vec<Vec<f64>> = match side <= SMALL {
        true => (0..side).map(unit).collect(),
        false => (0..side).into_par_iter().map(unit).collect(),
    };
    let mut out = vec![0.0; side * side];
    for (column, values) in q.iter().enumerate() {
        for (row, value) in values.iter().enumerate() {
            out[row * side + column] = *value as f32;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symmetric(side: usize) -> Vec<f32> {
        let value = |a: usize, b: usize| ((a * 7 + b * 7 + a * b * 3) % 23) as f32 - 11.0;
        (0..side * side).map(|at| value(at / side, at % side)).collect()
    }

    fn check_orthonormal(q: &[f32], side: usize) {
        for a in 0..side {
            for b in 0..side {
                let along: f32 = (0..side).map(|row| q[row * side + a] * q[row * side + b]).sum();
                let expected = if a == b { 1.0 } else { 0.0 };
                assert!((along - expected).abs() < 1e-5, "columns {a}, {b}: {along}");
            }
        }
    }

    #[test]
    fn eigenvectors_are_stretched_and_orthonormal() {
        for side in [1, 2, 3, 17, 60] {
            let a = symmetric(side);
            let (values, vectors) = symmetric_eigenvectors(&a, side);
            check_orthonormal(&vectors, side);
            assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
            for (column, value) in values.iter().enumerate() {
                for row in 0..side {
                    let got: f64 = (0..side)
                        .map(|k| f64::from(a[row * side + k] * vectors[k * side + column]))
                        .sum();
                    let expected = value * f64::from(vectors[row * side + column]);
                    assert!((got - expected).abs() < 2e-3, "side {side}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_of_low_rank_has_a_full_set_of_eigenvectors() {
        let side = 12;
        let a: Vec<f32> = (0..side * side)
            .map(|at| (at / side + 1) as f32 * (at % side + 1) as f32)
            .collect();
        let (values, vectors) = symmetric_eigenvectors(&a, side);
        check_orthonormal(&vectors, side);
        assert!((values[0] - 650.0).abs() < 1e-9 && values[1..].iter().all(|value| value.abs() < 1e-9));
        check_orthonormal(&symmetric_eigenvectors(&[0.0; 16], 4).1, 4);
    }

    #[test]
    fn the_orthonormal_factor_spans_the_leading_columns() {
        let side = 9;
        let a = symmetric(side);
        let q = orthonormal_factor(&a, side);
        check_orthonormal(&q, side);
        // The first column of Q is the first column of A but for its length.
        let size: f32 = (0..side).map(|row| a[row * side] * a[row * side]).sum::<f32>().sqrt();
        for row in 0..side {
            assert!((q[row * side].abs() - (a[row * side] / size).abs()).abs() < 1e-6);
        }
        // QᵀA is upper triangular.
        for column in 0..side {
            for row in column + 1..side {
                let below: f32 = (0..side).map(|k| q[k * side + row] * a[k * side + column]).sum();
                assert!(below.abs() < 1e-4, "{row}, {column}: {below}");
            }
        }
        check_orthonormal(&orthonormal_factor(&[0.0; 16], 4), 4);
    }
}
