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

mod round;
pub(super) mod search;

use std::sync::{Mutex, PoisonError};

use half::f16;

use super::{Machine, ShapeError, check, wants_strips};
use crate::formats::strips::pack;
use crate::formats::{BLOCK, Format, STRIP, Weights};
use crate::matmul::{Mode, Precision};
use crate::pages::advise_huge;
use crate::simd::dispatch;
use crate::team::Disjoint;

use round::{Round, above};

/// The format of the copy: of the 8 bits of a `Q8_0` it leaves out three. In the real 270m a tenth of the strips have a row that
/// may be among the 64 best as far as one can tell; with a bit less, two fifths.
const FORMAT: Format = Format::Q5_0;

/// How products with the copy treat activations: their errors are far below those of its weights.
pub(super) const COARSE: Mode = Mode::Blocks(Precision::Int8);

/// How many standard deviations an error may be off. That a row is passed over in vain takes two errors that differ by twice
/// that: probability exp(-42), 4e-19, for any two rows.
const DEVIATIONS: f32 = 6.5;

/// Columns of a part.
const PART: usize = 4 * BLOCK;

/// Errors are stored as so many times what they are: f16 has no smaller numbers than 6e-8.
const MAGNIFIED: f32 = 1024.0;

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
                    // SAFETY: the share hands every strip to one member.
                    let bounds = unsafe { bounds.range(strip * STRIP * parts..(strip + 1) * STRIP * parts) };
                    for (lane, row) in rows.clone().enumerate() {
                        source.dequantize_row(row, &mut values);
                        let bytes = &mut bytes[lane * row_bytes..][..row_bytes];
                        dispatch(machine.isa, Round { values: &values, bytes, bounds: &mut found });
                        if found.iter().any(|bound| !bound.is_finite()) {
                            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            failure
                                .get_or_insert_with(|| format!("row {row} has a weight that is not a finite number"));
                        }
                        for (part, &bound) in found.iter().enumerate() {
                            bounds[part * STRIP + lane] = above(bound);
                        }
                    }
                    // SAFETY: see above.
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
    fn bounds(&self, first: usize) -> impl Iterator<Item = &[[f16; STRIP]]> {
        self.bounds.as_chunks().0.chunks_exact(parts(self.cols)).skip(first)
    }

    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE)
    }
}

/// Bounds of a row: one for each part, and one more.
const fn parts(cols: usize) -> usize {
    cols.div_ceil(PART) + 1
}
