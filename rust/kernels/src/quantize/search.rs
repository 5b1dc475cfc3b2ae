//! The search for scales and codes: as the plan says, one pass over the weights for two candidates, or four where there
//! are registers for their sums.
//!
//! Each sub-block is searched alone. Where scales are multiples of one of the storage block, the largest gives that one,
//! and the search goes on among its multiples; then it is fitted to all codes of the block, and multiples and codes once
//! more to it.

use crate::simd::{LANES, Simd};

use super::group::{Group, share_largest};
use super::units::{Halves, OffsetLanes, fit_scale};
use super::{centred, offset};

/// A second candidate beside the best one so far: its scale times the inverse of this.
const NEARBY: f32 = 1.01;

/// What is stored of sixteen sub-blocks beside their codes.
pub(super) struct Found<V> {
    /// Multiples of the scale and of the minimum; of no meaning where each sub-block has its own.
    pub counts: V,
    pub minima: V,
    pub scale: Halves,
    pub low: Halves,
}

/// Weights become codes from 0 to `most`.
#[inline(always)]
pub(super) fn offset<S: Simd>(
    s: S,
    group: &mut Group<S>,
    most: f32,
    multiples: f32,
    plan: [&[[(f32, f32); 2]]; 2],
) -> Found<S::V> {
    use offset::{Candidate, Fit, Lattice, Multiples};
    let zero = s.splat(0.0);
    let own = multiples == 0.0;
    let totals = group.totals(s, !own);
    let mut lattice = if own { Lattice::Free } else { Lattice::Below };
    let mut best = Fit::flat(s, &totals, !own);
    let (mut scale, mut low) = (Halves::ZERO, Halves::ZERO);
    let (mut counts, mut minima) = (zero, zero);
    for (phase, stretches) in [plan[0], plan[1], &[]].into_iter().enumerate() {
        let again = 1 + usize::from(own);
        for step in 0..stretches.len() + again {
            let candidates = if let Some([a, b]) = stretches.get(step) {
                [Candidate::stretched(s, &totals, most, a.0, a.1), Candidate::stretched(s, &totals, most, b.0, b.1)]
            } else {
                [Candidate::nearest(s, &best, 1.0), Candidate::nearest(s, &best, NEARBY)]
            };
            for sums in group.sums(s, candidates, most) {
                best.improve(s, lattice.fit(s, &totals, sums));
            }
        }
        if own {
            scale = Halves::round(s, best.scale, &group.unit);
            best.scale = s.load(&scale.value);
            // The minimum that suits the rounded scale.
            best.low = s.mul(s.sub(totals.x, s.mul(best.scale, best.sums.l)), offset::inverse(s, totals.w));
            low = Halves::round(s, best.low, &group.unit);
            best.low = s.load(&low.value);
            break;
        }
        if let Lattice::Multiples(multiples) = lattice {
            (counts, minima) = multiples.counts(s, &best);
        }
        let lanes = 256 / group.len;
        let (mut scales, mut lows) = (scale.value, low.value);
        match phase {
            0 => {
                scales = share_largest(s.lanes(s.mul(best.scale, s.splat(1.0 / multiples))), lanes);
                lows = share_largest(s.lanes(s.mul(best.low, s.splat(-1.0 / multiples))), lanes);
            }
            1 => {
                let sums = &best.sums;
                let of_lanes = OffsetLanes {
                    counts: s.lanes(counts),
                    minima: s.lanes(minima),
                    w: s.lanes(totals.w),
                    x: s.lanes(totals.x),
                    l: s.lanes(sums.l),
                    l2: s.lanes(sums.l2),
                    xl: s.lanes(sums.xl),
                };
                of_lanes.fit(lanes, &mut scales, &mut lows);
            }
            _ => break,
        }
        let (old_scale, old_low) = (scale, low);
        let (scales, lows) = (s.load(&scales), s.load(&lows));
        if phase == 0 {
            (scale, low) = (Halves::round_up(s, scales, &group.unit), Halves::round_up(s, lows, &group.unit));
        } else {
            (scale, low) = (Halves::round(s, scales, &group.unit), Halves::round(s, lows, &group.unit));
            let new = Multiples::new(s, s.load(&scale.value), s.load(&low.value), multiples);
            let new = s.lanes(Lattice::Multiples(new).fit(s, &totals, best.sums).gain);
            let old = s.lanes(best.gain);
            scale.keep_better(&old_scale, lanes, &old, &new);
            low.keep_better(&old_low, lanes, &old, &new);
        }
        lattice = Lattice::Multiples(Multiples::new(s, s.load(&scale.value), s.load(&low.value), multiples));
        best = lattice.fit(s, &totals, best.sums);
    }
    group.encode(s, &best, most);
    Found { counts, minima, scale, low }
}

