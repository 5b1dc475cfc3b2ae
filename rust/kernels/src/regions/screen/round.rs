//! Rows of a screen: weights rounded to a few bits, and how far they are off.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use half::f16;

use super::{FORMAT, MAGNIFIED, PART};
use crate::formats::BLOCK;
use crate::simd::{Kernel, LANES, Simd};

/// A row as blocks of [`FORMAT`], every weight rounded to the nearest step, and its bounds: one that is not finite where the
/// weights are not.
pub(super) struct Round<'a> {
    pub(super) values: &'a [f32],
    pub(super) bytes: &'a mut [u8],
    pub(super) bounds: &'a mut [f32],
}

/// The largest code.
const MOST: f32 = 15.0;

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut weights = s.splat(0.0);
        let (bound_of_weights, bounds) = self.bounds.split_last_mut().expect("one more bound than parts");
        let parts = self.values.chunks(PART).zip(self.bytes.chunks_mut(PART / BLOCK * FORMAT.block_bytes()));
        for (bound, (values, bytes)) in bounds.iter_mut().zip(parts) {
            let mut worst = 0.0_f32;
            let blocks = values.as_chunks::<BLOCK>().0.iter().zip(bytes.chunks_exact_mut(FORMAT.block_bytes()));
            for (values, bytes) in blocks {
                let values = [s.load(values), s.load(&values[LANES..])];
                let largest = s.largest(s.max(s.abs(values[0]), s.abs(values[1])));
                let scale = f16::from_f32(largest / MOST);
                bytes[..2].copy_from_slice(&scale.to_le_bytes());
                let step = scale.to_f32();
                let inverse = s.splat(if step == 0.0 { 0.0 } else { step.recip() });
                let (mut errors, mut codes) = (s.splat(0.0), [0; BLOCK]);
                for half in 0..2 {
                    let code = s.nearest(s.mul(values[half], inverse));
                    let code = s.max(s.min(code, s.splat(MOST)), s.splat(-MOST));
                    let coarse = s.mul(code, s.splat(step));
                    let error = s.sub(values[half], coarse);
                    errors = s.mul_add(error, error, errors);
                    weights = s.mul_add(coarse, coarse, weights);
                    s.store_bytes(s.add(code, s.splat(MOST + 1.0)), &mut codes[half * LANES..]);
                    let fifth = s.greater(code, s.splat(-0.5)) as u16;
                    bytes[2 + 2 * half..][..2].copy_from_slice(&fifth.to_le_bytes());
                }
                for (byte, (low, high)) in bytes[6..].iter_mut().zip(codes[..LANES].iter().zip(&codes[LANES..])) {
                    *byte = low & 15 | high << 4;
                }
                let sum = s.sum(errors);
                // What is no number stays none.
                worst = if sum <= worst { worst } else { sum };
            }
            *bound = (worst / BLOCK as f32).sqrt() * MAGNIFIED;
        }
        *bound_of_weights = s.sum(weights).sqrt();
    }
}

/// An f16 that is not below x; infinite if there is none.
pub(super) fn above(x: f32) -> f16 {
    let nearest = f16::from_f32(x.min(65_536.0));
    if nearest.to_f32() >= x { nearest } else { f16::from_bits(nearest.to_bits() + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_rounded_up() {
        for x in [0.0, 1e-9, 6e-8, 1e-3, 1.0, 1.0001, 65_504.0, 65_505.0, 1e9, f32::MAX, f32::INFINITY] {
            let bound = above(x).to_f32();
            assert!(bound >= x.min(f32::MAX) || bound == f32::INFINITY, "{x}: {bound}");
            // The smallest numbers are 6e-8 apart.
            assert!(bound <= (x * 1.001).max(x + 6e-8) || x > 65_504.0, "{x}: {bound}");
        }
    }
}
