//! The f16 scales of storage blocks, and the least-squares fit of one to all its sub-blocks.

use half::f16;

use crate::simd::{LANES, Simd};

/// An f16 for each lane, and its value in the lane's unit.
#[derive(Clone, Copy)]
pub(super) struct Halves {
    pub stored: [f16; LANES],
    pub value: [f32; LANES],
}

impl Halves {
    pub(super) const ZERO: Self = Self { stored: [f16::ZERO; LANES], value: [0.0; LANES] };

    /// The nearest ones to values in units; never infinite.
    #[inline(always)]
    pub(super) fn round<S: Simd>(s: S, values: S::V, unit: &[f32; LANES]) -> Self {
        let mut halves = Self::ZERO;
        let (unit, largest) = (s.load(unit), f16::MAX.to_f32());
        let within = s.max(s.min(s.mul(values, unit), s.splat(largest)), s.splat(-largest));
        s.store_f16(within, &mut halves.stored);
        halves.value = s.lanes(s.div(s.load_f16(&halves.stored), unit));
        halves
    }

    /// As `round`, but not much below the values in magnitude (subnormal f16 are coarse), so that the largest multiple
    /// reaches what it is meant for.
    #[inline(always)]
    pub(super) fn round_up<S: Simd>(s: S, values: S::V, unit: &[f32; LANES]) -> Self {
        let mut halves = Self::round(s, values, unit);
        let below = s.greater(s.mul(s.abs(values), s.splat(0.999)), s.abs(s.load(&halves.value)));
        if below == 0 {
            return halves;
        }
        let values = s.lanes(values);
        for j in 0..LANES {
            let stored = halves.stored[j];
            if below >> j & 1 == 1 && stored.to_bits() << 1 != f16::MAX.to_bits() << 1 {
                let sign = if values[j] < 0.0 { 0x8000 } else { 0 };
                halves.stored[j] = f16::from_bits(((stored.to_bits() & 0x7fff) + 1) | sign);
                halves.value[j] = halves.stored[j].to_f32() / unit[j];
            }
        }
        halves
    }

    /// Goes back to `old` in the storage blocks, of `lanes` each, in which the sum of `new_gain` is not the larger one.
    pub(super) fn keep_better(&mut self, old: &Self, lanes: usize, old_gain: &[f32; LANES], new_gain: &[f32; LANES]) {
        for first in (0..LANES).step_by(lanes) {
            let block = first..first + lanes;
            let (before, after) = (&old_gain[block.clone()], &new_gain[block.clone()]);
            if before.iter().sum::<f32>() >= after.iter().sum::<f32>() {
                self.stored[block.clone()].copy_from_slice(&old.stored[block.clone()]);
                self.value[block.clone()].copy_from_slice(&old.value[block]);
            }
        }
    }
}

/// What a fit of scale and minimum needs of each lane: how often each is taken, and sums.
pub(super) struct OffsetLanes {
    pub counts: [f32; LANES],
    pub minima: [f32; LANES],
    pub w: [f32; LANES],
    pub x: [f32; LANES],
    pub l: [f32; LANES],
    pub l2: [f32; LANES],
    pub xl: [f32; LANES],
}

impl OffsetLanes {
    /// Scale and minimum that suit the `lanes` of each storage block best; as they were where that is not determined.
    pub(super) fn fit(&self, lanes: usize, scale: &mut [f32; LANES], low: &mut [f32; LANES]) {
        for first in (0..LANES).step_by(lanes) {
            let (mut ss, mut sm, mut mm, mut sx, mut mx) = (0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32);
            for j in first..first + lanes {
                let (count, minimum) = (self.counts[j], self.minima[j]);
                ss += count * count * self.l2[j];
                sm += count * minimum * self.l[j];
                mm += minimum * minimum * self.w[j];
                sx += count * self.xl[j];
                mx += minimum * self.x[j];
            }
            let determinant = ss * mm - sm * sm;
            let (best_scale, best_low) = if determinant > 1e-6 * ss * mm {
                ((sx * mm - mx * sm) / determinant, (sx * sm - mx * ss) / determinant)
            } else if ss > 0.0 && mm == 0.0 {
                (sx / ss, 0.0)
            } else {
                continue;
            };
            if best_scale > 0.0 && best_low >= 0.0 {
                scale[first..first + lanes].fill(best_scale);
                low[first..first + lanes].fill(best_low);
            }
        }
    }
}

/// The scale that suits all sixteen lanes best, given how often each takes it; `old` where that is not determined.
pub(super) fn fit_scale(counts: &[f32; LANES], l2: &[f32; LANES], xl: &[f32; LANES], old: f32) -> f32 {
    let (mut squares, mut products) = (0.0_f32, 0.0_f32);
    for j in 0..LANES {
        squares += counts[j] * counts[j] * l2[j];
        products += counts[j] * xl[j];
    }
    if squares > 0.0 && products != 0.0 { products / squares } else { old }
}
