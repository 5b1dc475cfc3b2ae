//! `LayerNorm`: (x - mean(x)) / sqrt(var(x) + eps) * weight + bias.
//!
//! Sums as in the parent module; the variance is taken of differences from the rounded mean, by one fused
//! multiply-add each. An element is ((x - mean) * scale) * weight + bias, the last product fused with the addition.

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch};

/// out = norm(x). All four slices have the same length.
///
/// # Panics
/// When the lengths differ.
pub fn layer_norm(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    assert!(
        x.len() == weight.len() && x.len() == bias.len() && x.len() == out.len(),
        "lengths of x, weight, bias and out differ"
    );
    dispatch(isa, LayerNorm { x, weight, bias, eps, out });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

/// Sum over the whole slice of `term(x, sum)`, which adds to a sum. Lanes behind the end count for nothing: there
/// x is `outside`.
#[inline(always)]
fn total<S: Simd>(s: S, x: &[f32], outside: f32, term: impl Fn(S::V, S::V) -> S::V) -> f64 {
    let mut sum = s.splat(0.0);
    let mut parts = x.chunks_exact(LANES);
    for part in &mut parts {
        sum = term(s.load(part), sum);
    }
    let mut rest = [outside; LANES];
    rest[..parts.remainder().len()].copy_from_slice(parts.remainder());
    f64::from(s.sum(term(s.load(&rest), sum)))
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len().max(1) as f64;
        let mean = (total(s, self.x, 0.0, |x, sum| s.add(sum, x)) / n) as f32;
        let centre = s.splat(mean);
        let squares = total(s, self.x, mean, |x, sum| {
            let d = s.sub(x, centre);
            s.mul_add(d, d, sum)
        });
        let scale = s.splat((1.0 / (squares / n + f64::from(self.eps)).sqrt()) as f32);
        let parts = self.x.chunks(LANES).zip(self.weight.chunks(LANES)).zip(self.bias.chunks(LANES));
        for (((x, weight), bias), out) in parts.zip(self.out.chunks_mut(LANES)) {
            let y = s.mul(s.sub(s.load_part(x), centre), scale);
            s.store_part(s.mul_add(y, s.load_part(weight), s.load_part(bias)), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const EPS: f32 = 1e-6;

    /// Half of epsilon: the most that one rounding changes, relative to its result.
    const U: f64 = f32::EPSILON as f64 / 2.0;

    /// The norm in f64, and how far a computed element may be from it.
    ///
    /// The mean is off by `shift`: a partial sum rounds n / 16 + 5 times, the mean itself once. A difference carries
    /// that and one rounding. Squares about the shifted mean add up to n * (variance + shift^2); relative to the
    /// variance they are off by the same roundings and two more, the scale by half of that and one of its own.
    fn expected(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<(f64, f64)> {
        let (n, roundings) = (x.len() as f64, (x.len() / 16 + 6) as f64 * U);
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let size = x.iter().map(|&x| f64::from(x).abs()).sum::<f64>() / n;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let shift = roundings * size + U * mean.abs();
        let square = variance + f64::from(EPS);
        let scale = 1.0 / square.sqrt();
        // Where roundings are squared, 1.01 and one more rounding stand for what is of higher order.
        let change = ((roundings + 2.0 * U) * variance + 1.01 * shift * shift) / (2.0 * square) + 2.0 * U;
        let element = |((&x, &weight), &bias): ((&f32, &f32), &f32)| {
            let difference = (f64::from(x) - mean).abs();
            let off = shift + U * (difference + shift);
            let off = scale * (off * (1.0 + change) + difference * change);
            let off = f64::from(weight).abs() * (off + U * (difference * scale + off));
            let y = (f64::from(x) - mean) * scale * f64::from(weight) + f64::from(bias);
            (y, off + U * (y.abs() + off))
        };
        x.iter().zip(weight).zip(bias).map(element).collect()
    }

    /// Rows whose mean is up to 1e6 times their deviation.
    fn case() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, Vec<f32>)> {
        let sizes = prop::sample::select(vec![1e-3f32, 1.0, 1e5]);
        let centres = prop::sample::select(vec![0.0f32, 0.5, -30.0, 1e6]);
        (1usize..400, sizes, centres).prop_flat_map(|(n, size, centre)| {
            let x = vec((-1.0f32..1.0).prop_map(move |x| size * (centre + x)), n);
            (x, vec(-2.0f32..2.0, n), vec(-2.0f32..2.0, n))
        })
    }

    proptest! {
        #[test]
        fn close_to_f64_and_equal_on_every_isa((x, weight, bias) in case()) {
            let mut want = vec![0.0; x.len()];
            layer_norm(Isa::Scalar, &x, &weight, &bias, EPS, &mut want);
            for (have, (exact, bound)) in want.iter().zip(expected(&x, &weight, &bias)) {
                prop_assert!((f64::from(*have) - exact).abs() <= bound, "{have}, want {exact} +- {bound}");
            }
            for isa in Isa::available() {
                let mut have = vec![0.0; x.len()];
                layer_norm(isa, &x, &weight, &bias, EPS, &mut have);
                prop_assert!(have.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    fn a_constant_row_becomes_the_bias() {
        for isa in Isa::available() {
            let mut out = [1.0; 21];
            layer_norm(isa, &[7.25; 21], &[3.0; 21], &[0.5; 21], EPS, &mut out);
            assert_eq!(out, [0.5; 21]);
        }
    }
}
