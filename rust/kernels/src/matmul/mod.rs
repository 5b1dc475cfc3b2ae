//! Products of a weight matrix with rows of activations: `out[t, r] = sum over c of w[r, c] * x[t, c]`.
//!
//! # The contract
//!
//! The result for a row and a token is one fixed sequence of f32 operations. It does not depend on the instruction set,
//! on how many tokens or rows a call has, or on threads: equal bits everywhere (any NaN equals any NaN).
//!
//! *Integer products, quantised formats.* Groups of 256 columns (eight blocks of 32; the last group may be shorter),
//! taken in order. With codes, scale, offset and steps of the weight blocks as in [`crate::formats`], and q, `x.scale`
//! and sums of a group of activations as in [`Activations`]:
//! ```text
//! result = 0
//! for group:
//!     v = 0
//!     for run of blocks:                         1, 2, 4 or 8 blocks: `Format::run`, which depends on the precision
//!         isum = sum of codes * q                exact in i32
//!         v = fma(isum as f32, scale, v)
//!     formats with integer scales and an offset:
//!         m = 0
//!         for block (half block in Q2_K):        exact in f32 with codes of 8 bits, and so in i32
//!             m = fma(step, sum of q, m)
//!         v = fma(m, offset, v)
//!     for block:                                 other formats with an offset
//!         v = fma(offset, sum of q, v)
//!     result = fma(v, x.scale, result)
//! ```
//! The sums fit: codes of a run are at most 945 (`Q4_K`, 256 columns), 1953 (`Q5_K`, 128) or 4096 (`Q6_K`, 64) in
//! magnitude, and q at most 8191, or 127 for runs of 256 columns in every K-quant.
//!
//! *Exact mode, and dense formats (FP8 is one) in both modes.* Rows are dequantised to f32 and padded with zeros to a multiple of 8
//! columns. Eight partial sums start at +0; column c belongs to partial sum c % 8: `p = fma(w, x, p)`. They end as
//! `((p0+p4)+(p2+p6)) + ((p1+p5)+(p3+p7))`.

mod activations;
mod codes;
mod scalar;
mod tiled;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use std::marker::PhantomData;
use std::ops::Range;

pub use activations::{Activations, Needs, Precision, TILE};

use crate::formats::strips::unpack;
use crate::formats::{BLOCK, Format, STRIP, Weights, planes};
use crate::isa::Isa;
use crate::room::room;

/// Number of interleaved partial sums of an exact result; blocks in a group of an integer one.
const LANES: usize = 8;

/// Columns that share a scale of the activations.
const GROUP: usize = LANES * BLOCK;

/// The same: columns whose codes are written together ([`Activations::write_columns`]).
pub const COLUMNS: usize = GROUP;

/// How a product treats its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Quantised weights meet integer activations; dense weights meet f32 activations.
    Blocks(Precision),
    /// 8 bits for formats with integer scales (the K-quants), 14 for the other quantised ones. Weights that share their
    /// activations with finer ones get the finer codes.
    Mixed,
    /// f32 activations for every format.
    Exact,
}

impl Mode {
    /// The integer codes that a product with weights of `format` reads, None when it reads f32.
    #[must_use]
    pub fn precision(self, format: Format) -> Option<Precision> {
        match self {
            _ if format.is_dense() => None,
            Self::Blocks(precision) => Some(precision),
            Self::Mixed if format.has_integer_scales() => Some(Precision::Int8),
            Self::Mixed => Some(Precision::Int14),
            Self::Exact => None,
        }
    }
}

/// Where results go: the result of token t and weight row r is element `t * stride + offset + r - first`.
pub struct OutView<'a> {
    ptr: *mut f32,
    len: usize,
    stride: usize,
    offset: usize,
    first: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is a mutable borrow of its elements (see `from_raw` for shared ones), and f32 is Send.
unsafe impl Send for OutView<'_> {}

