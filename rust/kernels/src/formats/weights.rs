//! Matrices over borrowed bytes, wherever their rows lie.

use std::ops::Range;

use half::f16;

use super::strips::{self, STRIP};
use super::{BLOCK, Block, Format, ShapeError, fp8, planes};

/// The largest storage block that strips have.
const MOST_BYTES: usize = Format::Q6_K.block_bytes();

/// A matrix [rows, cols] over borrowed bytes in any alignment, row after row; the first rows may be in [`strips`].
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Strip after strip; of those in [`planes`] the upper one.
    strips: &'a [u8],
    /// The lower plane of all strips, if they are in planes.
    lower: &'a [u8],
    /// Rows in strips, a multiple of [`STRIP`].
    packed: usize,
    /// The rows behind them.
    data: &'a [u8],
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    /// What is behind the rows of a product is not read soon.
    scattered: bool,
}

impl<'a> Weights<'a> {
    /// A view of `data`, which must be exactly as long as the matrix.
    ///
    /// # Errors
    /// `PartialBlock`, `TooLarge` or `Bytes`.
    pub fn new(data: &'a [u8], format: Format, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        Self::with_strips(&[], data, format, rows, cols)
    }

    /// A matrix whose first rows are in `strips`, and the others in `data`.
    ///
    /// # Errors
    /// `PartialBlock`, `TooLarge` or `Bytes`, which counts both.
    ///
    /// # Panics
    /// When the strips are not whole ones, or of a format that has none.
    pub fn with_strips(
        strips: &'a [u8],
        data: &'a [u8],
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ShapeError> {
        let row_bytes = format.row_bytes(cols)?;
        let expected = row_bytes.checked_mul(rows).ok_or(ShapeError::TooLarge { format, rows, cols })?;
        let actual = strips.len() + data.len();
        if actual != expected {
            return Err(ShapeError::Bytes { format, rows, cols, expected, actual });
        }
        let packed = strips.len().checked_div(row_bytes).unwrap_or(0);
        assert!(strips.len() == packed * row_bytes && packed.is_multiple_of(STRIP), "{packed} rows are no strips");
        assert!(packed == 0 || format.has_strips(), "{} has no strips", format.name());
        Ok(Self { strips, lower: &[], packed, data, format, rows, cols, row_bytes, scattered: false })
    }

    /// A `Q8_0` matrix whose first rows are in strips of two [`planes`], and the others in `data`.
    ///
    /// # Errors
    /// As [`with_strips`](Self::with_strips).
    ///
    /// # Panics
    /// When the strips are not whole ones, or more of one plane than of the other.
    pub fn with_planes(
        upper: &'a [u8],
        lower: &'a [u8],
        data: &'a [u8],
        rows: usize,
        cols: usize,
    ) -> Result<Self, ShapeError> {
        let packed = upper.len() / planes::UPPER.row_bytes(cols)?.max(1);
        let behind = rows.saturating_sub(packed);
        let rest = Self::new(data, planes::WHOLE, behind, cols)?;
        assert!(packed.is_multiple_of(STRIP) && packed + behind == rows, "{packed} rows are no strips");
        assert_eq!([upper.len(), lower.len()], planes::nbytes(packed, cols), "strips of the two planes");
        Ok(Self { strips: upper, lower, packed, rows, ..rest })
    }

    /// Number of rows (outputs of a product).
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights in a row (inputs of a product).
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many of the first rows are in strips.
    #[must_use]
    pub fn packed_rows(&self) -> usize {
        self.packed
    }

    /// Row `row`, or the first one of its strip if it is in one.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn first_with(&self, row: usize) -> usize {
        if row < self.packed { row / STRIP * STRIP } else { row }
    }

    /// The same for products of rows that are far from each other, of which nothing is fetched ahead.
    pub(crate) fn scattered(self) -> Self {
        Self { scattered: true, ..self }
    }

