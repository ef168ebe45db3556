//! Shamir's sharing of 32-byte secrets, byte by byte over GF(2⁸) with AES's polynomial (Shamir 1979).
//! It authenticates nothing: a wrong share is noticed by what the secret is checked against, or by a surplus of shares.

use zeroize::Zeroize;

/// A secret, or a share of one.
pub(crate) type Secret = [u8; 32];

/// Multiplies without tables or branches, so that time and caches tell nothing of secrets.
fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= (b & 1).wrapping_neg() & a;
        a = (a << 1) ^ ((a >> 7).wrapping_neg() & 0x1b);
        b >>= 1;
    }
    product
}

/// a²⁵⁴, which is 1/a for a ≠ 0.
fn inverse(a: u8) -> u8 {
    let mut power = a;
    let mut product = 1;
    for _ in 0..7 {
        power = multiply(power, power);
        product = multiply(product, power);
    }
    product
}

/// The share of each of `holders` (points, none zero), any `threshold` of which give `secret` back.
///
/// `coefficients` holds `threshold − 1` secrets' worth of fresh random bytes.
///
/// # Panics
/// When a point is zero or the number of coefficients is another.
pub(crate) fn deal(secret: &Secret, coefficients: &[Secret], holders: &[u8]) -> Vec<Secret> {
    holders
        .iter()
        .map(|&point| {
            assert_ne!(point, 0, "the secret itself lies at zero");
            let mut share = [0u8; 32];
            // Horner, from the highest power down to the secret.
            for row in coefficients.iter().rev().chain([secret]) {
                for (byte, &coefficient) in share.iter_mut().zip(row) {
                    *byte = multiply(*byte, point) ^ coefficient;
                }
            }
            share
        })
        .collect()
}

/// The value at `at` of the polynomial through `points`, whose first members differ from each other.
fn interpolate(points: &[(u8, Secret)], at: u8) -> Secret {
    let mut value = [0u8; 32];
    for (i, (x, share)) in points.iter().enumerate() {
        let (mut above, mut below) = (1, 1);
        for (_, (other, _)) in points.iter().enumerate().filter(|(j, _)| *j != i) {
            above = multiply(above, at ^ other);
            below = multiply(below, x ^ other);
        }
        let factor = multiply(above, inverse(below));
        for (byte, &of_share) in value.iter_mut().zip(share) {
            *byte ^= multiply(factor, of_share);
        }
    }
    value
}

/// The secret that `points` share; `None` when there are fewer than `threshold` or when not all lie on one polynomial.
///
/// Points must be distinct and not zero.
pub(crate) fn reconstruct(points: &[(u8, Secret)], threshold: usize) -> Option<Secret> {
    let (needed, surplus) = points.split_at_checked(threshold)?;
    if surplus.iter().any(|(x, share)| interpolate(needed, *x) != *share) {
        return None;
    }
    Some(interpolate(needed, 0))
}

/// Overwrites coefficients that are no longer needed.
pub(crate) fn forget(mut coefficients: Vec<Secret>) {
    coefficients.iter_mut().for_each(Zeroize::zeroize);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_aes_field() {
        // FIPS 197, §4.2: {57} · {83} = {c1}; {57} · {13} = {fe}.
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        for a in 1..=255u8 {
            assert_eq!(multiply(a, inverse(a)), 1, "{a}");
            for b in [0, 1, 2, 0x80, 0xff] {
                assert_eq!(multiply(a, b), multiply(b, a));
            }
        }
    }

    fn coefficients(count: usize) -> Vec<Secret> {
        (0..count)
            .map(|row| *blake3::hash(&[row as u8, 77]).as_bytes())
            .collect()
    }

    #[test]
    fn every_quorum_of_five_gives_the_secret_back() {
        let secret: Secret = std::array::from_fn(|i| i as u8 * 7);
        let holders = [1, 2, 3, 4, 5];
        let shares = deal(&secret, &coefficients(2), &holders);
        for mask in 0u8..32 {
            let points: Vec<_> = (0..5)
                .filter(|i| mask >> i & 1 == 1)
                .map(|i| (holders[i], shares[i]))
                .collect();
            let expected = (points.len() >= 3).then_some(secret);
            assert_eq!(reconstruct(&points, 3), expected, "{mask:05b}");
        }
    }

    /// With one share too few, every secret is still possible: for each there is a polynomial through the shares.
    #[test]
    fn a_share_too_few_excludes_no_secret() {
        let secret: Secret = [42; 32];
        let shares = deal(&secret, &coefficients(2), &[1, 2]);
        for guess in 0..=255u8 {
            let points = [(0, [guess; 32]), (1, shares[0]), (2, shares[1])];
            let third = interpolate(&points, 3);
            let completed = [(1, shares[0]), (2, shares[1]), (3, third)];
            assert_eq!(reconstruct(&completed, 3), Some([guess; 32]));
        }
    }

    #[test]
    fn a_surplus_share_that_does_not_fit_is_noticed() {
        let holders: Vec<u8> = (1..=64).collect();
        let shares = deal(&[3; 32], &coefficients(42), &holders);
        let mut points: Vec<_> = holders.iter().copied().zip(shares).collect();
        assert_eq!(reconstruct(&points, 43), Some([3; 32]));
        points[50].1[31] ^= 1;
        assert_eq!(reconstruct(&points, 43), None);
    }
}
