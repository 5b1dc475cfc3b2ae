//! The head where only its best logits matter.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::f16;

use super::product::{Inputs, Member, RowNorm, helping, lock, view};
use super::projection::{check_head, head};
use super::screen::{DEVIATIONS, MAGNIFIED, PART, Screen};
use super::{Machine, Mode, Norm, ShapeError, check};
use crate::formats::{STRIP, Weights};
use crate::matmul::{self, COLUMNS, Needs, Precision, TILE};
use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Disjoint;

/// How products with the screen treat activations: their errors are far below those of its weights.
const COARSE: Mode = Mode::Blocks(Precision::Int8);

/// For more logits than this in all rows, the head is read as a whole: nearly every strip has one that may be among them.
const MOST: usize = 64;

/// Strips that are looked through at a time.
const LOOKED_THROUGH: usize = 64;

/// What somebody wants of logits.
#[derive(Clone, Copy, Debug)]
pub struct Best<'a> {
    /// So many of the largest ones of a row have to be right.
    pub count: usize,
    /// Rows of the head that do not count, rising.
    pub excluded: &'a [i32],
}

/// As [`head`], but what is not among the `best` of a row may be wrong, and is less than any of these. Returns how many rows
/// of `proj` were computed.
///
/// Right ones have the bits that `head` gives them.
///
/// # Errors
/// When shapes do not fit or a row does not exist.
pub fn best_of_head(
    machine: &Machine,
    x: &[f32],
    rows: &[i32],
    norm: Norm<'_>,
    proj: Weights<'_>,
    screen: &Screen,
    best: Best<'_>,
    out: &mut [f32],
    mode: Mode,
) -> Result<usize, ShapeError> {
    let (width, cols, tokens) = (proj.rows(), proj.cols(), rows.len());
    check_head(x, rows, norm, proj, out)?;
    let coarse = screen.weights();
    check(screen.is_complete() && (coarse.rows(), coarse.cols()) == (width, cols), || {
        format!("a screen with {} rows of [{}, {}] for a head [{width}, {cols}]", screen.done(), coarse.rows(), coarse.cols())
    })?;
    if tokens == 0 || tokens > TILE || tokens * best.count > MOST || best.count >= width || mode == Mode::Exact {
        head(machine, x, rows, norm, proj, out, mode)?;
        return Ok(width);
    }
    let isa = machine.isa;
    let needs = [Needs::of(isa, &[proj], mode), Needs::of(isa, &[coarse], COARSE)];
    let inputs = Inputs { values: x, cols, rows: Some(rows), norm: RowNorm::Rms(norm), needs: needs[0] };
    let step = mode.precision(proj.format()).map_or(0.0, |precision| precision.max_code().recip());
    let found: Vec<Mutex<Vec<f32>>> = rows.iter().map(|_| Mutex::default()).collect();
    let computed = Mutex::new(0);
    let out = Disjoint::new(out);
    machine.with(|team, workspace| {
        let members = &workspace.members;
        team.run(|worker| {
            let Member { own, coarse: coarse_acts, scratch, row, .. } = &mut *lock(&members[worker.index]);
            let values = inputs.rows(isa, 0, tokens, row);
            for (acts, needs) in [&mut *own, &mut *coarse_acts].into_iter().zip(needs) {
                acts.reset(tokens, cols, needs);
                // SAFETY: nobody else knows these.
                unsafe { acts.write_tile(0, values) };
            }
            let probes: Vec<Vec<f32>> = values.chunks_exact(cols).map(|row| probe(row, step)).collect();
            let mut bests: Vec<Largest> = probes.iter().map(|_| Largest::new(best.count)).collect();
            worker.stream(0, width, helping(width, tokens, worker.count), |range: Range<usize>| {
                // SAFETY: the share hands every row to one member, and the buffer outlives the region.
                let to = unsafe { view(&out, width) };
                matmul::multiply(isa, &coarse, range.clone(), coarse_acts, COARSE, to, scratch);
                for (token, (probe, best_of_token)) in probes.iter().zip(&mut bests).enumerate() {
                    // SAFETY: as above.
                    let logits = unsafe { out.range(token * width + range.start..token * width + range.end) };
                    let (first, excluded) = (range.start, best.excluded);
                    dispatch(isa, Collect { screen, first, logits, probe, excluded, best: best_of_token });
                }
            });
            for (found, best) in found.iter().zip(bests) {
                found.lock().unwrap_or_else(PoisonError::into_inner).extend(best.values);
            }
            worker.barrier();
            let floors: Vec<f32> = found
                .iter()
                .map(|found| Largest::of(best.count, &found.lock().unwrap_or_else(PoisonError::into_inner)).floor)
                .collect();
            let mut own_rows = 0;
            worker.share(1, width.div_ceil(STRIP), LOOKED_THROUGH, |strips| {
                let mut wanted = [false; LOOKED_THROUGH];
                let looked_at = strips.start * STRIP..width.min(strips.end * STRIP);
                for (token, (probe, &floor)) in probes.iter().zip(&floors).enumerate() {
                    let at = token * width;
                    // SAFETY: the barrier is behind all writes of phase 0, and the share hands every strip to one member.
                    let logits = unsafe { out.range(at + looked_at.start..at + looked_at.end) };
                    dispatch(isa, Mark { screen, first: strips.start, logits, probe, floor, wanted: &mut wanted });
                }
                let mut rows = looked_at.start..looked_at.start;
                for run in wanted[..strips.len()].chunk_by(|a, b| a == b) {
                    rows = rows.end..looked_at.end.min(rows.end + run.len() * STRIP);
                    if run[0] {
                        own_rows += rows.len();
                        // SAFETY: see above.
                        let to = unsafe { view(&out, width) };
                        matmul::multiply(isa, &proj, rows.clone(), own, mode, to, scratch);
                    }
                }
            });
            *computed.lock().unwrap_or_else(PoisonError::into_inner) += own_rows;
        });
    });
    Ok(computed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What the bounds of a row of the screen are weighed with, squared ones, for the variance of its logit: for each part the
/// sum of squares of the activations, and the mean square error of an activation. step: of the head's own codes, as a part of
/// the largest activation of a group.
fn probe(row: &[f32], step: f32) -> Vec<f32> {
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
struct Collect<'a> {
    screen: &'a Screen,
    first: usize,
    logits: &'a [f32],
    probe: &'a [f32],
    excluded: &'a [i32],
    best: &'a mut Largest,
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

/// Marks strips with a logit that may be as large as `floor`, from strip `first` on.
struct Mark<'a> {
    screen: &'a Screen,
    first: usize,
    logits: &'a [f32],
    probe: &'a [f32],
    floor: f32,
    wanted: &'a mut [bool],
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
            *wanted |= !misses & lanes(logits.len()) != 0;
        }
    }
}

/// The largest of some numbers, so many of them.
struct Largest {
    count: usize,
    /// At most twice as many, those of them among these.
    values: Vec<f32>,
    /// What is not above it is none of them.
    floor: f32,
}

impl Largest {
    fn new(count: usize) -> Self {
        Self { count, values: Vec::with_capacity(2 * count), floor: if count == 0 { f32::INFINITY } else { f32::NEG_INFINITY } }
    }

    fn of(count: usize, values: &[f32]) -> Self {
        let mut largest = Self::new(count);
        values.iter().for_each(|&value| largest.push(value));
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