/// Weights become signed codes.
#[inline(always)]
pub(super) fn centred<S: Simd>(
    s: S,
    group: &mut Group<S>,
    codes: centred::Codes,
    multiples: f32,
    plan: [&[[f32; 2]]; 2],
) -> Found<S::V> {
    use centred::{Fit, Lattice, Multiples};
    let zero = s.splat(0.0);
    let own = multiples == 0.0;
    let per_extreme = group.per_extreme(s);
    let mut lattice = Lattice::Free;
    let mut best = Fit::nothing(s);
    let mut scale = Halves::ZERO;
    let mut counts = zero;
    for (phase, places) in [plan[0], plan[1], &[]].into_iter().enumerate() {
        let (quads, pairs) = if S::MANY { places.as_chunks::<2>() } else { (&[][..], places) };
        for &[[a, b], [c, d]] in quads {
            let inverses = [
                s.mul(per_extreme, s.splat(a)),
                s.mul(per_extreme, s.splat(b)),
                s.mul(per_extreme, s.splat(c)),
                s.mul(per_extreme, s.splat(d)),
            ];
            for sums in group.centred_sums(s, inverses, codes) {
                best.improve(s, lattice.fit(s, sums));
            }
        }
        let again = 1 + usize::from(own);
        for step in 0..pairs.len() + again {
            let inverses = if let Some(&[a, b]) = pairs.get(step) {
                [s.mul(per_extreme, s.splat(a)), s.mul(per_extreme, s.splat(b))]
            } else {
                [best.inverse(s, 1.0), best.inverse(s, NEARBY)]
            };
            for sums in group.centred_sums(s, inverses, codes) {
                best.improve(s, lattice.fit(s, sums));
            }
        }
        if own {
            scale = Halves::round(s, best.scale, &group.unit);
            best.scale = s.load(&scale.value);
            break;
        }
        if let Lattice::Multiples(multiples) = lattice {
            counts = multiples.count(s, best.scale);
        }
        let scales = match phase {
            0 => {
                let mut largest = 0.0_f32;
                for scale in s.lanes(best.scale) {
                    largest = if scale.abs() > largest.abs() { scale } else { largest };
                }
                // The side that reaches one further is the largest one's.
                -largest / multiples
            }
            1 => fit_scale(&s.lanes(counts), &s.lanes(best.sums.l2), &s.lanes(best.sums.xl), scale.value[0]),
            _ => break,
        };
        let old_scale = scale;
        if phase == 0 {
            scale = Halves::round_up(s, s.splat(scales), &group.unit);
        } else {
            scale = Halves::round(s, s.splat(scales), &group.unit);
            let new = Lattice::Multiples(Multiples::new(s, s.load(&scale.value), multiples));
            let new = s.lanes(new.fit(s, best.sums).gain);
            scale.keep_better(&old_scale, LANES, &s.lanes(best.gain), &new);
        }
        lattice = Lattice::Multiples(Multiples::new(s, s.load(&scale.value), multiples));
        best = lattice.fit(s, best.sums);
    }
    group.encode_centred(s, best.scale, codes);
    Found { counts, minima: zero, scale, low: Halves::ZERO }
}
