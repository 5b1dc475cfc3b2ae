//! A coarse copy of a head, by which rows are passed over that cannot be among the best.
//!
//! A copy in [`FORMAT`], or the upper one of two [`planes`], is read instead of the head itself, with activations of 8 bits,
//! and gives a logit to within an error of which only the size is known. Errors of a row's weights are those of rounding, as
//! good as independent of each other and of the activations, and so are those of the activations: the sum of their products
//! has a variance of
//! ```text
//! sum over parts of 128 columns: mean square error of the part's worst block * sum of squared activations
//!     + sum of squared weights * mean square error of an activation
//! ```
//! and, being a sum of bounded terms, is hardly ever beyond a few of its standard deviations ([`DEVIATIONS`]; Hoeffding
//! 1963). Whatever may be among the best by that is computed from the head itself.

mod round;
pub(super) mod search;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use half::f16;

use super::{Machine, ShapeError, check, wants_strips};
use crate::formats::strips::pack;
use crate::formats::{BLOCK, Format, STRIP, Weights, planes};
use crate::matmul::{Mode, Precision};
use crate::pages::advise_huge;
use crate::simd::dispatch;
use crate::team::Disjoint;

use round::{Round, above};

/// The format of the copy: of the 8 bits of a `Q8_0` it leaves out three. In the real 270m a tenth of the strips have a row that
/// may be among the 64 best as far as one can tell; with a bit less, two fifths.
const FORMAT: Format = planes::UPPER;

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

/// What a matrix's rows are in few bits, with a bound for each, made piece by piece: a copy, or the upper one of its planes.
pub struct Screen {
    rows: usize,
    cols: usize,
    /// Rows that are there.
    done: usize,
    copy: Option<Copy>,
    /// [strip][part][row]: root mean square errors, magnified; as a last part the weights' root sum of squares.
    bounds: Vec<f16>,
    patience: Patience,
}

/// Whether to look at a screen at all. Of some activations it says little: one column far larger than all others together, whose
/// rounding error then is that of the logit. Who writes such a token often writes more of them.
#[derive(Default)]
struct Patience {
    /// Heads to read as a whole before the next look.
    left: AtomicU32,
    /// What `left` will be if that one is in vain, too.
    next: AtomicU32,
}

/// Most heads that are read as a whole before the next look at the screen.
const MOST_PATIENCE: u32 = 64;

impl Patience {
    fn is_over(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }

    /// To be told how many of the rows of a head had to be computed. More than a quarter: then nothing was won.
    fn learn(&self, computed: usize, rows: usize) {
        let (left, next) = if computed > rows / 4 {
            let left = self.next.load(Ordering::Relaxed).max(1);
            (left, (2 * left).min(MOST_PATIENCE))
        } else {
            (0, 0)
        };
        self.left.store(left, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
    }
}

/// Rows in [`FORMAT`], in memory of their own.
struct Copy {
    memory: Vec<u8>,
    /// How many of the rows lie in strips when all are there.
    packed: usize,
}

impl Copy {
    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE)
    }
}

impl Screen {
    /// Room for a copy of a matrix [rows, cols].
    ///
    /// # Errors
    /// When rows are not whole blocks, or there is no memory.
    pub fn new(machine: &Machine, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        let row_bytes = FORMAT.row_bytes(cols).map_err(|error| ShapeError(error.to_string()))?;
        let size = rows * row_bytes + CACHE_LINE;
        let mut memory = Vec::new();
        check(memory.try_reserve_exact(size).is_ok(), || format!("no memory for a screen of {size} bytes"))?;
        // SAFETY: the vector's own memory.
        unsafe { advise_huge(memory.as_mut_ptr(), size) };
        memory.resize(size, 0);
        let packed = if wants_strips(machine, FORMAT) { rows / STRIP * STRIP } else { 0 };
        Ok(Self { copy: Some(Copy { memory, packed }), ..Self::of_planes(rows, cols)? })
    }

