//! `gelu_tanh(g)`, in Gemma's feed-forward block times u, in the image encoder after a bias.
//!
//! gelu(g) = g / 2 * (1 + tanh(z / 2)) = g / (1 + e^-z) with z = 2 sqrt(2 / pi) (g + 0.044715 g^3). The second
//! form needs one exponential and no difference of nearly equal numbers.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch, exp};

/// 2 sqrt(2 / pi), and 0.044715 times that.
const LINEAR: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_814;
/// gelu is 0 in f32 long before; keeps -inf out of the quotient.
const LEAST: f32 = -64.0;

/// out = gelu(gate) * up, element by element; all three have the same length.
///
/// gelu is within 1e-6 or 2e-6 of its size, whichever is larger, and has the sign of g.
///
/// # Panics
/// When the lengths differ.
pub fn gated_gelu(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "lengths of gate, up and out differ");
    dispatch(isa, Gated { gate, up, out });
}

/// x = gelu(x + bias), element by element; both have the same length.
///
/// # Panics
/// When the lengths differ.
pub fn bias_gelu(isa: Isa, x: &mut [f32], bias: &[f32]) {
    assert!(x.len() == bias.len(), "lengths of x and bias differ");
    dispatch(isa, Biased { x, bias });
}

#[inline(always)]
fn gelu<S: Simd>(s: S, g: S::V) -> S::V {
    let minus_z = s.mul(g, s.mul_add(s.mul(g, g), s.splat(-CUBIC), s.splat(-LINEAR)));
    let denominator = s.add(s.splat(1.0), exp(s, minus_z));
    s.div(s.max(s.splat(LEAST), g), denominator)
}

struct Biased<'a> {
    x: &'a mut [f32],
    bias: &'a [f32],
}

impl Kernel for Biased<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, bias) in self.x.chunks_mut(LANES).zip(self.bias.chunks(LANES)) {
            s.store_part(gelu(s, s.add(s.load_part(x), s.load_part(bias))), x);
        }
    }
}

struct Gated<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let parts = self.gate.chunks(LANES).zip(self.up.chunks(LANES)).zip(self.out.chunks_mut(LANES));
        for ((gate, up), out) in parts {
            s.store_part(s.mul(gelu(s, s.load_part(gate)), s.load_part(up)), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn naive(g: f64) -> f64 {
        let z = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g * g * g);
        0.5 * g * (1.0 + z.tanh())
    }

    fn check(g: &[f32], u: &[f32]) {
        let mut want = vec![0.0; g.len()];
        gated_gelu(Isa::Scalar, g, &vec![1.0; g.len()], &mut want);
        for (&g, &have) in g.iter().zip(&want) {
            let exact = naive(f64::from(g));
            assert!((f64::from(have) - exact).abs() <= (2e-6 * exact.abs()).max(1e-6), "gelu({g}) = {have}");
            assert_eq!(have.is_sign_negative(), g.is_sign_negative(), "gelu({g}) = {have}");
        }
        gated_gelu(Isa::Scalar, g, u, &mut want);
        for isa in Isa::available() {
            let mut have = vec![0.0; g.len()];
            gated_gelu(isa, g, u, &mut have);
            assert!(have.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        let sums: Vec<f32> = g.iter().zip(u).map(|(g, u)| g + u).collect();
        gated_gelu(Isa::Scalar, &sums, &vec![1.0; g.len()], &mut want);
        for isa in Isa::available() {
            let mut have = g.to_vec();
            bias_gelu(isa, &mut have, u);
            assert!(have.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn the_whole_line() {
        let g: Vec<f32> = (-200_000..200_000).map(|i| i as f32 * 1e-4).collect();
        check(&g, &g);
        let large: Vec<f32> = (0..39).flat_map(|e| [10f32.powi(e), -(10f32.powi(e))]).collect();
        check(&large, &vec![0.5; large.len()]);
    }

    #[test]
    fn infinities_and_nan() {
        for isa in Isa::available() {
            let mut out = [0.0; 3];
            gated_gelu(isa, &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN], &[1.0; 3], &mut out);
            assert!(out[0] == f32::INFINITY && out[1] <= 0.0 && out[1] > -1e-30 && out[2].is_nan());
        }
    }

    proptest! {
        #[test]
        fn ragged_lengths(pairs in vec((-20.0f32..20.0, -1e3f32..1e3), 0..70)) {
            let (g, u): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            check(&g, &u);
        }
    }
}
