//! Sub-blocks with a scale and a minimum: x is about scale * l + low, with codes l in 0..=most.
//!
//! For given codes the best scale and minimum are a weighted least-squares fit of sums over the sub-block, and so is the
//! error that remains: a candidate costs one pass over the weights. Candidates are the codes of nearby scales.

use crate::simd::{ROUNDER, Simd};

use super::group::Group;

/// Below this a denominator counts as 0.
const SMALL: f32 = 1e-20;

/// 1 / x; 0 for an x near 0 or below.
#[inline(always)]
pub(super) fn inverse<S: Simd>(s: S, x: S::V) -> S::V {
    s.pick(x, s.splat(SMALL), s.div(s.splat(1.0), x), s.splat(0.0))
}

/// Weighted sums over a sub-block for one choice of codes l.
#[derive(Clone, Copy)]
pub(super) struct Sums<V> {
    pub l: V,
    pub l2: V,
    pub xl: V,
}

/// The best choice so far.
#[derive(Clone, Copy)]
pub(super) struct Fit<V> {
    pub scale: V,
    pub low: V,
    /// How much of the weighted sum of x^2 is explained.
    pub gain: V,
    pub sums: Sums<V>,
}

/// What does not depend on the codes: weighted sums, the lower end and the range of the weights.
#[derive(Clone, Copy)]
pub(super) struct Totals<V> {
    pub w: V,
    pub x: V,
    pub least: V,
    pub range: V,
}

/// Which pairs of scale and minimum a format can store.
#[derive(Clone, Copy)]
pub(super) enum Lattice<V> {
    /// Any scale from 0 on; any minimum.
    Free,
    /// Any scale from 0 on; minima up to 0.
    Below,
    /// Multiples of a scale and of a minimum.
    Multiples(Multiples<V>),
}

/// From 0 to `most` times a scale, and as many times -`low`.
#[derive(Clone, Copy)]
pub(super) struct Multiples<V> {
    pub scale: V,
    pub low: V,
    pub inverse_scale: V,
    pub inverse_low: V,
    pub most: V,
}

impl<V: Copy> Multiples<V> {
    #[inline(always)]
    pub(super) fn new<S: Simd<V = V>>(s: S, scale: V, low: V, most: f32) -> Self {
        Self { scale, low, inverse_scale: inverse(s, scale), inverse_low: inverse(s, low), most: s.splat(most) }
    }

    #[inline(always)]
    fn whole<S: Simd<V = V>>(self, s: S, multiples: V) -> V {
        s.nearest(s.min(s.max(multiples, s.splat(0.0)), self.most))
    }

    /// How often the scale and -`low` are taken.
    #[inline(always)]
    pub(super) fn counts<S: Simd<V = V>>(self, s: S, fit: &Fit<V>) -> (V, V) {
        let below = s.sub(s.splat(0.0), fit.low);
        (self.whole(s, s.mul(fit.scale, self.inverse_scale)), self.whole(s, s.mul(below, self.inverse_low)))
    }

    /// The best fit with `count` times the scale.
    #[inline(always)]
    fn with<S: Simd<V = V>>(self, s: S, totals: &Totals<V>, sums: Sums<V>, count: V) -> Fit<V> {
        let scale = s.mul(count, self.scale);
        let below = s.mul(s.sub(s.mul(scale, sums.l), totals.x), inverse(s, totals.w));
        let low = s.mul(self.whole(s, s.mul(below, self.inverse_low)), s.sub(s.splat(0.0), self.low));
        // 2 a xl + 2 b x - a (a l2 + 2 b l) - b^2 w
        let twice = s.add(low, low);
        let linear = s.mul_add(s.add(scale, scale), sums.xl, s.mul(twice, totals.x));
        let square = s.mul(scale, s.mul_add(scale, sums.l2, s.mul(twice, sums.l)));
        let gain = s.sub(s.sub(linear, square), s.mul(s.mul(low, low), totals.w));
        Fit { scale, low, gain, sums }
    }
}

impl<V: Copy> Lattice<V> {
    /// The best scale and minimum for codes.
    #[inline(always)]
    pub(super) fn fit<S: Simd<V = V>>(self, s: S, totals: &Totals<V>, sums: Sums<V>) -> Fit<V> {
        let zero = s.splat(0.0);
        let Sums { l, l2, xl } = sums;
        let product = s.mul(totals.w, l2);
        let determinant = s.sub(product, s.mul(l, l));
        // Where all codes are alike, rounding leaves a little of it.
        let certain = s.sub(determinant, s.mul(product, s.splat(1e-6)));
        let per_determinant = s.pick(certain, s.splat(SMALL), s.div(s.splat(1.0), determinant), zero);
        let scale = s.mul(s.sub(s.mul(totals.w, xl), s.mul(totals.x, l)), per_determinant);
        let low = s.mul(s.sub(s.mul(l2, totals.x), s.mul(l, xl)), per_determinant);
        let uncertain = s.sub(s.splat(SMALL), certain);
        let through_zero = if matches!(self, Self::Free) { uncertain } else { s.max(low, uncertain) };
        let scale = s.pick(through_zero, zero, s.mul(xl, inverse(s, l2)), scale);
        let low = s.pick(through_zero, zero, zero, low);
        let Self::Multiples(multiples) = self else {
            return Fit { scale, low, gain: s.mul_add(scale, xl, s.mul(low, totals.x)), sums };
        };
        let count = multiples.whole(s, s.sub(s.mul(scale, multiples.inverse_scale), s.splat(0.5)));
        let mut best = multiples.with(s, totals, sums, count);
        best.improve(s, multiples.with(s, totals, sums, s.min(s.add(count, s.splat(1.0)), multiples.most)));
        best
    }
}

