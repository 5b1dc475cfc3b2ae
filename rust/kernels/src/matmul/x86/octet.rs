//! Eight weight blocks (256 weights of a row) in registers: what the kernels know of a format.

use core::arch::x86_64::*;

use crate::formats::Format;
use crate::matmul::activations::COARSE;

/// Shift that multiplies by [`COARSE`].
pub(super) const COARSE_BITS: i32 = COARSE.ilog2() as i32;

/// How codes may be summed after they met activations in `maddubs` (pairs in int16; |activation| <= 127).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    /// Unsigned codes up to 15: a whole block fits int16.
    Nibble,
    /// Unsigned codes up to 31: half a block fits int16.
    Small,
    /// Unsigned codes up to 63 with an integer scale per half block: two quads fit int16.
    Halves,
    /// Signed codes: pairs need care with int16 (up to 2 * 128 * 127).
    Signed,
}

/// Weights of block j: `scale[j] * (codes[j] - BIAS) * pairs[j][half] + offset[j] * steps[j][half]`.
pub(super) struct Octet {
    /// Block j in column order, 8 bits each.
    pub codes: [__m256i; 8],
    /// f32 per block.
    pub scale: __m256,
    /// f32 per block; zero without `OFFSET`.
    pub offset: __m256,
    /// Integer scales of both half blocks, int16 pairs; ones unless `Sum::Halves`.
    pub pairs: __m256i,
    /// int16 pairs; ones unless `STEPS`.
    pub steps: __m256i,
}

/// A quantised format.
pub(super) trait Decode {
    const FORMAT: Format;
    const SUM: Sum;
    const BIAS: i16 = 0;
    const OFFSET: bool = Self::FORMAT.has_offset();
    /// The offset has integer steps of its own per half block.
    const STEPS: bool = false;
    /// Storage bytes of an octet.
    const BYTES: usize = 256 / Self::FORMAT.block() * Self::FORMAT.block_bytes();

    /// Decodes the octet that `bytes` starts with (at least `BYTES` bytes).
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    unsafe fn decode(bytes: &[u8]) -> Octet;
}

/// The first N bytes: one check per octet.
#[inline]
pub(super) fn chunk<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.first_chunk().expect("an octet is never cut")
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn plain(codes: [__m256i; 8], scale: __m256) -> Octet {
    with_offset(codes, scale, _mm256_setzero_ps())
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn with_offset(codes: [__m256i; 8], scale: __m256, offset: __m256) -> Octet {
    Octet { codes, scale, offset, pairs: _mm256_set1_epi16(1), steps: _mm256_set1_epi16(1) }
}
