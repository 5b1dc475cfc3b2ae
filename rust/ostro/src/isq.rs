//! Number formats for quantization while a model is loaded.

use std::fmt;

/// A number format.
#[allow(non_camel_case_types, reason = "the formats' own names, as in mistral.rs")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IsqType {
    /// 4 bits, blocks of 32 with a scale.
    Q4_0,
    /// 4 bits, blocks of 32 with scale and minimum.
    Q4_1,
    /// 5 bits, blocks of 32 with a scale.
    Q5_0,
    /// 5 bits, blocks of 32 with scale and minimum.
    Q5_1,
    /// 8 bits, blocks of 32 with a scale.
    Q8_0,
    /// 8 bits, blocks of 32 with a scale and the sum of the values.
    Q8_1,
    /// 2 bits, blocks of 256 with scales of scales.
    Q2K,
    /// 3 bits, blocks of 256 with scales of scales.
    Q3K,
    /// 4 bits, blocks of 256 with scales of scales.
    Q4K,
    /// 5 bits, blocks of 256 with scales of scales.
    Q5K,
    /// 6 bits, blocks of 256 with scales of scales.
    Q6K,
    /// 8 bits, blocks of 256.
    Q8K,
    /// Half-quadratic quantization, 4 bits.
    HQQ4,
    /// Half-quadratic quantization, 8 bits.
    HQQ8,
    /// Floating point of 8 bits, E4M3.
    F8E4M3,
    /// Affine quantization, 2 bits.
    AFQ2,
    /// Affine quantization, 3 bits.
    AFQ3,
    /// Affine quantization, 4 bits.
    AFQ4,
    /// Affine quantization, 6 bits.
    AFQ6,
    /// Affine quantization, 8 bits.
    AFQ8,
    /// 8-bit floating point in blocks with 8-bit scales.
    F8Q8,
    /// Microscaling floating point, 4 bits.
    MXFP4,
    /// llama.cpp's small mix around Q3K (ostro only).
    Q3K_S,
    /// llama.cpp's medium mix around Q3K (ostro only).
    Q3K_M,
    /// llama.cpp's large mix around Q3K (ostro only).
    Q3K_L,
    /// llama.cpp's small mix around Q4K (ostro only).
    Q4K_S,
    /// llama.cpp's medium mix around Q4K (ostro only).
    Q4K_M,
    /// llama.cpp's small mix around Q5K (ostro only).
    Q5K_S,
    /// llama.cpp's medium mix around Q5K (ostro only).
    Q5K_M,
}

impl IsqType {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q8_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
        Self::HQQ4,
        Self::HQQ8,
        Self::F8E4M3,
        Self::AFQ2,
        Self::AFQ3,
        Self::AFQ4,
        Self::AFQ6,
        Self::AFQ8,
        Self::F8Q8,
        Self::MXFP4,
        Self::Q3K_S,
        Self::Q3K_M,
        Self::Q3K_L,
        Self::Q4K_S,
        Self::Q4K_M,
        Self::Q5K_S,
        Self::Q5K_M,
    ];

    /// The name that Python, HTTP and the command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q8_1 => "Q8_1",
            Self::Q2K => "Q2K",
            Self::Q3K => "Q3K",
            Self::Q4K => "Q4K",
            Self::Q5K => "Q5K",
            Self::Q6K => "Q6K",
            Self::Q8K => "Q8K",
            Self::HQQ4 => "HQQ4",
            Self::HQQ8 => "HQQ8",
            Self::F8E4M3 => "FP8",
            Self::AFQ2 => "AFQ2",
            Self::AFQ3 => "AFQ3",
            Self::AFQ4 => "AFQ4",
            Self::AFQ6 => "AFQ6",
            Self::AFQ8 => "AFQ8",
            Self::F8Q8 => "F8Q8",
            Self::MXFP4 => "MXFP4",
            Self::Q3K_S => "Q3K_S",
            Self::Q3K_M => "Q3K_M",
            Self::Q3K_L => "Q3K_L",
            Self::Q4K_S => "Q4K_S",
            Self::Q4K_M => "Q4K_M",
            Self::Q5K_S => "Q5K_S",
            Self::Q5K_M => "Q5K_M",
        }
    }
}

impl fmt::Display for IsqType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bits per weight, from which the engine chooses the number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IsqBits {
    /// 2 bits.
    Two,
    /// 3 bits.
    Three,
    /// 4 bits.
    Four,
    /// 5 bits.
    Five,
    /// 6 bits.
    Six,
    /// 8 bits.
    Eight,
}

impl IsqBits {
    fn name(self) -> &'static str {
        match self {
            Self::Two => "2",
            Self::Three => "3",
            Self::Four => "4",
            Self::Five => "5",
            Self::Six => "6",
            Self::Eight => "8",
        }
    }
}

/// What `with_isq` and `re_isq_model` take: an [`IsqType`], [`IsqBits`] or a name as on the command line.
///
/// A name is judged by the engine, whose error lists all known ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsqName(pub(crate) String);

impl From<IsqType> for IsqName {
    fn from(format: IsqType) -> Self {
        Self(format.name().into())
    }
}

impl From<IsqBits> for IsqName {
    fn from(bits: IsqBits) -> Self {
        Self(bits.name().into())
    }
}

impl From<&str> for IsqName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for IsqName {
    fn from(name: String) -> Self {
        Self(name)
    }
}
