//! Arithmetic on slices for the fused operations: exponentials, sums in eight fixed lanes, and run-time use of AVX2.
//! There is no fused multiply-add and no libm here, so that every machine and vector width computes the same bits.
#![cfg_attr(not(feature = "engine"), allow(dead_code))] // the small models need less than the engine

/// Defines a function twice, for the build's baseline and for AVX2, and chooses at run time. Both do the same operations in
/// the same order; AVX2 only does more of them at once.
macro_rules! vectorised {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(unsafe_code)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn baseline($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn wide($($argument: $type),*) $(-> $result)? {
                baseline($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            if crate::processor::instructions() >= crate::processor::Instructions::Avx2 {
                // SAFETY: the processor has AVX2, as was just asked.
                return unsafe { wide($($argument),*) };
            }
            baseline($($argument),*)
        }
    };
}
pub(crate) use vectorised;

/// eˣ with a relative error below 3e-7; 0 below −87 and e⁸⁷ above 87.
///
/// x = n·ln 2 + r with |r| ≤ ½ ln 2; eʳ by its Taylor polynomial of degree 7; 2ⁿ by its exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the lowest bits, without an instruction that not all processors have.
    const ROUNDER: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few bits, so that n·LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.0, 87.0);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    let power = f32::from_bits(exponent.wrapping_shl(23));
    if x < -87.0 { 0.0 } else { sum * power }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The natural logarithm of a positive normal number, with a relative error below 2e-7 (absolute near 1).
///
/// x = 2ⁿ·m with m in [√½, √2); ln m = 2·artanh(s) with s = (m − 1)/(m + 1), |s| ≤ 0.172, by its series up to s¹¹.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    const HALF_ROOT: u32 = 0x3F35_04F3; // √½
    let shifted = x.to_bits().wrapping_sub(HALF_ROOT);
    let exponent = (shifted as i32) >> 23;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(HALF_ROOT));
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 1.0 / 11.0;
    for coefficient in [1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0] {
        sum = sum * square + coefficient;
    }
    let tail = 2.0 * s * square * sum;
    let n = exponent as f32;
    // ln 2 in two parts, as in `exp`.
    n * 0.693_359_4 + (2.0 * s + (tail + n * -2.121_944_4e-4))
}

/// eˣ − 1 − x for x ≤ 0: by its series where the difference would lose digits.
#[inline(always)]
pub(crate) fn exp_minus_line(x: f32) -> f32 {
    let mut sum = 1.0 / 3_628_800.0;
    for coefficient in [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
    ] {
        sum = sum * x + coefficient;
    }
    let near = sum * x * x;
    let far = (exp(x) - 1.0) - x;
    if x > -0.7 { near } else { far }
}

/// ln(1 + eˣ), for the few numbers a layer that are stored so.
pub(crate) fn softplus(x: f32) -> f32 {
    let small = exp(-x.abs());
    // ln(1 + small) by 1 + small loses digits of small: the quotient gives them back (Kahan).
    let one_more = 1.0 + small;
    let log = if one_more == 1.0 {
        small
    } else {
        ln(one_more) * small / (one_more - 1.0)
    };
    x.max(0.0) + log
}

/// Σ values, in eight lanes and then across them.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0f32; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    across(lanes) + rest.iter().sum::<f32>()
}

/// Σ left · right, in eight lanes and then across them.
#[inline(always)]
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<8>(), right.as_chunks::<8>());
    let mut lanes = [0f32; 8];
    for (left, right) in left.iter().zip(right) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right;
        }
    }
    across(lanes)
        + left_rest
            .iter()
            .zip(right_rest)
            .map(|(left, right)| left * right)
            .sum::<f32>()
}

#[inline(always)]
fn across([a, b, c, d, e, f, g, h]: [f32; 8]) -> f32 {
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

vectorised! {
    /// The greatest value; −∞ of none.
    pub(crate) fn greatest(values: &[f32]) -> f32 {
        let (chunks, rest) = values.as_chunks::<8>();
        let mut lanes = [f32::NEG_INFINITY; 8];
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if *value > *lane { *value } else { *lane };
            }
        }
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
    }
}

vectorised! {
    /// Writes e^(value − shift) over each value and returns their sum.
    pub(crate) fn exp_shifted(values: &mut [f32], shift: f32) -> f32 {
        for value in values.iter_mut() {
            *value = exp(*value - shift);
        }
        sum(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_agree_with_f64() {
        for i in -8700..8700 {
            let x = i as f32 * 0.01 + 0.0037;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 3e-7, "{x}: {error}");
        }
        assert_eq!((exp(0.0), exp(-1000.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(1000.0) > 1e37 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn logarithms_and_their_kin_agree_with_f64() {
        for i in 1..20_000 {
            let x = (i as f32 * 0.37).powi(3) * 1e-6;
            let exact = f64::from(x).ln();
            let error = (f64::from(ln(x)) - exact).abs() / exact.abs().max(1.0);
            assert!(error < 2e-7, "{x}: {error}");
        }
        assert_eq!(ln(1.0), 0.0);
        for i in 0..2000 {
            let x = -(i as f32) * 0.005 - 1e-4;
            let exact = f64::from(x).exp_m1() - f64::from(x);
            let error = (f64::from(exp_minus_line(x)) / exact - 1.0).abs();
            assert!(error < 1e-6, "{x}: {error}");
            for x in [x, -x] {
                let exact = f64::from(x).exp().ln_1p();
                assert!((f64::from(softplus(x)) / exact - 1.0).abs() < 1e-6, "{x}");
            }
        }
    }

    #[test]
    fn sums_and_maxima_take_every_value() {
        for count in 0..40 {
            let values: Vec<f32> = (0..count).map(|i| (i * 7 % 31) as f32 - 40.0).collect();
            assert_eq!(sum(&values), values.iter().sum::<f32>());
            assert_eq!(dot(&values, &values), values.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(
                greatest(&values),
                values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            );
        }
    }
}
