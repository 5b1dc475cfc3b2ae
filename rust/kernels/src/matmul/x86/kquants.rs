//! Octets of the K-quants: one storage block each.

use core::arch::x86_64::*;

use crate::formats::Format;

use super::lanes::{each8, f16_at, load16, load32};
use super::octet::{Decode, Octet, Sum, chunk, plain, with_offset};

/// Bits `shift..shift + 2` of every byte, moved to bit `to`. Both shifts are known after inlining.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bit_pair(x: __m256i, shift: usize, to: usize) -> __m256i {
    let mask = _mm256_set1_epi8(3 << to);
    let moved = if shift >= to {
        _mm256_srl_epi16(x, _mm_cvtsi32_si128((shift - to) as i32))
    } else {
        _mm256_sll_epi16(x, _mm_cvtsi32_si128((to - shift) as i32))
    };
    _mm256_and_si256(moved, mask)
}

/// Low or high halves of every byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibble(x: __m256i, high: bool) -> __m256i {
    _mm256_and_si256(if high { _mm256_srli_epi16::<4>(x) } else { x }, _mm256_set1_epi8(15))
}

/// `mask` where bit `bit` of a byte is set, else 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bit_as(x: __m256i, bit: usize, mask: i8) -> __m256i {
    let single = _mm256_set1_epi8((1_u8 << bit).cast_signed());
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(x, single), single), _mm256_set1_epi8(mask))
}

/// Scales and negated minima of the twelve bytes that `Q4_K` and `Q5_K` share, as f32 per block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_and_offsets<const N: usize>(b: &[u8; N]) -> (__m256, __m256) {
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (low, min, mixed) = (word(4), word(8), word(12));
    let scales = [low & 0x3f3f_3f3f, mixed & 0x0f0f_0f0f | low >> 2 & 0x3030_3030];
    let mins = [min & 0x3f3f_3f3f, mixed >> 4 & 0x0f0f_0f0f | min >> 2 & 0x3030_3030];
    let wide = |parts: [u32; 2]| {
        let both = u64::from(parts[0]) | u64::from(parts[1]) << 32;
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(both.cast_signed())))
    };
    (
        _mm256_mul_ps(wide(scales), _mm256_set1_ps(f16_at(b, 0))),
        _mm256_mul_ps(wide(mins), _mm256_set1_ps(-f16_at(b, 2))),
    )
}

pub(super) struct Q2K;
impl Decode for Q2K {
    const FORMAT: Format = Format::Q2_K;
    const SUM: Sum = Sum::Halves;
    const STEPS: bool = true;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 84] = chunk(bytes);
        let x = [load32(b, 16), load32(b, 48)];
        let nibbles = load16(b, 0);
        let wide = |v| _mm256_cvtepu8_epi16(_mm_and_si128(v, _mm_set1_epi8(15)));
        Octet {
            codes: each8!(|J| bit_pair(x[J / 4], J % 4 * 2, 0)),
            scale: _mm256_set1_ps(f16_at(b, 80)),
            offset: _mm256_set1_ps(-f16_at(b, 82)),
            pairs: wide(nibbles),
            steps: wide(_mm_srli_epi16::<4>(nibbles)),
        }
    }
}

pub(super) struct Q3K;
impl Decode for Q3K {
    const FORMAT: Format = Format::Q3_K;
    const SUM: Sum = Sum::Halves;
    const BIAS: i16 = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 110] = chunk(bytes);
        let high = load32(b, 0);
        let x = [load32(b, 32), load32(b, 64)];
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let (first, second, top) = (word(96), word(100), word(104));
        let scale = |low: u32, shift: u32| (low & 0x0f0f_0f0f | (top >> shift & 0x0303_0303) << 4).cast_signed();
        let scales = _mm_setr_epi32(scale(first, 0), scale(second, 2), scale(first >> 4, 4), scale(second >> 4, 6));
        Octet {
            pairs: _mm256_cvtepi8_epi16(_mm_sub_epi8(scales, _mm_set1_epi8(32))),
            ..plain(
                each8!(|J| _mm256_or_si256(bit_pair(x[J / 4], J % 4 * 2, 0), bit_as(high, J, 4))),
                _mm256_set1_ps(f16_at(b, 108)),
            )
        }
    }
}

pub(super) struct Q4K;
impl Decode for Q4K {
    const FORMAT: Format = Format::Q4_K;
    const SUM: Sum = Sum::Nibble;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 144] = chunk(bytes);
        let (scale, offset) = scales_and_offsets(b);
        with_offset(each8!(|J| nibble(load32(b, 16 + 32 * (J / 2)), J % 2 == 1)), scale, offset)
    }
}

pub(super) struct Q5K;
impl Decode for Q5K {
    const FORMAT: Format = Format::Q5_K;
    const SUM: Sum = Sum::Small;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 176] = chunk(bytes);
        let high = load32(b, 16);
        let (scale, offset) = scales_and_offsets(b);
        let low = each8!(|J| nibble(load32(b, 48 + 32 * (J / 2)), J % 2 == 1));
        let codes = each8!(|J| _mm256_or_si256(low[J], bit_as(high, J, 16)));
        with_offset(codes, scale, offset)
    }
}

pub(super) struct Q6K;
impl Decode for Q6K {
    const FORMAT: Format = Format::Q6_K;
    const SUM: Sum = Sum::Halves;
    const BIAS: i16 = 32;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 210] = chunk(bytes);
        let codes = each8!(|J| {
            let (group, quarter) = (J / 4, J % 4);
            let low = nibble(load32(b, 64 * group + 32 * (quarter % 2)), quarter >= 2);
            _mm256_or_si256(low, bit_pair(load32(b, 128 + 32 * group), 2 * quarter, 4))
        });
        Octet { pairs: _mm256_cvtepi8_epi16(load16(b, 192)), ..plain(codes, _mm256_set1_ps(f16_at(b, 208))) }
    }
}
