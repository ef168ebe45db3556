//! The discrete Fourier transform of a power of two of complex numbers (Cooley and Tukey 1965), for convolutions.
//! It normalises nothing: forward and backward together multiply by the length.

/// A complex number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl Complex {
    pub(super) fn times(self, other: Self) -> Self {
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }

    /// selfⁿ, by squaring.
    pub(super) fn power(self, mut n: u32) -> Self {
        let (mut base, mut result) = (self, Self { re: 1.0, im: 0.0 });
        while n > 0 {
            if n & 1 == 1 {
                result = result.times(base);
            }
            base = base.times(base);
            n >>= 1;
        }
        result
    }
}

/// Transforms in place; backwards with the opposite sign of the angle.
///
/// # Panics
/// When the length is no power of two.
pub(super) fn transform(values: &mut [Complex], backwards: bool) {
    let n = values.len();
    assert!(n.is_power_of_two(), "a length of {n}");
    if n == 1 {
        return;
    }
    let bits = n.ilog2();
    for i in 0..n {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if i < j {
            values.swap(i, j);
        }
    }
    let sign = if backwards { 1.0 } else { -1.0 };
    // Each angle by itself, not by repeated multiplication: errors then do not grow along the table.
    let roots: Vec<Complex> = (0..n / 2)
        .map(|k| {
            let (sin, cos) = (2.0 * std::f64::consts::PI * k as f64 / n as f64).sin_cos();
            Complex {
                re: cos,
                im: sign * sin,
            }
        })
        .collect();
    let mut half = 1;
    while half < n {
        let stride = n / (2 * half);
        for block in values.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (k, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let turned = b.times(roots[k * stride]);
                (*a, *b) = (
                    Complex {
                        re: a.re + turned.re,
                        im: a.im + turned.im,
                    },
                    Complex {
                        re: a.re - turned.re,
                        im: a.im - turned.im,
                    },
                );
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_that_defines_it_and_comes_back() {
        let n = 16;
        let values: Vec<Complex> = (0..n)
            .map(|i| Complex {
                re: (i * i % 7) as f64,
                im: (i % 5) as f64 - 2.0,
            })
            .collect();
        let mut transformed = values.clone();
        transform(&mut transformed, false);
        for (k, found) in transformed.iter().enumerate() {
            let mut sum = Complex::default();
            for (i, value) in values.iter().enumerate() {
                let (sin, cos) = (-2.0 * std::f64::consts::PI * (i * k) as f64 / n as f64).sin_cos();
                let term = value.times(Complex { re: cos, im: sin });
                sum = Complex {
                    re: sum.re + term.re,
                    im: sum.im + term.im,
                };
            }
            assert!((sum.re - found.re).abs() < 1e-12 && (sum.im - found.im).abs() < 1e-12);
        }
        transform(&mut transformed, true);
        for (back, value) in transformed.iter().zip(&values) {
            assert!((back.re / n as f64 - value.re).abs() < 1e-13 && (back.im / n as f64 - value.im).abs() < 1e-13);
        }
    }

    #[test]
    fn powers() {
        let i = Complex { re: 0.0, im: 1.0 };
        assert_eq!(i.power(0), Complex { re: 1.0, im: 0.0 });
        assert_eq!(i.power(7), Complex { re: 0.0, im: -1.0 });
    }
}