impl<'a> OutView<'a> {
    /// A view of a whole buffer.
    pub fn new(out: &'a mut [f32], stride: usize, offset: usize) -> Self {
        Self { ptr: out.as_mut_ptr(), len: out.len(), stride, offset, first: 0, owner: PhantomData }
    }

    /// A view of a buffer that other threads write too, at other rows.
    ///
    /// # Safety
    /// `ptr` is valid for writes of `len` elements for `'a`. While a product writes rows `r` through this view, nobody
    /// else accesses the elements `t * stride + offset + r`, less the first row if one is set.
    #[must_use]
    pub unsafe fn from_raw(ptr: *mut f32, len: usize, stride: usize, offset: usize) -> Self {
        Self { ptr, len, stride, offset, first: 0, owner: PhantomData }
    }

    /// The same place for rows from `first` on: a buffer with nothing but those.
    #[must_use]
    pub fn from_row(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// The same place, with row `row` of it as its first one.
    fn starting_at(&mut self, row: usize) -> OutView<'_> {
        OutView { offset: self.offset + row, owner: PhantomData, ..*self }
    }

    fn fits(&self, tokens: usize, rows: &Range<usize>) -> bool {
        if tokens == 0 || rows.is_empty() {
            return true;
        }
        let Some(end) = rows.end.checked_sub(self.first).filter(|_| rows.start >= self.first) else { return false };
        let end = (tokens - 1).checked_mul(self.stride).and_then(|at| at.checked_add(self.offset)?.checked_add(end));
        end.is_some_and(|end| end <= self.len)
    }

    #[inline]
    fn at(&self, token: usize, row: usize) -> usize {
        token * self.stride + self.offset + row - self.first
    }

    /// Writes one result; `multiply` has checked that it fits.
    fn set(&mut self, token: usize, row: usize, value: f32) {
        self.set_rows(token, row, &[value]);
    }

    /// Fetches the lines of the results of `rows`, to be written soon.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn will_write(&self, token: usize, rows: Range<usize>) {
        let at = self.ptr.wrapping_add(self.at(token, rows.start)).addr();
        for line in 0..(rows.len() * size_of::<f32>()).div_ceil(64) {
            let place = at.wrapping_add(64 * line);
            // SAFETY: a hint, for whatever place.
            unsafe { core::arch::asm!("prefetchw [{}]", in(reg) place, options(nomem, nostack, preserves_flags)) };
        }
    }

    /// Writes those of sixteen results, of the rows from `first` on, whose rows are among `rows`.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn set_sixteen(&mut self, token: usize, first: usize, values: &[f32; STRIP], rows: &Range<usize>) {
        let wanted = rows.start.max(first)..rows.end.min(first + STRIP);
        if wanted.len() == STRIP {
            // A length that the compiler knows: one store instead of a call.
            self.set_rows(token, first, values);
        } else {
            self.set_rows(token, wanted.start, &values[wanted.start - first..wanted.end - first]);
        }
    }

    /// Writes the results of neighbouring rows.
    #[inline]
    fn set_rows(&mut self, token: usize, row: usize, values: &[f32]) {
        let at = self.at(token, row);
        debug_assert!(at + values.len() <= self.len);
        // SAFETY: `multiply` checked with `fits` that the largest index is below len, and the constructor's contract
        // gives this view the elements.
        unsafe { self.ptr.add(at).copy_from_nonoverlapping(values.as_ptr(), values.len()) }
    }
}

/// Working memory of products, kept by each thread and grown on demand.
#[derive(Default)]
pub struct Scratch {
    scalar: scalar::Scratch,
    #[cfg(target_arch = "x86_64")]
    x86: x86::Scratch,
    /// Rows that were in strips, or strips that were in planes.
    unpacked: Vec<u8>,
}

/// Strips that are turned into rows at a time, for products that read rows, or put together from planes.
const UNPACKED: usize = 8;

