//! Formats with storage blocks of 32: eight of them make a group.

use core::arch::x86_64::*;

use crate::formats::Format;

use super::decode::{Decode, Offsets, Scales, both};
use super::lanes::{e4m3, gather_bytes, gather_f16, load4, load16, load32, spread_bits};

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
    let (word, low) = unsafe { (load4(at), nibbles(at.add(4))) };
    _mm256_or_si256(low, spread_bits(word, 16))
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

/// 32 signed bytes, made unsigned.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bytes(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_xor_si256(unsafe { load32(at) }, _mm256_set1_epi8(-128))
}

/// [`bytes`] at two places.
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

/// Twice the numbers of E2M1 bits, and 12 more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn e2m1() -> __m128i {
    _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0)
}

/// [`nibbles`] of E2M1 bits.
///
/// # Safety
/// 16 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn small_floats(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(e2m1()), unsafe { nibbles(at) })
}

/// [`small_floats`] at two places.
///
/// # Safety
/// 16 bytes from each are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
unsafe fn small_floats_pair(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(e2m1()), unsafe { nibbles_pair(a, b) })
}

/// 2^(byte - 128) for the byte at `at` of each group.
///
/// # Safety
/// It is readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_e8m0(groups: &[*const u8; 8], at: usize) -> __m256 {
    // SAFETY: the caller's promise.
    let exponent = _mm256_cvtepi16_epi32(unsafe { gather_bytes(groups, at) });
    let one = _mm256_set1_epi32(1);
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponent, one));
    let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponent);
    _mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, _mm256_cmpgt_epi32(exponent, one)))
}

/// The E4M3 number at `at` of each group over 448.
///
/// # Safety
/// It is readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn e4m3_share(groups: &[*const u8; 8], at: usize) -> __m256 {
    // SAFETY: the caller's promise.
    _mm256_div_ps(e4m3(unsafe { gather_bytes(groups, at) }), _mm256_set1_ps(448.0))
}

// SAFETY of all blocks below: the promises of the trait; each read stays inside one storage block.

/// A format: its storage bytes, the unsigned codes of the block at a pointer, the function for two blocks and where their
/// codes begin, the codes' bias and largest value, the scale if it is no f16, and where a base (f16) is, if there is one.
macro_rules! legacy {
    ($name:ident, $bytes:literal, |$at:ident| $codes:expr, $pair:ident + $first:literal, bias $bias:literal, most $most:literal $(, scale $scale:ident)? $(, base $base:literal)?) => {
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
                unsafe fn scale(groups: &[*const u8; 8], at: usize) -> __m256 {
                    // SAFETY: see above.
                    unsafe { $scale(groups, at) }
                }
            )?

            $(
                #[inline]
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn offsets(groups: &[*const u8; 8], blocks: usize, to: &mut Offsets) {
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
legacy!(Q8_0, 34, |at| bytes(at.add(2)), bytes_pair + 2, bias 128, most 255);
legacy!(Q8_1, 36, |at| bytes(at.add(4)), bytes_pair + 4, bias 128, most 255);
legacy!(F8Q8, 33, |at| bytes(at.add(1)), bytes_pair + 1, bias 128, most 255, scale e4m3_share);
legacy!(MXFP4, 17, |at| small_floats(at.add(1)), small_floats_pair + 1, bias 12, most 24, scale half_e8m0);
