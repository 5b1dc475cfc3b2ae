//! Formats with storage blocks of 32: eight of them make a group.

use core::arch::x86_64::*;

use crate::formats::Format;

use super::decode::{Decode, Offsets, Scales, both};
use super::lanes::{gather_f16, load4, load16, load32};

/// Low halves of 16 bytes, then their high halves: 32 codes in column order.
///
/// # Safety
/// 16 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    let both = _mm256_broadcastsi128_si256(unsafe { load16(at) });
    let shifted = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    _mm256_and_si256(shifted, _mm256_set1_epi8(15))
}

/// Nibbles after a word of fifth bits.
///
/// # Safety
/// 20 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn five_bits(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    let (word, low) = unsafe { (load4(at).cast_signed(), nibbles(at.add(4))) };
    // Byte i of the vector becomes byte i / 8 of the word, of which bit i % 8 counts.
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(word),
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(16)))
}

/// [`nibbles`] at two places.
///
/// # Safety
/// 16 bytes from each are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
unsafe fn nibbles_pair(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    let all = unsafe { both(_mm256_broadcastsi128_si256(load16(a)), _mm256_broadcastsi128_si256(load16(b))) };
    let shifted = _mm512_srlv_epi32(all, _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(15))
}

/// [`five_bits`] at two places.
///
/// # Safety
/// 20 bytes from each are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
unsafe fn five_bits_pair(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    let (low, word) = unsafe { (nibbles_pair(a.add(4), b.add(4)), u64::from(load4(a)) | u64::from(load4(b)) << 32) };
    _mm512_mask_add_epi8(low, word, low, _mm512_set1_epi8(16))
}

/// 32 bytes at two places.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
unsafe fn bytes_pair(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    let all = unsafe { both(load32(a), load32(b)) };
    _mm512_xor_si512(all, _mm512_set1_epi8(-128))
}

// SAFETY of all blocks below: the promises of the trait; each read stays inside one storage block.

/// A format: its storage bytes, the unsigned codes of the block at a pointer, the function for two blocks and where their
/// codes begin, the codes' bias and largest value, and whether a base (f16) follows the scale.
macro_rules! legacy {
    ($name:ident, $bytes:literal, |$at:ident| $codes:expr, $pair:ident + $first:literal, bias $bias:literal, most $most:literal $(, base $base:literal)?) => {
        pub(super) struct $name;
        impl Decode for $name {
            const FORMAT: Format = Format::$name;
            const BIAS: i32 = $bias;
            const MOST: i32 = $most;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn scales(_: *const u8) -> Scales {
                _mm256_setzero_si256()
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
                // SAFETY: see above.
                unsafe {
                    let $at = group.add($bytes * block);
                    $codes
                }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
            unsafe fn pair(group: *const u8, pair: usize) -> __m512i {
                // SAFETY: see above.
                unsafe {
                    let at = group.add(2 * $bytes * pair + $first);
                    $pair(at, at.add($bytes))
                }
            }

            $(
                #[inline]
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn offsets(groups: &[*const u8; 8], _: &[Scales; 8], blocks: usize, to: &mut Offsets) {
                    for (block, base) in to[..blocks].iter_mut().enumerate() {
                        // SAFETY: see above.
                        *base = unsafe { gather_f16(groups, $bytes * block + $base) };
                    }
                }
            )?
        }
    };
}

legacy!(Q4_0, 18, |at| nibbles(at.add(2)), nibbles_pair + 2, bias 8, most 15);
legacy!(Q4_1, 20, |at| nibbles(at.add(4)), nibbles_pair + 4, bias 0, most 15, base 2);
legacy!(Q5_0, 22, |at| five_bits(at.add(2)), five_bits_pair + 2, bias 16, most 31);
legacy!(Q5_1, 24, |at| five_bits(at.add(4)), five_bits_pair + 4, bias 0, most 31, base 2);
legacy!(Q8_0, 34, |at| _mm256_xor_si256(load32(at.add(2)), _mm256_set1_epi8(-128)), bytes_pair + 2, bias 128, most 255);