    /// Whether nothing is to be fetched ahead.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_scattered(&self) -> bool {
        self.scattered
    }

    /// Asks for the bytes of rows in strips; changes no result.
    pub(crate) fn fetch(&self, rows: Range<usize>) {
        let strips = rows.start.min(self.packed) / STRIP..rows.end.min(self.packed).div_ceil(STRIP);
        let planes = if self.has_planes() {
            let [from, to] = [strips.start, strips.end].map(|strip| planes::nbytes(strip * STRIP, self.cols));
            [&self.strips[from[0]..to[0]], &self.lower[from[1]..to[1]]]
        } else {
            let bytes = STRIP * self.row_bytes;
            [&self.strips[strips.start * bytes..strips.end * bytes], &[]]
        };
        #[cfg(target_arch = "x86_64")]
        for line in planes.iter().flat_map(|plane| plane.chunks(64)) {
            use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a hint.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = planes;
    }

    /// Whether the rows in strips are in two [`planes`].
    pub(crate) fn has_planes(&self) -> bool {
        !self.lower.is_empty()
    }

    /// The upper plane of all rows, which all are in planes: a matrix of an eighth of the weights.
    pub(crate) fn upper(&self) -> Option<Self> {
        let all = self.has_planes() && self.packed == self.rows;
        let upper = || Self::with_strips(self.strips, &[], planes::UPPER, self.rows, self.cols);
        all.then(|| upper().expect("as long as it was"))
    }

    /// The bytes of each plane, from a strip on; of nothing else if nothing is to be fetched ahead.
    pub(crate) fn planes_from(&self, strip: usize) -> [&'a [u8]; 2] {
        let [upper, lower] = planes::nbytes(strip * STRIP, self.cols);
        if self.scattered {
            let end = planes::nbytes((strip + 1) * STRIP, self.cols);
            return [&self.strips[upper..end[0]], &self.lower[lower..end[1]]];
        }
        [&self.strips[upper..], &self.lower[lower..]]
    }

    /// The bytes of a strip, which is not in planes.
    pub(crate) fn strip(&self, index: usize) -> &'a [u8] {
        debug_assert!(!self.has_planes(), "half a strip");
        &self.strips[index * STRIP * self.row_bytes..][..STRIP * self.row_bytes]
    }

    /// The bytes from a row on, which is the first one of a strip if it is in one: those of all strips, or of all rows
    /// behind them.
    pub(crate) fn bytes_from(&self, row: usize) -> &'a [u8] {
        if row < self.packed {
            return &self.strips[row * self.row_bytes..];
        }
        self.data.get((row - self.packed) * self.row_bytes..).unwrap_or_default()
    }

    /// The bytes of one row, which is not in a strip.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.data[(row - self.packed) * self.row_bytes..][..self.row_bytes]
    }

    /// The bytes of rows that lie one after the other; of those that are not in strips.
    pub(crate) fn rows_bytes(&self, rows: Range<usize>) -> &'a [u8] {
        let place = |row: usize| row.saturating_sub(self.packed) * self.row_bytes;
        &self.data[place(rows.start)..place(rows.end)]
    }

    /// Row `row` as f32, bit for bit as in ggml's reference.
    ///
    /// # Panics
    /// When `row` is not a row or `out` is not `cols` long.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "the output must hold one row");
        if row < self.packed && self.has_planes() {
            let [upper, lower] = self.planes_from(row / STRIP);
            for (index, values) in out.chunks_exact_mut(BLOCK).enumerate() {
                let storage = planes::join_block(upper, lower, row % STRIP, index, self.cols / BLOCK);
                Block::decode(self.format, &storage, 0).dequantize(false, values);
            }
            return;
        }
        if row < self.packed {
            let (strip, mut storage) = (self.strip(row / STRIP), [0; MOST_BYTES]);
            let per_storage = self.format.block() / BLOCK;
            for (index, values) in out.chunks_exact_mut(BLOCK).enumerate() {
                let (block, part) = (index / per_storage, index % per_storage);
                if part == 0 {
                    strips::unpack_block(self.format, strip, row % STRIP, block, &mut storage);
                }
                let block = Block::decode(self.format, &storage, part);
                block.dequantize(self.format.has_offset(), values);
            }
            return;
        }
        let bytes = self.row(row);
        if self.format.is_dense() {
            dense(self.format, bytes, out);
            return;
        }
        for (index, values) in out.chunks_exact_mut(BLOCK).enumerate() {
            Block::decode(self.format, bytes, index).dequantize(self.format.has_offset(), values);
        }
    }

    /// Columns `first..` of a row of a dense format.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn dense_tail(&self, row: usize, first: usize, out: &mut [f32]) {
        dense(self.format, &self.row(row)[first * self.format.block_bytes()..], out);
    }
}

/// Values of a dense format. Every arm is a loop of its own, which compilers turn into vectors.
fn dense(format: Format, bytes: &[u8], out: &mut [f32]) {
    fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
        for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *out = value(bytes);
        }
    }
    match format {
        Format::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        // Not by `to_f32`, which looks at every number whether it is one.
        Format::BF16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Format::FP8 => fp8::values(bytes, out),
        _ => each(bytes, out, f32::from_le_bytes),
    }
}