/// Multiplies the weight rows `rows` with every token of `x` and writes the results to `out`, on this thread.
///
/// # Panics
/// When `rows` is not within the matrix, `x` has other columns or lacks the representation that
/// [`Mode::precision`] names, `out` is too small, or the CPU lacks `isa`.
pub fn multiply(
    isa: Isa,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    mode: Mode,
    mut out: OutView<'_>,
    scratch: &mut Scratch,
) {
    assert!(rows.end <= weights.rows(), "rows {rows:?} of a matrix of {} rows", weights.rows());
    assert_eq!(x.cols(), weights.cols(), "activations and weights differ in columns");
    assert!(out.fits(x.tokens(), &rows), "the output is too small");
    if x.tokens() == 0 || rows.is_empty() {
        return;
    }
    let wanted = mode.precision(weights.format());
    let precision = wanted.and(x.needs().blocks);
    let finer = mode == Mode::Mixed && precision > wanted;
    assert!(precision == wanted || finer, "these activations have other integer codes");
    assert!(isa == Isa::Amx || !x.is_tiled(), "these activations are for a matrix unit");
    let middle = weights.packed_rows().clamp(rows.start, rows.end);
    if rows.start < middle {
        multiply_strips(isa, weights, rows.start..middle, x, precision, &mut out, scratch);
    }
    if middle < rows.end {
        multiply_rows(isa, weights, middle..rows.end, x, precision, &mut out, scratch);
    }
}

/// Products of rows in strips.
fn multiply_strips(
    isa: Isa,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Option<Precision>,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    let in_planes = weights.has_planes();
    #[cfg(target_arch = "x86_64")]
    if isa.reads_strips()
        && let Some(precision) = precision
        // Products of few tokens put planes together themselves.
        && (!in_planes || x.has_quads() && x.tokens() <= activations::FEW)
    {
        x86::multiply_strips(isa, weights, rows, x, precision, out, &mut scratch.x86);
        return;
    }
    let (format, cols) = (weights.format(), weights.cols());
    let strip = STRIP * cols / format.block() * format.block_bytes();
    let mut unpacked = std::mem::take(&mut scratch.unpacked);
    for first in (rows.start / STRIP..rows.end.div_ceil(STRIP)).step_by(UNPACKED) {
        let strips = first..rows.end.div_ceil(STRIP).min(first + UNPACKED);
        let bytes = &mut room(&mut unpacked, strips.len() * strip, || 0)[..strips.len() * strip];
        for (index, to) in strips.clone().zip(bytes.chunks_exact_mut(strip)) {
            if in_planes {
                let [upper, lower] = weights.planes_from(index);
                planes::join(isa, upper, lower, to);
            } else {
                unpack(format, weights.strip(index), to);
            }
        }
        let (count, start) = (strips.len() * STRIP, first * STRIP);
        let rows = rows.start.max(start) - start..rows.end.min(strips.end * STRIP) - start;
        let out = &mut out.starting_at(start);
        if in_planes {
            let whole = Weights::with_strips(bytes, &[], format, count, cols).expect("as many whole strips");
            multiply_strips(isa, &whole, rows, x, precision, out, scratch);
        } else {
            let plain = Weights::new(bytes, format, count, cols).expect("as many whole rows");
            multiply_rows(isa, &plain, rows, x, precision, out, scratch);
        }
    }
    scratch.unpacked = unpacked;
}

/// Products of rows as they are stored.
fn multiply_rows(
    isa: Isa,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Option<Precision>,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512Vnni | Isa::Amx => {
            x86::multiply(isa, weights, rows, x, precision, out, &mut scratch.x86);
        }
        _ => scalar::multiply(weights, rows, x, precision, out, &mut scratch.scalar),
    }
}

/// The end of an exact result: partial sums to one.
fn reduce(p: [f32; LANES]) -> f32 {
    ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]))
}
