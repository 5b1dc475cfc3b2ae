//! Number formats of weights: what the bytes of a row mean.
//!
//! Layouts are those of GGUF files. Every quantised format is seen here as blocks of 32 weights,
//! `w[i] = scale * codes[i] + offset * steps[i / 16]`, with integer codes and steps and with scales and offsets that are
//! exact in f32. Integer sub-block scales are folded into the codes, so the same few numbers give the reference
//! dequantisation and the exact integer products of [`crate::matmul`].

mod kquants;
mod legacy;

use half::{bf16, f16};
use thiserror::Error;

/// Weights in one block of the products (a format's storage block is one or eight of them).
pub const BLOCK: usize = 32;

/// Why bytes cannot be a matrix of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShapeError {
    /// A row does not consist of whole storage blocks.
    #[error("rows of {cols} weights cannot be stored as {}: not a multiple of {}", format.name(), format.block())]
    PartialBlock {
        /// The format asked for.
        format: Format,
        /// Weights in a row.
        cols: usize,
    },
    /// The data is longer or shorter than the matrix.
    #[error("{} of {rows} x {cols} takes {expected} bytes, got {actual}", format.name())]
    Bytes {
        /// The format asked for.
        format: Format,
        /// Rows of the matrix.
        rows: usize,
        /// Weights in a row.
        cols: usize,
        /// Bytes of such a matrix.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// The size does not fit the address space.
    #[error("{} of {rows} x {cols} does not fit the address space", format.name())]
    TooLarge {
        /// The format asked for.
        format: Format,
        /// Rows of the matrix.
        rows: usize,
        /// Weights in a row.
        cols: usize,
    },
}

/// A number format, named as in GGUF.
#[allow(missing_docs, reason = "the names are the documentation")]
#[allow(non_camel_case_types, reason = "the field's own names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Format {
    /// Every format, dense ones first.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The format of this name (`Q4_K`), or None.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The name used in GGUF and in Python.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Weights in a storage block.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a storage block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// True for formats without integer codes: products with them always use f32 activations.
    #[must_use]
    pub const fn is_dense(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// True when weights have a minimum (or base) besides their scale.
    #[must_use]
    pub const fn has_offset(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2_K | Self::Q4_K | Self::Q5_K)
    }

    /// Blocks of 32 whose integer products share a scale and fit one i32 sum (see [`crate::matmul`]): with activation
    /// codes of 8 bits (`narrow`), or of 14.
    pub(crate) const fn run(self, narrow: bool) -> usize {
        match self {
            Self::Q5_K if !narrow => 4,
            Self::Q6_K if !narrow => 2,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 8,
            _ => 1,
        }
    }

    /// True when blocks have integer scales under the f16 one.
    pub(crate) const fn has_integer_scales(self) -> bool {
        self.block() == 256
    }

    /// True when the integer scales of a block's halves differ.
    pub(crate) const fn has_half_scales(self) -> bool {
        matches!(self, Self::Q2_K | Self::Q3_K | Self::Q6_K)
    }

    /// True when the minima of a block's halves differ.
    pub(crate) const fn has_half_offsets(self) -> bool {
        matches!(self, Self::Q2_K)
    }

    /// Bytes of a row of `cols` weights.
    ///
    /// # Errors
    /// `PartialBlock` when `cols` is not a multiple of the storage block, `TooLarge` when the bytes overflow.
    pub fn row_bytes(self, cols: usize) -> Result<usize, ShapeError> {
        if !cols.is_multiple_of(self.block()) {
            return Err(ShapeError::PartialBlock { format: self, cols });
        }
        (cols / self.block()).checked_mul(self.block_bytes()).ok_or(ShapeError::TooLarge {
            format: self,
            rows: 1,
            cols,
        })
    }
}

/// Thirty-two weights as integers: `w[i] = scale * codes[i] + offset * steps[i / 16]`.
///
/// Integer scales are folded into the codes and steps, so that `scale` is one of the stored f16, the same for a run of
/// blocks ([`Format::run`]). Products of scale and code, and of offset and step, are exact in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub codes: [i16; BLOCK],
    pub scale: f32,
    pub offset: f32,
    pub steps: [i16; 2],
}

impl Block {
    /// Block `index` of a row of a quantised format.
    pub(crate) fn decode(format: Format, row: &[u8], index: usize) -> Self {
        let per_storage = format.block() / BLOCK;
        let bytes = format.block_bytes();
        let storage = &row[index / per_storage * bytes..][..bytes];
        let part = index % per_storage;
        match format {
            Format::Q4_0 => legacy::q4_0(storage),
            Format::Q4_1 => legacy::q4_1(storage),
            Format::Q5_0 => legacy::q5_0(storage),
            Format::Q5_1 => legacy::q5_1(storage),
            Format::Q8_0 => legacy::q8_0(storage),
            Format::Q2_K => kquants::q2_k(storage, part),
            Format::Q3_K => kquants::q3_k(storage, part),
            Format::Q4_K => kquants::q4_k(storage, part),
            Format::Q5_K => kquants::q5_k(storage, part),
            Format::Q6_K => kquants::q6_k(storage, part),
            Format::F32 | Format::F16 | Format::BF16 => unreachable!("dense formats have no blocks"),
        }
    }

    fn dequantize(&self, has_offset: bool, out: &mut [f32]) {
        for (i, (value, &code)) in out.iter_mut().zip(&self.codes).enumerate() {
            *value = self.scale * f32::from(code);
            if has_offset {
                *value += self.offset * f32::from(self.steps[i / 16]);
            }
        }
    }
}

/// The f16 stored at `at`, exactly.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// A matrix [rows, cols] over borrowed bytes in any alignment, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    data: &'a [u8],
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
}

impl<'a> Weights<'a> {
    /// A view of `data`, which must be exactly as long as the matrix.
    ///
    /// # Errors
    /// `PartialBlock`, `TooLarge` or `Bytes`.
    pub fn new(data: &'a [u8], format: Format, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        let row_bytes = format.row_bytes(cols)?;
        let expected = row_bytes.checked_mul(rows).ok_or(ShapeError::TooLarge { format, rows, cols })?;
        if data.len() != expected {
            return Err(ShapeError::Bytes { format, rows, cols, expected, actual: data.len() });
        }
        Ok(Self { data, format, rows, cols, row_bytes })
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

    /// The bytes of one row.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }

    /// Row `row` as f32, bit for bit as in ggml's reference.
    ///
    /// # Panics
    /// When `row` is not a row or `out` is not `cols` long.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "the output must hold one row");
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
        Format::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        _ => each(bytes, out, f32::from_le_bytes),
    }
}
