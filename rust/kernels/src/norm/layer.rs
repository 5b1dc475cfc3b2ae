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
    let (mut low, mut high) = (s.splat(0.0), s.splat(0.0));
    let mut pairs = x.chunks_exact(2 * LANES);
    for pair in &mut pairs {
        low = term(s.load(pair), low);
        high = term(s.load(&pair[LANES..]), high);
    }
    let mut rest = [outside; 2 * LANES];
    rest[..pairs.remainder().len()].copy_from_slice(pairs.remainder());
    low = term(s.load(&rest), low);
    high = term(s.load(&rest[LANES..]), high);
    f64::from(s.sum(s.add(low, high)))
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

    fn naive(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (var + f64::from(EPS)).sqrt();
        let parts = x.iter().zip(weight).zip(bias);
        parts.map(|((&x, &w), &b)| (f64::from(x) - mean) * scale * f64::from(w) + f64::from(b)).collect()
    }

    proptest! {
        #[test]
        fn close_to_f64_and_equal_on_every_isa(
            (x, weight, bias) in (1usize..400).prop_flat_map(|n| {
                (vec(-3.0f32..5.0, n), vec(-2.0f32..2.0, n), vec(-2.0f32..2.0, n))
            })
        ) {
            let mut want = vec![0.0; x.len()];
            layer_norm(Isa::Scalar, &x, &weight, &bias, EPS, &mut want);
            // Differences from the mean carry its rounding, which a small variance magnifies.
            let spread = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let exact = naive(&x, &weight, &bias);
            let scale = exact.iter().zip(&bias).zip(&weight).zip(&x).map(|(((y, &b), &w), _)| {
                (y - f64::from(b)).abs() / f64::from(w.abs().max(1e-3))
            }).fold(1.0, f64::max);
            for (have, exact) in want.iter().zip(&exact) {
                let bound = 1e-4 * (scale + f64::from(spread));
                prop_assert!((f64::from(*have) - exact).abs() <= bound, "{} for {}", have, exact);
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
