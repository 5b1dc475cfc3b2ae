//! Sub-blocks with a scale alone: x is about scale * l, with codes l in least..=most.
//!
//! As in [`super::offset`], a candidate costs one pass. The scale may have either sign: codes reach one further below zero
//! than above.

use crate::simd::{ROUNDER, Simd};

use super::group::Group;
use super::offset::inverse;

/// 1 / x for either sign; 0 near 0.
#[inline(always)]
fn signed_inverse<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, inverse(s, s.mul(x, x)))
}

/// Codes from `least` to `most`.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    pub least: f32,
    pub most: f32,
}

impl Codes {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, inverse: S::V) -> S::V {
        let (rounder, least, most) = (s.splat(ROUNDER), s.splat(ROUNDER + self.least), s.splat(ROUNDER + self.most));
        s.sub(s.min(s.max(s.mul_add(x, inverse, rounder), least), most), rounder)
    }
}

/// Weighted sums of l^2 and x l over a sub-block for one choice of codes l.
#[derive(Clone, Copy)]
pub(super) struct Sums<V> {
    pub l2: V,
    pub xl: V,
}

/// The best choice so far.
#[derive(Clone, Copy)]
pub(super) struct Fit<V> {
    pub scale: V,
    /// How much of the weighted sum of x^2 is explained.
    pub gain: V,
    pub sums: Sums<V>,
}

/// Which scales a format can store.
#[derive(Clone, Copy)]
pub(super) enum Lattice<V> {
    Free,
    /// Multiples of a scale.
    Multiples(Multiples<V>),
}

/// From `-most` to `most - 1` times a scale.
#[derive(Clone, Copy)]
pub(super) struct Multiples<V> {
    pub scale: V,
    inverse: V,
    least: V,
    most: V,
}

impl<V: Copy> Multiples<V> {
    #[inline(always)]
    pub(super) fn new<S: Simd<V = V>>(s: S, scale: V, most: f32) -> Self {
        Self { scale, inverse: signed_inverse(s, scale), least: s.splat(-most), most: s.splat(most - 1.0) }
    }

    /// How often the scale is taken.
    #[inline(always)]
    pub(super) fn count<S: Simd<V = V>>(self, s: S, scale: V) -> V {
        s.nearest(s.min(s.max(s.mul(scale, self.inverse), self.least), self.most))
    }
}

impl<V: Copy> Lattice<V> {
    /// The best scale for codes.
    #[inline(always)]
    pub(super) fn fit<S: Simd<V = V>>(self, s: S, sums: Sums<V>) -> Fit<V> {
        let scale = s.mul(sums.xl, inverse(s, sums.l2));
        let scale = match self {
            Self::Free => scale,
            Self::Multiples(multiples) => s.mul(multiples.count(s, scale), multiples.scale),
        };
        // 2 a xl - a^2 l2
        let gain = s.mul(scale, s.sub(s.add(sums.xl, sums.xl), s.mul(scale, sums.l2)));
        Fit { scale, gain, sums }
    }
}

impl<V: Copy> Fit<V> {
    /// All codes 0.
    #[inline(always)]
    pub(super) fn nothing<S: Simd<V = V>>(s: S) -> Self {
        let zero = s.splat(0.0);
        Self { scale: zero, gain: zero, sums: Sums { l2: zero, xl: zero } }
    }

    #[inline(always)]
    pub(super) fn improve<S: Simd<V = V>>(&mut self, s: S, other: Self) {
        let (new, old) = (other.gain, self.gain);
        self.scale = s.pick(new, old, other.scale, self.scale);
        self.sums.l2 = s.pick(new, old, other.sums.l2, self.sums.l2);
        self.sums.xl = s.pick(new, old, other.sums.xl, self.sums.xl);
        self.gain = s.max(new, old);
    }

    /// The inverse of the scale times a `factor`.
    #[inline(always)]
    pub(super) fn inverse<S: Simd<V = V>>(&self, s: S, factor: f32) -> V {
        s.mul(signed_inverse(s, self.scale), s.splat(factor))
    }
}

impl<S: Simd> Group<S> {
    /// One over the weight of largest magnitude of each lane.
    #[inline(always)]
    pub(super) fn per_extreme(&self, s: S) -> S::V {
        let (least, most) = self.extremes(s);
        signed_inverse(s, s.pick(most, s.sub(s.splat(0.0), least), most, least))
    }

    /// One pass for the codes of several inverse scales.
    #[inline(always)]
    pub(super) fn centred_sums<const N: usize>(&self, s: S, inverses: [S::V; N], codes: Codes) -> [Sums<S::V>; N] {
        let zero = s.splat(0.0);
        let mut sums = [Sums { l2: zero, xl: zero }; N];
        for (x, w) in self.pairs() {
            for k in 0..N {
                let l = codes.of(s, x, inverses[k]);
                let wl = s.mul(w, l);
                sums[k].l2 = s.mul_add(wl, l, sums[k].l2);
                sums[k].xl = s.mul_add(wl, x, sums[k].xl);
            }
        }
        sums
    }

    /// Weights become their codes.
    #[inline(always)]
    pub(super) fn encode_centred(&mut self, s: S, scale: S::V, codes: Codes) {
        let inverse = signed_inverse(s, scale);
        for x in &mut self.x[..self.len] {
            *x = codes.of(s, *x, inverse);
        }
    }
}
