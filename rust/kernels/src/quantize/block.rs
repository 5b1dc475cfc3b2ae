//! One storage block after the other: formats whose block needs nothing from its neighbours.

use std::marker::PhantomData;

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch};

/// How a block of weights becomes bytes.
pub(super) trait Target {
    /// Weights of a block, at most [`MOST`].
    const WEIGHTS: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Must be `#[inline(always)]`. x: the weights, finite; w: how much their squared errors count, 1 for the most
    /// important of them and positive for all.
    fn store<S: Simd>(s: S, x: &[f32], w: &[f32], out: &mut [u8]);
}

/// Weights of the largest block.
const MOST: usize = 256;

/// What counts for nothing counts this much, so that every fit is determined.
const LEAST: f32 = 1e-6;

/// Stores rows of `cols` weights.
pub(super) fn store<T: Target>(isa: Isa, rows: &[f32], cols: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    dispatch(isa, Rows { values: rows, cols, importance, out, target: PhantomData::<T> });
}

struct Rows<'a, T> {
    values: &'a [f32],
    cols: usize,
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
    target: PhantomData<T>,
}

impl<T: Target> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut w = [1.0; MOST];
        let w = &mut w[..T::WEIGHTS];
        let blocks = self.values.chunks_exact(T::WEIGHTS).zip(self.out.chunks_exact_mut(T::BYTES));
        for (index, (x, out)) in blocks.enumerate() {
            if let Some(importance) = self.importance {
                relative(&importance[index * T::WEIGHTS % self.cols..][..T::WEIGHTS], w);
            }
            T::store(s, x, w, out);
        }
    }
}

/// Importance as shares of the largest one.
#[inline(always)]
fn relative(importance: &[f32], w: &mut [f32]) {
    let most = importance.iter().fold(0.0_f32, |most, x| if *x > most { *x } else { most });
    for (w, importance) in w.iter_mut().zip(importance) {
        *w = if most > 0.0 { importance / most + LEAST } else { 1.0 };
    }
}

/// Vectors of a block.
#[inline(always)]
pub(super) fn load<S: Simd, const N: usize>(s: S, from: &[f32]) -> [S::V; N] {
    let mut to = [s.splat(0.0); N];
    for (i, v) in to.iter_mut().enumerate() {
        *v = s.load(&from[i * LANES..]);
    }
    to
}

/// The largest magnitude.
#[inline(always)]
pub(super) fn largest<S: Simd>(s: S, x: &[S::V]) -> f32 {
    let mut most = s.splat(0.0);
    for &x in x {
        most = s.max(most, s.max(x, s.sub(s.splat(0.0), x)));
    }
    s.largest(most)
}

/// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// The nearest integer from `low` to `high`.
#[inline(always)]
pub(super) fn nearest<S: Simd>(s: S, x: S::V, low: f32, high: f32) -> S::V {
    let x = s.min(s.max(x, s.splat(low)), s.splat(high));
    s.sub(s.add(x, s.splat(ROUND)), s.splat(ROUND))
}
