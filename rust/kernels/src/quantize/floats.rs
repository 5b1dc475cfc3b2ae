//! MXFP4 and FP8: small floats under a scale.

use crate::formats::{BLOCK, e4m3_bits};
use crate::simd::{LANES, Simd};

use super::block::{Target, largest, load, nearest};

pub(super) struct Mxfp4;
pub(super) struct Fp8;

/// Vectors of a block of MXFP4.
const N: usize = BLOCK / LANES;

/// From here on the scale of codes and its inverse are normal floats; smaller weights count as 0.
const LEAST: u8 = 2;

/// The exponent of the specification (OCP Microscaling, 6.3: that of the largest weight less 2), or the one before or
/// behind it where the squared error is less.
impl Target for Mxfp4 {
    const WEIGHTS: usize = BLOCK;
    const BYTES: usize = 17;

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32], w: &[f32], out: &mut [u8]) {
        let (x, w) = (load::<S, N>(s, x), load::<S, N>(s, w));
        let most = largest(s, &x);
        if most == 0.0 {
            out.fill(0);
            return;
        }
        let rule = (most.to_bits() >> 23).saturating_sub(2) as u8;
        let mut best = (f32::INFINITY, rule.max(LEAST));
        for exponent in [rule, rule.saturating_sub(1), rule + 1] {
            let exponent = exponent.max(LEAST);
            let error = error(s, &x, &w, exponent);
            if error < best.0 {
                best = (error, exponent);
            }
        }
        out[0] = best.1;
        let mut codes = [0_u8; BLOCK];
        for (&x, codes) in x.iter().zip(codes.as_chunks_mut::<LANES>().0) {
            let (signs, places) = (s.lanes(x), s.lanes(place(s, x, best.1).place));
            for ((code, place), x) in codes.iter_mut().zip(places).zip(signs) {
                // There is a -0 as well, which nobody needs.
                *code = place as u8 | if x < 0.0 && place > 0.0 { 8 } else { 0 };
            }
        }
        for i in 0..16 {
            out[1 + i] = codes[i] | codes[i + 16] << 4;
        }
    }
}

/// Weighted sum of squared errors.
#[inline(always)]
fn error<S: Simd>(s: S, x: &[S::V; N], w: &[S::V; N], exponent: u8) -> f32 {
    let mut sum = s.splat(0.0);
    for (&x, &w) in x.iter().zip(w) {
        let Place { rest, .. } = place(s, x, exponent);
        sum = s.mul_add(s.mul(w, rest), rest, sum);
    }
    s.sum(sum)
}

/// Which of the eight magnitudes is nearest to |x|, and the error.
struct Place<V> {
    place: V,
    rest: V,
}

/// Twice the magnitudes are 0, 1, 2, 3, 4, then 6, 8, then 12: steps of 1, 2 and 4, each counted for itself.
#[inline(always)]
fn place<S: Simd>(s: S, x: S::V, exponent: u8) -> Place<S::V> {
    let exponent = u32::from(exponent);
    let (scale, inverse) = (f32::from_bits((exponent - 1) << 23), f32::from_bits((255 - exponent) << 23));
    let twice = s.mul(s.max(x, s.sub(s.splat(0.0), x)), s.splat(inverse));
    let ones = nearest(s, twice, 0.0, 4.0);
    let twos = nearest(s, s.mul(s.sub(twice, s.splat(4.0)), s.splat(0.5)), 0.0, 2.0);
    let fours = nearest(s, s.mul(s.sub(twice, s.splat(8.0)), s.splat(0.25)), 0.0, 1.0);
    let value = s.mul_add(fours, s.splat(4.0), s.mul_add(twos, s.splat(2.0), ones));
    Place { place: s.add(ones, s.add(twos, fours)), rest: s.mul(s.sub(twice, value), s.splat(scale)) }
}

/// The largest weight becomes 448, the largest number.
impl Target for Fp8 {
    const WEIGHTS: usize = 64;
    const BYTES: usize = 68;

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32], _: &[f32], out: &mut [u8]) {
        let most = largest(s, &load::<S, { 64 / LANES }>(s, x));
        // Below 1e-35 the inverse is no finite f32: such weights count as 0.
        let (scale, inverse) = if most < 1e-35 { (0.0, 0.0) } else { (most / 448.0, 448.0 / most) };
        let (header, numbers) = out.split_at_mut(4);
        header.copy_from_slice(&f32::to_le_bytes(scale));
        for (to, &x) in numbers.iter_mut().zip(x) {
            *to = e4m3_bits(x * inverse);
        }
    }
}
