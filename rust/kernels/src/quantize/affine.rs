//! AFQ and HQQ: 64 weights share a scale and a bias or a zero point (layout: `formats/affine.rs`).

use half::f16;

use crate::simd::{LANES, Simd};

use super::block::{Target, load, nearest};

/// Weights of a block.
const WEIGHTS: usize = 64;

/// Vectors of a block.
const N: usize = WEIGHTS / LANES;

pub(super) struct Afq<const BITS: usize>;
pub(super) struct Hqq<const BITS: usize>;

/// Narrower ranges that are tried: how many cuts of each end, and how much of the range a cut takes. The fewer codes, the
/// more they are worth. Cutting both ends apart gave 2 to 3 % less error at up to four bits than cutting them alike.
const fn cuts(bits: usize) -> (usize, f32) {
    match bits {
        2 => (4, 0.08),
        3 => (4, 0.065),
        4 => (4, 0.04),
        6 => (2, 0.015),
        _ => (2, 0.003),
    }
}

/// The rule of MLX, from `mlx/ops.cpp`: the edge of larger magnitude is exact, and so is 0. Then narrower ranges, whose
/// codes give the scale and bias of least squared error; the best of all.
impl<const BITS: usize> Target for Afq<BITS> {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = 4 + 8 * BITS;

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32], w: &[f32], out: &mut [u8]) {
        let group = Group::new(s, x, w, most(BITS));
        let (scale, bias) = group.exact_edge();
        let mut best = group.fit(s, half(scale), half(bias));
        let (count, cut) = cuts(BITS);
        for index in 0..count * count {
            let (scale, bias) = group.range(cut * (index / count) as f32, cut * (index % count) as f32);
            let fit = group.fit(s, half(scale), half(bias));
            best = best.or(group.fit(s, half(fit.better_scale), half(fit.better_bias))).or(fit);
        }
        for _ in 0..2 {
            best = best.or(group.fit(s, half(best.better_scale), half(best.better_bias)));
        }
        group.write::<S, BITS>(s, best, best.bias, out);
    }
}

/// The solver of HQQ: the scale of a range, and a zero point that is moved by the mean error until that helps no more, 20
/// times at most.
///
/// Its other half, which takes large errors out of this mean (p = 0.7, beta = 10), does so from `beta^(-1 / (2 - p))` on,
/// 0.17: no error of four or eight bits gets there with weights below 1 in magnitude.
impl<const BITS: usize> Target for Hqq<BITS> {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = 4 + 8 * BITS;

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32], w: &[f32], out: &mut [u8]) {
        let group = Group::new(s, x, w, most(BITS));
        let (count, cut) = cuts(BITS);
        let mut best: Option<(Fit, f32)> = None;
        for index in 0..count + 2 {
            // The zero point moves anyway: both ends are cut alike, in smaller steps.
            let share = 0.5 * cut * index as f32;
            let (scale, bias) = group.range(share, share);
            // Zero points are below 2^15 in magnitude, also of weights that are nearly alike.
            let scale = half(scale.max(group.high.max(-group.low) / 32_768.0));
            let mut zero = half(if scale > 0.0 { -bias / scale } else { 0.0 });
            let mut fit = group.fit(s, scale, -scale * zero);
            for _ in 0..20 {
                let moved = half(if scale > 0.0 { zero - fit.mean / scale } else { 0.0 });
                let next = group.fit(s, scale, -scale * moved);
                if next.error >= fit.error {
                    break;
                }
                (zero, fit) = (moved, next);
            }
            if best.is_none_or(|(least, _)| fit.error < least.error) {
                best = Some((fit, zero));
            }
        }
        if let Some((fit, zero)) = best {
            group.write::<S, BITS>(s, fit, zero, out);
        }
    }
}

/// The largest code.
const fn most(bits: usize) -> f32 {
    ((1_u32 << bits) - 1) as f32
}

/// The nearest f16 that is finite.
#[inline(always)]
fn half(x: f32) -> f32 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_f32()
}

/// Scale and bias, and how well they do.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    bias: f32,
    /// Weighted sum of squared errors.
    error: f32,
    /// Weighted mean of errors.
    mean: f32,
    /// The best for these codes.
    better_scale: f32,
    better_bias: f32,
}

impl Fit {
    /// The one of less error, `self` if they are alike.
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        if other.error < self.error { other } else { self }
    }
}

struct Group<V> {
    x: [V; N],
    w: [V; N],
    /// Sum of w.
    total: f32,
    low: f32,
    high: f32,
    most: f32,
}

impl<V: Copy> Group<V> {
    #[inline(always)]
    fn new<S: Simd<V = V>>(s: S, x: &[f32], w: &[f32], most: f32) -> Self {
        let (x, w) = (load::<S, N>(s, x), load::<S, N>(s, w));
        let (mut high, mut least, mut total) = (x[0], s.sub(s.splat(0.0), x[0]), w[0]);
        for i in 1..N {
            high = s.max(high, x[i]);
            least = s.max(least, s.sub(s.splat(0.0), x[i]));
            total = s.add(total, w[i]);
        }
        Self { x, w, total: s.sum(total), low: -s.largest(least), high: s.largest(high), most }
    }

