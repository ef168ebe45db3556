//! Eight f32 or four f64 at once, sixteen registers.
//! It knows no loops: those are in terms of these operations, one module up.

use std::arch::x86_64::*;

use super::*;

type Single = __m256;
type Wide = __m256d;
/// f32 of a vector.
pub(crate) const LANES: usize = 8;
/// f64 of a vector.
const WIDE: usize = 4;
/// Rows of products whose sums stay in registers.
const ROWS: usize = 2;

functions!("avx2");

#[inline]
#[target_feature(enable = "avx2")]
fn zero() -> Single {
    _mm256_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx2")]
fn zero_wide() -> Wide {
    _mm256_setzero_pd()
}

/// # Safety
/// [`LANES`] values may be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const f32) -> Single {
    // SAFETY: promised by the caller.
    unsafe { _mm256_loadu_ps(from) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [f32], values: Single) {
    assert!(to.len() == LANES);
    // SAFETY: as many values as the vector has.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), values) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_wide(from: &[f64; WIDE]) -> Wide {
    // SAFETY: as many values as the vector has.
    unsafe { _mm256_loadu_pd(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_wide(to: &mut [f64; WIDE], values: Wide) {
    // SAFETY: as many values as the vector has.
    unsafe { _mm256_storeu_pd(to.as_mut_ptr(), values) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn least(a: Single, b: Single) -> Single {
    _mm256_min_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn greatest(a: Single, b: Single) -> Single {
    _mm256_max_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_wide(a: Wide, b: Wide) -> Wide {
    _mm256_add_pd(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply_wide(a: Wide, b: Wide) -> Wide {
    _mm256_mul_pd(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn subtract_wide(a: Wide, b: Wide) -> Wide {
    _mm256_sub_pd(a, b)
}

/// sum + a · b for converted f32. AVX2 alone has no fused instruction.
#[inline]
#[target_feature(enable = "avx2")]
fn add_exact_product(sum: Wide, a: Wide, b: Wide) -> Wide {
    _mm256_add_pd(sum, _mm256_mul_pd(a, b))
}

/// Adds the f32 lanes, converted, to two vectors of sums.
#[inline]
#[target_feature(enable = "avx2")]
fn add_widened(sum: (Wide, Wide), values: Single) -> (Wide, Wide) {
    let (low, high) = (_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
    (
        _mm256_add_pd(sum.0, _mm256_cvtps_pd(low)),
        _mm256_add_pd(sum.1, _mm256_cvtps_pd(high)),
    )
}

/// The sums over `count`, within the range of f32, rounded.
#[inline]
#[target_feature(enable = "avx2")]
fn bounded_quotient(sum: (Wide, Wide), count: f64) -> Single {
    let (count, most) = (broadcast(count), broadcast(f64::from(f32::MAX)));
    let least = broadcast(f64::from(f32::MIN));
    let low = _mm256_max_pd(_mm256_min_pd(_mm256_div_pd(sum.0, count), most), least);
    let high = _mm256_max_pd(_mm256_min_pd(_mm256_div_pd(sum.1, count), most), least);
    joined(low, high)
}

/// f32 as f64.
///
/// # Safety
/// [`WIDE`] values may be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_widened(from: *const f32) -> Wide {
    // SAFETY: promised by the caller.
    _mm256_cvtps_pd(unsafe { _mm_loadu_ps(from) })
}

/// The sums over `count`, rounded.
#[inline]
#[target_feature(enable = "avx2")]
fn quotient(sum: (Wide, Wide), count: f64) -> Single {
    let count = broadcast(count);
    joined(_mm256_div_pd(sum.0, count), _mm256_div_pd(sum.1, count))
}

/// Both, rounded.
#[inline]
#[target_feature(enable = "avx2")]
fn joined(low: Wide, high: Wide) -> Single {
    _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low))
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(value: f64) -> Wide {
    _mm256_set1_pd(value)
}
