//! Formats with storage blocks of 32: eight of them make a group.

use core::arch::x86_64::*;

use crate::formats::Format;

use super::decode::{Decode, Offsets, Scales};
use super::lanes::{gather_f16, load4, load16, load32, widen, widen_signed};

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

/// All bits of byte i set where bit i of the word at `at` is.
///
/// # Safety
/// Four bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fifth_bits(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    let word = unsafe { load4(at) }.cast_signed();
    // Byte i of the vector becomes byte i / 8 of the word, of which bit i % 8 counts.
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(word),
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
}

// SAFETY of all blocks below: the promises of the trait; each read stays inside one storage block.

/// A format: its storage bytes, the codes of the block at a pointer, and whether a base (f16) follows the scale.
macro_rules! legacy {
    ($name:ident, $bytes:literal, |$at:ident| $codes:expr $(, base $base:literal)?) => {
        pub(super) struct $name;
        impl Decode for $name {
            const FORMAT: Format = Format::$name;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn scales(_: *const u8) -> Scales {
                _mm256_setzero_si256()
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn block(group: *const u8, _: &Scales, block: usize) -> [__m256i; 2] {
                // SAFETY: see above.
                unsafe {
                    let $at = group.add($bytes * block);
                    $codes
                }
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn run_scale(groups: &[*const u8; 8], run: usize) -> __m256 {
                // SAFETY: see above.
                unsafe { gather_f16(groups, $bytes * run) }
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

legacy!(Q4_0, 18, |at| widen_signed(_mm256_sub_epi8(nibbles(at.add(2)), _mm256_set1_epi8(8))));
legacy!(Q4_1, 20, |at| widen(nibbles(at.add(4))), base 2);
// Without the fifth bit, 16 is taken off: the upper bits of the two's complement.
legacy!(Q5_0, 22, |at| widen_signed(_mm256_or_si256(
    nibbles(at.add(6)),
    _mm256_andnot_si256(fifth_bits(at.add(2)), _mm256_set1_epi8(-16))
)));
legacy!(
    Q5_1, 24, |at| widen(_mm256_or_si256(
        nibbles(at.add(8)),
        _mm256_and_si256(fifth_bits(at.add(4)), _mm256_set1_epi8(16))
    )), base 2
);
legacy!(Q8_0, 34, |at| widen_signed(load32(at.add(2))));
