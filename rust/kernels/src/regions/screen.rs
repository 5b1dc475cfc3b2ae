//! A coarse copy of a head, by which rows are passed over that cannot be among the best.
//!
//! A copy in [`FORMAT`] is read instead of the head itself, with activations of 8 bits, and gives a logit to within an error
//! of which only the size is known. Errors of a row's weights are those of rounding, as good as independent of each other
//! and of the activations, and so are those of the activations: the sum of their products has a variance of
//! ```text
//! sum over parts of 128 columns: mean square error of the part's worst block * sum of squared activations
//!     + sum of squared weights * mean square error of an activation
//! ```
//! and, being a sum of bounded terms, is hardly ever beyond a few of its standard deviations ([`DEVIATIONS`]; Hoeffding
//! 1963). Whatever may be among the best by that is computed from the head itself.

use std::sync::{Mutex, PoisonError};

use half::f16;

use super::{Machine, ShapeError, check, wants_strips};
use crate::formats::strips::pack;
use crate::formats::{BLOCK, Format, STRIP, Weights};
use crate::pages::advise_huge;
use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Disjoint;

/// The format of the copy: of the 8 bits of a `Q8_0` it leaves out three. With two less, a tenth of the rows is among the 64
/// best as far as one can tell.
const FORMAT: Format = Format::Q5_0;

/// How many standard deviations an error may be off. That a row is passed over in vain takes two errors that differ by twice
/// that: probability exp(-42), 4e-19, for any two rows.
pub(super) const DEVIATIONS: f32 = 6.5;

/// Columns of a part.
pub(super) const PART: usize = 4 * BLOCK;

/// Errors are stored as so many times what they are: f16 has no smaller numbers than 6e-8.
pub(super) const MAGNIFIED: f32 = 1024.0;

/// Bytes that the copy's memory is aligned to.
const CACHE_LINE: usize = 64;

/// A coarse copy of a matrix with a bound for each row, made piece by piece.
pub struct Screen {
    rows: usize,
    cols: usize,
    /// Rows that are there.
    done: usize,
    /// Of these, how many lie in strips when all are there.
    packed: usize,
    memory: Vec<u8>,
    /// [strip][part][row]: root mean square errors, magnified; as a last part the weights' root sum of squares.
    bounds: Vec<f16>,
}

impl Screen {
    /// Room for a copy of a matrix [rows, cols].
    ///
    /// # Errors
    /// When rows are not whole blocks, or there is no memory.
    pub fn new(machine: &Machine, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        let row_bytes = FORMAT.row_bytes(cols).map_err(|error| ShapeError(error.to_string()))?;
        check(cols > 0, || "a screen of no columns".into())?;
        let size = rows * row_bytes + CACHE_LINE;
        let bounds = rows.div_ceil(STRIP) * STRIP * parts(cols);
        let (mut memory, mut all) = (Vec::new(), Vec::new());
        check(memory.try_reserve_exact(size).is_ok() && all.try_reserve_exact(bounds).is_ok(), || {
            format!("no memory for a screen of {size} bytes")
        })?;
        // SAFETY: the vector's own memory.
        unsafe { advise_huge(memory.as_mut_ptr(), size) };
        memory.resize(size, 0);
        all.resize(bounds, f16::ZERO);
        let packed = if wants_strips(machine, FORMAT) { rows / STRIP * STRIP } else { 0 };
        Ok(Self { rows, cols, done: 0, packed, memory, bounds: all })
    }

    /// How many of the first rows are there.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done
    }

    /// Whether all rows are there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done == self.rows
    }

    /// Bytes that a product reads.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.memory.len() - CACHE_LINE + self.bounds.len() * size_of::<f16>()
    }

    /// Copies the rows from [`done`](Self::done) to `stop` of `source`. stop: a multiple of 16, or all rows.
    ///
    /// # Errors
    /// When shapes do not fit, or a weight is not finite; the screen is of no use then.
    pub fn extend(&mut self, machine: &Machine, source: Weights<'_>, stop: usize) -> Result<(), ShapeError> {
        check(source.rows() == self.rows && source.cols() == self.cols, || {
            format!("a screen [{}, {}] of a matrix [{}, {}]", self.rows, self.cols, source.rows(), source.cols())
        })?;
        check(self.done < stop && stop <= self.rows && (stop == self.rows || stop.is_multiple_of(STRIP)), || {
            format!("stop {stop}: {} of {} rows are there, in strips of {STRIP}", self.done, self.rows)
        })?;
        let (cols, parts, packed) = (self.cols, parts(self.cols), self.packed);
        let row_bytes = FORMAT.row_bytes(cols).map_err(|error| ShapeError(error.to_string()))?;
        let first = self.done / STRIP;
        let start = self.start();
        let memory = Disjoint::new(&mut self.memory[start..]);
        let bounds = Disjoint::new(&mut self.bounds);
        let failure = Mutex::new(None);
        machine.team.run(|worker| {
            let mut values = vec![0.0; cols];
            let mut bytes = vec![0; STRIP * row_bytes];
            let mut found = vec![0.0; parts];
            worker.share(0, stop.div_ceil(STRIP) - first, 1, |strips| {
                for strip in strips.start + first..strips.end + first {
                    let rows = strip * STRIP..stop.min((strip + 1) * STRIP);
                    // SAFETY: here and below, the share hands every strip to one member.
                    let bounds = unsafe { bounds.range(strip * STRIP * parts..(strip + 1) * STRIP * parts) };
                    for (lane, row) in rows.clone().enumerate() {
                        source.dequantize_row(row, &mut values);
                        let bytes = &mut bytes[lane * row_bytes..][..row_bytes];
                        dispatch(machine.isa, Round { values: &values, bytes, bounds: &mut found });
                        if found.iter().any(|bound| !bound.is_finite()) {
                            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            failure.get_or_insert_with(|| format!("row {row} has a weight that is not a finite number"));
                        }
                        for (part, &bound) in found.iter().enumerate() {
                            bounds[part * STRIP + lane] = above(bound);
                        }
                    }
                    let to = unsafe { memory.range(rows.start * row_bytes..rows.end * row_bytes) };
                    let bytes = &bytes[..to.len()];
                    if rows.end <= packed { pack(FORMAT, bytes, to) } else { to.copy_from_slice(bytes) }
                }
            });
        });
        if let Some(message) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(ShapeError(message));
        }
        self.done = stop;
        Ok(())
    }

    /// The copy, all rows of which are there.
    pub(super) fn weights(&self) -> Weights<'_> {
        let row_bytes = (self.memory.len() - CACHE_LINE) / self.rows.max(1);
        let memory = &self.memory[self.start()..][..self.rows * row_bytes];
        let (strips, rest) = memory.split_at(self.packed * row_bytes);
        Weights::with_strips(strips, rest, FORMAT, self.rows, self.cols).expect("as many bytes as were asked for")
    }

    /// The bounds of strips from `first` on: for each [part][row].
    pub(super) fn bounds(&self, first: usize) -> impl Iterator<Item = &[[f16; STRIP]]> {
        self.bounds.as_chunks().0.chunks_exact(parts(self.cols)).skip(first)
    }

    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE)
    }
}