    /// A screen of a matrix [rows, cols] whose rows will be in [`planes`].
    ///
    /// # Errors
    /// When there are no columns, or there is no memory.
    pub fn of_planes(rows: usize, cols: usize) -> Result<Self, ShapeError> {
        check(cols > 0, || "a screen of no columns".into())?;
        let size = rows.div_ceil(STRIP) * STRIP * parts(cols);
        let mut bounds = Vec::new();
        check(bounds.try_reserve_exact(size).is_ok(), || format!("no memory for {size} bounds of a screen"))?;
        bounds.resize(size, f16::ZERO);
        Ok(Self { rows, cols, done: 0, copy: None, bounds, patience: Patience::default() })
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
        self.rows * self.row_bytes() + self.bounds.len() * size_of::<f16>()
    }

    /// Copies the rows from [`done`](Self::done) to `stop` of `source`. stop: a multiple of 16, or all rows.
    ///
    /// # Errors
    /// When shapes do not fit, or a weight is not finite; the screen is of no use then.
    pub fn extend(&mut self, machine: &Machine, source: Weights<'_>, stop: usize) -> Result<(), ShapeError> {
        self.check(source, stop)?;
        let (cols, parts, first, row_bytes) = (self.cols, parts(self.cols), self.done / STRIP, self.row_bytes());
        let Some(copy) = &mut self.copy else { return Err(ShapeError("a screen of planes has no copy".into())) };
        let (packed, start) = (copy.packed, copy.start());
        let memory = Disjoint::new(&mut copy.memory[start..]);
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
                        set_bounds(bounds, lane, row, &found, &failure);
                    }
                    // SAFETY: see above.
                    let to = unsafe { memory.range(rows.start * row_bytes..rows.end * row_bytes) };
                    let bytes = &bytes[..to.len()];
                    if rows.end <= packed { pack(FORMAT, bytes, to) } else { to.copy_from_slice(bytes) }
                }
            });
        });
        self.finish(failure, stop)
    }

    /// Puts the rows from [`done`](Self::done) to `stop` of `source`, which are in no strips, into strips of two
    /// [`planes`]. stop: a multiple of 16. upper, lower: the bytes of these rows in each plane.
    ///
    /// # Errors
    /// When shapes or the format do not fit, or a weight is not finite; what was written is of no use then.
    pub fn split(
        &mut self,
        machine: &Machine,
        source: Weights<'_>,
        stop: usize,
        upper: &mut [u8],
        lower: &mut [u8],
    ) -> Result<(), ShapeError> {
        self.check(source, stop)?;
        let (cols, parts, first) = (self.cols, parts(self.cols), self.done / STRIP);
        check(self.copy.is_none() && source.format() == planes::WHOLE && stop.is_multiple_of(STRIP), || {
            format!("no planes of {} up to row {stop}", source.format().name())
        })?;
        let from = source.rows_bytes(self.done..stop);
        let (strips, blocks) = (stop / STRIP - first, cols / BLOCK);
        let whole_bytes = STRIP * blocks * planes::WHOLE.block_bytes();
        let [upper_bytes, lower_bytes] = planes::nbytes(STRIP, cols);
        let lens = [from.len(), upper.len(), lower.len()];
        check(lens == [whole_bytes, upper_bytes, lower_bytes].map(|bytes| strips * bytes), || {
            format!("planes of {} and {} bytes for {strips} strips, {} bytes", lens[1], lens[2], lens[0])
        })?;
        let (upper, lower, bounds) = (Disjoint::new(upper), Disjoint::new(lower), Disjoint::new(&mut self.bounds));
        let failure = Mutex::new(None);
        machine.team.run(|worker| {
            let mut errors = vec![planes::Error::default(); STRIP * blocks];
            worker.share(0, strips, 1, |range| {
                for strip in range {
                    let at = |bytes: usize| strip * bytes..(strip + 1) * bytes;
                    // SAFETY: the share hands every strip to one member.
                    let (upper, lower) = unsafe { (upper.range(at(upper_bytes)), lower.range(at(lower_bytes))) };
                    planes::split(machine.isa, &from[at(whole_bytes)], upper, lower, &mut errors);
                    let number = first + strip;
                    // SAFETY: see above.
                    let bounds = unsafe { bounds.range(number * STRIP * parts..(number + 1) * STRIP * parts) };
                    for (lane, errors) in errors.chunks_exact(blocks).enumerate() {
                        set_bounds(bounds, lane, number * STRIP + lane, &bounds_of(errors), &failure);
                    }
                }
            });
        });
        self.finish(failure, stop)
    }

    /// Of a copy, and of the upper plane.
    fn row_bytes(&self) -> usize {
        self.cols / BLOCK * FORMAT.block_bytes()
    }

    fn check(&self, source: Weights<'_>, stop: usize) -> Result<(), ShapeError> {
        check(source.rows() == self.rows && source.cols() == self.cols, || {
            format!("a screen [{}, {}] of a matrix [{}, {}]", self.rows, self.cols, source.rows(), source.cols())
        })?;
        check(self.done < stop && stop <= self.rows && (stop == self.rows || stop.is_multiple_of(STRIP)), || {
            format!("stop {stop}: {} of {} rows are there, in strips of {STRIP}", self.done, self.rows)
        })
    }

    fn finish(&mut self, failure: Mutex<Option<usize>>, stop: usize) -> Result<(), ShapeError> {
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), |row| Err(ShapeError(format!("row {row} has a weight that is not a finite number"))))?;
        self.done = stop;
        Ok(())
    }

    /// All rows of `head` in few bits, and how many times these the head's weights are.
    pub(super) fn coarse<'a>(&'a self, head: Weights<'a>) -> Result<(Weights<'a>, f32), ShapeError> {
        check(self.is_complete() && (head.rows(), head.cols()) == (self.rows, self.cols), || {
            let (done, rows, cols) = (self.done, self.rows, self.cols);
            format!("a screen with {done} rows of [{rows}, {cols}] for a head [{}, {}]", head.rows(), head.cols())
        })?;
        let Some(copy) = &self.copy else {
            let upper = head.upper().ok_or_else(|| ShapeError("a head that is not in planes".into()))?;
            return Ok((upper, planes::UPPER_IS_PART));
        };
        let memory = &copy.memory[copy.start()..][..self.rows * self.row_bytes()];
        let (strips, rest) = memory.split_at(copy.packed * self.row_bytes());
        let coarse = Weights::with_strips(strips, rest, FORMAT, self.rows, self.cols);
        Ok((coarse.expect("as many bytes as were asked for"), 1.0))
    }

    /// Whether it is worth a look, after all that was learnt before.
    pub(super) fn is_worth_it(&self) -> bool {
        self.patience.is_over()
    }

    /// To be told how many rows of the head had to be computed after a look.
    pub(super) fn learn(&self, computed: usize) {
        self.patience.learn(computed, self.rows);
    }

    /// The bounds of strips from `first` on: for each [part][row].
    fn bounds(&self, first: usize) -> impl Iterator<Item = &[[f16; STRIP]]> {
        self.bounds.as_chunks().0.chunks_exact(parts(self.cols)).skip(first)
    }
}

