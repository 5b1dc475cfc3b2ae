//! Strips in vectors of eight rows.

use core::arch::x86_64::*;

use super::super::decode::Decode;
pub(in crate::matmul::x86) use super::super::decode::scaled;
use super::super::kquants::{Q2K, Q3K, Q4K, Q5K, Q6K};
use super::super::legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::{At, Strip, Vector};

super::strips!(__m256i, "avx2,fma,f16c");

impl Vector for __m256i {
    type Floats = __m256;
    // SAFETY: numbers.
    const ZERO: Self = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    const ZERO_FLOATS: __m256 = unsafe { std::mem::zeroed() };
}

/// Word `word` of storage block `block` of each row.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn words<D: Decode>(at: At, block: usize, word: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(at.word::<D>(block, word).cast()) }
}

/// The f16 beside the words of storage block `block` of each row.
///
/// # Safety
/// There is such a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rest(at: At, block: usize) -> __m256 {
    // SAFETY: the caller's promise.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.rest(block).cast()) })
}

/// The f16 in the lower (PART 0) or upper half of a word.
///
/// # Safety
/// As [`words`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half<D: Decode, const PART: usize>(at: At, block: usize, word: usize) -> __m256 {
    // SAFETY: the caller's promise.
    let words = unsafe { words::<D>(at, block, word) };
    let (low, high) = (
        _mm256_setr_epi64x(0x0d0c_0908_0504_0100, -1, 0x0d0c_0908_0504_0100, -1),
        _mm256_setr_epi64x(0x0f0e_0b0a_0706_0302, -1, 0x0f0e_0b0a_0706_0302, -1),
    );
    let halves = _mm256_permute4x64_epi64::<0b1000>(_mm256_shuffle_epi8(words, if PART == 0 { low } else { high }));
    _mm256_cvtph_ps(_mm256_castsi256_si128(halves))
}

/// The low 16 bits of two numbers in each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn pair(first: __m256i, second: __m256i) -> __m256i {
    _mm256_blend_epi16::<0xaa>(first, _mm256_slli_epi32::<16>(second))
}

/// The low 16 bits of each lane, in both of its halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn twice(x: __m256i) -> __m256i {
    let lanes =
        _mm256_setr_epi64x(0x0504_0504_0100_0100, 0x0d0c_0d0c_0908_0908, 0x0504_0504_0100_0100, 0x0d0c_0d0c_0908_0908);
    _mm256_shuffle_epi8(x, lanes)
}

/// Numbers as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn floats(x: __m256i) -> __m256 {
    _mm256_cvtepi32_ps(x)
}

/// The bits of f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn bits(x: __m256) -> __m256i {
    _mm256_castps_si256(x)
}

/// Low or high halves of every byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibble(x: __m256i, high: bool) -> __m256i {
    _mm256_and_si256(if high { _mm256_srli_epi16::<4>(x) } else { x }, _mm256_set1_epi8(15))
}

/// `bits` bits of every byte of x from bit `from` on, at bit `to`; bits of `below` under it. All known after inlining.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_bits(below: __m256i, x: __m256i, from: usize, to: usize, bits: usize) -> __m256i {
    let mask = _mm256_set1_epi8((((1 << bits) - 1) << to) as i8);
    let moved = if from >= to {
        _mm256_srl_epi16(x, _mm_cvtsi32_si128((from - to) as i32))
    } else {
        _mm256_sll_epi16(x, _mm_cvtsi32_si128((to - from) as i32))
    };
    _mm256_or_si256(below, _mm256_and_si256(moved, mask))
}

/// Byte `byte` of every lane, unsigned.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn byte(x: __m256i, byte: usize) -> __m256i {
    // Bytes whose place has the highest bit set become zero.
    let lane = |lane: i32| 0x8080_8000_u32.cast_signed() | (4 * lane + byte as i32);
    _mm256_shuffle_epi8(x, _mm256_setr_epi32(lane(0), lane(1), lane(2), lane(3), lane(0), lane(1), lane(2), lane(3)))
}

/// Byte `byte` of every lane, signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed_byte(x: __m256i, byte: usize) -> __m256i {
    _mm256_srai_epi32::<24>(_mm256_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * byte as i32)))
}

/// Signed bytes, 128 added to each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unsign(x: __m256i) -> __m256i {
    _mm256_xor_si256(x, _mm256_set1_epi8(-128))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn less(x: __m256i, bias: i32) -> __m256i {
    _mm256_sub_epi32(x, _mm256_set1_epi32(bias))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn negative(scale: __m256) -> __m256 {
    _mm256_sub_ps(_mm256_setzero_ps(), scale)
}