/// Bounds of a row: one for each part, and one more.
pub(super) const fn parts(cols: usize) -> usize {
    cols.div_ceil(PART) + 1
}

/// A row as blocks of [`FORMAT`], every weight rounded to the nearest step, and its bounds: one that is not finite where the
/// weights are not.
struct Round<'a> {
    values: &'a [f32],
    bytes: &'a mut [u8],
    bounds: &'a mut [f32],
}

/// The largest code.
const MOST: f32 = 15.0;

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut weights = s.splat(0.0);
        let (bound_of_weights, bounds) = self.bounds.split_last_mut().expect("one more bound than parts");
        let parts = self.values.chunks(PART).zip(self.bytes.chunks_mut(PART / BLOCK * FORMAT.block_bytes()));
        for (bound, (values, bytes)) in bounds.iter_mut().zip(parts) {
            let mut worst = 0.0_f32;
            let blocks = values.as_chunks::<BLOCK>().0.iter().zip(bytes.chunks_exact_mut(FORMAT.block_bytes()));
            for (values, bytes) in blocks {
                let values = [s.load(values), s.load(&values[LANES..])];
                let largest = s.largest(s.max(s.abs(values[0]), s.abs(values[1])));
                let scale = f16::from_f32(largest / MOST);
                bytes[..2].copy_from_slice(&scale.to_le_bytes());
                let step = scale.to_f32();
                let inverse = s.splat(if step == 0.0 { 0.0 } else { step.recip() });
                let (mut errors, mut codes) = (s.splat(0.0), [0; BLOCK]);
                for half in 0..2 {
                    let code = s.nearest(s.mul(values[half], inverse));
                    let code = s.max(s.min(code, s.splat(MOST)), s.splat(-MOST));
                    let coarse = s.mul(code, s.splat(step));
                    let error = s.sub(values[half], coarse);
                    errors = s.mul_add(error, error, errors);
                    weights = s.mul_add(coarse, coarse, weights);
                    s.store_bytes(s.add(code, s.splat(MOST + 1.0)), &mut codes[half * LANES..]);
                    let fifth = s.greater(code, s.splat(-0.5)) as u16;
                    bytes[2 + 2 * half..][..2].copy_from_slice(&fifth.to_le_bytes());
                }
                for (byte, (low, high)) in bytes[6..].iter_mut().zip(codes[..LANES].iter().zip(&codes[LANES..])) {
                    *byte = low & 15 | high << 4;
                }
                let sum = s.sum(errors);
                // What is no number stays none.
                worst = if sum <= worst { worst } else { sum };
            }
            *bound = (worst / BLOCK as f32).sqrt() * MAGNIFIED;
        }
        *bound_of_weights = s.sum(weights).sqrt();
    }
}

/// An f16 that is not below x; infinite if there is none.
fn above(x: f32) -> f16 {
    let nearest = f16::from_f32(x.min(65_536.0));
    if nearest.to_f32() >= x { nearest } else { f16::from_bits(nearest.to_bits() + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_rounded_up() {
        for x in [0.0, 1e-9, 6e-8, 1e-3, 1.0, 1.0001, 65_504.0, 65_505.0, 1e9, f32::MAX, f32::INFINITY] {
            let bound = above(x).to_f32();
            assert!(bound >= x.min(f32::MAX) || bound == f32::INFINITY, "{x}: {bound}");
            assert!(bound <= (x * 1.001).max(6e-8) || x > 65_504.0, "{x}: {bound}");
        }
    }
}
