//! The formats by name, and their sizes.

use thiserror::Error;

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

/// A number format, named as in GGUF, or as in mistral.rs where GGUF lacks it.
#[allow(missing_docs, reason = "the names are the documentation")]
#[allow(non_camel_case_types, reason = "the field's own names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    BF16,
    FP8,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    F8Q8,
    MXFP4,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    AFQ2,
    AFQ3,
    AFQ4,
    AFQ6,
    AFQ8,
    HQQ4,
    HQQ8,
}

impl Format {
    /// Every format, dense ones first.
    pub const ALL: [Self; 25] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::FP8,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q8_1,
        Self::F8Q8,
        Self::MXFP4,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Q8_K,
        Self::AFQ2,
        Self::AFQ3,
        Self::AFQ4,
        Self::AFQ6,
        Self::AFQ8,
        Self::HQQ4,
        Self::HQQ8,
    ];

    /// The format of this name (`Q4_K`), or None.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The name used in Python.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::FP8 => "FP8",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q8_1 => "Q8_1",
            Self::F8Q8 => "F8Q8",
            Self::MXFP4 => "MXFP4",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::Q8_K => "Q8_K",
            Self::AFQ2 => "AFQ2",
            Self::AFQ3 => "AFQ3",
            Self::AFQ4 => "AFQ4",
            Self::AFQ6 => "AFQ6",
            Self::AFQ8 => "AFQ8",
            Self::HQQ4 => "HQQ4",
            Self::HQQ8 => "HQQ8",
        }
    }

    /// Weights in a storage block.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Q8_1 | Self::F8Q8 | Self::MXFP4 => {
                32
            }
            Self::FP8 | Self::AFQ2 | Self::AFQ3 | Self::AFQ4 | Self::AFQ6 | Self::AFQ8 | Self::HQQ4 | Self::HQQ8 => 64,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::Q8_K => 256,
        }
    }

    /// Bytes of a storage block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::MXFP4 => 17,
            Self::Q4_0 => 18,
            Self::Q4_1 | Self::AFQ2 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::AFQ3 => 28,
            Self::F8Q8 => 33,
            Self::Q8_0 => 34,
            Self::Q8_1 | Self::AFQ4 | Self::HQQ4 => 36,
            Self::AFQ6 => 52,
            Self::FP8 | Self::AFQ8 | Self::HQQ8 => 68,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::Q8_K => 292,
        }
    }

    /// True for formats without integer codes: products with them always use f32 activations.
    #[must_use]
    pub const fn is_dense(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::FP8)
    }

    /// True when weights have a minimum (or base) besides their scale.
    #[must_use]
    pub const fn has_offset(self) -> bool {
        self.is_affine() || matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2_K | Self::Q4_K | Self::Q5_K)
    }

    const fn is_affine(self) -> bool {
        matches!(self, Self::AFQ2 | Self::AFQ3 | Self::AFQ4 | Self::AFQ6 | Self::AFQ8 | Self::HQQ4 | Self::HQQ8)
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

    /// True when blocks have integer scales under the f16 one. Elsewhere each block of 32 is a run.
    pub(crate) const fn has_integer_scales(self) -> bool {
        matches!(self, Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K)
    }

    /// True when the integer scales of a block's halves differ.
    pub(crate) const fn has_half_scales(self) -> bool {
        matches!(self, Self::Q2_K | Self::Q3_K | Self::Q6_K)
    }

    /// True when offsets are a number of integer steps, of one size in a group of 256. Elsewhere an offset is one step.
    pub(crate) const fn has_steps(self) -> bool {
        self.has_offset() && self.has_integer_scales()
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