    /// Scale and bias of MLX.
    #[inline(always)]
    fn exact_edge(&self) -> (f32, f32) {
        let step = (self.high - self.low) / self.most;
        let (scale, edge) = if self.low.abs() > self.high.abs() { (step, self.low) } else { (-step, self.high) };
        let code = if scale == 0.0 { 0.0 } else { (edge / scale).round_ties_even() };
        if code == 0.0 { (scale, edge) } else { (edge / code, edge) }
    }

    /// Scale and bias of the range without these shares of it at its ends.
    #[inline(always)]
    fn range(&self, low: f32, high: f32) -> (f32, f32) {
        let range = self.high - self.low;
        (range * (1.0 - low - high) / self.most, self.low + low * range)
    }

    #[inline(always)]
    fn codes<S: Simd<V = V>>(&self, s: S, x: V, inverse: f32) -> V {
        nearest(s, s.mul(x, s.splat(inverse)), 0.0, self.most)
    }

    /// Codes of this scale and bias, their error, and what a least-squares fit of these codes would change.
    #[inline(always)]
    fn fit<S: Simd<V = V>>(&self, s: S, scale: f32, bias: f32) -> Fit {
        let inverse = inverse(scale);
        let zero = s.splat(0.0);
        let (mut error, mut e, mut el, mut l, mut ll) = (zero, zero, zero, zero, zero);
        for i in 0..N {
            let x = s.sub(self.x[i], s.splat(bias));
            let code = self.codes(s, x, inverse);
            let rest = s.mul_add(s.splat(-scale), code, x);
            let (weighted, weighted_code) = (s.mul(self.w[i], rest), s.mul(self.w[i], code));
            error = s.mul_add(weighted, rest, error);
            e = s.add(e, weighted);
            el = s.mul_add(weighted, code, el);
            l = s.add(l, weighted_code);
            ll = s.mul_add(weighted_code, code, ll);
        }
        let (error, e, el, l, ll) = (s.sum(error), s.sum(e), s.sum(el), s.sum(l), s.sum(ll));
        let mean = e / self.total;
        let determinant = self.total * ll - l * l;
        let (more_scale, more_bias) = if determinant > 1e-5 * self.total * ll {
            ((self.total * el - l * e) / determinant, (ll * e - l * el) / determinant)
        } else {
            // All codes alike.
            (0.0, mean)
        };
        Fit { scale, bias, error, mean, better_scale: scale + more_scale, better_bias: bias + more_bias }
    }

    /// A block with the codes of `fit`; `second` is what is stored behind the scale.
    #[inline(always)]
    fn write<S: Simd<V = V>, const BITS: usize>(&self, s: S, fit: Fit, second: f32, out: &mut [u8]) {
        let inverse = inverse(fit.scale);
        let mut codes = [0_u8; WEIGHTS];
        for (i, to) in codes.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let lanes = s.lanes(self.codes(s, s.sub(self.x[i], s.splat(fit.bias)), inverse));
            for (to, code) in to.iter_mut().zip(lanes) {
                *to = code as u8;
            }
        }
        out[..2].copy_from_slice(&f16::from_f32(fit.scale).to_le_bytes());
        out[2..4].copy_from_slice(&f16::from_f32(second).to_le_bytes());
        pack::<BITS>(&codes, &mut out[4..]);
    }
}

#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Codes in the order of `formats/affine.rs`.
#[inline(always)]
fn pack<const BITS: usize>(codes: &[u8; WEIGHTS], out: &mut [u8]) {
    match BITS {
        2 => two_bits(codes, 0, out),
        3 => {
            two_bits(codes, 0, out);
            for (byte, codes) in out[16..].iter_mut().zip(codes.as_chunks::<8>().0) {
                *byte = codes.iter().enumerate().fold(0, |byte, (i, code)| byte | (code >> 2) << i);
            }
        }
        4 => four_bits(codes, out),
        6 => {
            four_bits(codes, out);
            two_bits(codes, 4, &mut out[32..]);
        }
        _ => out.copy_from_slice(codes),
    }
}

/// Bits `shift` and `shift + 1` of each code.
#[inline(always)]
fn two_bits(codes: &[u8; WEIGHTS], shift: usize, out: &mut [u8]) {
    for i in 0..16 {
        out[i] = (0..4).fold(0, |byte, k| byte | (codes[i + 16 * k] >> shift & 3) << (2 * k));
    }
}

/// The low four bits of each code.
#[inline(always)]
fn four_bits(codes: &[u8; WEIGHTS], out: &mut [u8]) {
    for i in 0..32 {
        out[i] = codes[i] & 15 | codes[i + 32] << 4;
    }
}
