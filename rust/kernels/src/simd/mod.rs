//! Sixteen floats at a time: one body per kernel, compiled once for each instruction set.
//!
//! Every operation rounds exactly as its scalar twin does, and [`Simd::sum`] adds in a fixed order. A kernel
//! written against [`Simd`] therefore gives the same bits on every instruction set.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

mod exp;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;

use crate::isa::Isa;

pub(crate) use exp::exp;

/// Floats per vector: a register of AVX-512, two of AVX2.
pub(crate) const LANES: usize = 16;

/// 1.5 * 2^23: adding it and taking it away rounds a small float to the nearest integer.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// The operations of one instruction set. A value of this type proves that the CPU has them.
pub(crate) trait Simd: Copy {
    /// Sixteen floats.
    type V: Copy;

    /// Whether 24 vectors of sums fit the registers beside what is added to them; else six do.
    const MANY: bool;

    fn splat(self, x: f32) -> Self::V;
    /// The first sixteen elements of `from`, which has that many.
    fn load(self, from: &[f32]) -> Self::V;
    fn load_f16(self, from: &[f16]) -> Self::V;
    fn load_i8(self, from: &[i8]) -> Self::V;
    /// Overwrites the first sixteen elements of `to`, which has that many.
    fn store(self, v: Self::V, to: &mut [f32]);
    /// The nearest f16 (ties to even); see `store`.
    fn store_f16(self, v: Self::V, to: &mut [f16]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: b where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: b where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Bit i is set where lane i of a is greater than that of b.
    fn greater(self, a: Self::V, b: Self::V) -> u32;
    /// The square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// x where a > b, else y: also where either is NaN.
    fn pick(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Element i of vector j becomes element j of vector i.
    fn transpose(self, rows: &mut [Self::V; LANES]);
    /// The low byte of each lane, an integer of magnitude below 2^22, to the first sixteen elements of `to`.
    fn store_bytes(self, v: Self::V, to: &mut [u8]);
    /// 0 where x < limit, else y.
    fn zero_below(self, x: Self::V, limit: f32, y: Self::V) -> Self::V;
    /// 2^n for integral n from -126 to 127.
    fn exp2_integral(self, n: Self::V) -> Self::V;
    /// Asks for the cache line at byte `at` of `memory`, if there is one; changes no result.
    fn prefetch(self, memory: &[u8], at: usize);

    /// As `load`, from at most sixteen elements; zero in the other lanes.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        if from.len() >= LANES {
            return self.load(from);
        }
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// As `store`, of as many lanes as `to` has elements.
    #[inline(always)]
    fn store_part(self, v: Self::V, to: &mut [f32]) {
        if to.len() >= LANES {
            return self.store(v, to);
        }
        to.copy_from_slice(&self.lanes(v)[..to.len()]);
    }

    /// The integer next to each lane, of magnitude below 2^22; the even one of two that are as near.
    #[inline(always)]
    fn nearest(self, v: Self::V) -> Self::V {
        let rounder = self.splat(ROUNDER);
        self.sub(self.add(v, rounder), rounder)
    }

    /// The magnitude.
    #[inline(always)]
    fn abs(self, v: Self::V) -> Self::V {
        self.max(v, self.sub(self.splat(0.0), v))
    }

    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        lanes
    }

    /// Lanes i and i + 8 first, then i and i + 4, i and i + 2, and the last two.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        halve(self.lanes(v), |a, b| a + b)
    }

    /// The largest lane, in the order of [`sum`](Self::sum) by `if a > b { a } else { b }`; NaN lanes may be passed
    /// over.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        halve(self.lanes(v), |a, b| if a > b { a } else { b })
    }
}

/// Joins lane i of the lower half with that of the upper one, until one lane is left.
#[inline(always)]
fn halve(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// A computation that can be compiled for every instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, and so must everything hot below it: only then is it compiled for `S`. Closures
    /// cannot be: `array::from_fn` and `map` over vectors have ended as calls of functions of one instruction.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the instructions of `isa` (with fewer when this CPU lacks them: the results are the same).
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::run_avx2(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => x86::run_avx512(kernel),
        _ => kernel.run(scalar::Scalar),
    }
}
