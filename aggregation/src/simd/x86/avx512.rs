//! Sixteen f32 or eight f64 at once, thirty-two registers.
//! It knows no loops: those are in terms of these operations, one module up.

use std::arch::x86_64::*;

use super::*;

type Single = __m512;
type Wide = __m512d;
/// f32 of a vector.
pub(crate) const LANES: usize = 16;
/// f64 of a vector.
const WIDE: usize = 8;
/// Rows of products whose sums stay in registers.
const ROWS: usize = 4;

functions!("avx512f");

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> Single {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero_wide() -> Wide {
    _mm512_setzero_pd()
}

/// # Safety
/// [`LANES`] values may be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const f32) -> Single {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_ps(from) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [f32], values: Single) {
    assert!(to.len() == LANES);
    // SAFETY: as many values as the vector has.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_wide(from: &[f64; WIDE]) -> Wide {
    // SAFETY: as many values as the vector has.
    unsafe { _mm512_loadu_pd(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_wide(to: &mut [f64; WIDE], values: Wide) {
    // SAFETY: as many values as the vector has.
    unsafe { _mm512_storeu_pd(to.as_mut_ptr(), values) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn least(a: Single, b: Single) -> Single {
    _mm512_min_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn greatest(a: Single, b: Single) -> Single {
    _mm512_max_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_wide(a: Wide, b: Wide) -> Wide {
    _mm512_add_pd(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_wide(a: Wide, b: Wide) -> Wide {
    _mm512_mul_pd(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn subtract_wide(a: Wide, b: Wide) -> Wide {
    _mm512_sub_pd(a, b)
}

/// sum + a · b for converted f32. The product of two converted f32 is exact, so that fusing rounds no less than adding it.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_exact_product(sum: Wide, a: Wide, b: Wide) -> Wide {
    _mm512_fmadd_pd(a, b, sum)
}

/// Adds the f32 lanes, converted, to two vectors of sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_widened(sum: (Wide, Wide), values: Single) -> (Wide, Wide) {
    let low = _mm512_castps512_ps256(values);
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(values)));
    (
        _mm512_add_pd(sum.0, _mm512_cvtps_pd(low)),
        _mm512_add_pd(sum.1, _mm512_cvtps_pd(high)),
    )
}

/// The sums over `count`, within the range of f32, rounded.
#[inline]
#[target_feature(enable = "avx512f")]
fn bounded_quotient(sum: (Wide, Wide), count: f64) -> Single {
    let (count, most) = (broadcast(count), broadcast(f64::from(f32::MAX)));
    let least = broadcast(f64::from(f32::MIN));
    let low = _mm512_max_pd(_mm512_min_pd(_mm512_div_pd(sum.0, count), most), least);
    let high = _mm512_max_pd(_mm512_min_pd(_mm512_div_pd(sum.1, count), most), least);
    joined(low, high)
}

/// f32 as f64.
///
/// # Safety
/// [`WIDE`] values may be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_widened(from: *const f32) -> Wide {
    // SAFETY: promised by the caller.
    _mm512_cvtps_pd(unsafe { _mm256_loadu_ps(from) })
}

/// The sums over `count`, rounded.
#[inline]
#[target_feature(enable = "avx512f")]
fn quotient(sum: (Wide, Wide), count: f64) -> Single {
    let count = broadcast(count);
    joined(_mm512_div_pd(sum.0, count), _mm512_div_pd(sum.1, count))
}

/// Both, rounded.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(low: Wide, high: Wide) -> Single {
    let low = _mm512_castpd256_pd512(_mm256_castps_pd(_mm512_cvtpd_ps(low)));
    let high = _mm256_castps_pd(_mm512_cvtpd_ps(high));
    _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, high))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(value: f64) -> Wide {
    _mm512_set1_pd(value)
}
