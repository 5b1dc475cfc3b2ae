//! Sixteen sub-blocks side by side: lane j of vector i holds weight i of sub-block j.
//!
//! Searches need sums over the weights of a sub-block. In this order they are sums of vectors, lane by lane.

use std::hint::black_box;

use crate::simd::{LANES, Simd};

/// Weights of the longest sub-block.
pub(super) const LONGEST: usize = 32;

/// Keeps products of weights, codes and their squares within the range of f32.
const TINY: f32 = 1e-30;

/// What a column without importance counts, beside the most important one of its storage block.
const LEAST_IMPORTANCE: f32 = 1e-6;

/// Sixteen sub-blocks of `len` weights, a multiple of sixteen.
pub(super) struct Group<S: Simd> {
    /// Weights divided by `unit`: those of a storage block are below 2, and the largest at least 1 (or all are 0).
    pub x: [S::V; LONGEST],
    /// How much a squared error counts; positive.
    pub w: [S::V; LONGEST],
    pub len: usize,
    /// Powers of two, equal in the lanes of a storage block.
    pub unit: [f32; LANES],
}

/// What errors count where the caller gave no importance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// All alike.
    Plain,
    /// r + |x|, with r the root mean square of the sub-block.
    Magnitude,
    /// r^2 + x^2.
    Square,
}

impl<S: Simd> Group<S> {
    /// values: the sub-blocks, one after the other. lanes: how many share a storage block.
    #[inline(always)]
    pub(super) fn new(s: S, values: &[f32], importance: Option<&[f32]>, rule: Rule, lanes: usize) -> Self {
        // The compiler must not know the length: it would unroll every loop into thousands of instructions.
        let len = black_box(values.len() / LANES);
        let mut group = Self { x: columns(s, values, len), w: [s.splat(1.0); LONGEST], len, unit: [1.0; LANES] };
        group.normalise(s, lanes);
        if let Some(importance) = importance {
            group.w = columns(s, importance, len);
            group.weigh(s, lanes);
        } else {
            group.apply(s, rule);
        }
        group
    }

    /// Weights and what their errors count.
    #[inline(always)]
    pub(super) fn pairs(&self) -> impl Iterator<Item = (S::V, S::V)> {
        self.x[..self.len].iter().copied().zip(self.w[..self.len].iter().copied())
    }

    /// Smallest and largest weight of each lane.
    #[inline(always)]
    pub(super) fn extremes(&self, s: S) -> (S::V, S::V) {
        let (mut least, mut most) = (self.x[0], self.x[0]);
        for x in &self.x[1..self.len] {
            least = s.min(least, *x);
            most = s.max(most, *x);
        }
        (least, most)
    }

    /// Divides by a power of two, the same for `lanes` that share a storage block.
    #[inline(always)]
    fn normalise(&mut self, s: S, lanes: usize) {
        let (least, most) = self.extremes(s);
        let largest = share_largest(s.lanes(s.max(s.abs(least), most)), lanes);
        let mut inverse = [1.0_f32; LANES];
        for ((largest, unit), inverse) in largest.iter().zip(&mut self.unit).zip(&mut inverse) {
            // The exponent alone; its inverse is a normal float, as 2^127 / 2 is the largest.
            let exponent = largest.max(TINY).to_bits() & 0x7f80_0000;
            *unit = f32::from_bits(exponent);
            *inverse = f32::from_bits((0x7f00_0000 - exponent).max(0x0080_0000));
        }
        let inverse = s.load(&inverse);
        for x in &mut self.x[..self.len] {
            *x = s.mul(*x, inverse);
        }
    }

    #[inline(always)]
    fn apply(&mut self, s: S, rule: Rule) {
        if rule == Rule::Plain {
            return;
        }
        let mut sum = s.splat(0.0);
        for x in &self.x[..self.len] {
            sum = s.mul_add(*x, *x, sum);
        }
        let square = s.max(s.div(sum, s.splat(self.len as f32)), s.splat(TINY));
        if rule == Rule::Magnitude {
            let root = s.sqrt(square);
            for (w, x) in self.w[..self.len].iter_mut().zip(&self.x) {
                *w = s.add(root, s.abs(*x));
            }
        } else {
            for (w, x) in self.w[..self.len].iter_mut().zip(&self.x) {
                *w = s.mul_add(*x, *x, square);
            }
        }
    }

    /// Importance relative to the largest of the storage block. What has none still counts a little, so that every
    /// fit is determined; in a block without any, all weights count alike.
    #[inline(always)]
    fn weigh(&mut self, s: S, lanes: usize) {
        let mut most = s.splat(0.0);
        for w in &self.w[..self.len] {
            most = s.max(most, *w);
        }
        let largest = s.load(&share_largest(s.lanes(most), lanes));
        let divisor = s.pick(largest, s.splat(0.0), largest, s.splat(1.0));
        for w in &mut self.w[..self.len] {
            *w = s.add(s.div(*w, divisor), s.splat(LEAST_IMPORTANCE));
        }
    }
}

#[inline(always)]
fn columns<S: Simd>(s: S, values: &[f32], len: usize) -> [S::V; LONGEST] {
    let mut x = [s.splat(0.0); LONGEST];
    for (part, x) in x.as_chunks_mut::<LANES>().0[..len / LANES].iter_mut().enumerate() {
        for (row, x) in x.iter_mut().enumerate() {
            *x = s.load(&values[row * len + part * LANES..]);
        }
        s.transpose(x);
    }
    x
}

/// For each lane the largest of the `lanes` that share its storage block; at least 0.
#[inline(always)]
pub(super) fn share_largest(values: [f32; LANES], lanes: usize) -> [f32; LANES] {
    let mut shared = values;
    for block in shared.chunks_exact_mut(lanes) {
        let most = block.iter().fold(0.0_f32, |most, x| if *x > most { *x } else { most });
        block.fill(most);
    }
    shared
}
