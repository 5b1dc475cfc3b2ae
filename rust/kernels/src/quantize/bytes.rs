//! `Q8_1`, `Q8_K` and F8Q8: signed bytes under a scale.

use half::f16;

use crate::formats::{BLOCK, e4m3, e4m3_bits};
use crate::simd::{LANES, Simd};

use super::block::{Target, largest, load, nearest};

pub(super) struct Q8_1;
pub(super) struct Q8K;
pub(super) struct F8Q8;

/// The scale of the largest weight, rounded to f16 first, so that codes know it.
impl Target for Q8_1 {
    const WEIGHTS: usize = BLOCK;
    const BYTES: usize = 36;

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32], _: &[f32], out: &mut [u8]) {
        let x = load::<S, { BLOCK / LANES }>(s, x);
        let scale = f16::from_f32((largest(s, &x) / 127.0).min(f16::MAX.to_f32()));
        let (header, codes) = out.split_at_mut(4);
        write(s, &x, scale.to_f32(), codes);
        let sum = f16::from_f32(scale.to_f32() * sum(codes) as f32);
        let sum = if sum.is_finite() { sum } else { f16::MAX.copysign(sum) };
        header[..2].copy_from_slice(&scale.to_le_bytes());
        header[2..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The scale of the largest weight.
impl Target for Q8K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 292;

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32], _: &[f32], out: &mut [u8]) {
        let x = load::<S, { 256 / LANES }>(s, x);
        let scale = largest(s, &x) / 127.0;
        let (header, rest) = out.split_at_mut(4);
        let (codes, sums) = rest.split_at_mut(256);
        header.copy_from_slice(&scale.to_le_bytes());
        write(s, &x, scale, codes);
        for (to, codes) in sums.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<16>().0) {
            *to = (sum(codes) as i16).to_le_bytes();
        }
    }
}

/// The E4M3 scale of least squared error among those next to the largest weight's: it has four bits, and mistral.rs'
/// codes, made before it is rounded, are off by up to a sixteenth.
impl Target for F8Q8 {
    const WEIGHTS: usize = BLOCK;
    const BYTES: usize = 33;

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32], w: &[f32], out: &mut [u8]) {
        let (x, w) = (load::<S, { BLOCK / LANES }>(s, x), load::<S, { BLOCK / LANES }>(s, w));
        let exact = e4m3_bits((largest(s, &x) / 127.0 * 448.0).min(448.0));
        let mut best = (f32::INFINITY, exact);
        for bits in exact.saturating_sub(1)..=(exact + 1).min(LARGEST) {
            let error = error(s, &x, &w, e4m3(bits) / 448.0);
            if error < best.0 {
                best = (error, bits);
            }
        }
        out[0] = best.1;
        write(s, &x, e4m3(best.1) / 448.0, &mut out[1..]);
    }
}

/// The bits of 448.
const LARGEST: u8 = 0x7e;

#[inline(always)]
fn inverse(scale: f32) -> f32 {
    // Below this the inverse is no finite f32: such weights count as 0.
    if scale < 1e-38 { 0.0 } else { 1.0 / scale }
}

/// Weighted sum of squared errors.
#[inline(always)]
fn error<S: Simd>(s: S, x: &[S::V], w: &[S::V], scale: f32) -> f32 {
    let mut sum = s.splat(0.0);
    for (&x, &w) in x.iter().zip(w) {
        let code = nearest(s, s.mul(x, s.splat(inverse(scale))), -127.0, 127.0);
        let rest = s.mul_add(s.splat(-scale), code, x);
        sum = s.mul_add(s.mul(w, rest), rest, sum);
    }
    s.sum(sum)
}

/// The codes.
#[inline(always)]
fn write<S: Simd>(s: S, x: &[S::V], scale: f32, out: &mut [u8]) {
    for (&x, out) in x.iter().zip(out.as_chunks_mut::<LANES>().0) {
        let lanes = s.lanes(nearest(s, s.mul(x, s.splat(inverse(scale))), -127.0, 127.0));
        for (to, code) in out.iter_mut().zip(lanes) {
            *to = (code as i8).cast_unsigned();
        }
    }
}

#[inline(always)]
fn sum(codes: &[u8]) -> i32 {
    codes.iter().map(|code| i32::from(code.cast_signed())).sum()
}
