//! Strips in vectors of sixteen rows.

use core::arch::x86_64::*;

use super::super::decode::Decode;
use super::super::kquants::{Q2K, Q3K, Q4K, Q5K, Q6K};
use super::super::legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::{At, Strip, Vector};

super::strips!(__m512i, "avx512f,avx512bw");

impl Vector for __m512i {
    type Floats = __m512;
    // SAFETY: numbers.
    const ZERO: Self = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    const ZERO_FLOATS: __m512 = unsafe { std::mem::zeroed() };
}

/// Word `word` of storage block `block` of each row.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn words<D: Decode>(at: At, block: usize, word: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(at.word::<D>(block, word).cast()) }
}

/// The f16 beside the words of storage block `block` of each row.
///
/// # Safety
/// There is such a block.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn rest(at: At, block: usize) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.rest(block).cast()) })
}

/// The f16 in the lower (PART 0) or upper half of a word.
///
/// # Safety
/// As [`words`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn half<D: Decode, const PART: usize>(at: At, block: usize, word: usize) -> __m512 {
    // SAFETY: the caller's promise.
    let words = unsafe { words::<D>(at, block, word) };
    let half = if PART == 0 { words } else { _mm512_srli_epi32::<16>(words) };
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(half))
}

/// The low 16 bits of two numbers in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul::x86) fn pair(first: __m512i, second: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(second))
}

/// The low 16 bits of each lane, in both of its halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul::x86) fn twice(x: __m512i) -> __m512i {
    pair(x, x)
}

/// The low 16 bits of each lane, with zero above them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul::x86) fn once(x: __m512i) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi32(0xffff))
}

/// Codes of four columns, their bias taken off, times int16 scales if the format has them: even columns, odd columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul::x86) fn scaled<D: Decode>(codes: __m512i, scale: __m512i) -> [__m512i; 2] {
    let (even, odd) = if D::BIAS == 0 {
        (_mm512_and_si512(codes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(codes))
    } else {
        let codes = _mm512_sub_epi8(codes, _mm512_set1_epi8(D::BIAS as i8));
        (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(codes)), _mm512_srai_epi16::<8>(codes))
    };
    if !D::FORMAT.has_integer_scales() {
        return [even, odd];
    }
    [_mm512_mullo_epi16(even, scale), _mm512_mullo_epi16(odd, scale)]
}

/// Numbers as f32.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::matmul::x86) fn floats(x: __m512i) -> __m512 {
    _mm512_cvtepi32_ps(x)
}

/// The bits of f32.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::matmul::x86) fn bits(x: __m512) -> __m512i {
    _mm512_castps_si512(x)
}

/// Low or high halves of every byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibble(x: __m512i, high: bool) -> __m512i {
    _mm512_and_si512(if high { _mm512_srli_epi16::<4>(x) } else { x }, _mm512_set1_epi8(15))
}

/// `bits` bits of every byte of x from bit `from` on, at bit `to`; bits of `below` under it. All known after inlining.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn with_bits(below: __m512i, x: __m512i, from: usize, to: usize, bits: usize) -> __m512i {
    let mask = _mm512_set1_epi8((((1 << bits) - 1) << to) as i8);
    let moved = if from >= to {
        _mm512_srl_epi16(x, _mm_cvtsi32_si128((from - to) as i32))
    } else {
        _mm512_sll_epi16(x, _mm_cvtsi32_si128((to - from) as i32))
    };
    _mm512_or_si512(below, _mm512_and_si512(moved, mask))
}

/// Byte `byte` of every lane, unsigned.
#[inline]
#[target_feature(enable = "avx512f")]
fn byte(x: __m512i, byte: usize) -> __m512i {
    let moved = _mm512_srl_epi32(x, _mm_cvtsi32_si128(8 * byte as i32));
    _mm512_and_si512(moved, _mm512_set1_epi32(255))
}

/// Byte `byte` of every lane, signed.
#[inline]
#[target_feature(enable = "avx512f")]
fn signed_byte(x: __m512i, byte: usize) -> __m512i {
    _mm512_srai_epi32::<24>(_mm512_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * byte as i32)))
}

/// Signed bytes, 128 added to each.
#[inline]
#[target_feature(enable = "avx512f")]
fn unsign(x: __m512i) -> __m512i {
    _mm512_xor_si512(x, _mm512_set1_epi8(-128))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn less(x: __m512i, bias: i32) -> __m512i {
    _mm512_sub_epi32(x, _mm512_set1_epi32(bias))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn negative(scale: __m512) -> __m512 {
    _mm512_sub_ps(_mm512_setzero_ps(), scale)
}
