//! Looking for the best by what a screen says: how large they are at least, and which rows may be among them.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use half::f16;

use super::{DEVIATIONS, MAGNIFIED, PART, Screen};
use crate::formats::STRIP;
use crate::matmul::{COLUMNS, Precision};
use crate::simd::{Kernel, LANES, Simd};

/// What the bounds of a row of the screen are weighed with, squared ones, for the variance of its logit: for each part the
/// sum of squares of the activations, and the mean square error of an activation. step: of the head's own codes, as a part of
/// the largest activation of a group.
pub(in super::super) fn probe(row: &[f32], step: f32) -> Vec<f32> {
    let squares = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>();
    let largest = row.chunks(COLUMNS).map(|group| group.iter().fold(0.0_f32, |most, x| most.max(x.abs())));
    let largest = largest.fold(0.0, f32::max);
    let coarse_step = Precision::Int8.max_code().recip();
    // Codes are off by half a step at most, by a twelfth of its square in the mean. Floats are rounded, too.
    let rounded = largest * largest * (step * step + coarse_step * coarse_step) / 12.0;
    let magnified = MAGNIFIED * MAGNIFIED;
    let mut probe: Vec<f32> = row.chunks(PART).map(|part| squares(part) / magnified).collect();
    probe.push(rounded + 1e-10 * squares(row));
    probe
}

/// Variances of the logits of a strip, times the square of [`DEVIATIONS`].
#[inline(always)]
fn tolerance<S: Simd>(s: S, bounds: &[[f16; STRIP]], probe: &[f32]) -> S::V {
    let mut sum = s.splat(0.0);
    for (bounds, &weight) in bounds.iter().zip(probe) {
        let bound = s.load_f16(bounds);
        sum = s.mul_add(s.mul(bound, bound), s.splat(weight), sum);
    }
    s.mul(sum, s.splat(DEVIATIONS * DEVIATIONS))
}

/// A bit for each of the first `count` lanes.
fn lanes(count: usize) -> u32 {
    if count >= LANES { 0xffff } else { (1 << count) - 1 }
}

/// Finds how large the largest of some logits are at least. `first` is the first one of a strip.
pub(in super::super) struct Collect<'a> {
    pub(in super::super) screen: &'a Screen,
    pub(in super::super) first: usize,
    pub(in super::super) logits: &'a [f32],
    pub(in super::super) probe: &'a [f32],
    pub(in super::super) excluded: &'a [i32],
    pub(in super::super) best: &'a mut Largest,
}

impl Kernel for Collect<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        debug_assert!(self.first.is_multiple_of(STRIP), "row {} begins no strip", self.first);
        let strips = self.logits.chunks(STRIP).zip(self.screen.bounds(self.first / STRIP));
        for (first, (logits, bounds)) in (self.first..).step_by(STRIP).zip(strips) {
            let above = s.sub(s.load_part(logits), s.splat(self.best.floor));
            let tolerance = tolerance(s, bounds, self.probe);
            let mut hits = s.greater(above, s.splat(0.0)) & s.greater(s.mul(above, above), tolerance);
            hits &= lanes(logits.len());
            if hits == 0 {
                continue;
            }
            let tolerance = s.lanes(tolerance);
            while hits != 0 {
                let lane = hits.trailing_zeros() as usize;
                hits &= hits - 1;
                if self.excluded.binary_search(&((first + lane) as i32)).is_err() {
                    self.best.push(logits[lane] - tolerance[lane].sqrt());
                }
            }
        }
    }
}

/// Marks strips with a logit that may be as large as `floor`, from strip `first` on, with a bit.
pub(in super::super) struct Mark<'a> {
    pub(in super::super) screen: &'a Screen,
    pub(in super::super) first: usize,
    pub(in super::super) logits: &'a [f32],
    pub(in super::super) probe: &'a [f32],
    pub(in super::super) floor: f32,
    pub(in super::super) wanted: &'a mut [u32],
    pub(in super::super) bit: u32,
}

impl Kernel for Mark<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let strips = self.logits.chunks(STRIP).zip(self.screen.bounds(self.first));
        for (wanted, (logits, bounds)) in self.wanted.iter_mut().zip(strips) {
            let below = s.sub(s.splat(self.floor), s.load_part(logits));
            let tolerance = tolerance(s, bounds, self.probe);
            // What is no number is wanted.
            let misses = s.greater(below, s.splat(0.0)) & s.greater(s.mul(below, below), tolerance);
            if !misses & lanes(logits.len()) != 0 {
                *wanted |= self.bit;
            }
        }
    }
}

/// The largest of some numbers, so many of them.
pub(in super::super) struct Largest {
    count: usize,
    /// At most twice as many, those of them among these.
    pub(in super::super) values: Vec<f32>,
    /// What is not above it is none of them.
    pub(in super::super) floor: f32,
}

impl Largest {
    pub(in super::super) fn new(count: usize) -> Self {
        Self {
            count,
            values: Vec::with_capacity(2 * count),
            floor: if count == 0 { f32::INFINITY } else { f32::NEG_INFINITY },
        }
    }

    pub(in super::super) fn of(count: usize, values: &[f32]) -> Self {
        let mut largest = Self::new(count);
        for &value in values {
            largest.push(value);
        }
        largest.sort_out();
        largest
    }

    fn push(&mut self, value: f32) {
        if value > self.floor {
            self.values.push(value);
            if self.values.len() >= 2 * self.count {
                self.sort_out();
            }
        }
    }

    /// Leaves out what is none of the largest.
    fn sort_out(&mut self) {
        if self.count > 0 && self.values.len() >= self.count {
            self.values.select_nth_unstable_by(self.count - 1, |a, b| b.total_cmp(a));
            self.values.truncate(self.count);
            self.floor = self.values[self.count - 1];
        }
    }
}
