//! The exponential function, the same polynomial on every instruction set.

use super::{ROUNDER, Simd};

/// Below this e^x is no normal float; the result is 0.
const LEAST: f32 = -87.33;
/// Above this e^x would overflow; the result is e^88.
const MOST: f32 = 88.0;
/// ln 2 in two parts: n * `LN2_HIGH` is exact for |n| < 2^9.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2: minimax, highest power first (Cephes).
const POLYNOMIAL: [f32; 6] = [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// e^x within 2e-7 of the value; 0 below -87.33, e^88 above 88, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let inside = s.min(s.splat(MOST), s.max(s.splat(LEAST), x));
    let rounder = s.splat(ROUNDER);
    let n = s.sub(s.mul_add(inside, s.splat(std::f32::consts::LOG2_E), rounder), rounder);
    let r = s.mul_add(n, s.splat(-LN2_LOW), s.mul_add(n, s.splat(-LN2_HIGH), inside));
    let mut p = s.splat(POLYNOMIAL[0]);
    p = s.mul_add(p, r, s.splat(POLYNOMIAL[1]));
    p = s.mul_add(p, r, s.splat(POLYNOMIAL[2]));
    p = s.mul_add(p, r, s.splat(POLYNOMIAL[3]));
    p = s.mul_add(p, r, s.splat(POLYNOMIAL[4]));
    p = s.mul_add(p, r, s.splat(POLYNOMIAL[5]));
    let y = s.add(s.mul_add(p, s.mul(r, r), r), s.splat(1.0));
    s.zero_below(x, LEAST, s.mul(y, s.exp2_integral(n)))
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, LANES, dispatch};
    use super::*;
    use crate::isa::Isa;

    struct Exp<'a>(&'a [f32]);

    impl Kernel for Exp<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.0.len()];
            for (x, y) in self.0.chunks(LANES).zip(out.chunks_mut(LANES)) {
                s.store_part(exp(s, s.load_part(x)), y);
            }
            out
        }
    }

    #[test]
    fn close_to_f64_and_equal_on_every_isa() {
        let xs: Vec<f32> = (-880_000..880_000).map(|i| i as f32 * 1e-4).collect();
        let reference = dispatch(Isa::Scalar, Exp(&xs));
        for (&x, &y) in xs.iter().zip(&reference).filter(|(x, _)| **x >= LEAST) {
            let want = f64::from(x).exp();
            assert!((f64::from(y) - want).abs() <= 2e-7 * want, "exp({x}) = {y}, want {want}");
        }
        for isa in Isa::available() {
            assert_eq!(dispatch(isa, Exp(&xs)), reference);
        }
    }

    #[test]
    fn ends_of_the_range() {
        for isa in Isa::available() {
            let y = dispatch(isa, Exp(&[f32::NEG_INFINITY, -1e30, -88.0, 0.0, -0.0, 1e30, f32::INFINITY, f32::NAN]));
            assert_eq!(y[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
            assert!(y[5] > 1e38 && y[5].is_finite() && y[6] == y[5] && y[7].is_nan());
        }
    }
}