/// Writes the bounds of a row. failure: a row with one that is not finite.
fn set_bounds(bounds: &mut [f16], lane: usize, row: usize, found: &[f32], failure: &Mutex<Option<usize>>) {
    if found.iter().any(|bound| !bound.is_finite()) {
        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(row);
    }
    for (part, &bound) in found.iter().enumerate() {
        bounds[part * STRIP + lane] = above(bound);
    }
}

/// The bounds of a row of which the upper plane is so far off.
fn bounds_of(errors: &[planes::Error]) -> Vec<f32> {
    let mean = |error: &planes::Error| error.scale * error.scale * error.squares as f32 / BLOCK as f32;
    // What is no number stays none.
    let larger = |most: f32, mean: f32| if mean <= most { most } else { mean };
    let worst = |part: &[planes::Error]| part.iter().map(mean).fold(0.0, larger).sqrt() * MAGNIFIED;
    let upper = |error: &planes::Error| (planes::UPPER_IS_PART * error.scale).powi(2) * error.upper as f32;
    let weights = errors.iter().map(upper).sum::<f32>().sqrt();
    errors.chunks(PART / BLOCK).map(worst).chain([weights]).collect()
}

/// Bounds of a row: one for each part, and one more.
const fn parts(cols: usize) -> usize {
    cols.div_ceil(PART) + 1
}