impl<V: Copy> Fit<V> {
    /// All codes 0, with a minimum of any value, or (`below`) of at most 0.
    #[inline(always)]
    pub(super) fn flat<S: Simd<V = V>>(s: S, totals: &Totals<V>, below: bool) -> Self {
        let zero = s.splat(0.0);
        let mean = s.mul(totals.x, inverse(s, totals.w));
        let low = if below { s.min(mean, zero) } else { mean };
        Self { scale: zero, low, gain: s.mul(low, totals.x), sums: Sums { l: zero, l2: zero, xl: zero } }
    }

    #[inline(always)]
    pub(super) fn improve<S: Simd<V = V>>(&mut self, s: S, other: Self) {
        let (new, old) = (other.gain, self.gain);
        self.scale = s.pick(new, old, other.scale, self.scale);
        self.low = s.pick(new, old, other.low, self.low);
        self.sums.l = s.pick(new, old, other.sums.l, self.sums.l);
        self.sums.l2 = s.pick(new, old, other.sums.l2, self.sums.l2);
        self.sums.xl = s.pick(new, old, other.sums.xl, self.sums.xl);
        self.gain = s.max(new, old);
    }
}

/// Codes of one candidate: x * inverse + start, rounded.
#[derive(Clone, Copy)]
pub(super) struct Candidate<V> {
    inverse: V,
    start: V,
}

impl<V: Copy> Candidate<V> {
    /// A scale at which the range of weights takes `steps + stretch` steps. anchor: which part of the steps that are too
    /// many (or too few) lies below.
    #[inline(always)]
    pub(super) fn stretched<S: Simd<V = V>>(s: S, totals: &Totals<V>, steps: f32, stretch: f32, anchor: f32) -> Self {
        let inverse = s.mul(inverse(s, totals.range), s.splat(steps + stretch));
        let start = s.sub(s.splat(-stretch * anchor), s.mul(totals.least, inverse));
        Self { inverse, start }
    }

    /// The codes nearest to the weights for a scale (times a `factor`) and minimum.
    #[inline(always)]
    pub(super) fn nearest<S: Simd<V = V>>(s: S, fit: &Fit<V>, factor: f32) -> Self {
        let inverse = s.mul(inverse(s, fit.scale), s.splat(factor));
        Self { inverse, start: s.sub(s.splat(0.0), s.mul(fit.low, inverse)) }
    }

    #[inline(always)]
    fn codes<S: Simd<V = V>>(self, s: S, x: V, most: V) -> V {
        let rounder = s.splat(ROUNDER);
        let position = s.min(s.max(s.mul_add(x, self.inverse, self.start), s.splat(0.0)), most);
        s.sub(s.add(position, rounder), rounder)
    }
}

impl<S: Simd> Group<S> {
    /// below: whether minima are at most 0.
    #[inline(always)]
    pub(super) fn totals(&self, s: S, below: bool) -> Totals<S::V> {
        let (mut w, mut x) = (s.splat(0.0), s.splat(0.0));
        for (x_i, w_i) in self.pairs() {
            w = s.add(w, w_i);
            x = s.mul_add(x_i, w_i, x);
        }
        let (least, most) = self.extremes(s);
        let least = if below { s.min(least, s.splat(0.0)) } else { least };
        Totals { w, x, least, range: s.sub(most, least) }
    }

    /// One pass for two candidates.
    #[inline(always)]
    pub(super) fn sums(&self, s: S, candidates: [Candidate<S::V>; 2], most: f32) -> [Sums<S::V>; 2] {
        let (zero, most) = (s.splat(0.0), s.splat(most));
        let mut sums = [Sums { l: zero, l2: zero, xl: zero }; 2];
        for (x, w) in self.pairs() {
            for k in 0..2 {
                let l = candidates[k].codes(s, x, most);
                let wl = s.mul(w, l);
                sums[k].l = s.add(sums[k].l, wl);
                sums[k].l2 = s.mul_add(wl, l, sums[k].l2);
                sums[k].xl = s.mul_add(wl, x, sums[k].xl);
            }
        }
        sums
    }

    /// Weights become their codes.
    #[inline(always)]
    pub(super) fn encode(&mut self, s: S, fit: &Fit<S::V>, most: f32) {
        let candidate = Candidate::nearest(s, fit, 1.0);
        for x in &mut self.x[..self.len] {
            *x = candidate.codes(s, *x, s.splat(most));
        }
    }
}
