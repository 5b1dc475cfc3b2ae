//! Octets of the formats with storage blocks of 32.

use core::arch::x86_64::*;

use crate::formats::Format;

use super::lanes::{each8, gather_f16, load16, load32};
use super::octet::{Decode, Octet, Sum, chunk, plain, with_offset};

/// Low halves of 16 bytes, then their high halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles<const N: usize>(bytes: &[u8; N], at: usize) -> __m256i {
    let x = load16(bytes, at);
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(x), x), _mm256_set1_epi8(15))
}

/// Nibbles after a word of fifth bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn five_bits<const N: usize>(bytes: &[u8; N], at: usize) -> __m256i {
    let word = i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    // Byte i of the vector becomes byte i / 8 of the word, of which bit i % 8 counts.
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(word),
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    _mm256_or_si256(nibbles(bytes, at + 4), _mm256_and_si256(set, _mm256_set1_epi8(16)))
}

pub(super) struct Q4_0;
impl Decode for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    const SUM: Sum = Sum::Nibble;
    const BIAS: i16 = 8;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 8 * 18] = chunk(bytes);
        plain(each8!(|J| nibbles(b, 18 * J + 2)), gather_f16(b, 0, 18))
    }
}

pub(super) struct Q4_1;
impl Decode for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    const SUM: Sum = Sum::Nibble;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 8 * 20] = chunk(bytes);
        with_offset(each8!(|J| nibbles(b, 20 * J + 4)), gather_f16(b, 0, 20), gather_f16(b, 2, 20))
    }
}

pub(super) struct Q5_0;
impl Decode for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const SUM: Sum = Sum::Small;
    const BIAS: i16 = 16;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 8 * 22] = chunk(bytes);
        plain(each8!(|J| five_bits(b, 22 * J + 2)), gather_f16(b, 0, 22))
    }
}

pub(super) struct Q5_1;
impl Decode for Q5_1 {
    const FORMAT: Format = Format::Q5_1;
    const SUM: Sum = Sum::Small;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 8 * 24] = chunk(bytes);
        with_offset(each8!(|J| five_bits(b, 24 * J + 4)), gather_f16(b, 0, 24), gather_f16(b, 2, 24))
    }
}

pub(super) struct Q8_0;
impl Decode for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const SUM: Sum = Sum::Signed;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(bytes: &[u8]) -> Octet {
        let b: &[u8; 8 * 34] = chunk(bytes);
        plain(each8!(|J| load32(b, 34 * J + 2)), gather_f16(b, 0, 34))
    }
}
